"""A node's receipts: how many tokens of an answer it has delivered so far, signed with its chain key.

Receipts are cumulative: the last one stands for all before it. They come in the stream behind the tokens they count, every
RECEIPT_TOK tokens, RECEIPT_S after a token that has none, and at the end. `Book` writes them, `Auditor` is the Nexus's side: it
compares each with what came, and checks a signature where it is due, as that costs more than all the rest.
"""

from hashlib import sha256
from typing import Any, NamedTuple

from lattice_core.chain.keys import Key
from lattice_core.chain.typed_data import digest
from lattice_core.service import RECEIPT_TOK
from lattice_live.node.identity import IdentityError, Terms, check

RECEIPT_S = 0.25

PROOF_MS = 4_000
"""The Nexus checks the signature of the first receipt that is RECEIPT_TOK tokens, or so long, behind the last that it checked,
and of the last one: if it dies, a node may lose what it earned in between."""

TYPE = (
    "Progress(uint16 nexus,uint32 node,uint64 leg,bytes32 modelHash,uint32 promptTok,"
    "uint32 fromTok,uint32 toTok,bytes32 tokensHash,uint64 tMs)"
)


class ReceiptError(ValueError):
    """A receipt, or the lack of one, that the Nexus does not accept; one line."""


class Progress(NamedTuple):
    """`to_tok` tokens of a leg's answer are out; the receipt before said `from_tok`, 0 if there was none.

    `tokens_hash` is the SHA-256 of their ids, four bytes each, big-endian; `t_ms` counts from the leg's arrival at the node.
    """

    nexus: int
    node: int
    leg: int
    model_hash: bytes
    prompt_tok: int
    from_tok: int
    to_tok: int
    tokens_hash: bytes
    t_ms: int

    def to_json(self) -> dict[str, Any]:
        """Bytes become hex."""
        return {name: value.hex() if isinstance(value, bytes) else value for name, value in self._asdict().items()}

    @classmethod
    def from_json(cls, content: Any) -> "Progress":
        """The inverse. Raises ReceiptError for anything else."""
        try:
            values: dict[str, Any] = {
                name: bytes.fromhex(content[name]) if kind is bytes else _natural(content[name])
                for name, kind in cls.__annotations__.items()
            }
            if len(content) != len(values):
                raise ValueError("other fields")
        except (KeyError, TypeError, ValueError):
            raise ReceiptError("not a receipt") from None  # what a node says is not repeated: it may be a prompt
        return cls(**values)


def _natural(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError
    return value


class Signed(NamedTuple):
    """A receipt and the node's signature (65 bytes)."""

    progress: Progress
    signature: bytes


class Leg(NamedTuple):
    """What all receipts of a leg have in common. `model_hash` has 32 bytes."""

    terms: Terms
    leg: int
    model_hash: bytes
    prompt_tok: int


class _Tally:
    """Counts and hashes an answer's tokens; `receipted` of them have a receipt, the last at `t_ms`."""

    def __init__(self, leg: Leg) -> None:
        self.leg = leg
        self.count = 0
        self.receipted = 0
        self._t_ms = 0
        self._hash = sha256()

    def _add(self, token: int) -> None:
        self.count += 1
        self._hash.update(token.to_bytes(4))

    def _progress(self, t_ms: int) -> Progress:
        terms, leg, model_hash, prompt_tok = self.leg
        tokens_hash = self._hash.digest()
        return Progress(
            terms.nexus, terms.node, leg, model_hash, prompt_tok, self.receipted, self.count, tokens_hash, t_ms
        )  # fmt: skip


class Book(_Tally):
    """The node's side: writes the receipts of one leg."""

    def __init__(self, leg: Leg, key: Key) -> None:
        super().__init__(leg)
        self._key = key

    def add(self, token: int) -> bool:
        """Count a token that goes out; whether a receipt must follow it at once."""
        self._add(token)
        return self.count - self.receipted == RECEIPT_TOK

    def sign(self, t_ms: int) -> Signed:
        """The receipt of all that has been counted."""
        progress = self._progress(t_ms)
        self.receipted = self.count
        return Signed(progress, self._key.sign(digest(self.leg.terms.domain, TYPE, progress)))


class Auditor(_Tally):
    """The Nexus's side: checks the receipts of one leg against the tokens that came. `owner` is the node's in the registry."""

    def __init__(self, leg: Leg, owner: bytes) -> None:
        super().__init__(leg)
        self._owner = owner
        self._unproven: Signed | None = None
        self._proven_tok, self._proven_ms = 0, 0

    def add(self, token: int) -> None:
        """Count a token that came. Raises ReceiptError if the ones before it should have had their receipt."""
        if self.count - self.receipted == RECEIPT_TOK:
            raise ReceiptError(f"{RECEIPT_TOK} tokens without a receipt")
        self._add(token)

    def check(self, signed: Signed) -> bool:
        """Take the receipt of exactly what has come, or raise ReceiptError; whether `prove` is due."""
        progress = signed.progress
        if progress.t_ms < self._t_ms:
            raise ReceiptError(f"t_ms: {progress.t_ms} after {self._t_ms}")
        expected = self._progress(progress.t_ms)
        if progress != expected:
            known, said = expected.to_json(), progress.to_json()
            name = next(name for name in known if known[name] != said[name])
            raise ReceiptError(f"{name}: must be {known[name]}, not {str(said[name])[:64]}")
        if progress.to_tok == progress.from_tok:
            raise ReceiptError("a receipt of no tokens")
        self.receipted, self._t_ms, self._unproven = progress.to_tok, progress.t_ms, signed
        return self.receipted - self._proven_tok >= RECEIPT_TOK or self._t_ms - self._proven_ms >= PROOF_MS

    def prove(self) -> Signed | None:
        """The last receipt with a signature that is right, and so stands for all before it; None if that is known already.

        Raises ReceiptError if it is wrong: then none since the last proven one counts.
        """
        signed, self._unproven = self._unproven, None
        if signed is None:
            return None
        try:
            check(digest(self.leg.terms.domain, TYPE, signed.progress), signed.signature, self._owner)
        except IdentityError as error:
            raise ReceiptError(str(error)) from None
        self._proven_tok, self._proven_ms = signed.progress.to_tok, signed.progress.t_ms
        return signed

    def finish(self) -> None:
        """Raise ReceiptError if tokens are left without a receipt."""
        if self.receipted < self.count:
            raise ReceiptError(f"the answer ends with {self.count - self.receipted} tokens without a receipt")
