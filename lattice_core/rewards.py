"""The bonus: what nodes get over and above fees. The shadow of `contracts/src/Bonus.sol`, to the nanoLAI.

A pool grows with time and is shared by weights, `wᵢ = computeᵢ^a · tokensᵢ^b · uptimeᵢ^c · qualityᵢ²`, of which every factor is
verified by others than the node. No node gets more than a part of what was burned of its purchased fees since its last bonus:
whoever pays only himself loses by it, whatever the weights.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from lattice_core.split import share
from lattice_core.units import PPM

_DAY_S = 86_400

LARGEST_WEIGHT = 2**53
"""The largest of the weights as they are posted: a float tells so many steps apart, and a thousand of them fit int64."""


class Exponents(NamedTuple):
    """0, ½, 1 or 2 each.

    Posing as many nodes gains nothing where those of compute and tokens sum to 1 or more, and adding traffic of one's own to
    that of others gains nothing where that of tokens is at most 1.
    """

    compute: float = 0.5
    tokens: float = 1.0
    uptime: float = 2.0


class Reward(NamedTuple):
    """A node's bonus, in nanoLAI."""

    operator_nlai: int
    delegators_nlai: int


class Sources(NamedTuple):
    """Where the money comes from, in nanoLAI."""

    treasury_nlai: int
    minted_nlai: int


NO_BONUS = Sources(0, 0)


def weight(compute: float, tokens: float, uptime: float, quality: float, exponents: Exponents) -> float:
    """A node's weight, to be compared with others' only.

    `compute` is in any unit that all nodes share. `tokens` were verified, and paid for at one price: tokens that cost nothing
    would buy weight. `uptime` (of 1) is the share of probes answered, `quality` (of 1) the lower 5 % quantile of its posterior.
    Raises ValueError for an exponent that is not allowed.
    """
    a, b, c = exponents
    return _power(compute, a) * _power(tokens, b) * _power(uptime, c) * (quality * quality)


def posted(weights: Sequence[float]) -> list[int]:
    """Weights as an oracle posts them: the largest becomes LARGEST_WEIGHT and the others keep their ratio to it, rounded down.

    Without any weight there is nothing to share, and nothing to post: all are 0.
    """
    largest = max(weights, default=0.0)
    return [int(each / largest * LARGEST_WEIGHT) if each > 0.0 else 0 for each in weights]


def pool(per_day_nlai: int, paid_until_s: int, proposed_s: int, treasury_nlai: int, mintable_nlai: int) -> int:
    """nanoLAI that came together from the last bonus to the proposal of this one, but no more than there is to pay it with.

    `mintable_nlai` is what may still be minted under the token's cap.
    """
    grown = per_day_nlai * max(0, proposed_s - paid_until_s) // _DAY_S
    return min(grown, treasury_nlai + mintable_nlai)


def cap(burned_nlai: int, returned_ppm: int) -> int:
    """The most nanoLAI that come back of what was burned of a node's purchased fees."""
    return burned_nlai * returned_ppm // PPM


def bonus(
    pool_nlai: int, weights: Sequence[int], burned_nlai: Sequence[int], returned_ppm: int, delegators_ppm: int
) -> list[Reward]:
    """Each node's part of a pool; what the caps leave of it is not paid. Weights as they were posted, a node at most once.

    Raises ValueError if all weights are 0, as the contract reverts.
    """
    total = sum(weights)
    if total == 0:
        raise ValueError("bonus: weights are 0, at least one has to be more")
    rewards = []
    for part, burned in zip(weights, burned_nlai, strict=True):
        reward = min(pool_nlai * part // total, cap(burned, returned_ppm))
        delegators = share(reward, delegators_ppm)
        rewards.append(Reward(reward - delegators, delegators))
    return rewards


def sources(rewards: Sequence[Reward], treasury_nlai: int) -> Sources:
    """The treasury pays as far as it reaches, and the rest is minted."""
    total = sum(reward.operator_nlai + reward.delegators_nlai for reward in rewards)
    treasury = min(total, treasury_nlai)
    return Sources(treasury, total - treasury)


def _power(base: float, exponent: float) -> float:
    """Of the allowed exponents only: these give the same bits everywhere, a general power does not."""
    if exponent == 0.0:
        return 1.0
    if exponent == 0.5:
        return math.sqrt(base)
    if exponent == 1.0:
        return base
    if exponent == 2.0:
        return base * base
    raise ValueError(f"weight: exponent {exponent} is not allowed, only 0, 0.5, 1 and 2 are")
