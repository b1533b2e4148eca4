"""The state of all accounts as flat tables with an undo log, in the place of py-evm's `AccountDB`.

py-evm keeps state in Merkle tries, which cost more than execution itself and which no simulation reads. Gas depends on state
only through values, original values and warm entries, and those are kept here to the letter of EIP-161, 2200 and 2929.
"""

from hashlib import sha256
from typing import Any

from eth.constants import EMPTY_SHA3
from eth.db.journal import get_next_checkpoint

from lattice_core.chain.abi import keccak

type Tables = tuple[dict[Any, Any], ...]


class World:
    """Storage, balances, nonces and code; what is absent is zero. Within a transaction every change can be undone."""

    def __init__(self) -> None:
        self._storage: dict[tuple[bytes, int], int] = {}
        self._balances: dict[bytes, int] = {}
        self._nonces: dict[bytes, int] = {}
        self._codes: dict[bytes, bytes] = {}
        self._warm: dict[Any, bool] = {}
        self._originals: dict[tuple[bytes, int], int] = {}
        self._undo: list[tuple[dict[Any, Any], Any, Any]] = []
        self._checkpoints: dict[int, int] = {}
        self.state_root = b""  # py-evm reads and writes it around every message

    def tables(self) -> Tables:
        """A copy of everything that outlives a transaction."""
        return tuple(table.copy() for table in (self._storage, self._balances, self._nonces, self._codes))

    def restore(self, tables: Tables) -> None:
        """Become a copy of `tables`."""
        self._storage, self._balances, self._nonces, self._codes = (table.copy() for table in tables)
        self.lock_changes()

    def digest(self) -> bytes:
        """SHA-256 of every table in key order: equal for equal states, whatever led there."""
        digest = sha256()
        for table in self.tables():
            for key in sorted(table):
                digest.update(repr((key, table[key])).encode())
            digest.update(b"\n")
        return digest.digest()

    def record(self) -> int:
        checkpoint: int = get_next_checkpoint()  # py-evm's own counter, which its transient storage shares
        self._checkpoints[checkpoint] = len(self._undo)
        return checkpoint

    def discard(self, checkpoint: int) -> None:
        """Undo what happened since `record` gave this checkpoint."""
        length = self._checkpoints[checkpoint]
        while len(self._undo) > length:
            table, key, old = self._undo.pop()
            _set(table, key, old)

    def commit(self, checkpoint: int) -> None:
        del self._checkpoints[checkpoint]

    def lock_changes(self) -> None:
        """End the transaction: nothing in it can be undone, and everything is cold again."""
        self._undo.clear()
        self._checkpoints.clear()
        self._originals.clear()
        self._warm.clear()

    def get_storage(self, address: bytes, slot: int, from_journal: bool = True) -> int:
        """The value now, or with `from_journal` false as it was before the transaction."""
        key = (address, slot)
        if not from_journal and key in self._originals:
            return self._originals[key]
        return self._storage.get(key, 0)

    def set_storage(self, address: bytes, slot: int, value: int) -> None:
        key = (address, slot)
        self._originals.setdefault(key, self._storage.get(key, 0))
        self._put(self._storage, key, value)

    def delete_storage(self, address: bytes) -> None:
        for owner, slot in [key for key in self._storage if key[0] == address]:
            self.set_storage(owner, slot, 0)

    def is_storage_warm(self, address: bytes, slot: int) -> bool:
        return (address, slot) in self._warm

    def mark_storage_warm(self, address: bytes, slot: int) -> None:
        if (address, slot) not in self._warm:
            self._put(self._warm, (address, slot), True)

    def is_address_warm(self, address: bytes) -> bool:
        return address in self._warm

    def mark_address_warm(self, address: bytes) -> None:
        if address not in self._warm:
            self._put(self._warm, address, True)

    def get_balance(self, address: bytes) -> int:
        return self._balances.get(address, 0)

    def set_balance(self, address: bytes, balance: int) -> None:
        self._put(self._balances, address, balance)

    def get_nonce(self, address: bytes) -> int:
        return self._nonces.get(address, 0)

    def set_nonce(self, address: bytes, nonce: int) -> None:
        self._put(self._nonces, address, nonce)

    def increment_nonce(self, address: bytes) -> None:
        self.set_nonce(address, self.get_nonce(address) + 1)

    def get_code(self, address: bytes) -> bytes:
        return self._codes.get(address, b"")

    def set_code(self, address: bytes, code: bytes) -> None:
        self._put(self._codes, address, code)

    def delete_code(self, address: bytes) -> None:
        self.set_code(address, b"")

    def get_code_hash(self, address: bytes) -> bytes:
        code = self.get_code(address)
        return keccak(code) if code else EMPTY_SHA3

    def account_has_code_or_nonce(self, address: bytes) -> bool:
        return address in self._nonces or address in self._codes

    def account_exists(self, address: bytes) -> bool:
        return self.account_has_code_or_nonce(address) or address in self._balances

    def account_is_empty(self, address: bytes) -> bool:
        return not self.account_exists(address)

    def touch_account(self, address: bytes) -> None:
        """Nothing to do: an empty account does not exist (EIP-161)."""

    def delete_account(self, address: bytes) -> None:
        self.delete_storage(address)
        for table in (self._balances, self._nonces, self._codes):
            self._put(table, address, None)

    def _put(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        self._undo.append((table, key, table.get(key)))
        _set(table, key, value)


def _set(table: dict[Any, Any], key: Any, value: Any) -> None:
    """Set an entry; zero, empty and None mean that there is none."""
    if value:
        table[key] = value
    else:
        table.pop(key, None)
