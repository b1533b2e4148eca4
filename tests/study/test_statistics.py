"""What is said of replications holds: properties, published examples, and intervals that cover a queue's known mean wait."""

import math
from collections.abc import Callable
from copy import deepcopy
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from lattice_sim.study.statistics import (
    FIRST_REPLICATIONS,
    Interval,
    batch_means,
    correlation_gain,
    holm,
    mean_interval,
    mser5,
    paired,
    rank_correlation,
    replications_for,
    tost,
)

whole = st.integers(-1000, 1000).map(float)  # their sums and those of their squares are exact
samples = st.lists(whole, min_size=2, max_size=30)
pairs = st.lists(st.tuples(whole, whole), min_size=2, max_size=30).map(
    lambda rows: [list(side) for side in zip(*rows, strict=True)]
)
levels = st.sampled_from([0.5, 0.9, 0.95, 0.99])

SLEEP = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
"""Hours of sleep gained by ten patients, one drug less another (Student 1908)."""

BANK = [1.53, 1.66, 1.24, 2.34, 2.00, 1.69, 2.69, 2.86, 1.70, 2.60]
"""Mean delays of ten simulated days of a bank (Law, Simulation Modeling and Analysis, section 9.4.1)."""


# Means and differences


@given(samples, levels)
def test_an_interval_is_that_of_scipys_t(values: list[float], level: float) -> None:
    assume(len(set(values)) > 1)
    interval = mean_interval(values, level)
    expected = stats.t.interval(level, len(values) - 1, np.mean(values), stats.sem(values))
    assert (interval.low, interval.high) == pytest.approx(expected)


def test_the_interval_of_the_bank_is_the_books() -> None:
    interval = mean_interval(BANK, 0.9)
    assert interval.half_width is not None
    assert (round(interval.mean, 2), round(interval.half_width, 2), interval.n) == (2.03, 0.32, 10)


def test_one_replication_has_no_interval_and_no_p() -> None:
    alone = Interval(3.0, None, 1, 0.95)
    assert mean_interval([3.0]) == alone
    assert (alone.low, alone.high) == (None, None)
    assert paired([1.0], [4.0]) == (alone, None)


@given(samples, whole, st.integers(-8, 8), levels)
def test_an_interval_moves_and_stretches_with_its_values(values: list[float], shift: float, power: int, level: float) -> None:
    plain, moved = mean_interval(values, level), mean_interval([value * 2.0**power + shift for value in values], level)
    assert moved.mean == pytest.approx(plain.mean * 2.0**power + shift)
    assert moved.half_width == pytest.approx((plain.half_width or 0.0) * 2.0**power, abs=1e-9)


@given(st.permutations([0.1, 0.2, 0.3, 1e16, -1e16, 7.7]))
def test_the_order_of_replications_makes_no_difference_to_any_bit(values: list[float]) -> None:
    assert mean_interval(values) == mean_interval(sorted(values))


@given(st.floats(-1e6, 1e6), st.integers(2, 20))
def test_values_that_are_all_equal_have_an_interval_of_no_width(value: float, n: int) -> None:
    assert mean_interval([value] * n)[:2] == (value, 0.0)


@given(samples)
def test_a_higher_level_makes_a_wider_interval(values: list[float]) -> None:
    widths = [mean_interval(values, level).half_width or 0.0 for level in (0.5, 0.9, 0.95, 0.99)]
    assert widths == sorted(widths)


@given(pairs)
def test_a_paired_difference_is_the_t_test_of_the_differences(sides: list[list[float]]) -> None:
    a, b = sides
    changes = [right - left for left, right in zip(a, b, strict=True)]
    found = paired(a, b)
    assert found.interval == mean_interval(changes)
    if len(set(changes)) > 1:
        assert found.p == pytest.approx(stats.ttest_rel(a, b).pvalue)
    else:
        assert found.p == (0.0 if changes[0] else 1.0)


@given(pairs)
def test_a_paired_difference_the_other_way_round_has_the_other_sign(sides: list[list[float]]) -> None:
    a, b = sides
    there, back = paired(a, b), paired(b, a)
    assert (back.interval.mean, back.interval.half_width, back.p) == (-there.interval.mean, there.interval.half_width, there.p)


