"""What is best where several things are wanted: Pareto's front, and its knee. Costs are losses, the less the better."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether `a` costs less than `b` in something, and more in nothing."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def better_in_all(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether `a` costs less than `b` in everything."""
    return all(x < y for x, y in zip(a, b, strict=True))


def front(costs: Sequence[Sequence[float]]) -> list[int]:
    """The rows that no other dominates, in their order; of equal rows the first."""
    return [
        place
        for place, cost in enumerate(costs)
        if not any(dominates(other, cost) for other in costs) and list(cost) not in [list(other) for other in costs[:place]]
    ]


def knee(costs: ArrayLike, among: Iterable[int]) -> int:
    """Of the rows `among`, the first nearest to the least of every cost, each cost scaled to its range over all rows."""
    table: NDArray[np.float64] = np.asarray(costs, np.float64)
    low, high = table.min(axis=0), table.max(axis=0)
    away = (((table - low) / np.where(high > low, high - low, 1.0)) ** 2).sum(axis=1)
    return min(among, key=lambda row: (float(away[row]), row))
