"""Between the contracts and the kernel: what is done on the chain comes back as the kernel's events.

The bridge deploys the contracts and acts for everyone in a network whose keys it holds. Registrations and deposits go in
batches, paid by the holder of the genesis supply, who keeps the users' wallets.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from lattice_core.batch import Chunk
from lattice_core.census import NodeEntry, UserEntry, address, identity, nodes, users
from lattice_core.chain.contracts import Genesis, Network, Settled, deploy
from lattice_core.chain.port import Chain, Receipt
from lattice_core.config import Config
from lattice_core.events import (
    AccountOpened,
    BatchConfirmed,
    BatchFailed,
    Bonded,
    Deposited,
    Event,
    FaucetGranted,
    NodeRegistered,
    OfferPosted,
)
from lattice_core.invariants import InvariantError
from lattice_core.split import Rates
from lattice_core.state import KINDS
from lattice_core.streams import entity_key
from lattice_core.units import MAX_SUPPLY_NLAI

HOLDER, OWNER, ORACLE = (address(entity_key(name, 0)) for name in ("holder", "owner", "oracle"))
"""Who holds the genesis supply, who owns the contracts, and who settles for the Nexus."""

ROWS = 200
"""Registrations or deposits in one transaction."""


class Operation(NamedTuple):
    """One transaction as a run records it. `gas_used` is None where the backend cannot tell."""

    name: str
    entries: int
    ok: bool
    gas_used: int | None


class Bridge:
    """A network's contracts, and every transaction sent to them since the last `drain`."""

    def __init__(self, chain: Chain, config: Config, nexus: int = 0) -> None:
        """Deploy the contracts of `config` on `chain`. Raises Reverted."""
        self.chain = chain
        self.nexus = nexus
        self._operations: list[Operation] = []
        self._models = tuple(config.models)
        split = config.economics.split
        rates = Rates(
            split.burn_ppm, split.treasury_ppm, split.auditors_ppm, split.delegators_ppm, split.treasury_ceiling_nlai
        )  # fmt: skip
        for who in (HOLDER, OWNER, ORACLE):
            chain.fund(who, 10**18)
        supply = config.economics.supply.genesis_nlai
        self.network: Network = deploy(chain, Genesis(OWNER, HOLDER, supply, MAX_SUPPLY_NLAI, rates, {nexus: ORACLE}))
        for registry in (self.network.users, self.network.nodes):
            self.network.token.approve(HOLDER, registry.address, supply).raise_for_revert()

    def open(self, config: Config, t_ns: int) -> list[Event]:
        """Register, fund and bond everyone in the config; the facts, in order. Raises Reverted."""
        return [*self.open_accounts(users(config), t_ns), *self.register_nodes(nodes(config), t_ns)]

    def open_accounts(self, entries: Sequence[UserEntry], t_ns: int) -> list[Event]:
        """Register users, with the deposit and faucet credit of their population."""
        registry = self.network.users
        keys = [entry.key for entry in entries]
        self._batch("register_users", registry.register, [identity(k) for k in keys], [address(k) for k in keys])
        facts: list[Event] = [AccountOpened(t_ns, e.account, e.key, e.cluster) for e in entries]
        facts += self.deposit([(e.account, e.population.budget.deposit_nlai) for e in entries], t_ns)
        grants = [(e.account, e.population.budget.faucet_nlai) for e in entries if e.population.budget.faucet_nlai]
        if grants:
            granted, amounts = zip(*grants, strict=True)
            self._batch("grant_faucet", registry.grant_faucet, granted, amounts)
            facts += [FaucetGranted(t_ns, account, nlai) for account, nlai in grants]
        return facts

    def deposit(self, deposits: Sequence[tuple[int, int]], t_ns: int) -> list[Event]:
        """Move (account, nanoLAI) from the wallets into escrow."""
        deposits = [(account, nlai) for account, nlai in deposits if nlai]
        if not deposits:
            return []
        accounts, amounts = zip(*deposits, strict=True)
        self._batch("fund_users", self.network.users.fund, accounts, amounts)
        return [Deposited(t_ns, account, nlai) for account, nlai in deposits]

    def register_nodes(self, entries: Sequence[NodeEntry], t_ns: int) -> list[Event]:
        """Register and bond nodes, and post their offers."""
        registry = self.network.nodes
        ids = [entry.node for entry in entries]
        operators = [address(entry.key) for entry in entries]
        kinds = [KINDS.index(entry.population.kind) for entry in entries]
        hashes = [identity(entity_key(entry.population.models[0], 0)) for entry in entries]
        self._batch("register_nodes", registry.register, operators, kinds, hashes, [entry.cluster for entry in entries])
        bonds = [entry.population.bond_nlai for entry in entries]
        self._batch("bond_nodes", registry.bond, ids, bonds)
        facts: list[Event] = []
        for entry, kind, bond in zip(entries, kinds, bonds, strict=True):
            p = entry.population
            facts.append(NodeRegistered(t_ns, entry.node, entry.key, kind, entry.cluster, entry.owner, p.slots, p.queue))
            facts.append(Bonded(t_ns, entry.node, bond))
            facts += [
                OfferPosted(t_ns, entry.node, self._models.index(model), p.price.input_nlai, p.price.output_nlai)
                for model in p.models
            ]
        return facts

    def settle(self, chunk: Chunk, t_ns: int) -> tuple[Event, Settled]:
        """Settle a batch and say what came of it. Raises Reverted; `failed` is then the fact for the kernel."""
        receipt = self._record("settle", len(chunk.users), self.network.tokenomics.settle(ORACLE, chunk))
        settled = self.network.settled(chunk, receipt)
        return BatchConfirmed(t_ns, chunk.epoch, chunk.chunk, tuple(settled.skipped.tolist())), settled

    def failed(self, chunk: Chunk, t_ns: int) -> Event:
        """The fact that a batch did not go through."""
        return BatchFailed(t_ns, chunk.epoch, chunk.chunk)

    def claim(self, node: int, operator: bytes) -> bool:
        """Pay a node's operator what it has earned; whether there was anything to pay."""
        return self._record("claim", 1, self.network.tokenomics.claim(operator, node)).ok

    def drain(self) -> list[Operation]:
        """The transactions since the last call, in order."""
        operations, self._operations = self._operations, []
        return operations

    def check_money(self) -> None:
        """INV-1 on the chain, from totals that the contracts keep. Raises InvariantError with the numbers."""
        n = self.network
        balances = {
            "UserRegistry": (n.token.balance_nlai(n.users.address), n.users.total_claims_nlai()),
            "NodeRegistry": (n.token.balance_nlai(n.nodes.address), n.nodes.total_bonded_nlai()),
            "Tokenomics": (n.token.balance_nlai(n.tokenomics.address), n.tokenomics.total_claims_nlai()),
            "LAIToken": (n.token.supply_nlai(), n.token.minted_nlai() - n.token.burned_nlai()),
        }
        for contract, (held, claimed) in balances.items():
            if held != claimed:
                raise InvariantError(f"INV-1: {contract} holds {held} nanoLAI and records claims of {claimed}")

    def _batch(self, name: str, call: Callable[..., Receipt], *columns: Sequence[Any]) -> None:
        """`call(HOLDER, *columns)`, the rows spread over transactions small enough for the gas limit. Raises Reverted."""
        for start in range(0, len(columns[0]), ROWS):
            rows = [column[start : start + ROWS] for column in columns]
            self._record(name, len(rows[0]), call(HOLDER, *rows)).raise_for_revert()

    def _record(self, name: str, entries: int, receipt: Receipt) -> Receipt:
        self._operations.append(Operation(name, entries, receipt.ok, receipt.gas_used))
        return receipt
