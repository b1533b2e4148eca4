"""Points: every combination of a grid, every part of a range, every value within it."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice_sim.study.design import between, count, grid, latin_hypercube, points, scaled, sobol
from lattice_sim.study.document import Range
from tests.study.asked import study

levels = st.lists(st.integers(), min_size=1, max_size=4, unique=True)
seeds = st.integers(0, 2**63 - 1)


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    scale = draw(st.sampled_from(["linear", "log"]))
    low = draw(st.integers(1, 1_000))
    high = low + draw(st.integers(1, 1_000))
    return Range.model_validate({"from": float(low), "to": float(high), "scale": scale, "whole": draw(st.booleans())})


@given(st.dictionaries(st.text(min_size=1, max_size=3), levels, min_size=1, max_size=4))
def test_a_grid_has_every_combination_once_and_the_last_factor_changes_first(factors: dict[str, list[int]]) -> None:
    found = grid(factors)
    assert len(found) == math.prod(map(len, factors.values())) == len({tuple(point.values()) for point in found})
    *_, last = factors
    if len(factors[last]) > 1:
        assert {path for path in factors if found[0][path] != found[1][path]} == {last}


@given(st.integers(1, 5), st.integers(1, 64), seeds)
def test_each_nth_part_of_each_axis_has_one_point_of_a_latin_hypercube(dimensions: int, number: int, seed: int) -> None:
    unit = latin_hypercube(dimensions, number, seed)
    assert unit.shape == (number, dimensions)
    for column in unit.T:
        assert sorted(np.floor(column * number).astype(int)) == list(range(number))


@given(st.integers(1, 8), st.integers(0, 7), seeds)
def test_each_of_two_to_the_n_parts_of_each_axis_has_one_point_of_a_sobol_sequence(dimensions: int, n: int, seed: int) -> None:
    unit = sobol(dimensions, 2**n, seed)
    for column in unit.T:
        assert sorted(np.floor(column * 2**n).astype(int)) == list(range(2**n))


@given(ranges(), st.floats(0, 1), st.floats(0, 1))
def test_values_of_a_range_rise_from_one_end_to_the_other(factor: Range, at: float, other: float) -> None:
    low, high = between(factor, min(at, other)), between(factor, max(at, other))
    assert factor.low <= low <= high <= factor.high
    assert (between(factor, 0.0), between(factor, 1.0)) == pytest.approx((factor.low, factor.high))
    if factor.whole:
        assert (low, high) == (int(low), int(high))


def test_equal_steps_multiply_on_a_log_scale() -> None:
    factor = Range.model_validate({"from": 1.0, "to": 10_000.0, "scale": "log"})
    values = [between(factor, n / 4) for n in range(5)]
    assert [after / before for before, after in pairwise(values)] == pytest.approx([10.0] * 4)


def test_whole_numbers_have_equal_parts() -> None:
    factor = Range.model_validate({"from": 2.0, "to": 5.0, "whole": True})
    values = [point["n"] for point in scaled({"n": factor}, np.linspace(0, 1, 4_000, endpoint=False)[:, None])]
    assert {value: values.count(value) for value in set(values)} == {2: 1_000, 3: 1_000, 4: 1_000, 5: 1_000}


def test_a_design_has_as_many_points_as_it_says_and_the_same_ones_each_time(tmp_path: Path) -> None:
    factors = {"routing.weights.price": {"from": 0.5, "to": 2}, "routing.policy": ["random", "cheapest"]}
    for design in ({"sobol": 8}, {"latin_hypercube": 7}):
        asked = study(tmp_path, factors=factors, design=design).asked
        found = points(asked, 3)
        assert len(found) == count(asked)
        assert found == points(asked, 3) != points(asked, 4)
        assert {point["routing.policy"] for point in found} == {"random", "cheapest"}
