"""The user registry: accounts and the escrow of their credit."""

from collections.abc import Sequence
from typing import NamedTuple

from lattice_core.chain.contracts.contract import Contract
from lattice_core.chain.port import Receipt
from lattice_core.escrow import SessionKey


class Account(NamedTuple):
    """A user's credit, and the only Nexus whose batches may debit it."""

    purchased_nlai: int
    faucet_nlai: int
    nexus: int


class Withdrawal(NamedTuple):
    """What a user has asked to have back, and in which epoch."""

    nlai: int
    epoch: int


class Users(Contract):
    """Users by dense id."""

    NAME = "UserRegistry"

    def register(self, sender: bytes, nexus: int, identities: Sequence[bytes], owners: Sequence[bytes]) -> Receipt:
        """Give the next ids to `identities` (32 bytes each), in order. The registrar's."""
        return self._send(sender, "register", nexus, identities, owners)

    def join(self, sender: bytes, nexus: int) -> Receipt:
        """Become a user by one's address alone."""
        return self._send(sender, "join", nexus)

    def fund(self, sender: bytes, ids: Sequence[int], amounts_nlai: Sequence[int]) -> Receipt:
        """Move the sender's LAI, which it has approved, into escrow as purchased credit."""
        return self._send(sender, "fund", ids, amounts_nlai)

    def request_withdrawal(self, owner: bytes, user: int, amount_nlai: int) -> Receipt:
        """Ask to have purchased credit back; 0 withdraws the request."""
        return self._send(owner, "requestWithdrawal", user, amount_nlai)

    def withdraw(self, sender: bytes, user: int) -> Receipt:
        """Pay the user's owner what was asked for, once the epoch of the request is closed."""
        return self._send(sender, "withdraw", user)

    def set_session_key(
        self, owner: bytes, user: int, key: bytes, cap_nlai: int, nexus: int, kinds: int, expiry_s: int
    ) -> Receipt:  # fmt: skip
        return self._send(owner, "setSessionKey", user, key, cap_nlai, nexus, kinds, expiry_s)

    def revoke_session_key(self, owner: bytes, user: int, key: bytes) -> Receipt:
        """From the next epoch on."""
        return self._send(owner, "revokeSessionKey", user, key)

    def account(self, user: int) -> Account:
        return Account(*self._read("account", user))

    def is_settled(self, user: int, epoch: int) -> bool:
        """Whether a batch has debited the user for `epoch`."""
        return bool(self._read("isSettled", user, epoch))

    def session_key(self, user: int, key: bytes) -> SessionKey:
        return SessionKey(*self._read("sessionKeyOf", user, key))

    def withdrawal(self, user: int) -> Withdrawal:
        return Withdrawal(*self._read("withdrawalOf", user))

    def count(self) -> int:
        return int(self._read("count"))

    def id_of(self, identity: bytes) -> int:
        return int(self._read("idOf", identity))

    def owner_of(self, user: int) -> bytes:
        owner: bytes = self._read("ownerOf", user)
        return owner

    def total_claims_nlai(self) -> int:
        return int(self._read("totalClaims"))
