"""The book of receipts: what each payer used of each node in an epoch, summed up as a voucher states it.

A voucher names the root of a Merkle tree over its receipts, so that a single one can be shown later. A leaf is the double hash
of a receipt's packed fields, a parent the hash of its two children in ascending order, and a last one without a partner moves
up as it is: what OpenZeppelin's `MerkleProof` verifies.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from struct import Struct
from typing import NamedTuple

from lattice_core.events import Receipt

_PACKED = Struct(">QQIIIIIQQ")
"""Request, leg, epoch, account, node, prompt and output tokens, purchased and faucet nanoLAI: big-endian, in this order."""


class Usage(NamedTuple):
    """What `payer` owes `node` for an epoch, of both kinds of credit together, and the root over the receipts."""

    epoch: int
    payer: int
    node: int
    nlai: int
    tokens: int
    receipts_root: bytes


class Receipts:
    """Receipts by epoch until they are forgotten. `keccak` is Keccak-256, which this package does not have."""

    def __init__(self, keccak: Callable[[bytes], bytes]) -> None:
        self._keccak = keccak
        self._epochs: dict[int, dict[int, bytes]] = {}  # packed, by leg: an epoch may have very many

    def add(self, receipt: Receipt) -> None:
        """Enter a receipt; a leg has one, so that entering it again changes nothing."""
        self._epochs.setdefault(receipt.epoch, {})[receipt.leg] = _PACKED.pack(*receipt)

    def usage(self, epoch: int) -> list[Usage]:
        """What the receipts of `epoch` add up to, sorted by payer and node."""
        receipts = [Receipt(*_PACKED.unpack(packed)) for packed in self._epochs.get(epoch, {}).values()]
        receipts.sort(key=lambda r: (r.account, r.node, r.leg))
        return [
            self._sum(epoch, payer, node, list(group))
            for (payer, node), group in groupby(receipts, key=lambda r: (r.account, r.node))
        ]

    def forget(self, epoch: int) -> None:
        """Drop every epoch up to and including this one."""
        self._epochs = {kept: receipts for kept, receipts in self._epochs.items() if kept > epoch}

    def _sum(self, epoch: int, payer: int, node: int, receipts: Sequence[Receipt]) -> Usage:
        return Usage(
            epoch,
            payer,
            node,
            nlai=sum(receipt.nlai + receipt.faucet_nlai for receipt in receipts),
            tokens=sum(receipt.prompt_tok + receipt.output_tok for receipt in receipts),
            receipts_root=self._root([self._keccak(self._keccak(_PACKED.pack(*receipt))) for receipt in receipts]),
        )

    def _root(self, level: list[bytes]) -> bytes:
        while len(level) > 1:
            pairs = [sorted(level[i : i + 2]) for i in range(0, len(level), 2)]
            level = [self._keccak(b"".join(pair)) if len(pair) == 2 else pair[0] for pair in pairs]
        return level[0]