def test_students_patients_slept_longer_by_his_table() -> None:
    """As in the manual of R's `t.test`: p = 0.002833, and an interval from 0.7001142 to 2.4598858."""
    found = paired([0.0] * 10, SLEEP)
    assert found.p == pytest.approx(0.002833, abs=5e-7)
    assert (found.interval.low, found.interval.high) == pytest.approx((0.7001142, 2.4598858), abs=5e-8)


# Equivalence and many comparisons


def test_students_patients_did_not_sleep_equally_long_within_half_an_hour() -> None:
    """As in the vignette of R's package TOSTER: t(9) = 2.777, p = 0.989, on the one side, 5.348, p < 0.001, on the other."""
    found = tost(SLEEP, 0.5)
    assert not found.equivalent
    assert (found.p_low, found.p_high) == pytest.approx((stats.t.sf(5.348, 9), stats.t.cdf(2.777, 9)), rel=1e-3)
    assert found.p_high == pytest.approx(0.989, abs=5e-4)


@given(samples, st.floats(0.1, 2000), st.sampled_from([0.9, 0.95, 0.99]))
@example([1.0, 1.0], 1.0, 0.95)
def test_the_same_means_that_the_interval_of_twice_the_error_lies_within_the_bounds(
    values: list[float], bound: float, level: float
) -> None:
    inner = mean_interval(values, 2 * level - 1)
    assert inner.low is not None
    assert inner.high is not None
    margin = min(inner.low + bound, bound - inner.high)
    assume(abs(margin) > 1e-9 or len(set(values)) == 1)
    assert tost(values, bound, level).equivalent == (margin > 0)


@given(samples, st.floats(0.1, 2000))
def test_equivalence_has_two_equal_sides(values: list[float], bound: float) -> None:
    there, back = tost(values, bound), tost([-value for value in values], bound)
    assert (there.equivalent, there.p_low, there.p_high) == (back.equivalent, back.p_high, back.p_low)


def test_one_difference_shows_no_equivalence() -> None:
    assert tost([0.0], 1.0)[:3] == (False, 1.0, 1.0)


def test_holms_correction_gives_the_values_of_other_libraries() -> None:
    """The examples in the manuals of pingouin and of stdlib."""
    assert holm([0.50, 0.003, 0.32, 0.054, 0.0003]) == pytest.approx([0.64, 0.012, 0.64, 0.162, 0.0015])
    assert holm([0.319, 0.201, 0.4, 0.374, 0.113]) == pytest.approx([0.957, 0.804, 0.957, 0.957, 0.565])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=20))
def test_holms_correction_is_between_none_and_bonferronis_and_keeps_the_order(raw: list[float]) -> None:
    corrected = holm(raw)
    assert all(p <= q <= min(1.0, len(raw) * p) for p, q in zip(raw, corrected, strict=True))
    ranked = [q for _, q in sorted(zip(raw, corrected, strict=True))]
    assert all(before <= after for before, after in pairwise(ranked))
    assert len(set(zip(raw, corrected, strict=True))) == len(set(raw)), "equal p are corrected equally"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.01, 0.2))
def test_holms_correction_refuses_what_his_steps_refuse(raw: list[float], alpha: float) -> None:
    refused = 0
    for left, p in zip(range(len(raw), 0, -1), sorted(raw), strict=True):
        assume(not math.isclose(p * left, alpha))
        if p * left > alpha:
            break
        refused += 1
    assert sum(p <= alpha for p in holm(raw)) == refused


# Rank correlations


@given(pairs)
def test_a_rank_correlation_is_spearmans_within_its_interval_and_minds_the_order_alone(sides: list[list[float]]) -> None:
    a, b = sides
    assume(len(a) > 3 and len(set(a)) > 1 and len(set(b)) > 1)
    found = rank_correlation(a, b)
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert (found.rho, found.p) == pytest.approx(tuple(stats.spearmanr(a, b)))
    assert -1.0 <= found.low <= found.rho <= found.high <= 1.0
    assert rank_correlation([x**3 for x in a], b) == found
    assert rank_correlation(b, a) == pytest.approx(found)


