"""What the faucet may grant: the shadow of `contracts/src/Faucet.sol`, to the nanoLAI.

One budget for all melts away, so that what nobody grants is not owed to anybody later.
"""

from typing import NamedTuple

from lattice_core.decay import decayed


class Budget(NamedTuple):
    """`left_nlai` could be granted at `since_s`; half as much each half-life later."""

    left_nlai: int
    since_s: int
    half_life_s: int


UNSET = Budget(0, 0, 0)
"""Before the owner sets one: nothing may be granted."""


def left_nlai(budget: Budget, now_s: int) -> int:
    """What of the budget may be granted now."""
    if budget.left_nlai == 0:
        return 0
    return decayed(budget.left_nlai, now_s - budget.since_s, budget.half_life_s)


def grantable_nlai(budget: Budget, treasury_nlai: int, now_s: int) -> int:
    """What may be granted now: every grant is backed by the treasury's LAI."""
    return min(left_nlai(budget, now_s), treasury_nlai)


def grant(budget: Budget, nlai: int, now_s: int) -> Budget:
    """The budget that a grant leaves. Raises ValueError if it exceeds what is left."""
    left = left_nlai(budget, now_s)
    if nlai > left:
        raise ValueError(f"faucet: a grant of {nlai} nanoLAI exceeds the {left} that are left")
    return Budget(left - nlai, now_s, budget.half_life_s)
