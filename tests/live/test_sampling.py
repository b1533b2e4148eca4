"""A draw is what its definition says, however few logarithms it takes."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from lattice_core.streams import TOKENS, uniform
from lattice_live.node.sampling import BELOW_ONE, MAX_NOISE, Drawn, Sampler, Sampling

levels = st.one_of(
    st.floats(-40.0, 40.0, width=32),
    st.sampled_from([-math.inf, 0.0, 1.0, 2.0]),  # equal logits, and tokens that can never be drawn
)
rows = st.integers(1, 40).flatmap(lambda n: arrays(np.float32, n, elements=levels)).filter(lambda row: np.isfinite(row).any())
seeds = st.integers(0, 2**63 - 1)
positions = st.integers(0, 2**20)
warm = st.sampled_from([0.05, 0.7, 1.0, 3.0])


def draw(logits: NDArray[np.float32], sampling: Sampling, position: int = 0, prompt: tuple[int, ...] = ()) -> Drawn:
    return Sampler(sampling, prompt, logits.shape[0]).draw(logits.copy(), position)


def noise(seed: int, position: int, token: int) -> float:
    return -math.log(-math.log(min(uniform(seed, TOKENS, position, token), BELOW_ONE)))


def left(logits: NDArray[np.float32], sampling: Sampling) -> list[int]:
    """The tokens that the filters leave, by their definitions."""
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    order = order[: sampling.top_k or len(order)]
    weights = [float(np.exp((float(logits[i]) - float(logits[order[0]])) / sampling.temperature)) for i in order]
    total = float(np.cumsum(weights)[-1])
    kept, so_far = 0, 0.0
    while kept < len(order) and (kept == 0 or so_far < sampling.top_p * total) and sampling.top_p < 1.0:
        so_far += weights[kept]
        kept += 1
    if sampling.top_p == 1.0:
        kept = len(order)
    return sorted(i for i, weight in list(zip(order, weights, strict=True))[:kept] if weight >= sampling.min_p)


def plain(logits: NDArray[np.float32], sampling: Sampling, position: int) -> int:
    """The draw by its definition: all scores compared."""
    scores = {i: float(logits[i]) / sampling.temperature + noise(sampling.seed, position, i) for i in left(logits, sampling)}
    return max(scores, key=lambda i: (scores[i], -i))


@given(logits=rows, temperature=warm, seed=seeds, position=positions)
def test_the_draw_is_that_of_all_scores_compared(
    logits: NDArray[np.float32], temperature: float, seed: int, position: int
) -> None:
    sampling = Sampling(temperature, seed=seed)
    assert draw(logits, sampling, position).token == plain(logits, sampling, position)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0, 50.0])
def test_the_draw_is_that_of_all_scores_compared_over_a_large_vocabulary(temperature: float) -> None:
    logits = (np.random.default_rng(1).standard_normal(5_000) * 4.0).astype(np.float32)
    for seed in range(8):
        sampling = Sampling(temperature, seed=seed)
        assert draw(logits, sampling, 7).token == plain(logits, sampling, 7)


@given(
    logits=rows,
    temperature=warm,
    top_k=st.integers(0, 45),
    top_p=st.sampled_from([1e-9, 0.1, 0.5, 0.9, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    seed=seeds,
    position=positions,
)
@example(np.zeros(5, np.float32), 1.0, 2, 1.0, 0.0, 3, 0)
@example(np.zeros(4, np.float32), 1.0, 0, 0.5, 1.0, 3, 0)
def test_filters_leave_what_their_definitions_leave(
    logits: NDArray[np.float32], temperature: float, top_k: int, top_p: float, min_p: float, seed: int, position: int
) -> None:
    sampling = Sampling(temperature, top_k, top_p, min_p, seed=seed)
    assert draw(logits, sampling, position).token == plain(logits, sampling, position)


def test_drawn_tokens_have_the_frequencies_of_the_softmax() -> None:
    logits = np.log(np.array([0.5, 0.25, 0.15, 0.1], np.float32))
    drawn = [draw(logits, Sampling(seed=11), position).token for position in range(4_000)]
    np.testing.assert_allclose(np.bincount(drawn) / len(drawn), np.exp(logits), atol=0.025)


@given(logits=rows)
def test_temperature_0_takes_the_likeliest_and_of_equals_the_first(logits: NDArray[np.float32]) -> None:
    assert draw(logits, Sampling(0.0)).token == int(np.flatnonzero(logits == logits.max())[0])


@given(logits=rows, seed=seeds, n=st.integers(0, 20), temperature=st.sampled_from([0.0, 2.0]))
def test_log_probabilities_are_those_at_temperature_1_before_the_filters(
    logits: NDArray[np.float32], seed: int, n: int, temperature: float
) -> None:
    drawn = draw(logits, Sampling(temperature, top_k=1, seed=seed, top_logprobs=n))
    exact = logits.astype(np.float64)
    exact -= exact.max() + np.log(np.exp(exact - exact.max()).sum())
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))[:n]
    assert drawn.logprob == pytest.approx(exact[drawn.token], abs=1e-4)
    assert [token for token, _ in drawn.top] == order
    assert [logprob for _, logprob in drawn.top] == pytest.approx(list(exact[order]), abs=1e-4)


@given(logits=rows, seed=seeds)
def test_asking_for_log_probabilities_changes_no_draw(logits: NDArray[np.float32], seed: int) -> None:
    assert draw(logits, Sampling(seed=seed, top_logprobs=3)).token == draw(logits, Sampling(seed=seed)).token


def test_repeated_tokens_are_penalised_in_prompt_and_answer() -> None:
    logits = np.array([4.0, 3.0, 2.5, -1.0], np.float32)
    sampler = Sampler(Sampling(0.0, repetition_penalty=2.0), [0, 3], 4)
    assert [sampler.draw(logits.copy(), position).token for position in range(3)] == [1, 2, 0]
    negative = Sampler(Sampling(0.0, repetition_penalty=2.0), [0], 2)
    assert negative.draw(np.array([-1.0, -1.5], np.float32), 0).token == 1


def test_bias_comes_before_the_penalty() -> None:
    logits = np.array([1.0, 1.4], np.float32)
    assert draw(logits, Sampling(0.0, logit_bias={0: 1.0})).token == 0
    assert draw(logits, Sampling(0.0, repetition_penalty=2.0, logit_bias={0: 1.0}), prompt=(0,)).token == 1


def test_no_noise_reaches_the_bound() -> None:
    assert 36.0 < -math.log(-math.log(BELOW_ONE)) < MAX_NOISE - 0.2


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": math.nan},
        {"min_p": 1.5},
        {"repetition_penalty": 0.0},
        {"seed": -1},
        {"seed": 2**63},
        {"logit_bias": {9: 1.0}},
        {"logit_bias": {0: math.nan}},
        {"top_logprobs": 21},
    ],
)
def test_a_parameter_out_of_range_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"\A{next(iter(wrong))}: must be "):
        Sampling(**wrong).check(9)
