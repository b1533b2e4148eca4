"""Who may ask, and for how much: organisations have members, members have API keys.

An organisation is who pays: it names an account. What a key opens are its scopes; it may expire, and be limited in requests a
minute and in what it spends in all. Of a key only a hash is kept, so that it cannot be said again. `Principals.authenticate` is
where another way of logging in would stand beside keys: whatever comes of it is a `Principal`.

A budget is kept by the kernel: no request of the key gets a larger fee cap than what is left of it, less the caps of what runs.
"""

import secrets
from collections.abc import Iterable, Mapping
from hashlib import sha256
from types import MappingProxyType
from typing import NamedTuple

from lattice_live.gateway.errors import Refusal, come_back
from lattice_live.storage import Storage

CHAT, MODELS, EXPLAIN, ADMIN = SCOPES = ("chat", "models", "explain", "admin")
OWNER, MEMBER = ROLES = ("owner", "member")

FOUNDER = "owner"
"""The first member of an organisation."""


class Key(NamedTuple):
    """What is known of a key. `id` is how its hash begins; times are in seconds since 1970; None is no limit."""

    id: str
    organisation: str
    member: str
    name: str
    scopes: tuple[str, ...]
    created_s: int
    expires_s: int | None = None
    requests_per_min: int | None = None
    budget_nlai: int | None = None


class Principal(NamedTuple):
    """Who asks: the key, by whom it is borne in which role, the account that pays, and the number that the journal knows."""

    key: Key
    role: str
    account: int
    number: int

    def owns(self, other: "Principal") -> bool:
        """Whether what `other` asked is this one's affair: his own, and all of his organisation's if it is his."""
        same = self.key.organisation == other.key.organisation
        return same and (self.role == OWNER or self.key.member == other.key.member)


class Bucket:
    """A rate limit: it holds a minute's requests, and is full at first."""

    def __init__(self, per_min: int, now_s: float) -> None:
        self._per_min = per_min
        self._left = float(per_min)
        self._at_s = now_s

    def take(self, now_s: float) -> float:
        """Take one; how long to wait for it, 0 if it is there."""
        self._left = min(self._per_min, self._left + (now_s - self._at_s) * self._per_min / 60)
        self._at_s = now_s
        if self._left < 1:
            return (1 - self._left) * 60 / self._per_min
        self._left -= 1
        return 0.0


class Purse:
    """What a key has spent of its budget, and the caps of its requests that run."""

    def __init__(self, spent_nlai: int = 0) -> None:
        self.spent_nlai = spent_nlai
        self.caps_nlai: dict[int, int] = {}

    @property
    def taken_nlai(self) -> int:
        return self.spent_nlai + sum(self.caps_nlai.values())


async def first_key(storage: Storage) -> str | None:
    """The first key of a new network, which is its first account's and durable; None if it has been given out."""
    key = Principals(storage).found(0)
    await storage.durable()
    return key


