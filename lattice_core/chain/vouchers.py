"""Usage vouchers: a payer's promise for what a node delivered in an epoch, good where no batch paid for it."""

from typing import NamedTuple

from lattice_core.chain.keys import Key
from lattice_core.chain.typed_data import digest

TYPE = "UsageVoucher(uint16 nexus,uint32 epoch,uint32 payer,uint32 node,uint64 value,uint64 tokens,bytes32 receiptsRoot)"


class Voucher(NamedTuple):
    """`value_nlai` for all that `payer` had from `node` in `epoch`, as its receipts, under one Merkle root, say."""

    nexus: int
    epoch: int
    payer: int
    node: int
    value_nlai: int
    tokens: int
    receipts_root: bytes


class Signed(NamedTuple):
    """A voucher and its payer's signature (65 bytes)."""

    voucher: Voucher
    signature: bytes


def sign(voucher: Voucher, key: Key, domain: bytes) -> Signed:
    """Sign with the owner's key or a session key; `domain` is that of Tokenomics (`typed_data.domain`)."""
    return Signed(voucher, key.sign(digest(domain, TYPE, voucher)))
