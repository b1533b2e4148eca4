"""Who may be charged what, kept beside the model and simpler than it: from what was sent and signed, and what became of it.

INV-10: a payer's epoch is paid by one batch or by vouchers, each chunk is settled once, and the vouchers of one (nexus, epoch,
payer, node) pay no more than the largest of them. INV-11: a user loses no more than was batched or signed, and is paid back no
more than was asked for. INV-14: a node's bonus is at most its part of what was burned of its purchased fees since its last one.
"""

from collections import defaultdict
from collections.abc import Sequence

from lattice_core.units import NANO, PPM
from tests.chain.machine.model import Model
from tests.chain.machine.shadow import NOBODY
from tests.chain.machine.tokenomics import DAY_S, Earned, entries_of
from tests.chain.machine.wire import Call, Event


class Audit:
    """Amounts are nanoLAI."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._chunks: set[tuple[int, int, int]] = set()
        self._batched: set[tuple[int, int]] = set()
        self._vouchered: set[tuple[int, int]] = set()
        self._signed: dict[tuple[int, int, int, int], int] = defaultdict(int)
        self._paid: dict[tuple[int, int, int, int], int] = defaultdict(int)
        self._credited: dict[int, int] = defaultdict(int)
        self._charged: dict[int, int] = defaultdict(int)
        self._returned: dict[int, int] = defaultdict(int)
        self._asked: dict[int, int] = {}
        self._pool_since_s = model.tokenomics.paid_until
        self._burned = 0
        self._bonuses = 0
        self._rewarded: tuple[int, dict[int, Earned]] | None = None

    def see(self, call: Call, events: Sequence[Event], now_s: int) -> None:
        """Take in a call that succeeded, before the model has changed."""
        match call.contract, call.function:
            case "Tokenomics", "settle":
                self._settled(call, events)
            case "Tokenomics", "present":
                self._presented(call)
            case "Tokenomics", "collect":
                self._collected(call, events)
            case ("UserRegistry", "fund") | ("Tokenomics", "grantFaucet"):
                for user, nlai in zip(*call.args, strict=True):
                    self._credited[user] += nlai
            case "UserRegistry", "requestWithdrawal":
                self._asked[call.args[0]] = call.args[1]
            case "UserRegistry", "withdraw":
                self._withdrawn(call.args[0], events)
            case "Tokenomics", "setTerms":
                self._pool_since_s = now_s
            case "Tokenomics", "payBonus":
                self._rewarded = self._pool_and_nodes(call.args[0])
        tokenomics = self._model.addresses["Tokenomics"]
        for event in events:
            if event.name == "Transfer" and (event.args["from"], event.args["to"]) == (tokenomics, NOBODY):
                self._burned += event.args["value"] // NANO

    def check(self) -> None:
        """After the model has changed: INV-11 for every user, and INV-14 for every node."""
        if self._rewarded:
            self._check_bonus(*self._rewarded)
            self._rewarded = None
        for number, user in enumerate(self._model.users.users):
            lost = self._credited[number] - self._returned[number] - user.purchased - user.faucet
            charged = self._charged[number]
            assert 0 <= lost <= charged, f"INV-11: user {number} lost {lost} nanoLAI, charged were {charged}"
        assert self._bonuses <= self._burned, f"INV-14: {self._bonuses} nanoLAI of bonus for {self._burned} burned"

    def _settled(self, call: Call, events: Sequence[Event]) -> None:
        nexus, epoch, chunk, users, _ = call.args
        assert (nexus, epoch, chunk) not in self._chunks, f"INV-10: chunk {(nexus, epoch, chunk)} is settled twice"
        self._chunks.add((nexus, epoch, chunk))
        skipped = [(e.args["user"], e.args["purchased"], e.args["faucet"]) for e in events if e.name == "UserSkipped"]
        for entry in reversed(entries_of(users)):
            if entry in skipped:
                skipped.remove(tuple(entry))
                continue
            payer = (epoch, entry.id)
            assert payer not in self._batched, f"INV-10: user {entry.id} pays twice by batch for epoch {epoch}"
            assert payer not in self._vouchered, f"INV-10: user {entry.id} pays by voucher and by batch for epoch {epoch}"
            self._batched.add(payer)
            self._charged[entry.id] += entry.purchased + entry.faucet

    def _presented(self, call: Call) -> None:
        (*key, value, _, _), _ = call.args
        _, epoch, payer, _ = key
        assert (epoch, payer) not in self._batched, f"INV-10: user {payer} pays by batch and by voucher for epoch {epoch}"
        self._vouchered.add((epoch, payer))
        grown = max(0, value - self._signed[tuple(key)])
        self._signed[tuple(key)] += grown
        self._charged[payer] += grown

    def _collected(self, call: Call, events: Sequence[Event]) -> None:
        key = call.args
        assert (key[1], key[2]) not in self._batched, f"INV-10: user {key[2]} pays by batch and by voucher for epoch {key[1]}"
        self._paid[key] += sum(e.args["purchased"] + e.args["faucet"] for e in events if e.name == "VoucherCollected")
        assert self._paid[key] <= self._signed[key], f"INV-10: vouchers {key} paid {self._paid[key]} of {self._signed[key]}"

    def _withdrawn(self, user: int, events: Sequence[Event]) -> None:
        owner, asked = self._model.users.users[user].owner, self._asked.pop(user)
        returned = sum(e.args["value"] // NANO for e in events if e.name == "Transfer" and e.args["to"] == owner)
        assert returned <= asked, f"INV-11: user {user} asked for {asked} nanoLAI and has got {returned}"
        self._returned[user] += returned

    def _pool_and_nodes(self, weights: bytes) -> tuple[int, dict[int, Earned]]:
        """What may be paid at most, and the nodes as they were."""
        tokenomics = self._model.tokenomics
        assert tokenomics.proposal is not None
        elapsed_s = max(0, tokenomics.proposal.since - self._pool_since_s)
        self._pool_since_s = tokenomics.proposal.since
        nodes = {entry.id: tokenomics.earned.get(entry.id, Earned(0, 0, 0)) for entry in entries_of(weights)}
        return tokenomics.terms.per_day * elapsed_s // DAY_S, nodes

    def _check_bonus(self, pool: int, nodes: dict[int, Earned]) -> None:
        total, returned = 0, self._model.tokenomics.terms.returned
        for node, was in nodes.items():
            now = self._model.tokenomics.earned.get(node, Earned(0, 0, 0))
            bonus = now.operator + now.delegators - was.operator - was.delegators
            assert bonus * PPM <= returned * was.burned, f"INV-14: node {node} gets {bonus} nanoLAI of {was.burned} burned"
            assert now.burned == 0, f"INV-14: what was burned for node {node} would count again"
            total += bonus
        assert total <= pool, f"INV-14: bonuses of {total} nanoLAI out of a pool of {pool}"
        self._bonuses += total
