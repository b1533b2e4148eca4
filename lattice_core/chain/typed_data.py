"""EIP-712: what people and nodes sign for the contracts."""

from collections.abc import Sequence
from typing import Any

from eth_abi import abi as eth_abi

from lattice_core.chain.abi import keccak

_DOMAIN = keccak(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")


def domain(chain_id: int, contract: bytes) -> bytes:
    """The separator of Lattice's contract at that address: a signature is good on one chain and for one contract."""
    return keccak(
        eth_abi.encode(
            ["bytes32", "bytes32", "bytes32", "uint256", "address"],
            [_DOMAIN, keccak(b"Lattice"), keccak(b"1"), chain_id, contract],
        )
    )


def digest(domain_separator: bytes, type_text: str, values: Sequence[Any]) -> bytes:
    """The 32 bytes to sign: a struct of atomic fields, such as `Answer(uint64 request,uint32 node)`, with its values."""
    kinds = [field.split()[0] for field in type_text.partition("(")[2].rstrip(")").split(",")]
    struct = keccak(eth_abi.encode(["bytes32", *kinds], [keccak(type_text.encode()), *values]))
    return keccak(b"\x19\x01" + domain_separator + struct)
