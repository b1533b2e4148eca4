"""What a chain remembers: every block, and every transaction with what became of it."""

from bisect import bisect_left
from collections.abc import Iterable
from typing import NamedTuple, Self

from lattice_core.chain.abi import keccak
from lattice_core.chain.port import Block, Receipt, Transaction


class Entry(NamedTuple):
    """A transaction, the block and the nonce it was sent with, and what became of it."""

    block: int
    nonce: int
    transaction: Transaction
    receipt: Receipt

    @property
    def hash(self) -> bytes:
        """The transaction's hash, which is ours: it is unsigned, so that its sender stands where the signature would.

        Nothing is hashed that is known only once it is in a block. A sender's nonces differ, and so do the hashes of a history.
        """
        sent = self.transaction
        numbers = self.nonce.to_bytes(8) + sent.gas.to_bytes(8) + sent.value_wei.to_bytes(32)
        to = b"\x00" if sent.to is None else b"\x01" + sent.to
        return keccak(b"".join((sent.sender, numbers, to, sent.data)))


class History:
    """Blocks from number 1 to the current one, and their transactions in the order of execution."""

    def __init__(self, blocks: Iterable[Block], entries: Iterable[Entry] = ()) -> None:
        self.blocks = list(blocks)
        self.entries = list(entries)
        self._positions: dict[bytes, int] = {}

    def copy(self) -> Self:
        return type(self)(self.blocks, self.entries)

    def record(self, nonce: int, transaction: Transaction, receipt: Receipt) -> None:
        """Append a transaction of the current block. Its calldata is kept by reference."""
        self.entries.append(Entry(self.blocks[-1].number, nonce, transaction, receipt))

    def of(self, number: int) -> range:
        """Positions in `entries` of a block's transactions."""
        first, end = (bisect_left(self.entries, block, key=lambda entry: entry.block) for block in (number, number + 1))
        return range(first, end)

    def position(self, transaction_hash: bytes) -> int:
        """Where in `entries` a transaction is. Raises KeyError if it is nowhere."""
        for position in range(len(self._positions), len(self.entries)):  # hashed when first asked for
            self._positions[self.entries[position].hash] = position
        return self._positions[transaction_hash]
