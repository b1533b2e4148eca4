"""A network, its model and its audit, taken step by step: whatever is tried, the chain must do as the model says."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import zip_longest
from typing import Any, NamedTuple

from lattice_core.chain.abi import keccak, reason
from lattice_core.chain.contracts.nodes import NodeTerms
from lattice_core.chain.contracts.slashing import SlashTerms
from lattice_core.chain.contracts.tokenomics import BonusTerms
from lattice_core.chain.deployment import Genesis, Roles, deploy
from lattice_core.chain.keys import Key
from lattice_core.chain.port import Chain, Log, Receipt, Transaction
from lattice_core.split import Rates
from lattice_core.units import NANO
from tests.chain.machine.audit import Audit
from tests.chain.machine.model import Model, rebuild
from tests.chain.machine.shadow import Refused
from tests.chain.machine.token import ALL
from tests.chain.machine.tokenomics import entries_of
from tests.chain.machine.wire import PUPPET, Call, Event, View, Wire, creation

EPOCH_S = 3_600
SUPPLY_NLAI = 1_000_000 * NANO
CAP_NLAI = 1_001_000 * NANO
NEXUSES = (1, 2)
HOLDING = ("UserRegistry", "NodeRegistry", "Tokenomics")
PERSONS = tuple(Key(keccak(b"person %d" % i)) for i in range(6))
SESSIONS = tuple(Key(keccak(b"session %d" % i)) for i in range(3))
DEPLOYER, OWNER, HOLDER, FIRST_ORACLE, SECOND_ORACLE, STRANGER = (
    keccak(name)[-20:] for name in (b"deployer", b"owner", b"holder", b"oracle 1", b"oracle 2", b"stranger")
)
ACTORS = (DEPLOYER, OWNER, HOLDER, FIRST_ORACLE, SECOND_ORACLE, STRANGER, *(key.address for key in (*PERSONS, *SESSIONS)))


class Jump(NamedTuple):
    """Time passes: `dt_s` seconds until the next block."""

    dt_s: int

    def __str__(self) -> str:
        return f"{self.dt_s} s pass"


type Step = Call | Jump


class _Recorded:
    """A chain that keeps the logs of what it is sent."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self.logs: list[tuple[int, tuple[Log, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chain, name)

    def deploy(self, sender: bytes, code: bytes) -> Receipt:
        return self.transact(Transaction(sender, None, code))

    def transact(self, transaction: Transaction) -> Receipt:
        receipt = self._chain.transact(transaction)
        self.logs.append((self._chain.block().timestamp_s, receipt.logs))
        return receipt


class World:
    """Contracts on a chain that is new, six persons with some LAI, and two Nexuses.

    Whatever a person signs for is known by its address: `keys`. All checks raise AssertionError.
    """

    def __init__(self, chain: Chain) -> None:
        self._chain: Any = _Recorded(chain)
        network = deploy(self._chain, _genesis())
        self._epochs = network.clock.epochs()
        pools = self._chain.deploy(DEPLOYER, creation(PUPPET)).raise_for_revert().contract
        network.book.set(OWNER, "StakingPools", pools).raise_for_revert()
        self.addresses = {contract.NAME: contract.address for contract in network.contracts()} | {"StakingPools": pools}
        self.wire = Wire(self._chain, self.addresses)
        self.keys = {key.address: key for key in (*PERSONS, *SESSIONS)}
        self.model = rebuild(self._empty(), self._logged())
        self.audit = Audit(self.model)
        self.steps: list[Step] = []
        for step in _beginnings(self.addresses):
            self.do(step)
        self._begun = self._chain.snapshot(), list(self._chain.logs), deepcopy((self.model, self.audit))
        self.steps = []

    def reset(self) -> None:
        """Go back to the beginning."""
        snapshot, logs, begun = self._begun
        self._chain.revert(snapshot)
        self._chain.logs = list(logs)
        self.model, self.audit = deepcopy(begun)
        self.steps = []

    def now_s(self) -> int:
        return int(self._chain.block().timestamp_s)

    def do(self, step: Step) -> None:
        """Take a step, and check that what it does, and the sums afterwards, are as they should be."""
        self.steps.append(step)
        if isinstance(step, Jump):
            self._chain.advance_block(step.dt_s)
            return
        now_s = self.now_s()
        try:
            expected, refusal = self.model.predict(step, now_s), ""
        except Refused as refused:
            expected, refusal = [], str(refused)
        receipt = self._chain.transact(self.wire.transaction(step))
        said = "" if receipt.ok else reason(receipt.output)
        assert said == refusal, f"{said or 'it succeeds'}, expected: {refusal or 'success'}"
        events = self.wire.events(receipt.logs, now_s)
        emitted = [event for event in events if event.name != "DelegateVotesChanged"]
        assert emitted == expected, "emitted {}, expected {}".format(*_first_difference(emitted, expected))
        if receipt.ok:
            self.audit.see(step, events, now_s)
            self.model.apply(events)
            if step.function == "permit":
                self.model.token.nonces[step.args[0]] = self.model.token.nonces.get(step.args[0], 0) + 1
            self.audit.check()
        self._compare([*self._sums(), *self._touched(events)])

    def check(self) -> None:
        """Everything that the contracts can be asked is as the model has it."""
        self._compare(self.model.views(self.now_s()))
        balances = self.model.token.balances
        assert sum(balances.values()) == self.model.token.supply, "INV-1: balances do not add up to the supply"
        assert all(wei >= 0 for wei in balances.values())

    def check_logs(self) -> None:
        """What a stranger rebuilds from the logs alone is what the contracts answer."""
        rebuilt = rebuild(self._empty(), self._logged())
        self._compare(rebuilt.views(self.now_s()))

    def _compare(self, views: Sequence[View] | Iterator[View]) -> None:
        difference = self.wire.differing(views)
        assert not difference, difference

    def _sums(self) -> Iterator[View]:
        """INV-1: what each contract holds is what it owes."""
        users, nodes, tokenomics, token = self.model.users, self.model.nodes, self.model.tokenomics, self.model.token
        for name, owed in zip(HOLDING, (users.total(), nodes.total(), tokenomics.total()), strict=True):
            yield token.view("balanceOf", (self.addresses[name],), owed * NANO)
        yield token.view("totalSupply", (), token.supply)
        yield users.view("totalClaims", (), users.total())
        yield nodes.view("totalBonded", (), nodes.total())
        yield tokenomics.view("totalClaims", (), tokenomics.total())

    def _touched(self, events: Sequence[Event]) -> Iterator[View]:
        """The accounts and nodes that events speak of."""
        ids: dict[str, set[int]] = {"user": set(), "node": set()}
        for event in events:
            e = event.args
            match event.name:
                case "ChunkSettled":
                    ids["user"].update(entry.id for entry in entries_of(e["users"]))
                    ids["node"].update(entry.id for entry in entries_of(e["nodes"]))
                case "BonusPaid":
                    ids["node"].update(self.model.tokenomics.earned)
                case "VoucherCollected":
                    ids["user"].add(e["payer"])
                    ids["node"].add(e["node"])
                case "Funded" | "FaucetGranted":
                    ids["user"].update(e["users"])
                case _:
                    for kind in ids:
                        if kind in e:
                            ids[kind].add(e[kind])
        for user in sorted(ids["user"]):
            if user < len(self.model.users.users):
                it = self.model.users.users[user]
                yield self.model.users.view("account", (user,), it.purchased, it.faucet, it.nexus)
        for node in sorted(ids["node"]):
            yield self.model.tokenomics.view("earned", (node,), *self.model.tokenomics.earned.get(node, (0, 0, 0)))

    def _empty(self) -> Model:
        return Model(self.addresses, self._epochs, self._chain.chain_id, CAP_NLAI * NANO)

    def _logged(self) -> Iterator[Event]:
        for time_s, logs in self._chain.logs:
            yield from self.wire.events(logs, time_s)


