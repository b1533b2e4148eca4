"""Keys that sign for people, nodes and Nexuses: secp256k1, as the EVM's ecrecover reads it."""

from functools import lru_cache
from hashlib import blake2b

from coincurve import PrivateKey, PublicKey

from lattice_core.chain.abi import keccak

_HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0


class Key:
    """A private key. Equal secrets make equal keys; `repr` shows the address only. Picklable, with its secret."""

    def __init__(self, secret: bytes, simulated: bool = False) -> None:
        """`secret` is 32 bytes below the curve's order, not zero: else ValueError. `simulated`: anyone can derive it."""
        if len(secret) != 32:
            raise ValueError(f"a private key has 32 bytes, not {len(secret)}")
        self._private = PrivateKey(secret)
        self.simulated = simulated
        self.address = _address(self._private.public_key)

    @property
    def secret(self) -> bytes:
        """The 32 bytes that nobody else may see."""
        secret: bytes = self._private.secret
        return secret

    def sign(self, digest: bytes) -> bytes:
        """r ‖ s ‖ v over 32 bytes: deterministic (RFC 6979), s in the lower half, v 27 or 28."""
        signature: bytes = self._private.sign_recoverable(digest, hasher=None)
        return signature[:64] + bytes([27 + signature[64]])

    def __repr__(self) -> str:
        return f"Key(0x{self.address.hex()})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self.secret == other.secret

    def __hash__(self) -> int:
        return hash(self.address)

    def __reduce__(self) -> tuple[type["Key"], tuple[bytes, bool]]:
        return Key, (self.secret, self.simulated)


def key_of(entity_key: int, secret: bytes = b"") -> Key:
    """The key of an entity (its 64-bit key in the census) under a network's secret of at most 64 bytes.

    Without a secret everyone can derive it: such a key is fit for a simulated chain, and no other.
    """
    return _derived(entity_key, secret) if secret else _simulated(entity_key)


@lru_cache(maxsize=2**14)
def _simulated(entity_key: int) -> Key:
    """Kept, as a process that founds many networks needs the same ones again: none of them is secret."""
    return _derived(entity_key, b"")


def _derived(entity_key: int, secret: bytes) -> Key:
    digest = blake2b(entity_key.to_bytes(8), digest_size=32, key=secret, person=b"lattice.key").digest()
    return Key(digest, simulated=not secret)


def recover(digest: bytes, signature: bytes) -> bytes:
    """Address whose key made this signature. Raises ValueError if it is none, or not the one form that `Key.sign` gives."""
    if len(signature) != 65:
        raise ValueError(f"a signature has 65 bytes, not {len(signature)}")
    if signature[64] not in (27, 28):
        raise ValueError(f"a signature ends with 27 or 28, not {signature[64]}")
    if int.from_bytes(signature[32:64]) > _HALF_ORDER:
        raise ValueError("the signature's s is in the upper half of the order: its mirror image would be valid, too")
    compact = signature[:64] + bytes([signature[64] - 27])
    try:
        return _address(PublicKey.from_signature_and_message(compact, digest, hasher=None))
    except Exception as error:  # coincurve raises a bare Exception for a signature of no key
        raise ValueError(f"no key makes this signature: {error}") from None


def _address(public: PublicKey) -> bytes:
    return keccak(public.format(compressed=False)[1:])[-20:]
