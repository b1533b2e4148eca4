"""Evidence and proposals to slash, as they should be."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from lattice_core.chain.contracts.slashing import ANSWER
from lattice_core.chain.typed_data import digest
from lattice_core.units import PPM
from tests.chain.machine.shadow import Refused, Shadow, Tx, only_oracle, only_owner, signer_of
from tests.chain.machine.wire import Event, View

if TYPE_CHECKING:
    from tests.chain.machine.model import Model

OPEN, APPEALED, CLOSED = 1, 2, 3
LONGEST_WINDOW_S = 30 * 86_400


class Terms(NamedTuple):
    """As in Slashing.sol."""

    equivocation_ppm: int
    proposal_ppm: int
    reporter_ppm: int
    window: int


@dataclass(slots=True)
class Proposal:
    """As in Slashing.sol."""

    reporter: bytes
    amount: int
    node: int
    until: int
    state: int = OPEN


class Slashing(Shadow):
    """Amounts are nanoLAI."""

    NAME = "Slashing"

    def __init__(self, model: "Model") -> None:
        super().__init__(model)
        self.terms = Terms(0, 0, 0, 1)
        self.proposals: list[Proposal] = []
        self.equivocated: set[tuple[int, int]] = set()

    def apply(self, event: Event) -> None:
        e = event.args
        match event.name:
            case "TermsSet":
                self.terms = Terms(*e["terms"])
            case "EquivocationProven":
                self.equivocated.add((e["node"], e["request"]))
            case "SlashProposed":
                assert e["id"] == len(self.proposals)
                reporter = self.model.book.oracles[e["nexus"]]
                self.proposals.append(Proposal(reporter, e["nanoLai"], e["node"], e["until"]))
            case "SlashAppealed":
                proposal = self.proposals[e["id"]]
                proposal.state, proposal.until = APPEALED, e["until"]
            case "SlashExecuted" | "SlashDismissed":
                self.proposals[e["id"]].state = CLOSED

    def proposed_against(self, node: int) -> int:
        return sum(it.amount for it in self.proposals if it.node == node and it.state != CLOSED)

    def views(self, now_s: int) -> Iterator[View]:
        yield self.view("terms", (), *self.terms)
        yield self.view("proposalCount", (), len(self.proposals))
        for i, it in list(enumerate(self.proposals))[-8:]:
            yield self.view("proposals", (i,), it.reporter, it.amount, it.node, it.until, it.state)
        for i in range(len(self.model.nodes.nodes)):
            yield self.view("proposedAgainst", (i,), self.proposed_against(i))
        for node, request in sorted(self.equivocated)[:8]:
            yield self.view("equivocated", (node, request), 1)

    # Rules

    def set_terms(self, tx: Tx, terms: tuple[int, ...]) -> None:
        only_owner(self.model, tx)
        new = Terms(*terms)
        for ppm, largest in ((new.equivocation_ppm, PPM), (new.proposal_ppm, PPM), (new.reporter_ppm, PPM // 2)):
            if ppm > largest:
                raise Refused("ShareTooLarge", ppm=ppm, largest=largest)
        if not 0 < new.window <= LONGEST_WINDOW_S:
            raise Refused("WindowOutOfRange", window=new.window, longest=LONGEST_WINDOW_S)
        self.emit(tx, "TermsSet", terms=tuple(new))

    def prove_equivocation(
        self, tx: Tx, node: int, request: int, hash_a: bytes, sig_a: bytes, hash_b: bytes, sig_b: bytes
    ) -> None:  # fmt: skip
        if hash_a == hash_b:
            raise Refused("SameAnswer", node=node, request=request)
        if (node, request) in self.equivocated:
            raise Refused("AlreadySlashed", node=node, request=request)
        for answer, signature in ((hash_a, sig_a), (hash_b, sig_b)):
            signer = signer_of(digest(self.model.domain(self.NAME), ANSWER, (request, node, answer)), signature)
            if not self.model.nodes.answers_for(node, signer, tx.now_s):
                raise Refused("NotNodesSigner", node=node, signer=signer)
        amount = self.model.nodes.stake_of(node) * self.terms.equivocation_ppm // PPM
        taken = self.model.nodes.take(tx, node, amount, tx.sender, self.terms.reporter_ppm)
        fields = {"node": node, "request": request, "reporter": tx.sender, "hashA": hash_a, "hashB": hash_b}
        self.emit(tx, "EquivocationProven", **fields, taken=taken)

    def propose(self, tx: Tx, nexus: int, node: int, nlai: int, evidence: bytes) -> None:
        only_oracle(self.model, tx, nexus)
        if nlai == 0:
            raise Refused("AmountZero", node=node)
        limit = self.model.nodes.stake_of(node) * self.terms.proposal_ppm // PPM
        largest = max(0, limit - self.proposed_against(node))
        if nlai > largest:
            raise Refused("ProposalTooLarge", nanoLai=nlai, largest=largest)
        fields = {"id": len(self.proposals), "node": node, "nexus": nexus, "nanoLai": nlai, "evidence": evidence}
        self.emit(tx, "SlashProposed", **fields, until=tx.now_s + self.terms.window)
        self.model.nodes.freeze_for(tx, node, 1)

    def appeal(self, tx: Tx, number: int) -> None:
        it = self._in_state(number, OPEN)
        if tx.sender != self.model.nodes.operator_of(it.node):
            raise Refused("NotOperator", node=it.node, caller=tx.sender)
        self._window_open(tx, number, it)
        self.emit(tx, "SlashAppealed", id=number, until=tx.now_s + self.terms.window)

    def decide(self, tx: Tx, number: int, uphold: bool) -> None:
        only_owner(self.model, tx)
        it = self._in_state(number, APPEALED)
        self._window_open(tx, number, it)
        if uphold:
            self._execute(tx, number, it)
        else:
            self._dismiss(tx, number, it)

    def execute(self, tx: Tx, number: int) -> None:
        it = self._in_state(number, OPEN)
        self._window_over(tx, number, it)
        self._execute(tx, number, it)

    def lapse(self, tx: Tx, number: int) -> None:
        it = self._in_state(number, APPEALED)
        self._window_over(tx, number, it)
        self._dismiss(tx, number, it)

    def _execute(self, tx: Tx, number: int, it: Proposal) -> None:
        self.model.nodes.freeze_for(tx, it.node, -1)
        taken = self.model.nodes.take(tx, it.node, it.amount, it.reporter, self.terms.reporter_ppm)
        self.emit(tx, "SlashExecuted", id=number, taken=taken)

    def _dismiss(self, tx: Tx, number: int, it: Proposal) -> None:
        self.model.nodes.freeze_for(tx, it.node, -1)
        self.emit(tx, "SlashDismissed", id=number)

    def _in_state(self, number: int, state: int) -> Proposal:
        if number >= len(self.proposals):
            raise Refused("UnknownProposal", id=number)
        it = self.proposals[number]
        if it.state != state:
            raise Refused("WrongState", id=number, state=it.state)
        return it

    def _window_open(self, tx: Tx, number: int, it: Proposal) -> None:
        if tx.now_s >= it.until:
            raise Refused("WindowOver", id=number, until=it.until)

    def _window_over(self, tx: Tx, number: int, it: Proposal) -> None:
        if tx.now_s < it.until:
            raise Refused("WindowOpen", id=number, until=it.until)
