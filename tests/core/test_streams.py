"""Counter-based streams: the right distributions, no dependence between streams, and compiled equals Python."""

import runpy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lattice_core import streams
from lattice_core.streams import ARRIVALS, TOKENS, entity_key

DRAWS = 20_000
ONE_IN_A_MILLION = 1e-6

with pytest.MonkeyPatch.context() as patch:
    patch.setattr("lattice_core.jit.jit", lambda function: function)
    PYTHON = runpy.run_path(streams.__file__)

seeds = st.integers(0, 2**32)
keys = st.integers(0, 2**63 - 1)
indices = st.integers(0, 2**62)
shapes = st.floats(0.05, 200.0)
quantiles = st.floats(0.0, 1.0, exclude_min=True, exclude_max=True)


def draws(stream: Callable[..., float], *shape: float, seed: int = 1, key: int = 7, start: int = 0) -> np.ndarray:
    return np.array([stream(*shape, seed, ARRIVALS, key, start + i) for i in range(DRAWS)])


@pytest.mark.parametrize(
    ("stream", "shape", "distribution"),
    [
        (streams.uniform, (), stats.uniform()),
        (streams.exponential, (), stats.expon()),
        (streams.normal, (), stats.norm()),
        (streams.gamma, (0.3,), stats.gamma(0.3)),
        (streams.gamma, (1.0,), stats.gamma(1.0)),
        (streams.gamma, (40.0,), stats.gamma(40.0)),
        (streams.beta, (2.0, 8.0), stats.beta(2.0, 8.0)),
        (streams.beta, (0.5, 0.5), stats.beta(0.5, 0.5)),
    ],
)
def test_a_stream_has_its_distribution(stream: Callable[..., float], shape: tuple[float, ...], distribution: Any):
    assert stats.kstest(draws(stream, *shape), distribution.cdf).pvalue > ONE_IN_A_MILLION


def test_consecutive_draws_are_uncorrelated():
    x = draws(streams.uniform)
    for lag in (1, 2, 16):
        assert stats.pearsonr(x[:-lag], x[lag:]).pvalue > ONE_IN_A_MILLION


def test_neighbouring_seeds_keys_and_subsystems_are_independent_streams():
    """INV-8: no entity's draws follow from another's."""
    x = draws(streams.uniform)
    others = {
        "seed": draws(streams.uniform, seed=2),
        "key": draws(streams.uniform, key=8),
        "subsystem": np.array([streams.uniform(1, TOKENS, 7, i) for i in range(DRAWS)]),
        "window": draws(streams.uniform, start=DRAWS),
    }
    for what, y in others.items():
        cells, _, _ = np.histogram2d(x, y, bins=16, range=[[0, 1], [0, 1]])
        assert stats.chisquare(cells.ravel()).pvalue > ONE_IN_A_MILLION, what


@given(seed=seeds, mine=keys, other=keys, index=indices)
def test_another_entity_draws_something_else_and_leaves_mine_as_it_was(seed: int, mine: int, other: int, index: int):
    """INV-8: a draw depends on its own key and index, and on nothing drawn before."""
    before = streams.bits(seed, ARRIVALS, mine, index)
    elsewhere = streams.bits(seed, ARRIVALS, other, index)
    assert streams.bits(seed, ARRIVALS, mine, index) == before
    assert (elsewhere == before) == (mine == other)


@given(seed=seeds, key=keys, index=indices)
def test_a_uniform_draw_is_strictly_between_zero_and_one(seed: int, key: int, index: int):
    assert 0.0 < streams.uniform(seed, ARRIVALS, key, index) < 1.0


def test_an_entity_key_survives_reordering_and_never_collides_in_a_large_network():
    network = {(name, n): entity_key(name, n) for name in ("household", "household1", "datacentre") for n in range(20_000)}
    assert len(set(network.values())) == len(network)
    assert all(0 <= key < 2**63 for key in network.values())
    assert entity_key("household", 11) != entity_key("household1", 1)


@given(word=st.integers(0, 2**64 - 1), buckets=st.integers(1, 10_000))
def test_one_more_bucket_keeps_a_word_or_moves_it_to_the_new_bucket(word: int, buckets: int):
    before, after = (streams.jump_hash(np.uint64(word), n) for n in (buckets, buckets + 1))
    assert 0 <= before < buckets
    assert after in (before, buckets)


@pytest.mark.parametrize("buckets", [1, 9, 99])
def test_one_more_bucket_moves_its_fair_share_of_words(buckets: int):
    words = [np.uint64(streams.bits(1, ARRIVALS, 7, i)) for i in range(DRAWS)]
    moved = sum(streams.jump_hash(word, buckets) != streams.jump_hash(word, buckets + 1) for word in words)
    assert stats.binomtest(moved, DRAWS, 1 / (buckets + 1)).pvalue > ONE_IN_A_MILLION


@given(p=quantiles)
def test_the_normal_quantile_agrees_with_scipy(p: float):
    assert streams.normal_quantile(p) == pytest.approx(stats.norm.ppf(p), rel=1e-13, abs=1e-15)


@given(seed=seeds, key=keys, index=indices, a=shapes, b=shapes, p=quantiles, buckets=st.integers(1, 10_000))
def test_each_compiled_function_equals_plain_python_to_the_bit(
    seed: int, key: int, index: int, a: float, b: float, p: float, buckets: int
):
    calls: dict[str, tuple[Any, ...]] = {
        "mix": (key, index),
        "bits": (seed, ARRIVALS, key, index),
        "uniform": (seed, ARRIVALS, key, index),
        "exponential": (seed, ARRIVALS, key, index),
        "normal_quantile": (p,),
        "normal": (seed, ARRIVALS, key, index),
        "gamma": (a, seed, ARRIVALS, key, index),
        "beta": (a, b, seed, ARRIVALS, key, index >> 1),
        "jump_hash": (key, buckets),
    }
    with np.errstate(over="ignore"):  # uint64 arithmetic wraps by design
        for name, arguments in calls.items():
            assert getattr(streams, name)(*arguments) == PYTHON[name](*arguments), name
