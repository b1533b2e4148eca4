"""Factors → points: what is changed in each run of a study. A point has a value for each factor, by dotted path."""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lattice_sim.study.document import Factor, LatinHypercube, Point, Range, Sobol, Sweep


def points(asked: Sweep, seed: int) -> list[Point]:
    """The points of a sweep's design; a design that draws does so from `seed`."""
    match asked.design:
        case LatinHypercube(latin_hypercube=count):
            return scaled(asked.factors, latin_hypercube(len(asked.factors), count, seed))
        case Sobol(sobol=count):
            return scaled(asked.factors, sobol(len(asked.factors), count, seed))
        case _:
            return grid(asked.factors)


def count(asked: Sweep) -> int:
    """How many points that are, without making them."""
    match asked.design:
        case LatinHypercube(latin_hypercube=number) | Sobol(sobol=number):
            return number
        case _:
            return math.prod(len(factor) for factor in asked.factors.values() if isinstance(factor, list))


def grid(factors: Mapping[str, Factor]) -> list[Point]:
    """Every combination of levels; the last factor changes fastest."""
    levels = [factor for factor in factors.values() if isinstance(factor, list)]
    return [dict(zip(factors, combination, strict=True)) for combination in product(*levels)]


def latin_hypercube(dimensions: int, number: int, seed: int) -> NDArray[np.float64]:
    """[number, dimensions] of [0, 1), each column with one value in every nth part (McKay, Beckman & Conover 1979)."""
    from scipy.stats import qmc

    return qmc.LatinHypercube(dimensions, rng=seed).random(number)


def sobol(dimensions: int, number: int, seed: int) -> NDArray[np.float64]:
    """[number, dimensions] of [0, 1): the start of a Sobol sequence, scrambled (Owen 1998)."""
    from scipy.stats import qmc

    sequence = qmc.Sobol(dimensions, rng=seed)
    whole = sequence.random_base2(max(0, number - 1).bit_length())
    return whole[:number]


def scaled(factors: Mapping[str, Factor], unit: NDArray[np.float64]) -> list[Point]:
    """The points at rows of the unit cube, a column for each factor; levels take equal parts of [0, 1)."""
    return [{path: _value(factor, float(at)) for (path, factor), at in zip(factors.items(), row, strict=True)} for row in unit]


def _value(factor: Factor, at: float) -> Any:
    if isinstance(factor, Range):
        return between(factor, at)
    levels: Sequence[Any] = factor
    return levels[min(int(at * len(levels)), len(levels) - 1)]


def between(factor: Range, at: float) -> float | int:
    """The value at 0 ≤ `at` ≤ 1 of a range. Of whole numbers, each has an equal part."""
    if factor.whole:
        low, high = factor.low - 0.5, factor.high + 0.5
        if factor.scale == "log":
            value = low * (high / low) ** at
        else:
            value = low + (high - low) * at
        return int(min(max(math.floor(value + 0.5), factor.low), factor.high))
    if factor.scale == "log":
        return min(max(factor.low * (factor.high / factor.low) ** at, factor.low), factor.high)
    return min(factor.low + (factor.high - factor.low) * at, factor.high)