class Principals:
    """All organisations, members and keys. What they are stands in `storage`, and is written there before it counts."""

    def __init__(self, storage: Storage, fees_nlai: Mapping[int, int] = MappingProxyType({})) -> None:
        """`fees_nlai`: what requests cost that ended when an earlier process was killed."""
        self._storage = storage
        self._accounts: dict[str, int] = {name: held["account"] for name, held in storage.items("organisations").items()}
        self._roles: dict[tuple[str, str], str] = {}
        for place, held in storage.items("members").items():
            organisation, _, name = place.partition("/")
            self._roles[organisation, name] = held["role"]
        self._keys = {
            hashed: Key(**{**held, "scopes": tuple(held["scopes"])}) for hashed, held in storage.items("keys").items()
        }
        # What ran when the Nexus died was charged at most its cap, and where its fee is not known that much counts as spent.
        self._purses: dict[str, Purse] = {}
        for id, held in storage.items("purses").items():
            caps_nlai = {int(request): cap_nlai for request, cap_nlai in held["caps_nlai"].items()}
            known_nlai = sum(fees_nlai.get(request, cap_nlai) for request, cap_nlai in caps_nlai.items())
            self._purses[id] = Purse(held["spent_nlai"] + known_nlai)
            if fees_nlai.keys() & caps_nlai.keys():
                self._put_purse(id, self._purses[id])
        self._buckets: dict[str, Bucket] = {}

    # The beginning

    def found(self, account: int) -> str | None:
        """The first key of the account's organisation, with all scopes, of its owner; None if there is one already."""
        name = f"account-{account}" if account else "local"
        if name in self._accounts:
            return None
        self._storage.put("organisations", name, {"account": account})
        self._accounts[name] = account
        self._put_member(name, FOUNDER, OWNER)
        return self._issue(Key("", name, FOUNDER, "first", SCOPES, 0))[0]

    # Who asks

    def authenticate(self, authorization: str, scope: str | None, now_s: float) -> Principal:
        """Whose `Authorization` header this is, if it opens `scope`; None is what any key opens. Raises Refusal."""
        scheme, _, secret = authorization.partition(" ")
        hashed = sha256(secret.strip().encode("latin-1", "replace")).hexdigest()
        key = self._keys.get(hashed) if scheme.lower() == "bearer" else None
        if key is None:
            message = "Authorization: must be `Bearer sk-lattice-…` with a key that this network gave out"
            raise Refusal(401, "invalid_api_key", message, headers={"WWW-Authenticate": "Bearer"})
        if key.expires_s is not None and key.expires_s <= now_s:
            raise Refusal(401, "expired_api_key", "this key has expired", headers={"WWW-Authenticate": "Bearer"})
        if scope is not None and scope not in key.scopes:
            raise Refusal(403, "missing_scope", f"this key does not open {scope!r}, but {', '.join(key.scopes)}")
        role = self._roles[key.organisation, key.member]
        return Principal(key, role, self._accounts[key.organisation], int(hashed[:16], 16) >> 1)

    def limit(self, principal: Principal, now_s: float) -> None:
        """Count a request against the key's rate. Raises Refusal."""
        per_min = principal.key.requests_per_min
        if per_min is None:
            return
        bucket = self._buckets.get(principal.key.id)
        if bucket is None:
            bucket = self._buckets[principal.key.id] = Bucket(per_min, now_s)
        wait_s = bucket.take(now_s)
        if wait_s:
            raise come_back(429, "rate_limit_exceeded", f"this key may make {per_min} requests a minute", wait_s)

    # Budgets

    def reserve(self, principal: Principal, request: int, most_nlai: int) -> int:
        """The fee cap of a request that can cost `most_nlai`; `settle` must follow. Raises Refusal if nothing is left."""
        budget_nlai = principal.key.budget_nlai
        if budget_nlai is None:
            return most_nlai
        purse = self._purses.setdefault(principal.key.id, Purse())
        left_nlai = budget_nlai - purse.taken_nlai
        if left_nlai <= 0:
            raise Refusal(
                402, "budget_exhausted", f"this key's budget, {budget_nlai} nanoLAI, is spent, or reserved by what runs"
            )
        purse.caps_nlai[request] = min(most_nlai, left_nlai)
        self._put_purse(principal.key.id, purse)
        return purse.caps_nlai[request]

    def settle(self, principal: Principal, request: int, fee_nlai: int) -> None:
        """A request has ended, and cost this much."""
        purse = self._purses.get(principal.key.id)
        if purse is not None and purse.caps_nlai.pop(request, None) is not None:
            purse.spent_nlai += fee_nlai
            self._put_purse(principal.key.id, purse)

    def spent_nlai(self, key: Key) -> int:
        """What a key with a budget has spent of it."""
        purse = self._purses.get(key.id)
        return 0 if purse is None else purse.spent_nlai

    # Members and keys, as those of an organisation may change them

    def members(self, organisation: str) -> dict[str, str]:
        """Roles by name."""
        return {name: role for (of, name), role in sorted(self._roles.items()) if of == organisation}

    def add_member(self, organisation: str, name: str, role: str) -> None:
        """Raises Refusal if there is one of that name."""
        if (organisation, name) in self._roles:
            raise Refusal(409, "member_exists", f"name: {name!r} belongs to {organisation!r} already", "name")
        self._put_member(organisation, name, role)

    def drop_member(self, organisation: str, name: str) -> None:
        """A member goes, and all keys with him. Raises Refusal for one who is not there, and for the last who is an admin."""
        if (organisation, name) not in self._roles:
            raise Refusal(404, "no_such_member", f"{name!r} does not belong to {organisation!r}")
        left = [key for key in self._of(organisation) if key.member != name]
        self._keep_an_admin(left)
        for key in self._of(organisation):
            if key.member == name:
                self._drop(key)
        del self._roles[organisation, name]
        self._storage.drop("members", f"{organisation}/{name}")

    def keys(self, organisation: str) -> list[Key]:
        """The organisation's, oldest first."""
        return sorted(self._of(organisation), key=lambda key: (key.created_s, key.id))

    def issue(self, key: Key) -> tuple[str, Key]:
        """A fresh key of these terms, which has to be durable before it is told, and what is known of it. Raises Refusal."""
        role = self._roles.get((key.organisation, key.member))
        if role is None:
            raise Refusal(404, "no_such_member", f"member: {key.member!r} does not belong to {key.organisation!r}", "member")
        if ADMIN in key.scopes and role != OWNER:
            raise Refusal(403, "missing_role", f"scopes: only an owner's key opens {ADMIN!r}", "scopes")
        return self._issue(key)

    def drop_key(self, organisation: str, id: str) -> None:
        """A key opens nothing any more. Raises Refusal for one that is not there, and for the last one that is an admin's."""
        of = self._of(organisation)
        dropped = [key for key in of if key.id == id]
        if not dropped:
            raise Refusal(404, "no_such_key", f"{id!r} is no key of {organisation!r}")
        self._keep_an_admin(key for key in of if key.id != id)
        self._drop(dropped[0])

    def _of(self, organisation: str) -> list[Key]:
        return [key for key in self._keys.values() if key.organisation == organisation]

    @staticmethod
    def _keep_an_admin(left: Iterable[Key]) -> None:
        if not any(ADMIN in key.scopes and key.expires_s is None for key in left):
            raise Refusal(409, "last_admin", f"no key would be left that opens {ADMIN!r} and does not expire")

    def _issue(self, key: Key) -> tuple[str, Key]:
        secret = f"sk-lattice-{secrets.token_urlsafe(32)}"
        hashed = sha256(secret.encode()).hexdigest()
        key = key._replace(id=f"key-{hashed[:16]}")
        self._storage.put("keys", hashed, {**key._asdict(), "scopes": list(key.scopes)})
        self._keys[hashed] = key
        return secret, key

    def _drop(self, key: Key) -> None:
        hashed = next(hashed for hashed, held in self._keys.items() if held == key)
        del self._keys[hashed]
        self._storage.drop("keys", hashed)
        self._storage.drop("purses", key.id)
        self._buckets.pop(key.id, None)
        self._purses.pop(key.id, None)

    def _put_member(self, organisation: str, name: str, role: str) -> None:
        self._storage.put("members", f"{organisation}/{name}", {"role": role})
        self._roles[organisation, name] = role

    def _put_purse(self, id: str, purse: Purse) -> None:
        caps = {str(request): nlai for request, nlai in purse.caps_nlai.items()}
        self._storage.put("purses", id, {"spent_nlai": purse.spent_nlai, "caps_nlai": caps})
