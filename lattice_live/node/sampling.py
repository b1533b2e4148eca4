"""Drawing a token from a model's logits, so that anybody who has the logits can draw it again.

The order: logit bias; repetition penalty, over prompt and answer so far; here the log-probabilities are taken; temperature; the
`top_k` likeliest tokens; of these the fewest that have `top_p` of the probability; of these all that are at least `min_p` times
as likely as the likeliest; the draw. Among tokens of equal logits, the one of lower id comes first.
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lattice_core.jit import jit
from lattice_core.streams import TOKENS, uniform

MAX_TOP_LOGPROBS = 20
MAX_BIAS = 1_000.0

BELOW_ONE = 1.0 - 2.0**-53
"""The largest number below 1, and so the largest u that makes a finite noise."""

MAX_NOISE = 37.0
"""No noise is as large: −log(−log(BELOW_ONE)) < 36.8."""

_CERTAIN = 1.0 - np.exp(-np.arange(-1.0, MAX_NOISE))
"""1 − e^−(d − 1) by whole d: with a u up to this, the noise is at most d − 1."""


class Sampling(NamedTuple):
    """How the tokens of an answer are drawn."""

    temperature: float = 1.0
    """0 takes the likeliest."""
    top_k: int = 0
    """0 takes all."""
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    """Divides a positive logit of a token that was there already, multiplies a negative one."""
    seed: int = 0
    logit_bias: Mapping[int, float] = MappingProxyType({})
    top_logprobs: int | None = None
    """Report the log-probability of the token, and of so many likeliest ones; None reports none."""

    def check(self, vocabulary: int) -> None:
        """Raise ValueError, naming what is allowed, if a parameter is out of range."""
        ranges = {
            "temperature": (0.0 <= self.temperature < math.inf, "a finite number from 0"),
            "top_k": (0 <= self.top_k < 2**31, f"from 0 to {2**31 - 1}"),
            "top_p": (0.0 < self.top_p <= 1.0, "above 0, up to 1"),
            "min_p": (0.0 <= self.min_p <= 1.0, "from 0 to 1"),
            "repetition_penalty": (0.01 <= self.repetition_penalty <= 10.0, "a number from 0.01 to 10"),
            "seed": (0 <= self.seed < 2**63, f"from 0 to {2**63 - 1}"),
            "top_logprobs": (0 <= (self.top_logprobs or 0) <= MAX_TOP_LOGPROBS, f"none, or from 0 to {MAX_TOP_LOGPROBS}"),
        }
        for name, (allowed, what) in ranges.items():
            if not allowed:
                raise ValueError(f"{name}: must be {what}, not {getattr(self, name)!r}")
        for token, bias in self.logit_bias.items():
            if not (0 <= token < vocabulary and -MAX_BIAS <= bias <= MAX_BIAS):
                raise ValueError(
                    f"logit_bias: must be finite numbers by token id from 0 to {vocabulary - 1}, not {token}: {bias}"
                )


class Drawn(NamedTuple):
    """A token, and what was asked of its probability."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Draws the tokens of one answer."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int], vocabulary: int) -> None:
        self._sampling = sampling
        self._biased = np.fromiter(sampling.logit_bias.keys(), np.int64, len(sampling.logit_bias))
        self._bias = np.fromiter(sampling.logit_bias.values(), np.float32, len(sampling.logit_bias))
        self._seen = np.zeros(vocabulary if sampling.repetition_penalty != 1.0 else 0, np.bool_)
        self._all = np.arange(vocabulary) if sampling.temperature > 0.0 else np.arange(0)
        if self._seen.size:
            self._seen[np.asarray(prompt, np.int64)] = True

    def draw(self, logits: NDArray[np.float32], position: int) -> Drawn:
        """The token of absolute position `position`, from float32[vocabulary], which is overwritten."""
        asked = self._sampling
        if self._biased.size:
            logits[self._biased] += self._bias
        if self._seen.size:
            before = logits[self._seen]
            penalty = np.float32(asked.repetition_penalty)
            logits[self._seen] = np.where(before > 0.0, before / penalty, before * penalty)
        if asked.temperature == 0.0:
            token = int(logits.argmax())
        else:
            values, ids = logits, self._all
            if asked.top_k or asked.top_p < 1.0 or asked.min_p > 0.0:
                ids = likeliest(logits, *_kept(logits, asked))
                values = logits[ids]
            token = int(gumbel_max(values, ids, int(values.argmax()), asked.temperature, asked.seed, position, _CERTAIN))
        if self._seen.size:
            self._seen[token] = True
        if asked.top_logprobs is None:
            return Drawn(token)
        top = likeliest(logits, *_cut(np.sort(logits)[::-1], asked.top_logprobs)) if asked.top_logprobs else self._all[:0]
        peak = logits.max()
        total = float(peak) + math.log(np.exp((logits - peak).astype(np.float64)).sum())
        ranked = sorted(((int(i), float(logits[i]) - total) for i in top), key=lambda entry: (-entry[1], entry[0]))
        return Drawn(token, float(logits[token]) - total, tuple(ranked))


