"""Who a node is: a key of the chain's, in a file of its owner's, and the proof that it speaks for a node of the registry.

A node joins a Nexus by answering a challenge. The Nexus says its terms and a nonce that it has never used; the node signs them
together with its own URL and the hashes of its models. The Nexus accepts if the key is that of the node's owner in the
registry, the URL is the one it asked, and the nonce has not been answered before: a stranger who passes the challenge on to the
real node gets an answer for another URL.
"""

import os
import secrets
from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from coincurve import PrivateKey

from lattice_core.chain.keys import Key, recover
from lattice_core.chain.typed_data import digest, domain

_domain = lru_cache(16)(domain)

JOIN = "Join(uint16 nexus,uint32 node,bytes32 nonce,bytes32 url,bytes32 models)"


class IdentityError(ValueError):
    """A key, certificate or signature that does not prove what it should; one line."""


class Terms(NamedTuple):
    """Under which numbers a node works: its Nexus's, its own, and the chain and registry where it has them."""

    nexus: int
    node: int
    chain_id: int
    registry: bytes

    @property
    def domain(self) -> bytes:
        """Separates what is signed for this registry from all else (EIP-712)."""
        return _domain(self.chain_id, self.registry)


class Joining(NamedTuple):
    """A node's answer to a challenge: where it is reached, what it serves ({name: model hash in hex}), and its signature."""

    url: str
    models: Mapping[str, str]
    signature: bytes


def join(key: Key, terms: Terms, nonce: bytes, url: str, models: Mapping[str, str]) -> Joining:
    """Answer a challenge."""
    return Joining(url, models, key.sign(_join_digest(terms, nonce, url, models)))


class Challenge:
    """A question that one node can answer once."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.nonce = secrets.token_bytes(32)
        self._answered = False

    def accept(self, joining: Joining, url: str, owner: bytes) -> None:
        """Raise IdentityError unless the node that was asked at `url` belongs to `owner` (an address) and answered this."""
        if self._answered:
            raise IdentityError("the challenge has been answered before")
        self._answered = True
        if joining.url != url:
            raise IdentityError(f"the node says that it is reached at {joining.url}, and was asked at {url}")
        check(_join_digest(self.terms, self.nonce, joining.url, joining.models), joining.signature, owner)


def check(message: bytes, signature: bytes, owner: bytes) -> None:
    """Raise IdentityError unless `owner`'s key made this signature of the 32 bytes."""
    try:
        signer = recover(message, signature)
    except ValueError as error:
        raise IdentityError(f"not a signature: {error}") from None
    if signer != owner:
        raise IdentityError(f"signed by 0x{signer.hex()}, or altered; must be signed by 0x{owner.hex()}")


def _join_digest(terms: Terms, nonce: bytes, url: str, models: Mapping[str, str]) -> bytes:
    served = "".join(f"{name}\n{models[name]}\n" for name in sorted(models))
    values: list[int | bytes] = [
        terms.nexus,
        terms.node,
        nonce,
        sha256(url.encode()).digest(),
        sha256(served.encode()).digest(),
    ]
    return digest(terms.domain, JOIN, values)


def open_key(file: Path) -> Key:
    """The key whose secret stands in `file`, in hex; a new one if there is no such file. Raises IdentityError."""
    try:
        if not file.exists():
            save_key(file, new_key())
        if file.stat().st_mode & 0o077:
            raise IdentityError(f"{file}: must be readable by its owner only (mode 600)")
        return Key(bytes.fromhex(file.read_text()))
    except OSError as error:
        raise IdentityError(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        if isinstance(error, IdentityError):
            raise
        raise IdentityError(f"{file}: must hold a private key, 64 hexadecimal digits") from None


def save_key(file: Path, key: Key) -> None:
    """Write `key` into a file of the owner's only. Raises IdentityError if there is one that holds another key."""
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(f"{key.secret.hex()}\n")
    except FileExistsError:
        if open_key(file) != key:
            raise IdentityError(f"{file}: exists, and holds another key") from None
    except OSError as error:
        raise IdentityError(f"{file}: cannot be written: {error.strerror}") from None


def new_key() -> Key:
    """A key that nobody has had."""
    return Key(PrivateKey().secret)