def test_without_an_order_there_is_no_rank_correlation_and_of_three_pairs_no_interval() -> None:
    assert rank_correlation([1.0, 2.0], [1.0, 2.0]) is None
    assert rank_correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None
    three = rank_correlation([1.0, 2.0, 3.0], [1.0, 3.0, 2.0])
    assert three is not None
    assert (three.rho, three.low, three.high, three.n) == (pytest.approx(0.5), None, None, 3)


@pytest.mark.parametrize("noise", [0.3, 2.0])
def test_the_interval_of_a_rank_correlation_covers_that_of_very_many_pairs(noise: float) -> None:
    def drawn(rng: np.random.Generator, n: int) -> tuple[list[float], list[float]]:
        x, y = rng.random((2, n))
        return x.tolist(), (x + noise * y).tolist()

    many = rank_correlation(*drawn(np.random.default_rng(1), 100_000))
    found = [rank_correlation(*drawn(np.random.default_rng([2, place]), 32)) for place in range(400)]
    assert many is not None
    assert sum(one.low <= many.rho <= one.high for one in found if one) >= 0.93 * 400  # type: ignore[operator]


# The gain of common random numbers


@given(pairs)
def test_the_gain_is_the_ratio_of_the_variances(sides: list[list[float]]) -> None:
    a, b = sides
    apart = float(np.var(np.subtract(b, a)))
    found = correlation_gain(a, b)
    if apart == 0.0:
        assert found[:3] == (None if len(set(a)) == 1 else math.inf, None, None)
        return
    assert found.ratio == pytest.approx((np.var(a) + np.var(b)) / apart)
    if found.low is not None:
        assert found.high is not None
        assert found.low <= found.ratio <= found.high


@given(pairs, whole, st.integers(-8, 8))
def test_the_gain_does_not_depend_on_the_unit_nor_on_the_order_of_the_sides(
    sides: list[list[float]], shift: float, power: int
) -> None:
    a, b = sides
    other = [[value * 2.0**power + shift for value in side] for side in (b, a)]
    for found, expected in zip(correlation_gain(*other), correlation_gain(a, b), strict=True):
        assert found == expected or found == pytest.approx(expected, rel=1e-6)


def test_the_gains_interval_is_that_of_the_jackknife_step_by_step() -> None:
    rng = np.random.default_rng(3)
    common, own = rng.normal(size=12), rng.normal(size=(2, 12))
    a, b = common + 0.5 * own[0], common + 0.5 * own[1]

    def log_ratio(kept: NDArray[np.intp]) -> float:
        return math.log((a[kept].var(ddof=1) + b[kept].var(ddof=1)) / (b - a)[kept].var(ddof=1))

    everyone = np.arange(12)
    pseudo = [12 * log_ratio(everyone) - 11 * log_ratio(np.delete(everyone, left_out)) for left_out in everyone]
    half = mean_interval(pseudo).half_width
    found = correlation_gain(a.tolist(), b.tolist())
    assert half is not None
    assert (found.low, found.high) == pytest.approx([math.exp(log_ratio(everyone) + end) for end in (-half, half)])


def test_a_gain_that_hangs_on_one_pair_or_is_of_two_has_no_interval() -> None:
    assert correlation_gain([1.0, 2.0, 3.0, 4.1], [1.0, 2.0, 3.0, 4.2])[1:] == (None, None, 4, 0.95)
    assert correlation_gain([1.0, 2.0], [1.5, 2.7])[1:] == (None, None, 2, 0.95)


# Long runs


@given(st.integers(1, 60), st.integers(2, 4), st.floats(-100, 100), st.integers(0, 2**32 - 1))
def test_mser_cuts_a_planted_ramp(ramp: int, times: int, level: float, seed: int) -> None:
    steady = level + np.random.default_rng(seed).normal(scale=0.01, size=max(60, ramp * times))
    climb = level - 10.0 * np.arange(ramp, 0, -1) / ramp - 5.0
    cut = mser5([*climb, *steady])
    assert ramp <= cut <= (ramp + len(steady)) // 2


