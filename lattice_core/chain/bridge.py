"""Between the contracts and the kernel: what is done on the chain comes back as the kernel's events.

The bridge deploys the contracts and acts for everyone in a network whose keys it holds. Registrations and deposits go in
batches, paid by the holder of the genesis supply, who keeps the users' wallets.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lattice_core.batch import MAX_ENTRIES, Chunk
from lattice_core.census import NodeEntry, UserEntry, identity, nodes, users
from lattice_core.chain.contracts import Network
from lattice_core.chain.contracts.contract import to_wei
from lattice_core.chain.deployment import deploy
from lattice_core.chain.gas import load
from lattice_core.chain.genesis import ROLES, genesis_of, role_key, to_seconds
from lattice_core.chain.keys import Key, key_of
from lattice_core.chain.operator import model_id
from lattice_core.chain.port import Chain, Receipt
from lattice_core.chain.typed_data import domain
from lattice_core.chain.vouchers import Signed, Voucher, sign
from lattice_core.config import Config, ConfigError
from lattice_core.events import (
    AccountOpened,
    BatchConfirmed,
    BatchFailed,
    BatchLapsed,
    Bonded,
    Deposited,
    Event,
    FaucetGranted,
    NodeRegistered,
    OfferPosted,
    VoucherCollected,
    VoucherPresented,
    WithdrawalRequested,
    Withdrawn,
)
from lattice_core.invariants import InvariantError
from lattice_core.receipts import Usage
from lattice_core.records import Operation
from lattice_core.rewards import NO_BONUS, Sources
from lattice_core.settlement import Settlement
from lattice_core.standing import Standing
from lattice_core.state import KINDS

ROWS = 200
"""Registrations or deposits in one transaction."""


class Saved(NamedTuple):
    """What a bridge knows besides its chain: the address book, and as `Bridge` has it the bonus that is open."""

    book: bytes
    proposed: tuple[NDArray[np.int64], int] | None


class Bridge:
    """A network's contracts, and every transaction sent to them since the last `drain`."""

    def __init__(
        self, chain: Chain, config: Config, nexus: int = 0, secret: bytes = b"", saved: Saved | None = None
    ) -> None:  # fmt: skip
        """Deploy the contracts of `config` on `chain`, or take up those of a bridge that was `saved` with it.

        Every key is derived from `secret`. Raises Reverted, and ConfigError if the gas model is of other contracts or one
        settlement would have more users or nodes than a transaction can pay.
        """
        _check_sizes(config)
        self._gas = load()
        self.chain = chain
        self.nexus = nexus
        self._secret = secret
        self._operations: list[Operation] = []
        self._models = tuple(config.models)
        self._roles = {role: self._let_send(role_key(role, secret)) for role in ROLES}
        self._owners: dict[int, int] = {}
        self._operators: dict[int, int] = {}
        """The entity keys of registered users and nodes, by id."""
        self._proposed: tuple[NDArray[np.int64], int] | None = None
        """Weights that wait for their window to pass, and when it does."""
        self.network = Network(chain, saved.book) if saved else deploy(chain, genesis_of(config, nexus, secret))
        self.epochs = self.network.clock.epochs()
        self._domain = domain(chain.chain_id, self.network.tokenomics.address)
        if saved:
            self._proposed = saved.proposed
            self._owners = {entry.account: entry.key for entry in users(config)}
            self._operators = {entry.node: entry.key for entry in nodes(config)}
            return
        holder, supply_nlai = self._roles["holder"], config.economics.supply.genesis_nlai
        for contract in (self.network.users, self.network.nodes, self.network.tokenomics):
            self.network.token.approve(holder, contract.address, supply_nlai).raise_for_revert()
        self._fill_faucet(config)

    def save(self) -> Saved:
        """For another bridge of this network, on what `chain` saves, once the transactions so far are drained."""
        return Saved(self.network.book.address, self._proposed)

    def open(self, config: Config, t_ns: int) -> list[Event]:
        """Register, fund and bond everyone in the config; the facts, in order. Raises Reverted."""
        return [*self.open_accounts(users(config), t_ns), *self.register_nodes(nodes(config), t_ns)]

    def open_accounts(self, entries: Sequence[UserEntry], t_ns: int) -> list[Event]:
        """Register users, with the deposit and faucet credit of their population."""
        self._owners |= {entry.account: entry.key for entry in entries}
        registrar, registry = self._roles["registrar"], self.network.users
        identities = [identity(entry.key) for entry in entries]
        owners = [self._key(entry.key).address for entry in entries]
        self._batch("register_users", lambda *rows: registry.register(registrar, self.nexus, *rows), identities, owners)
        facts: list[Event] = [AccountOpened(t_ns, e.account, e.key, e.cluster) for e in entries]
        facts += self.deposit([(e.account, e.population.budget.deposit_nlai) for e in entries], t_ns)
        grants = [(e.account, e.population.budget.faucet_nlai) for e in entries if e.population.budget.faucet_nlai]
        if grants:
            faucet, granted = self._roles["faucet"], [list(column) for column in zip(*grants, strict=True)]
            self._batch("grant_faucet", lambda *rows: self.network.tokenomics.grant_faucet(faucet, *rows), *granted)
            facts += [FaucetGranted(t_ns, account, nlai) for account, nlai in grants]
        return facts

    def deposit(self, deposits: Sequence[tuple[int, int]], t_ns: int) -> list[Event]:
        """Move (account, nanoLAI) from the wallets into escrow."""
        deposits = [(account, nlai) for account, nlai in deposits if nlai]
        if not deposits:
            return []
        holder, columns = self._roles["holder"], [list(column) for column in zip(*deposits, strict=True)]
        self._batch("fund_users", lambda *rows: self.network.users.fund(holder, *rows), *columns)
        return [Deposited(t_ns, account, nlai) for account, nlai in deposits]

    def request_withdrawal(self, account: int, nlai: int, t_ns: int) -> list[Event]:
        """Ask to have `nlai` of purchased credit back, in all; 0 asks for nothing any more. No fact if the chain refuses."""
        owner = self._let_send(self._key(self._owners[account]))
        receipt = self._record("request_withdrawal", 1, self.network.users.request_withdrawal(owner, account, nlai))
        return [WithdrawalRequested(t_ns, account, nlai)] if receipt.ok else []

    def withdraw(self, account: int, t_ns: int) -> list[Event]:
        """Pay an account what it asked for, if its escrow is no longer locked."""
        owner = self._let_send(self._key(self._owners[account]))
        receipt = self._record("withdraw", 1, self.network.users.withdraw(owner, account))
        if not receipt.ok:
            return []
        (paid,) = self.network.users.logged("Withdrawn", receipt)
        return [Withdrawn(t_ns, account, paid["nanoLai"])]

    def register_nodes(self, entries: Sequence[NodeEntry], t_ns: int) -> list[Event]:
        """Register and bond nodes; each operator posts its offers."""
        self._operators |= {entry.node: entry.key for entry in entries}
        holder, registry = self._roles["holder"], self.network.nodes
        operators = [self._key(entry.key).address for entry in entries]
        kinds = [KINDS.index(entry.population.kind) for entry in entries]
        clusters = [entry.cluster for entry in entries]
        self._batch("register_nodes", lambda *rows: registry.register(holder, *rows), operators, operators, kinds, clusters)
        ids = [entry.node for entry in entries]
        self._batch("open_books", lambda *rows: self.network.tokenomics.open_books(holder, *rows), ids)
        bonds = [(entry.node, entry.population.bond_nlai) for entry in entries if entry.population.bond_nlai]
        if bonds:
            columns = [list(column) for column in zip(*bonds, strict=True)]
            self._batch("bond_nodes", lambda *rows: registry.bond(holder, *rows), *columns)
        facts: list[Event] = []
        for entry, kind in zip(entries, kinds, strict=True):
            p = entry.population
            facts.append(NodeRegistered(t_ns, entry.node, entry.key, kind, entry.cluster, entry.owner, p.slots, p.queue))
            facts.append(Bonded(t_ns, entry.node, p.bond_nlai))
            facts += self._post_offers(entry, t_ns)
        return facts

    def admit(self, operator: bytes, kind: int, bond_nlai: int, cluster: int = 0) -> int:
        """Register and bond a node of somebody else's key for it, out of the genesis supply; its id. Raises Reverted."""
        holder, registry = self._roles["holder"], self.network.nodes
        receipt = registry.register(holder, [operator], [operator], [kind], [cluster])
        (registered,) = registry.logged("NodeRegistered", self._record("register_nodes", 1, receipt).raise_for_revert())
        node: int = registered["node"]
        self._record("open_books", 1, self.network.tokenomics.open_books(holder, [node])).raise_for_revert()
        if bond_nlai:
            self._record("bond_nodes", 1, registry.bond(holder, [node], [bond_nlai])).raise_for_revert()
        return node

    def dismiss(self, node: int) -> None:
        """Have a node leave for good, on a chain that asks for no signatures. Raises Reverted."""
        registry = self.network.nodes
        registry.deregister(registry.operator_of(node), node).raise_for_revert()

    def reach_end(self, epoch: int) -> None:
        """Let the chain's time reach the end of an epoch, where its time can be set."""
        wait_s = self.epochs.end_s(epoch) - self.chain.block().timestamp_s
        if wait_s > 0 and self.chain.capabilities.sets_time:
            self.chain.advance_block(wait_s)

    def settle(self, chunk: Chunk, t_ns: int) -> tuple[Event, Settlement]:
        """Settle a batch and say what came of it. Raises Reverted; `failed` is then the fact for the kernel."""
        return self._settled(chunk, self.network.tokenomics.settle(self._roles["oracle"], chunk), t_ns)

    def settled(self, chunk: Chunk, t_ns: int) -> tuple[Event, Settlement] | None:
        """What a node's chain, which may have settled a batch though nobody was told, did with it; None if it has not."""
        tokenomics = self.network.tokenomics
        if not tokenomics.is_settled(chunk.nexus, chunk.epoch, chunk.chunk):
            return None
        key = [number.to_bytes(32) for number in (chunk.nexus, chunk.epoch, chunk.chunk)]
        receipt = self.chain.find(tokenomics.address, [tokenomics.abi.events["ChunkSettled"].hash, *key])
        assert receipt is not None  # it is settled
        return self._settled(chunk, receipt, t_ns)

    def failed(self, chunk: Chunk, t_ns: int) -> Event:
        """The fact that a batch did not go through: for now, or for good once the chain's time has passed its grace."""
        if self.chain.block().timestamp_s >= self.epochs.lapse_s(chunk.epoch):
            return BatchLapsed(t_ns, chunk.epoch, chunk.chunk)
        return BatchFailed(t_ns, chunk.epoch, chunk.chunk)

    def report(self, epoch: int, standing: Standing) -> None:
        """Post the nodes' standing after an epoch. Raises Reverted."""
        receipt = self.network.status.post(self._roles["oracle"], self.nexus, epoch, *standing)
        self._record("post_status", len(standing.healthy), receipt).raise_for_revert()

    def share_bonus(self, weights: Sequence[int]) -> Sources:
        """Pay the bonus whose weights nobody has rejected in time, and post the weights of the next if none is open.

        Where what was paid came from. Raises Reverted.
        """
        tokenomics, oracle, paid = self.network.tokenomics, self._roles["oracle"], NO_BONUS
        nodes, now_s = np.arange(len(weights)), self.chain.block().timestamp_s
        if self._proposed is not None and now_s >= self._proposed[1]:
            posted = self._proposed[0]
            receipt = self._record("pay_bonus", len(posted), tokenomics.pay_bonus(oracle, nodes[: len(posted)], posted))
            (told,) = tokenomics.logged("BonusPaid", receipt.raise_for_revert())
            self._proposed, paid = None, Sources(told["treasury"], told["minted"])
        if self._proposed is None and any(weights):
            posted = np.array(weights, np.int64)
            receipt = tokenomics.propose_bonus(oracle, self.nexus, nodes, posted)
            self._record("propose_bonus", len(posted), receipt).raise_for_revert()
            self._proposed = posted, now_s + tokenomics.bonus_terms().window_s
        return paid

    def voucher(self, usage: Usage) -> Signed:
        """What a payer signs for what it had from a node in an epoch."""
        voucher = Voucher(self.nexus, usage.epoch, usage.payer, usage.node, usage.nlai, usage.tokens, usage.receipts_root)
        return sign(voucher, self._key(self._owners[usage.payer]), self._domain)

    def present(self, signed: Signed, t_ns: int) -> list[Event]:
        """Have the operator of its node present a voucher. No fact if the chain refuses."""
        voucher, tokenomics = signed.voucher, self.network.tokenomics
        operator = self._let_send(self._key(self._operators[voucher.node]))
        before = tokenomics.presented(*voucher[:4])
        receipt = self._record("present", 1, tokenomics.present(operator, signed))
        return [VoucherPresented(t_ns, voucher.payer, voucher.value_nlai - before.value_nlai)] if receipt.ok else []

    def collect(self, voucher: Voucher, t_ns: int) -> list[Event]:
        """Have the operator of its node collect a voucher that was presented. No fact if the chain refuses."""
        operator, key = self._let_send(self._key(self._operators[voucher.node])), voucher[:4]
        receipt = self._record("collect", 1, self.network.tokenomics.collect(operator, *key))
        if not receipt.ok:
            return []
        epoch, payer, node, paid, _ = self.network.collected(receipt)
        return [VoucherCollected(t_ns, epoch, payer, node, *paid)]

    def claim(self, node: int) -> bool:
        """Pay a node's operator what it has earned; whether there was anything to pay. For others' nodes the holder asks."""
        own = node in self._operators
        sender = self._let_send(self._key(self._operators[node])) if own else self._roles["holder"]
        return self._record("claim", 1, self.network.tokenomics.claim(sender, node)).ok

    def drain(self) -> list[Operation]:
        """The transactions since the last call, in order."""
        operations, self._operations = self._operations, []
        return operations

    def treasury_balance_nlai(self) -> int:
        """What the treasury may claim."""
        return self.network.tokenomics.claims().treasury_nlai

    def check_money(self) -> None:
        """INV-1 on the chain, from totals that the contracts keep. Raises InvariantError with the numbers."""
        n = self.network
        balances = {
            "UserRegistry": (n.token.balance_wei(n.users.address), to_wei(n.users.total_claims_nlai())),
            "NodeRegistry": (n.token.balance_wei(n.nodes.address), to_wei(n.nodes.total_bonded_nlai())),
            "Tokenomics": (n.token.balance_wei(n.tokenomics.address), to_wei(n.tokenomics.total_claims_nlai())),
            "LAIToken": (n.token.supply_wei(), n.token.minted_wei() - n.token.burned_wei()),
        }
        for contract, (held, claimed) in balances.items():
            if held != claimed:
                raise InvariantError(f"INV-1: {contract} holds {held} wei of LAI and records claims of {claimed}")

    def _settled(self, chunk: Chunk, receipt: Receipt, t_ns: int) -> tuple[Event, Settlement]:
        settled = self.network.settled(chunk, self._record("settle", len(chunk.users), receipt, len(chunk.nodes)))
        sizes = len(settled.applied), len(settled.skipped), len(chunk.nodes)
        settlement = Settlement(chunk.epoch, chunk.chunk, *sizes, *settled.debited, *settled.cuts)
        return BatchConfirmed(t_ns, chunk.epoch, chunk.chunk, tuple(settled.skipped.tolist())), settlement

    def _fill_faucet(self, config: Config) -> None:
        """Endow the treasury with the faucet's whole budget."""
        tokenomics, budget_nlai = self.network.tokenomics, config.faucet_budget_nlai
        if budget_nlai:
            tokenomics.endow(self._roles["holder"], budget_nlai).raise_for_revert()
        half_life_s = to_seconds(config.economics.faucet.half_life_ns)
        if not self.chain.capabilities.sets_time:  # then it shrinks before the founding grants are through
            budget_nlai += budget_nlai // 1_000
        tokenomics.set_budget(self._roles["owner"], budget_nlai, half_life_s).raise_for_revert()

    def _post_offers(self, entry: NodeEntry, t_ns: int) -> list[Event]:
        """One operator's offers. A model's name stands for its weights: not every model has any here."""
        p, count = entry.population, len(entry.population.models)
        hashes = [model_id(model) for model in p.models]
        operator = self._let_send(self._key(entry.key))
        receipt = self.network.nodes.post_offers(
            operator, [entry.node] * count, hashes, [0] * count, [p.price.input_nlai] * count, [p.price.output_nlai] * count
        )
        self._record("post_offers", count, receipt).raise_for_revert()
        indices = [self._models.index(model) for model in p.models]
        return [OfferPosted(t_ns, entry.node, model, p.price.input_nlai, p.price.output_nlai) for model in indices]

    def _batch(self, name: str, call: Callable[..., Receipt], *columns: Sequence[Any]) -> None:
        """`call(*columns)`, the rows spread over transactions small enough for the gas limit. Raises Reverted."""
        for start in range(0, len(columns[0]), ROWS):
            rows = [column[start : start + ROWS] for column in columns]
            self._record(name, len(rows[0]), call(*rows)).raise_for_revert()

    def _record(self, name: str, entries: int, receipt: Receipt, nodes: int = 0) -> Receipt:
        gas = self._gas.gas(name, entries, nodes)
        self._operations.append(Operation(name, entries, nodes, receipt.ok, gas, receipt.gas_used))
        return receipt

    def _key(self, entity: int) -> Key:
        return key_of(entity, self._secret)

    def _let_send(self, key: Key) -> bytes:
        """The address of a key that the chain may sign with from now on."""
        self.chain.add_key(key)
        return key.address


def _check_sizes(config: Config) -> None:
    sizes = {"nodes": sum(population.count for population in config.nodes), "chain.chunk_users": config.chain.chunk_users}
    for key, size in sizes.items():
        if size > MAX_ENTRIES:
            raise ConfigError(f"{config.name}: {key}: must be at most {MAX_ENTRIES}, which one settlement can pay, not {size}")
