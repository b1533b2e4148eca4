"""A weight matrix in a variant: whole numbers of 8 or 4 bits with a scale for every 32 of them, or floats."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize
from numpy.typing import NDArray

BLOCK = 32
"""Weights that share a scale, along the inputs of a matrix; the block of GGUF's Q4_0, Q4_1 and Q8_0 too."""

READABLE = {
    kind.value: kind
    for kind in (Kind.F32, Kind.F16, Kind.BF16, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0,
                 Kind.Q2_K, Kind.Q3_K, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K, Kind.IQ4_NL, Kind.IQ4_XS)
}  # fmt: skip
"""Types of stored weights that can be converted, by their number in GGUF."""


class Tensor(NamedTuple):
    """Weights as GGUF stores them: each row on its own, in blocks of `kind`."""

    kind: Kind
    data: NDArray
    """[outputs, stored row] or, for a vector, [stored row]."""

    def floats(self) -> NDArray[np.float32]:
        """The weights, as exactly as float32 holds them."""
        if self.kind == Kind.F32:
            return self.data.view(np.float32)
        with np.errstate(all="ignore"):  # what comes out infinite is the caller's to refuse
            return dequantize(self.data, self.kind)

    def rows(self, order: NDArray[np.int64]) -> "Tensor":
        """The same rows in another order."""
        return Tensor(self.kind, self.data[order])


def real(array: NDArray[np.float32]) -> Tensor:
    """A tensor of float32 numbers."""
    return Tensor(Kind.F32, array)


class Blocks(NamedTuple):
    """A quantised matrix: weight = scale · (code − zero) + offset, with one scale, zero and offset for each block."""

    bits: int
    codes: NDArray[np.uint8]
    """[outputs, blocks, BLOCK · bits / 8]; of two 4-bit codes in a byte the first is the lower half."""
    scales: NDArray[np.float32]
    """[outputs, blocks]"""
    zeros: NDArray[np.uint8] | None
    """[outputs, blocks]; None stands for the middle, 128 or 8. 4-bit codes have none."""
    offsets: NDArray[np.float32] | None
    """[outputs, blocks]; None stands for 0."""


def blocks(matrix: Tensor, variant: str) -> Blocks:
    """`matrix` in a quantised variant: what the source holds is kept exactly where it can be, and is 8-bit codes elsewhere.

    Q8_0 is kept in int8 and q4; Q4_0 and Q4_1 are kept in q4. The number of inputs must be a multiple of BLOCK.
    """
    if matrix.kind == Kind.Q8_0:
        return _stored_8(matrix)
    if matrix.kind in (Kind.Q4_0, Kind.Q4_1) and variant == "q4":
        return _stored_4(matrix)
    return _nearest_8(matrix.floats())


def joined(matrices: Sequence[Blocks]) -> Blocks | None:
    """The matrices one below the other, or None if their codes have different numbers of bits."""
    first, *_ = matrices
    if any(matrix.bits != first.bits for matrix in matrices):
        return None
    zeros = offsets = None
    if any(matrix.zeros is not None for matrix in matrices):
        middle = np.uint8(1 << (first.bits - 1))
        zeros = np.concatenate([np.full(m.scales.shape, middle) if m.zeros is None else m.zeros for m in matrices])
    if any(matrix.offsets is not None for matrix in matrices):
        offsets = np.concatenate([np.zeros_like(m.scales) if m.offsets is None else m.offsets for m in matrices])
    codes, scales = (np.concatenate(parts) for parts in zip(*((m.codes, m.scales) for m in matrices), strict=True))
    return Blocks(first.bits, codes, scales, zeros, offsets)


def _stored_8(matrix: Tensor) -> Blocks:
    """Q8_0: a float16 scale, then 32 signed bytes."""
    stored = matrix.data.reshape(len(matrix.data), -1, 2 + BLOCK)
    return Blocks(8, stored[..., 2:] ^ np.uint8(128), _half(stored[..., :2]), None, None)


def _stored_4(matrix: Tensor) -> Blocks:
    """Q4_0: a float16 scale; Q4_1: a scale and a minimum. Then 16 bytes: codes 0 to 15 below, codes 16 to 31 above."""
    head = 4 if matrix.kind == Kind.Q4_1 else 2
    stored = matrix.data.reshape(len(matrix.data), -1, head + BLOCK // 2)
    packed = stored[..., head:]
    low, high = packed & 15, packed >> 4
    codes = np.concatenate([half[..., ::2] | half[..., 1::2] << 4 for half in (low, high)], -1)
    scales = _half(stored[..., :2])
    offsets = _half(stored[..., 2:4]) + 8 * scales if matrix.kind == Kind.Q4_1 else None
    return Blocks(4, codes, scales, None, offsets)


def _half(pairs: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float16 numbers, each stored as two bytes in the last axis."""
    return np.ascontiguousarray(pairs).view(np.float16)[..., 0].astype(np.float32)


def _nearest_8(weights: NDArray[np.float32]) -> Blocks:
    """Codes spread evenly from the least to the greatest weight of each block, 0 among them."""
    outputs, inputs = weights.shape
    apart = weights.reshape(outputs, inputs // BLOCK, BLOCK)
    low, high = np.minimum(apart.min(-1), 0), np.maximum(apart.max(-1), 0)
    with np.errstate(all="ignore"):  # a weight that is not finite makes such a scale
        scales = np.maximum((high - low) / np.float32(255), np.finfo(np.float32).tiny)
        zeros = np.rint(-low / scales)
        codes = np.clip(np.rint(apart / scales[..., None]) + zeros[..., None], 0, 255)
        return Blocks(8, codes.astype(np.uint8), scales, zeros.astype(np.uint8), None)