def _kept(logits: NDArray[np.float32], asked: Sampling) -> tuple[np.float32, int]:
    """The least logit that the filters leave, and how many tokens of just this logit they leave.

    Each of the three filters keeps a beginning of the tokens in falling order of their logits, and so do they together.
    """
    size = logits.shape[0]
    if 0 < asked.top_k < size:
        ranked = np.sort(np.partition(logits, size - asked.top_k)[size - asked.top_k :])[::-1]
    else:
        ranked = np.sort(logits)[::-1]
    weight = np.exp((ranked.astype(np.float64) - float(ranked[0])) / asked.temperature)
    count = weight.shape[0]
    if asked.top_p < 1.0:
        running = np.cumsum(weight)
        count = min(count, int(np.searchsorted(running, asked.top_p * running[-1])) + 1)
    if asked.min_p > 0.0:
        count = min(count, int(np.count_nonzero(weight >= asked.min_p)))
    return _cut(ranked, count)


def _cut(ranked: NDArray[np.float32], count: int) -> tuple[np.float32, int]:
    """Of logits in falling order: that of the `count`-th, and how many of the first `count` have just that."""
    least = ranked[min(count, ranked.shape[0]) - 1]
    return least, min(count, ranked.shape[0]) - int(np.count_nonzero(ranked[:count] > least))


def likeliest(logits: NDArray[np.float32], least: np.float32, equal: int) -> NDArray[np.int64]:
    """Ids of all tokens above `least` and of the first `equal` ones at it, rising."""
    kept = logits >= least
    kept[np.flatnonzero(logits == least)[equal:]] = False
    return np.flatnonzero(kept)


@jit
def gumbel_max(
    logits: NDArray[np.float32],
    ids: NDArray[np.int64],
    first: int,
    temperature: float,
    seed: int,
    position: int,
    certain: NDArray[np.float64],
) -> int:
    """The id of largest logit / temperature + g, with g = −log(−log u) and u = uniform(seed, TOKENS, position, id) < 1.

    This is a draw from softmax(logits / temperature): the Gumbel-max trick. Noise is keyed by id, so that leaving out tokens
    does not change that of others. Ids rise; `first` is where to begin, best at the largest logit; `certain` is _CERTAIN.

    Two logarithms are taken for few tokens only. Let a token be d behind the best score so far without its noise: it needs
    g > d. That is impossible if d > MAX_NOISE. And from −log u ≥ 1 − u follows g ≤ −log(1 − u), so that it is impossible, too,
    if u ≤ 1 − e^−k with k ≤ d. With k = ⌊d⌋ − 1 there is room for a rounding error of 1, where all of them are below 0.3. So
    the answer is that of all scores compared; about e² times a token or two are.
    """
    best = first
    best_score = logits[first] / temperature + _noise(uniform(seed, TOKENS, position, ids[first]))
    for i in range(logits.shape[0]):
        score = logits[i] / temperature
        behind = best_score - score
        if not behind <= MAX_NOISE:  # nor if it is no number
            continue
        u = uniform(seed, TOKENS, position, ids[i])
        if behind >= 1.0 and u <= certain[int(behind)]:
            continue
        score += _noise(u)
        if score > best_score or (score == best_score and i < best):
            best = i
            best_score = score
    return ids[best]


@jit
def _noise(u: float) -> float:
    return -math.log(-math.log(min(u, BELOW_ONE)))
