"""What every contract has: an address on a chain, and its interface."""

from typing import Any, ClassVar, Self

from lattice_core.chain.abi import abi
from lattice_core.chain.artifacts import artifact
from lattice_core.chain.port import Chain, Receipt, Transaction
from lattice_core.units import NANO as NLAI_WEI


class Contract:
    """A deployed contract."""

    NAME: ClassVar[str]

    def __init__(self, chain: Chain, address: bytes) -> None:
        self.chain = chain
        self.address = address
        self.abi = abi(self.NAME)

    @classmethod
    def deploy(cls, chain: Chain, sender: bytes, *args: Any) -> Self:
        """Create the contract. Raises Reverted."""
        code = artifact(cls.NAME).bytecode + abi(cls.NAME).encode_constructor(*args)
        address = chain.deploy(sender, code).raise_for_revert().contract
        assert address is not None
        return cls(chain, address)

    def book(self) -> bytes:
        """The address book that it is wired to; only the book itself and the clock have none."""
        book: bytes = self._read("book")
        return book

    def logged(self, event: str, receipt: Receipt) -> list[dict[str, Any]]:
        """The arguments of each event of that name that this contract emitted in a transaction."""
        logs = (log for log in receipt.logs if log.address == self.address)
        decoded = (self.abi.decode_event(event, log.topics, log.data) for log in logs)
        return [arguments for arguments in decoded if arguments is not None]

    def _send(self, sender: bytes, function: str, *args: Any) -> Receipt:
        return self._send_data(sender, self.abi.encode_call(function, *args))

    def _send_data(self, sender: bytes, data: bytes) -> Receipt:
        return self.chain.transact(Transaction(sender, self.address, data))

    def _read(self, function: str, *args: Any) -> Any:
        return self.abi.decode_result(function, self.chain.call(self.address, self.abi.encode_call(function, *args)))


def name32(name: str) -> bytes:
    """A name as the contracts write it: ASCII in 32 bytes."""
    return name.encode().ljust(32, b"\x00")


def to_wei(nlai: int) -> int:
    """What a token call takes."""
    return nlai * NLAI_WEI