def _first_difference(emitted: Sequence[Event], expected: Sequence[Event]) -> tuple[Event | None, Event | None]:
    return next((ours, theirs) for ours, theirs in zip_longest(emitted, expected) if ours != theirs)


def _genesis() -> Genesis:
    return Genesis(
        roles=Roles(DEPLOYER, OWNER, HOLDER, HOLDER, dict(zip(NEXUSES, (FIRST_ORACLE, SECOND_ORACLE), strict=True))),
        holder=HOLDER,
        supply_nlai=SUPPLY_NLAI,
        cap_nlai=CAP_NLAI,
        epoch_s=EPOCH_S,
        grace_epochs=2,
        collection_epochs=6,
        rates=Rates(10_000, 40_000, 20_000, 50_000, 5_000 * NANO),
        nodes=NodeTerms(floor_nlai=NANO, rise_ppm=200_000, half_life_s=EPOCH_S, thaw_s=4 * EPOCH_S),
        bonus=BonusTerms(per_day_nlai=100 * NANO, returned_ppm=900_000, window_s=EPOCH_S),
        slashing=SlashTerms(500_000, 200_000, 100_000, 2 * EPOCH_S),
        status_window_s=EPOCH_S,
    )


def _beginnings(addresses: dict[str, bytes]) -> Iterator[Step]:
    """Everyone lets the contracts take their LAI; persons have some; there are users, nodes, and a faucet with a budget."""
    persons = [key.address for key in PERSONS]
    for holder in (HOLDER, *persons):
        for name in HOLDING:
            yield Call(holder, "LAIToken", "approve", (addresses[name], ALL))
    for person in persons:
        yield Call(HOLDER, "LAIToken", "transfer", (person, 1_000 * NANO * NANO))
    yield Call(OWNER, "Tokenomics", "setBudget", (1_000 * NANO, 24 * EPOCH_S))
    yield Call(HOLDER, "Tokenomics", "endow", (100 * NANO,))
    for nexus in NEXUSES:
        identities = tuple(keccak(b"of nexus %d" % nexus + person) for person in persons[:3])
        yield Call(HOLDER, "UserRegistry", "register", (nexus, identities, tuple(persons[:3])))
    yield Call(HOLDER, "UserRegistry", "fund", (tuple(range(6)), (200 * NANO,) * 6))
    yield Call(HOLDER, "NodeRegistry", "register", (tuple(persons[3:]), tuple(persons[3:]), (0, 1, 2), (0, 0, 1)))
    yield Call(HOLDER, "NodeRegistry", "bond", ((0, 1, 2), (50 * NANO,) * 3))
