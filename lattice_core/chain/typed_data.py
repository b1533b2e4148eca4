"""EIP-712: what people and nodes sign for the contracts."""

from collections.abc import Sequence
from functools import cache

from eth_abi import abi as eth_abi

from lattice_core.chain.abi import keccak

_SIZES = {"bytes32": 32, "address": 20}

_DOMAIN = keccak(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")


def domain(chain_id: int, contract: bytes) -> bytes:
    """The separator of Lattice's contract at that address: a signature is good on one chain and for one contract."""
    return keccak(
        eth_abi.encode(
            ["bytes32", "bytes32", "bytes32", "uint256", "address"],
            [_DOMAIN, keccak(b"Lattice"), keccak(b"1"), chain_id, contract],
        )
    )


def digest(domain_separator: bytes, type_text: str, values: Sequence[int | bytes]) -> bytes:
    """The 32 bytes to sign: a struct of atomic fields, such as `Answer(uint64 request,uint32 node)`, with its values.

    Fields are uints, addresses and bytes32. Raises ValueError for a value that does not fit. Encoded here, as it is done for
    each receipt and takes the general codec ten times as long.
    """
    type_hash, kinds = _struct(type_text)
    words = [_word(kind, value) for kind, value in zip(kinds, values, strict=True)]
    return keccak(b"\x19\x01" + domain_separator + keccak(b"".join((type_hash, *words))))


@cache
def _struct(type_text: str) -> tuple[bytes, tuple[str, ...]]:
    fields = type_text.partition("(")[2].rstrip(")").split(",")
    return keccak(type_text.encode()), tuple(field.split()[0] for field in fields)


def _word(kind: str, value: int | bytes) -> bytes:
    """A value as 32 bytes."""
    if isinstance(value, bytes):
        if len(value) != _SIZES.get(kind):
            raise ValueError(f"{kind}: must not have {len(value)} bytes")
        return value.rjust(32, b"\0")
    if not kind.startswith("uint") or not 0 <= value < 1 << int(kind[4:]):
        raise ValueError(f"{kind}: must not be {value}")
    return value.to_bytes(32)
