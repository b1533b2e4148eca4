"""What the models of all contracts share: how a call is refused, what it emits, and who may send it."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from lattice_core.chain.contracts.contract import name32
from lattice_core.chain.keys import recover
from tests.chain.machine.wire import Event, View

if TYPE_CHECKING:
    from tests.chain.machine.model import Model

NOBODY = bytes(20)
_HALF_ORDER = 0x7FFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFF_5D576E73_57A4501D_DFE92F46_681B20A0


class Refused(Exception):  # noqa: N818 (a revert is an answer)
    """A call reverts with this error, shown as `lattice_core.chain.abi.reason` shows it."""

    def __init__(self, name: str, /, **args: Any) -> None:
        shown = (f"{key}=0x{value.hex()}" if isinstance(value, bytes) else f"{key}={value!r}" for key, value in args.items())
        super().__init__(f"{name}({', '.join(shown)})")


class Tx:
    """A transaction on its way through the models: who sent it when, and what has been emitted."""

    def __init__(self, sender: bytes, now_s: int) -> None:
        self.sender = sender
        self.now_s = now_s
        self.events: list[Event] = []


class Shadow:
    """A contract's model. Its rules are methods named as the contract's functions, in snake case, and take a `Tx` first."""

    NAME: ClassVar[str]

    def __init__(self, model: "Model") -> None:
        self.model = model

    def apply(self, event: Event) -> None:
        """Change as the event says."""
        raise NotImplementedError

    def views(self, now_s: int) -> Iterator[View]:
        """What the contract should answer."""
        raise NotImplementedError

    def emit(self, tx: Tx, name: str, /, **args: Any) -> None:
        tx.events.append(Event(self.NAME, name, args, tx.now_s))

    def view(self, function: str, args: tuple[Any, ...], *values: int | bytes) -> View:
        return View(self.NAME, function, args, tuple(_word(value) for value in values))


def only_owner(model: "Model", tx: Tx) -> None:
    if tx.sender != model.book.owner:
        raise Refused("NotOwner", caller=tx.sender)


def only_oracle(model: "Model", tx: Tx, nexus: int) -> None:
    if tx.sender != model.book.oracles.get(nexus, NOBODY):
        raise Refused("NotOracle", nexus=nexus, caller=tx.sender)


def only_contract(model: "Model", tx: Tx, name: str) -> None:
    if name not in model.addresses:
        raise Refused("UnknownName", name=name32(name))
    if tx.sender != model.addresses[name]:
        raise Refused("NotContract", name=name32(name), caller=tx.sender)


def only_role(model: "Model", tx: Tx, role: str) -> None:
    if tx.sender != model.book.roles.get(name32(role)):
        raise Refused("NotRole", role=name32(role), caller=tx.sender)


def check_payee(model: "Model", payee: bytes) -> None:
    if payee in model.contracts:
        raise Refused("PaysContract", payee=payee)


def same_length(first: Iterable[Any], *others: Iterable[Any]) -> None:
    expected = len(list(first))
    for other in others:
        if len(list(other)) != expected:
            raise Refused("LengthMismatch", expected=expected, given=len(list(other)))


def signer_of(digest: bytes, signature: bytes) -> bytes:
    """As OpenZeppelin's ECDSA."""
    if len(signature) != 65:
        raise Refused("ECDSAInvalidSignatureLength", length=len(signature))
    if int.from_bytes(signature[32:64]) > _HALF_ORDER:
        raise Refused("ECDSAInvalidSignatureS", s=signature[32:64])
    try:
        return recover(digest, signature)
    except ValueError:
        raise Refused("ECDSAInvalidSignature") from None


def _word(value: int | bytes) -> int:
    return int.from_bytes(value) if isinstance(value, bytes) else int(value)
