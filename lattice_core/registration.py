"""What a node burns to join: the shadow of `contracts/src/NodeRegistry.sol`, to the nanoLAI.

The price rises with each join and halves over time (after Bittensor), so that many identities at once are dear.
"""

from typing import NamedTuple

from lattice_core.decay import decayed
from lattice_core.units import PPM

_LARGEST = 2**64 - 1
"""A price that 64 bits do not hold stays here, where nobody can pay it."""


class Joins(NamedTuple):
    """The terms of joining: the least price, what a join adds to it, and the time in which it halves."""

    floor_nlai: int
    rise_ppm: int
    half_life_s: int


class Price(NamedTuple):
    """The price of a join as it was at a time."""

    nlai: int
    since_s: int


FREE = Price(0, 0)
"""Before the first join: the floor counts."""


def price_nlai(terms: Joins, price: Price, now_s: int) -> int:
    """What the next join burns."""
    return max(decayed(price.nlai, now_s - price.since_s, terms.half_life_s), terms.floor_nlai)


def join(terms: Joins, price: Price, now_s: int) -> tuple[int, Price]:
    """What a join burns, and the price that it leaves."""
    paid = price_nlai(terms, price, now_s)
    return paid, Price(min(paid - -paid * terms.rise_ppm // PPM, _LARGEST), now_s)


def price_at(terms: Joins, price: Price, now_s: int) -> Price:
    """The price from which it goes on under other terms that replace these now."""
    return Price(price_nlai(terms, price, now_s), now_s)
