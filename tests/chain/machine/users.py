"""Accounts and their escrow as they should be."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.chain.machine.shadow import NOBODY, Refused, Shadow, Tx, check_payee, only_contract, only_role, same_length
from tests.chain.machine.wire import Event, View

if TYPE_CHECKING:
    from tests.chain.machine.model import Model

REMEMBERED = 64


@dataclass(slots=True)
class User:
    """An account; `settled` are the epochs in which a batch debited it."""

    owner: bytes
    identity: bytes
    nexus: int
    purchased: int = 0
    faucet: int = 0
    settled: set[int] = field(default_factory=set)


class Session(NamedTuple):
    """As SessionKey in UserRegistry.sol."""

    cap: int
    used: int
    nexus: int
    kinds: int
    expiry: int


class Entry(NamedTuple):
    """A line of a chunk."""

    id: int
    purchased: int
    faucet: int


class Users(Shadow):
    """Amounts are nanoLAI."""

    NAME = "UserRegistry"

    def __init__(self, model: "Model") -> None:
        super().__init__(model)
        self.users: list[User] = []
        self.identities: dict[bytes, int] = {}
        self.asked: dict[int, tuple[int, int]] = {}
        self.keys: dict[tuple[int, bytes], Session] = {}
        self._skipped: list[Entry] = []

    def apply(self, event: Event) -> None:
        e = event.args
        match event.name:
            case "UserRegistered":
                assert e["user"] == len(self.users)
                self.identities[e["identity"]] = e["user"]
                self.users.append(User(e["owner"], e["identity"], e["nexus"]))
            case "Funded":
                for user, nlai in zip(e["users"], e["nanoLai"], strict=True):
                    self.users[user].purchased += nlai
            case "FaucetGranted":
                for user, nlai in zip(e["users"], e["nanoLai"], strict=True):
                    self.users[user].faucet += nlai
            case "UserSkipped":
                self._skipped.append(Entry(e["user"], e["purchased"], e["faucet"]))
            case "VoucherDebited":
                self.users[e["user"]].purchased -= e["purchased"]
                self.users[e["user"]].faucet -= e["faucet"]
            case "WithdrawalRequested":
                self.asked[e["user"]] = (e["nanoLai"], e["epoch"])
            case "Withdrawn":
                self.users[e["user"]].purchased -= e["nanoLai"]
                del self.asked[e["user"]]
            case "SessionKeySet":
                self.keys[e["user"], e["key"]] = Session(*e["session"])

    def debited(self, epoch: int, entries: Sequence[Entry]) -> list[Entry]:
        """Debit what a settled chunk did not skip, and say what that was."""
        skipped, self._skipped = self._skipped, []
        applied = []
        for entry in reversed(entries):  # of equal lines, which are applied and skipped alike, the first is applied
            if entry in skipped:
                skipped.remove(entry)
                continue
            user = self.users[entry.id]
            user.purchased -= entry.purchased
            user.faucet -= entry.faucet
            user.settled.add(epoch)
            user.settled.discard(epoch - 2 * REMEMBERED)
            applied.append(entry)
        assert not skipped
        return applied

    def promised(self, user: int, signer: bytes, nlai: int) -> None:
        """A voucher for so much more was presented; a session key has that much less left."""
        if signer != self.users[user].owner:
            key = self.keys[user, signer]
            self.keys[user, signer] = key._replace(used=key.used + nlai)

    def total(self) -> int:
        return sum(user.purchased + user.faucet for user in self.users)

    def views(self, now_s: int) -> Iterator[View]:
        yield self.view("count", (), len(self.users))
        yield self.view("claims", (), sum(user.purchased for user in self.users), sum(user.faucet for user in self.users))
        recent = range(max(0, self.model.epoch_at(now_s) - 3), self.model.epoch_at(now_s) + 1)
        for i, user in enumerate(self.users):
            yield self.view("account", (i,), user.purchased, user.faucet, user.nexus)
            yield self.view("ownerOf", (i,), user.owner)
            yield self.view("idOf", (user.identity,), i)
            yield self.view("withdrawalOf", (i,), *self.asked.get(i, (0, 0)))
            for epoch in recent:
                yield self.view("isSettled", (i, epoch), epoch in user.settled)
        for (i, key), session in self.keys.items():
            yield self.view("sessionKeyOf", (i, key), *session)

    # Rules

    def register(self, tx: Tx, nexus: int, identities: Sequence[bytes], owners: Sequence[bytes]) -> None:
        only_role(self.model, tx, "Registrar")
        same_length(identities, owners)
        taken = set(self.identities)
        for row, (identity, owner) in enumerate(zip(identities, owners, strict=True)):
            if not any(identity):
                raise Refused("IdentityZero", row=row)
            self._register(tx, len(self.users) + row, taken, identity, owner, nexus)

    def join(self, tx: Tx, nexus: int) -> None:
        self._register(tx, len(self.users), set(self.identities), tx.sender.rjust(32, b"\0"), tx.sender, nexus)

    def fund(self, tx: Tx, users: Sequence[int], nlai: Sequence[int]) -> None:
        total = self._credit(users, nlai)
        self.emit(tx, "Funded", payer=tx.sender, users=tuple(users), nanoLai=tuple(nlai))
        self.model.token.pull(tx, self.NAME, self.model.addresses[self.NAME], total)

    def grant_faucet(self, tx: Tx, users: Sequence[int], nlai: Sequence[int]) -> None:
        only_contract(self.model, tx, "Tokenomics")
        raise AssertionError("Tokenomics grants with `grant`")

    def debit(self, tx: Tx, nexus: int, epoch: int, entries: bytes) -> None:
        only_contract(self.model, tx, "Tokenomics")
        raise AssertionError("Tokenomics debits with `debit_entries`")

    def authorise(self, tx: Tx, *args: Any) -> None:
        only_contract(self.model, tx, "Tokenomics")
        raise AssertionError("Tokenomics asks with `check_promise`")

    def debit_voucher(self, tx: Tx, user: int, asked: int) -> None:
        only_contract(self.model, tx, "Tokenomics")
        raise AssertionError("Tokenomics debits with `pay_voucher`")

    def request_withdrawal(self, tx: Tx, user: int, nlai: int) -> None:
        self._only_users_owner(tx, user)
        purchased = self.users[user].purchased
        if nlai > purchased:
            raise Refused("CreditTooSmall", user=user, purchased=purchased, asked=nlai)
        self.emit(tx, "WithdrawalRequested", user=user, nanoLai=nlai, epoch=self.model.epoch_at(tx.now_s))

    def withdraw(self, tx: Tx, user: int) -> None:
        self._only_users_owner(tx, user)
        asked, epoch = self.asked.get(user, (0, 0))
        amount = min(asked, self.users[user].purchased) if asked else 0
        if not amount:
            raise Refused("NothingToWithdraw", user=user)
        if tx.now_s < self.model.epochs.closed_s(epoch):
            raise Refused("EscrowLocked", user=user, epoch=epoch)
        owner = self.users[user].owner
        check_payee(self.model, owner)
        self.emit(tx, "Withdrawn", user=user, owner=owner, nanoLai=amount)
        self.model.token.move(tx, self.NAME, owner, amount)

    def set_session_key(self, tx: Tx, user: int, key: bytes, cap: int, nexus: int, kinds: int, expiry: int) -> None:
        self._only_users_owner(tx, user)
        if key == NOBODY:
            raise Refused("SessionKeyZero", user=user)
        old = self.keys.get((user, key), Session(0, 0, 0, 0, 0))
        narrowed = cap < old.cap or expiry < old.expiry or old.kinds & ~kinds or nexus != old.nexus
        if old.expiry and narrowed:
            raise Refused("SessionKeyNarrowed", user=user, key=key)
        self.emit(tx, "SessionKeySet", user=user, key=key, session=(cap, old.used, nexus, kinds, expiry))

    def revoke_session_key(self, tx: Tx, user: int, key: bytes) -> None:
        self._only_users_owner(tx, user)
        end_s = self.model.epochs.end_s(self.model.epoch_at(tx.now_s))
        old = self.keys.get((user, key), Session(0, 0, 0, 0, 0))
        self.emit(tx, "SessionKeySet", user=user, key=key, session=tuple(old._replace(expiry=min(old.expiry, end_s))))

    # For Tokenomics

    def grant(self, tx: Tx, users: Sequence[int], nlai: Sequence[int]) -> int:
        total = self._credit(users, nlai)
        self.emit(tx, "FaucetGranted", users=tuple(users), nanoLai=tuple(nlai))
        return total

    def debit_entries(self, tx: Tx, nexus: int, epoch: int, entries: Sequence[Entry]) -> list[Entry]:
        """What is applied of a batch; the rest is skipped with an event."""
        applied: list[Entry] = []
        seen: set[int] = set()
        for entry in entries:
            user = self.users[entry.id] if entry.id < len(self.users) else None
            pays = (
                user is not None
                and entry.purchased <= user.purchased
                and entry.faucet <= user.faucet
                and (entry.purchased or entry.faucet)
                and user.nexus == nexus
                and epoch not in user.settled
                and entry.id not in seen
            )
            if pays:
                seen.add(entry.id)
                applied.append(entry)
            else:
                self.emit(tx, "UserSkipped", user=entry.id, epoch=epoch, purchased=entry.purchased, faucet=entry.faucet)
        total = sum(entry.purchased + entry.faucet for entry in applied)
        self.model.token.move(tx, self.NAME, self.model.addresses["Tokenomics"], total)
        return applied

    def check_promise(self, nexus: int, epoch: int, payer: int, kind: int, nlai: int, signer: bytes) -> None:
        """Whether `signer` may promise so much more."""
        if payer >= len(self.users):
            raise Refused("UnknownUser", user=payer)
        user = self.users[payer]
        if user.nexus != nexus:
            raise Refused("OtherNexus", user=payer, nexus=nexus)
        if epoch in user.settled:
            raise Refused("SettledByBatch", user=payer, epoch=epoch)
        if signer != user.owner:
            self._check_key(payer, signer, nexus, epoch, kind, nlai)

    def pay_voucher(self, tx: Tx, payer: int, asked: int) -> tuple[int, int]:
        """(purchased, faucet) that a voucher takes."""
        user = self.users[payer]
        faucet = min(asked, user.faucet)
        purchased = min(asked - faucet, user.purchased)
        self.emit(tx, "VoucherDebited", user=payer, purchased=purchased, faucet=faucet)
        self.model.token.move(tx, self.NAME, self.model.addresses["Tokenomics"], purchased + faucet)
        return purchased, faucet

    def _check_key(self, user: int, key: bytes, nexus: int, epoch: int, kind: int, amount: int) -> None:
        session = self.keys.get((user, key))
        if session is None or not session.expiry:
            raise Refused("NotUsersKey", user=user, signer=key)
        end_s = self.model.epochs.end_s(epoch)
        if end_s > session.expiry:
            raise Refused("SessionKeyExpired", key=key, expiry=session.expiry, endOfEpoch=end_s)
        if session.nexus != nexus or not session.kinds >> kind & 1:
            raise Refused("SessionKeyOutOfScope", key=key, nexus=nexus, kind=kind)
        if session.used + amount > session.cap:
            raise Refused("SessionKeyExhausted", key=key, cap=session.cap, used=session.used, asked=amount)

    def _register(self, tx: Tx, user: int, taken: set[bytes], identity: bytes, owner: bytes, nexus: int) -> None:
        if identity in taken:
            raise Refused("IdentityTaken", identity=identity)
        if owner == NOBODY:
            raise Refused("OwnerMissing", identity=identity)
        taken.add(identity)
        self.emit(tx, "UserRegistered", user=user, identity=identity, owner=owner, nexus=nexus)

    def _credit(self, users: Sequence[int], nlai: Sequence[int]) -> int:
        same_length(users, nlai)
        for user, amount in zip(users, nlai, strict=True):
            if user >= len(self.users):
                raise Refused("UnknownUser", user=user)
            if amount == 0:
                raise Refused("AmountZero", user=user)
        return sum(nlai)

    def _only_users_owner(self, tx: Tx, user: int) -> None:
        if user >= len(self.users) or tx.sender != self.users[user].owner:
            raise Refused("NotUsersOwner", user=user, caller=tx.sender)