@given(st.lists(whole, max_size=120), st.integers(-8, 8))
def test_mser_cuts_whole_batches_and_half_at_most_and_minds_no_unit(series: list[float], power: int) -> None:
    cut = mser5(series)
    assert cut % 5 == 0
    assert 0 <= cut <= len(series) / 2
    assert mser5([-value * 2.0**power for value in series]) == cut


@given(st.lists(whole, min_size=10, max_size=120))
def test_mser_finds_the_least_marginal_standard_error(series: list[float]) -> None:
    means = _fives(series)
    errors = [float(np.var(means[cut:])) / (len(means) - cut) for cut in range(len(means) // 2 + 1)]
    assert errors[mser5(series) // 5] == pytest.approx(min(errors), abs=1e-9)


def _fives(series: list[float]) -> NDArray[np.float64]:
    return np.array(series[: len(series) // 5 * 5]).reshape(-1, 5).mean(axis=1)


@given(st.floats(-1e6, 1e6), st.integers(0, 100))
def test_mser_cuts_nothing_of_a_constant_series(value: float, length: int) -> None:
    assert mser5([value] * length) == 0


@given(st.lists(whole, min_size=20, max_size=200), st.integers(2, 20))
def test_batches_are_of_equal_length_and_end_with_the_series(series: list[float], batches: int) -> None:
    length = len(series) // batches
    starts = range(len(series) - batches * length, len(series), length)
    means = [float(np.mean(series[start : start + length])) for start in starts]
    assert batch_means(series, batches) == mean_interval(means)


def test_of_white_noise_batches_have_the_width_of_the_values() -> None:
    noise = np.random.default_rng(1).normal(size=100_000)
    values, batches = mean_interval(noise.tolist()).half_width, batch_means(noise, 1000).half_width
    assert batches == pytest.approx(values, rel=0.1)
    assert batch_means(noise).n == 20


# The number of replications


def test_the_number_of_replications_of_the_bank_is_the_books() -> None:
    """16 for ±0.25, 27 for 10 % (Law, examples 9.24 and 9.25, whose level is 90 %)."""
    assert replications_for(BANK, 0.25, level=0.9) == 16
    assert replications_for(BANK, 0.10, relative=True, level=0.9) == 27


@given(st.lists(whole, min_size=10, max_size=30), st.floats(1, 1000))
def test_the_number_of_replications_is_the_least_whose_interval_is_narrow_enough(
    values: list[float], half_width: float
) -> None:
    number = replications_for(values, half_width)
    assert number is not None

    def width(n: int) -> float:
        return float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n))

    assert number >= len(values)
    assert width(number) <= half_width * (1 + 1e-9)
    assert number == len(values) or width(number - 1) > half_width * (1 - 1e-9)


@given(st.lists(whole, max_size=30), st.floats(1, 1000), st.integers(-8, 8))
def test_the_number_of_replications_minds_no_unit(values: list[float], half_width: float, power: int) -> None:
    other = replications_for([-value * 2.0**power for value in values], half_width * 2.0**power)
    assert other == replications_for(values, half_width)


def test_nothing_is_decided_on_few_replications_and_no_number_makes_a_share_of_zero() -> None:
    assert FIRST_REPLICATIONS == 10
    assert replications_for([], 1.0) == replications_for([1.0] * 9, 1.0) == 10
    assert replications_for([0.0] * 12, 0.05, relative=True) == 12
    assert replications_for([1.0, -1.0] * 6, 0.05, relative=True) is None


# What cannot be said


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (lambda: mean_interval([]), "needs 1 or more finite values"),
        (lambda: mean_interval([1.0, math.nan]), "finite"),
        (lambda: mean_interval([1.0, 2.0], 1.0), "level must be between 0 and 1, not 1.0"),
        (lambda: paired([1.0], [1.0, 2.0]), "not 1 and 2"),
        (lambda: tost([1.0, 2.0], 0.0), "bound must be above 0"),
        (lambda: holm([1.5]), "from 0 to 1"),
        (lambda: mser5([1.0, math.inf]), "one row of finite values"),
        (lambda: batch_means([1.0, 2.0]), "from 2 to the number of observations, 2, not 20"),
        (lambda: replications_for([1.0], math.nan), "half_width must be above 0"),
    ],
)
def test_what_cannot_be_said_is_refused(asked: Callable[[], object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        asked()


# Coverage

type Method = Callable[[np.random.Generator], tuple[Interval, float]]
"""An interval, and what is to lie in it."""


def waits(
    rng: np.random.Generator, runs: int, customers: int, *, service: float = 1.0, empty: bool = False
) -> NDArray[np.float64]:
    """Waits at M/M/1 with 2 between customers: W' = max(W + service − gap, 0) (Lindley 1952). Shape (runs, customers).

    A run begins in equilibrium, or empty. Equal generators make equal waits but for `service`, the mean of that.
    """
    load = service / 2
    equilibrium = np.maximum(np.log(load / rng.random(runs)), 0.0) * service / (1 - load)
    steps = service * rng.exponential(size=(runs, customers)) - rng.exponential(2.0, size=(runs, customers))
    steps[:, 0] = 0.0 if empty else equilibrium
    walk = np.cumsum(steps, axis=1)
    return walk - np.minimum(np.minimum.accumulate(walk, axis=1), 0.0)


def mean_wait(service: float = 1.0) -> float:
    load = service / 2
    return service * load / (1 - load)


def from_one_run(rng: np.random.Generator) -> tuple[Interval, float]:
    return batch_means(waits(rng, 1, 20_000)[0]), mean_wait()


def from_one_run_that_began_empty(rng: np.random.Generator) -> tuple[Interval, float]:
    series = waits(rng, 1, 40_000, empty=True)[0]
    return batch_means(series[mser5(series) :]), mean_wait()


def from_replications(rng: np.random.Generator) -> tuple[Interval, float]:
    return mean_interval(waits(rng, 20, 1_000).mean(axis=1).tolist()), mean_wait()


def from_common_random_numbers(rng: np.random.Generator) -> tuple[Interval, float]:
    slow, fast = (waits(same, 20, 1_000, service=service).mean(axis=1) for same, service in ((deepcopy(rng), 1.0), (rng, 0.8)))
    return paired(slow.tolist(), fast.tolist()).interval, mean_wait(0.8) - mean_wait()


def covered(method: Method, repetitions: int) -> int:
    """How many intervals, each from its own seed, hold the truth."""
    found = (method(np.random.default_rng([7, repetition])) for repetition in range(repetitions))
    return sum(abs(interval.mean - truth) <= (interval.half_width or 0.0) for interval, truth in found)


def test_the_queue_is_lindleys() -> None:
    rng, again = np.random.default_rng(1), np.random.default_rng(1)
    again.random(3)
    steps = 0.8 * again.exponential(size=(3, 200)) - again.exponential(2.0, size=(3, 200))
    for unrolled, run in zip(waits(rng, 3, 200, service=0.8, empty=True), steps, strict=True):
        wait = 0.0
        for customer in range(200):
            wait = max(wait + run[customer], 0.0) if customer else 0.0
            assert unrolled[customer] == pytest.approx(wait)


@pytest.mark.parametrize("method", [from_one_run, from_replications])
def test_intervals_cover_the_queues_mean_as_often_as_they_say(method: Method) -> None:
    """Of 400, a number that is not among the rarest of a binomial distribution at 95 %, which come once in 1,000 times."""
    low, high = stats.binom.interval(0.999, 400, 0.95)
    assert low <= covered(method, 400) <= high


@pytest.mark.thorough
@pytest.mark.parametrize("method", [from_one_run, from_one_run_that_began_empty, from_replications, from_common_random_numbers])
def test_of_2000_intervals_93_5_to_96_5_percent_cover_the_queues_mean(method: Method) -> None:
    assert 0.935 <= covered(method, 2000) / 2000 <= 0.965
