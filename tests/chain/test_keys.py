"""Keys: deterministic, as Ethereum's own, and silent about their secret."""

import pickle
from contextlib import suppress

import pytest
from eth_account import Account
from hypothesis import given
from hypothesis import strategies as st

from lattice_core.chain.keys import Key, key_of, recover

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
DIGESTS = st.binary(min_size=32, max_size=32)
KEYS = st.integers(1, ORDER - 1).map(lambda number: Key(number.to_bytes(32)))


@given(KEYS, DIGESTS)
def test_a_signature_is_the_one_that_ethereums_own_library_makes(key: Key, digest: bytes) -> None:
    signature = key.sign(digest)
    assert signature == Account.unsafe_sign_hash(digest, key.secret).signature
    assert key.address == bytes.fromhex(Account.from_key(key.secret).address[2:])
    assert int.from_bytes(signature[32:64]) <= ORDER // 2
    assert recover(digest, signature) == key.address


@given(KEYS, DIGESTS, st.integers(0, 64), st.integers(1, 255))
def test_a_changed_signature_is_not_the_signers(key: Key, digest: bytes, position: int, change: int) -> None:
    signature = bytearray(key.sign(digest))
    signature[position] ^= change
    with suppress(ValueError):
        assert recover(digest, bytes(signature)) != key.address


@given(KEYS, DIGESTS)
def test_the_mirror_image_of_a_signature_is_refused(key: Key, digest: bytes) -> None:
    signature = key.sign(digest)
    mirrored = signature[:32] + (ORDER - int.from_bytes(signature[32:64])).to_bytes(32) + bytes([27 + 28 - signature[64]])
    with pytest.raises(ValueError, match="upper half"):
        recover(digest, mirrored)


@pytest.mark.parametrize(
    ("signature", "said"),
    [
        (bytes(64), "a signature has 65 bytes, not 64"),
        (bytes(64) + b"\x01", "a signature ends with 27 or 28, not 1"),
        (bytes(64) + b"\x1b", "no key makes this signature"),
        (b"\xff" * 32 + b"\x01" * 32 + b"\x1b", "no key makes this signature"),
    ],
)
def test_what_is_no_signature_is_said_to_be_none(signature: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        recover(bytes(32), signature)


@pytest.mark.parametrize("secret", [b"", bytes(32), ORDER.to_bytes(32), bytes(33)])
def test_what_is_no_private_key_is_refused(secret: bytes) -> None:
    with pytest.raises(ValueError, match=r"32 bytes|Secret scalar"):
        Key(secret)


def test_a_key_follows_from_entity_and_secret_alone() -> None:
    assert key_of(7) == key_of(7)
    assert len({key_of(7), key_of(8), key_of(7, b"secret"), key_of(7, b"other secret")}) == 4
    assert [key_of(7).simulated, key_of(7, b"secret").simulated] == [True, False]


def test_a_key_travels_with_its_secret_and_never_shows_it() -> None:
    key = key_of(7)
    copy = pickle.loads(pickle.dumps(key))
    assert (copy, copy.simulated, copy.sign(bytes(32))) == (key, True, key.sign(bytes(32)))
    assert repr(key) == f"Key(0x{key.address.hex()})"
