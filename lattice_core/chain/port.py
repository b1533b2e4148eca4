"""What Lattice needs of a chain: bytes in, bytes out, time explicit. A backend is any class with these methods.

An address is 20 bytes, an amount is wei, time is in seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from lattice_core.chain.abi import keccak, reason
from lattice_core.chain.keys import Key

GAS_LIMIT = 2**24
"""The most gas one transaction may use (EIP-7825)."""

BLOCK_GAS = 60_000_000
"""The gas limit that contracts see on a simulated chain, and the most that a call may use there."""


class Reverted(Exception):  # noqa: N818 (a revert is an answer)
    """The EVM reverted: `data` is what it said, `str()` that in words."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.data = data

    def __str__(self) -> str:
        return reason(self.data)


class Refused(ValueError):  # noqa: N818
    """The chain did not take the transaction, and nothing changed: its sender cannot pay, or its gas is too little to start."""


@dataclass(frozen=True, slots=True)
class Log:
    """One event as the EVM emits it."""

    address: bytes
    topics: tuple[bytes, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a transaction; a revert is a fact here, not an exception."""

    ok: bool
    gas_used: int | None
    """None where the backend cannot tell (`Capabilities.exact_gas`)."""
    output: bytes
    """The revert data; of a success what was returned, which a node does not tell."""
    logs: tuple[Log, ...]
    contract: bytes | None = None
    """Address of the contract that this transaction created."""

    def raise_for_revert(self) -> Self:
        """This receipt, or Reverted."""
        if not self.ok:
            raise Reverted(self.output)
        return self


@dataclass(frozen=True, slots=True)
class Transaction:
    """A message from `sender`; `to` None creates a contract from `data`."""

    sender: bytes
    to: bytes | None
    data: bytes = b""
    value_wei: int = 0
    gas: int = GAS_LIMIT


@dataclass(frozen=True, slots=True)
class Block:
    """The block that the next transaction enters."""

    number: int
    timestamp_s: int
    parent_hash: bytes

    @property
    def hash(self) -> bytes:
        """By which later blocks, and contracts, know a simulated block; it does not depend on what the block holds."""
        return keccak(self.parent_hash + self.number.to_bytes(8) + self.timestamp_s.to_bytes(8))

    @property
    def mix_hash(self) -> bytes:
        """What contracts read as randomness in a simulated block."""
        return keccak(b"randao" + self.parent_hash)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do."""

    name: str
    exact_gas: bool
    snapshots: bool
    sets_time: bool


class Chain(Protocol):
    """A chain of which we hold every key."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def chain_id(self) -> int:
        """What signatures for this chain name (EIP-155, EIP-712)."""
        ...

    def add_key(self, key: Key) -> None:
        """Let the address of this key send, on a chain that asks for signatures."""
        ...

    def fund(self, address: bytes, wei: int) -> None:
        """Add ether to an address and let it send."""
        ...

    def deploy(self, sender: bytes, code: bytes) -> Receipt:
        """Create a contract from creation code and arguments; its address is in the receipt."""
        ...

    def transact(self, transaction: Transaction) -> Receipt:
        """Execute in the current block. Raises Refused, but never on an EVM revert."""
        ...

    def transact_many(self, transactions: Sequence[Transaction]) -> list[Receipt]:
        """Execute in order."""
        ...

    def call(self, to: bytes, data: bytes, sender: bytes = bytes(20)) -> bytes:
        """Execute without effect. Raises Reverted."""
        ...

    def advance_block(self, dt_s: int, n: int = 1) -> Block:
        """Close the current block and open the n-th after it, `dt_s` seconds apart."""
        ...

    def block(self) -> Block: ...

    def snapshot(self) -> object:
        """A mark to which `revert` returns, any number of times, until it returns to an earlier one."""
        ...

    def revert(self, snapshot: object) -> None:
        """Return to a snapshot of this chain."""
        ...

    def find(self, address: bytes, topics: Sequence[bytes]) -> Receipt | None:
        """The receipt of the latest transaction in which `address` emitted an event of these topics; None if there is none.

        Raises NotImplementedError on a chain in this process.
        """
        ...

    def save(self) -> object:
        """All that the chain holds, as plain data. Raises NotImplementedError where a node keeps it."""
        ...

    def load(self, saved: object) -> None:
        """Become, as a fresh chain of that backend in whatever process, the one that was saved."""
        ...

    def balance(self, address: bytes) -> int:
        """Ether in wei."""
        ...

    def nonce(self, address: bytes) -> int: ...

    def code(self, address: bytes) -> bytes: ...

    def storage(self, address: bytes, slot: int) -> int: ...
