"""What a node that was not launched by its Nexus asks of it, in its own name: to be admitted, drained, dismissed.

Everything is signed with the node's chain key under the registry's domain, and says when: a Nexus takes from each node only
what is newer than the last, and no older than FRESH_S.
"""

import json
import time
from hashlib import sha256
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lattice_core.chain.keys import Key, recover
from lattice_core.chain.typed_data import digest, domain
from lattice_core.hardware import MAX_SLOTS
from lattice_core.units import MAX_PRICE_NLAI, MAX_SUPPLY_NLAI
from lattice_live.node.identity import IdentityError
from lattice_live.upstream import Realm

APPLICATION = "Application(uint16 nexus,bytes32 content)"
ERRAND = "Errand(uint16 nexus,uint32 node,bytes32 errand,uint64 tMs)"

FRESH_S = 300.0
"""How much two machines' clocks may differ."""

type Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
type Errand = Literal["drain", "leave"]


class Asked(BaseModel):
    """A model that a node serves: its hash, and what the node asks, nanoLAI per million tokens."""

    model_config = ConfigDict(strict=True, extra="forbid")

    model_hash: Hash
    price_in_nlai: Annotated[int, Field(ge=0, le=MAX_PRICE_NLAI)]
    price_out_nlai: Annotated[int, Field(ge=1, le=MAX_PRICE_NLAI)]


class Application(BaseModel):
    """A node that wants to serve. `node` is its id where it has registered itself; the Nexus registers it where it has none."""

    model_config = ConfigDict(strict=True, extra="forbid")

    url: Annotated[str, Field(min_length=1, max_length=256, pattern=r"^https?://[^/?#@]+$")]
    """Where the Nexus reaches it."""
    models: Annotated[dict[str, Asked], Field(min_length=1, max_length=64)]
    slots: Annotated[int, Field(ge=1, le=MAX_SLOTS)]
    queue: Annotated[int, Field(ge=0, le=65_536)]
    bond_nlai: Annotated[int, Field(ge=0, le=MAX_SUPPLY_NLAI)]
    node: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    cluster: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """The private cluster that it joins, which takes a key with the scope `admin`; None: it is public."""
    t_ms: Annotated[int, Field(ge=0, lt=2**63)]
    signature: Annotated[str, Field(pattern=r"^([0-9a-f]{130})?$")] = ""

    def sign(self, key: Key, realm: Realm) -> "Application":
        """The same, signed."""
        return self.model_copy(update={"signature": key.sign(self._digest(realm)).hex()})

    def operator(self, realm: Realm) -> bytes:
        """Whose key signed it. Raises IdentityError."""
        return _signer(self._digest(realm), self.signature)

    def _digest(self, realm: Realm) -> bytes:
        content = json.dumps(self.model_dump(exclude={"signature"}), sort_keys=True).encode()
        return digest(_domain(realm), APPLICATION, [realm.nexus, sha256(content).digest()])


def now_ms() -> int:
    """What a message says of its time."""
    return time.time_ns() // 1_000_000


def errand_header(key: Key, realm: Realm, node: int, errand: Errand) -> str:
    """The `Authorization` of a node that asks something for itself."""
    t_ms = now_ms()
    return f"Node {t_ms}.{key.sign(_errand_digest(realm, node, errand, t_ms)).hex()}"


def errand_signer(header: str, realm: Realm, node: int, errand: Errand) -> tuple[bytes, int]:
    """Whose key signed such a header, and when. Raises IdentityError."""
    t_ms, _, signature = header.removeprefix("Node ").partition(".")
    if not t_ms.isdecimal() or len(t_ms) > 18:
        raise IdentityError("Authorization: must be `Node <milliseconds>.<signature>`")
    return _signer(_errand_digest(realm, node, errand, int(t_ms)), signature), int(t_ms)


def check_fresh(t_ms: int, last_ms: int) -> None:
    """Raises IdentityError for what is old, was sent from the future, or has come before."""
    late_s = (now_ms() - t_ms) / 1e3
    if abs(late_s) > FRESH_S:
        raise IdentityError(f"t_ms: {late_s:+.0f} s from this Nexus's clock; must be within {FRESH_S:g} s")
    if t_ms <= last_ms:
        raise IdentityError(f"t_ms: {t_ms} is no later than the last, {last_ms}")


def _errand_digest(realm: Realm, node: int, errand: Errand, t_ms: int) -> bytes:
    return digest(_domain(realm), ERRAND, [realm.nexus, node, sha256(errand.encode()).digest(), t_ms])


def _domain(realm: Realm) -> bytes:
    """Separates what is signed for this registry from all else (EIP-712)."""
    return domain(realm.chain_id, realm.registry)


def _signer(message: bytes, signature: str) -> bytes:
    try:
        return recover(message, bytes.fromhex(signature))
    except ValueError as error:
        raise IdentityError(f"signature: {error}") from None


def document(application: Application, operator: bytes, **more: Any) -> dict[str, Any]:
    """An admitted application as the Nexus keeps it."""
    return {**application.model_dump(exclude={"signature"}), "operator": operator.hex(), **more}
