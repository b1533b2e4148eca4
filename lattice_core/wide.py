"""Sums of products of int64s that may pass 2⁶³: two words, `high` · 2³⁰ + `low` with 0 ≤ low < 2³⁰.

10⁸ requests of 100 s each are 10¹⁹ ns, which is more than an int64 holds.
"""

from lattice_core.jit import jit

_BITS = 30
_LOW = (1 << _BITS) - 1


@jit
def plus(high: int, low: int, count: int, ns: int) -> tuple[int, int]:
    """The words of the sum after `count` · `ns` more: exact for 0 ≤ count < 2³¹ and 0 ≤ ns < 2⁶³."""
    low += count * (ns & _LOW)
    return high + count * (ns >> _BITS) + (low >> _BITS), low & _LOW


def total(high: int, low: int) -> int:
    """The sum, as a Python integer."""
    return (int(high) << _BITS) + int(low)
