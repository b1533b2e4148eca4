"""Units: money is int64 nanoLAI, time is int64 nanoseconds, prices are nanoLAI per million tokens, shares parts per million.

A float never touches a balance. Bounds are checked when the config is read; they keep every product in the rules below 2⁶³.
"""

from decimal import ROUND_HALF_EVEN, Decimal

NANO = 1_000_000_000
"""nanoLAI in one LAI, nanoseconds in one second, and wei in one nanoLAI."""

PPM = 1_000_000
"""Parts per million in the whole; also the tokens to which a price refers."""

MINUTE_NS = 60 * NANO
HOUR_NS = 3_600 * NANO
DAY_NS = 24 * HOUR_NS

NEVER_NS = 2**63 - 1
"""A time that does not come."""

MAX_SUPPLY_NLAI = 9 * 10**9 * NANO
"""9·10⁹ LAI: the largest total supply whose every sum fits int64."""

MAX_PRICE_NLAI = 1_000 * NANO
"""1,000 LAI per million tokens: the largest price whose product with MAX_TOKENS, twice, fits int64."""

MAX_TOKENS = 2**20
"""The longest prompt and the longest answer, in tokens."""


def to_nlai(lai: float | int | str | Decimal) -> int:
    """LAI as a decimal number → nanoLAI, rounded half to even at the ninth decimal."""
    return int((Decimal(str(lai)) * NANO).to_integral_value(ROUND_HALF_EVEN))


def to_lai(nlai: int) -> float:
    """nanoLAI → LAI, for people; never fed back into a balance."""
    return nlai / NANO


def to_ns(seconds: float | int) -> int:
    """Seconds → nanoseconds, rounded up."""
    return int((Decimal(str(seconds)) * NANO).to_integral_value("ROUND_CEILING"))


def to_s(ns: int) -> float:
    """Nanoseconds → seconds, for people."""
    return ns / NANO
