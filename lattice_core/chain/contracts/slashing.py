"""Slashing: two answers to one request prove themselves; everything else is proposed and may be appealed."""

from typing import NamedTuple

from lattice_core.chain.contracts.contract import Contract
from lattice_core.chain.keys import Key
from lattice_core.chain.port import Receipt
from lattice_core.chain.typed_data import digest

ANSWER = "Answer(uint64 request,uint32 node,bytes32 contentHash)"


class SlashTerms(NamedTuple):
    """Parts of the stake that two different answers cost and that proposals may take, the reporter's part of what is taken, and
    how long one may appeal, and the owner then decide."""

    equivocation_ppm: int
    proposal_ppm: int
    reporter_ppm: int
    appeal_window_s: int


class Answer(NamedTuple):
    """A node's word for what it answered: the hash of the content, signed."""

    content_hash: bytes
    signature: bytes


def sign_answer(request: int, node: int, content_hash: bytes, key: Key, domain: bytes) -> Answer:
    """Sign as the node does when it answers; `domain` is that of Slashing (`typed_data.domain`)."""
    return Answer(content_hash, key.sign(digest(domain, ANSWER, (request, node, content_hash))))


class Slashing(Contract):
    """Who loses what for misconduct."""

    NAME = "Slashing"

    def prove_equivocation(self, sender: bytes, node: int, request: int, a: Answer, b: Answer) -> Receipt:
        return self._send(sender, "proveEquivocation", node, request, *a, *b)

    def propose(self, oracle: bytes, nexus: int, node: int, amount_nlai: int, evidence: bytes) -> Receipt:
        """Propose to take `amount_nlai`; `evidence` is the hash (32 bytes) of what speaks for it."""
        return self._send(oracle, "propose", nexus, node, amount_nlai, evidence)

    def appeal(self, operator: bytes, proposal: int) -> Receipt:
        return self._send(operator, "appeal", proposal)

    def decide(self, owner: bytes, proposal: int, uphold: bool) -> Receipt:
        return self._send(owner, "decide", proposal, uphold)

    def execute(self, sender: bytes, proposal: int) -> Receipt:
        """Slash for a proposal that nobody appealed in time."""
        return self._send(sender, "execute", proposal)

    def lapse(self, sender: bytes, proposal: int) -> Receipt:
        """Dismiss an appealed proposal that nobody decided in time."""
        return self._send(sender, "lapse", proposal)

    def set_terms(self, owner: bytes, terms: SlashTerms) -> Receipt:
        return self._send(owner, "setTerms", tuple(terms))

    def terms(self) -> SlashTerms:
        return SlashTerms(*self._read("terms"))

    def proposal_count(self) -> int:
        return int(self._read("proposalCount"))
