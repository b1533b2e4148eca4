"""What users ask, and when: a population's requests in time order, handed out block by block.

Request i of a population is a pure function of (seed, population name, i): no node, no user and no other population changes its
time or its lengths (INV-8). One more user moves 1/n of the requests to that user.

Synthetic arrivals are exact: unit-exponential steps of the cumulated intensity, mapped back through the rate, which is constant
over each piece of time between two hours or two periods of the burst:

    rate(t) = scale · requests per day/24 h · weight(hour of day)/mean weight · burst(period)

with burst a gamma draw of mean 1. A `scale` on a trace divides its times, so that the network sees `scale` times the rate with
the same burstiness from request to request.
"""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lattice_core.config import Config, UserPopulation
from lattice_core.config.network import LognormalDuration, LognormalTokens, Modulated
from lattice_core.config.quantities import MAX_DURATION_NS
from lattice_core.jit import jit
from lattice_core.streams import (
    ARRIVALS,
    BURST,
    PATIENCE,
    TOKENS,
    USERS,
    bits,
    entity_key,
    exponential,
    gamma,
    jump_hash,
    normal,
    uniform,
)
from lattice_core.units import DAY_NS, HOUR_NS, NEVER_NS
from lattice_sim.trace import read_trace

type Integers = NDArray[np.int64]

_POPULATION = -1
"""Ordinal of a population as a whole beside its users 0, 1, 2 …"""

_BLOCK = 65_536
"""Arrivals computed at once."""

_LEAST_CV = 1e-6
"""A burst that varies less does not vary."""


class Requests(NamedTuple):
    """Requests in time order: int64 arrays of equal length."""

    t_ns: Integers
    user: Integers
    """Ordinal within the population."""
    model: Integers
    """Index into `tuple(config.models)`."""
    prompt_tok: Integers
    output_tok: Integers
    """Length of the answer, at most `max_tok`; only the serving node may learn it."""
    max_tok: Integers
    """Longest answer the user asks for; says nothing of the answer's own length."""
    patience_ns: Integers
    """Longest wait for the first token; NEVER_NS where the population has none."""


class Workload(ABC):
    """A population's requests; picklable between any two blocks."""

    def __init__(self, config: Config, population: UserPopulation) -> None:
        self._seed = config.seed
        self._key = entity_key(population.name, _POPULATION)
        self._index = 0
        self._users = population.count
        self._patience = population.patience
        names = tuple(config.models)
        weights = np.array(list(population.model.values()))
        self._models = np.array([names.index(name) for name in population.model])
        self._edges = np.cumsum(weights) / weights.sum()
        self._context_tok = np.array([model.context_tok for model in config.models.values()])

    def until(self, t_ns: int) -> Requests:
        """All requests since the last call that arrive before `t_ns`."""
        times_ns = self._arrive(t_ns)
        user, choice, patience_ns = (np.empty(len(times_ns), np.int64) for _ in range(3))
        _choose(self._seed, self._key, self._index, self._users, self._edges, user, choice)
        model = self._models[choice]
        prompt_tok, output_tok, max_tok = self._lengths(self._context_tok[model])
        if self._patience is None:
            patience_ns[:] = NEVER_NS
        else:
            self._draw(self._patience, PATIENCE, 1, 0, np.full_like(patience_ns, MAX_DURATION_NS), patience_ns)
        self._index += len(times_ns)
        return Requests(times_ns, user, model, prompt_tok, output_tok, max_tok, patience_ns)

    @abstractmethod
    def remaining(self) -> int:
        """Requests of a trace that have not arrived yet; 0 for a workload without an end."""

    @abstractmethod
    def _arrive(self, t_ns: int) -> Integers:
        """Times of the arrivals before `t_ns`, from request `_index` on."""

    @abstractmethod
    def _lengths(self, context_tok: Integers) -> tuple[Integers, Integers, Integers]:
        """Prompt, true and longest answer of the requests from `_index` on whose models have these contexts, tokens."""

    def _draw(
        self, law: LognormalTokens | LognormalDuration, subsystem: int, stride: int, lane: int, most: Integers, out: Integers
    ) -> None:
        """Draw from `law` for the requests from `_index` on; request i takes the stream's index stride·i + lane."""
        median = law.median if isinstance(law, LognormalTokens) else law.median_ns
        first = stride * self._index + lane
        _lognormal(self._seed, subsystem, self._key, first, stride, median, law.sigma, most, out)


class Synthetic(Workload):
    """Poisson arrivals, at a constant rate or at one that changes, with lengths drawn from the population's laws."""

    def __init__(self, config: Config, population: UserPopulation) -> None:
        super().__init__(config, population)
        tokens, rhythm = population.tokens, population.workload.modulated or population.workload.poisson
        assert rhythm is not None
        assert tokens.prompt is not None
        assert tokens.output is not None
        self._prompt, self._output, self._max_tok = tokens.prompt, tokens.output, tokens.max_tokens
        per_ns = rhythm.requests_per_day * population.workload.scale / DAY_NS
        weights = np.array(rhythm.hourly if isinstance(rhythm, Modulated) else [1.0] * 24)
        self._hourly_per_ns = per_ns * (24.0 * weights / weights.sum())
        self._midnight_ns = -int(config.sim.start_hour * HOUR_NS)
        burst = rhythm.burst if isinstance(rhythm, Modulated) else None
        self._burst_shape = 0.0 if burst is None else 1.0 / max(burst.cv, _LEAST_CV) ** 2
        self._period_ns = DAY_NS if burst is None else burst.period_ns
        self._piece_ns = 0
        self._due = exponential(self._seed, ARRIVALS, self._key, 0)

    def remaining(self) -> int:
        return 0

    def _arrive(self, t_ns: int) -> Integers:
        blocks: list[Integers] = []
        arrived = 0
        while not blocks or len(blocks[-1]) == _BLOCK:
            block = np.empty(_BLOCK, np.int64)
            count, self._piece_ns, self._due = _arrivals(
                self._seed, self._key, self._index + arrived, self._hourly_per_ns, self._midnight_ns, self._burst_shape,
                self._period_ns, self._piece_ns, self._due, t_ns, block,
            )  # fmt: skip
            blocks.append(block[:count])
            arrived += count
        return np.concatenate(blocks)

    def _lengths(self, context_tok: Integers) -> tuple[Integers, Integers, Integers]:
        prompt_tok, output_tok = np.empty_like(context_tok), np.empty_like(context_tok)
        self._draw(self._prompt, TOKENS, 2, 0, context_tok - 1, prompt_tok)
        max_tok = np.minimum(self._max_tok, context_tok - prompt_tok)
        self._draw(self._output, TOKENS, 2, 1, max_tok, output_tok)
        return prompt_tok, output_tok, max_tok


class Replay(Workload):
    """A trace, played once from t = 0 with its own lengths.

    All its requests ask for the same longest answer, cut to what the context leaves beside the prompt: the config's
    `max_tokens`, or the trace's longest answer if that is longer. A limit of their own would tell policies their length
    (INV-4). A request that does not fit its model's context at all arrives as it is, and the Nexus rejects it with that reason.
    """

    def __init__(self, config: Config, population: UserPopulation) -> None:
        """Reads the file. Raises TraceError."""
        super().__init__(config, population)
        assert population.workload.trace is not None
        self._trace = read_trace(population.workload.trace)
        self._times_ns = self._trace.t_ns
        if population.workload.scale != 1.0:  # an exact time stays exact
            self._times_ns = np.minimum(self._times_ns / population.workload.scale, 2.0**62).astype(np.int64)
        self._max_tok = max(population.tokens.max_tokens, int(self._trace.output_tok.max()))

    def remaining(self) -> int:
        return len(self._times_ns) - self._index

    def _arrive(self, t_ns: int) -> Integers:
        return self._times_ns[self._index : np.searchsorted(self._times_ns, t_ns)].copy()

    def _lengths(self, context_tok: Integers) -> tuple[Integers, Integers, Integers]:
        rows = slice(self._index, self._index + len(context_tok))
        prompt_tok, output_tok = self._trace.prompt_tok[rows].copy(), self._trace.output_tok[rows].copy()
        max_tok = np.maximum(np.minimum(self._max_tok, context_tok - prompt_tok), output_tok)
        return prompt_tok, output_tok, max_tok


def workload(config: Config, population: UserPopulation) -> Workload:
    """The requests of `population`, one of `config.users`. Raises TraceError for a bad trace."""
    return (Synthetic if population.workload.trace is None else Replay)(config, population)


@jit
def _arrivals(
    seed: int,
    key: int,
    first: int,
    hourly_per_ns: NDArray[np.float64],
    midnight_ns: int,
    burst_shape: float,
    period_ns: int,
    piece_ns: int,
    due: float,
    until_ns: int,
    out: Integers,
) -> tuple[int, int, float]:
    """Write times before `until_ns` of requests `first`, `first` + 1 … to `out`, until it is full.

    The next request is `due` after so much intensity from `piece_ns` on, where a piece begins. Returns how many were written,
    and `piece_ns` and `due` as they now are: where the caller stops makes no difference to what comes next.
    """
    count = 0
    while piece_ns < until_ns:
        hour = (piece_ns - midnight_ns) // HOUR_NS
        period = piece_ns // period_ns
        length_ns = min((hour + 1) * HOUR_NS + midnight_ns, (period + 1) * period_ns) - piece_ns
        per_ns = hourly_per_ns[hour % 24]
        if burst_shape > 0.0:
            per_ns *= gamma(burst_shape, seed, BURST, key, period) / burst_shape
        while due < per_ns * length_ns:
            t_ns = piece_ns + int(due / per_ns)
            if t_ns >= until_ns or count == len(out):
                return count, piece_ns, due
            out[count] = t_ns
            count += 1
            due += exponential(seed, ARRIVALS, key, first + count)
        due -= per_ns * length_ns
        piece_ns += length_ns
    return count, piece_ns, due


@jit
def _choose(seed: int, key: int, first: int, users: int, edges: NDArray[np.float64], user: Integers, choice: Integers) -> None:
    """Write the user of each request from `first` on, and which of the shares between `edges` its model has."""
    for i in range(len(user)):
        index = 2 * (first + i)
        user[i] = jump_hash(bits(seed, USERS, key, index), users)
        at = uniform(seed, USERS, key, index + 1)
        choice[i] = 0
        while choice[i] < len(edges) - 1 and at >= edges[choice[i]]:
            choice[i] += 1


@jit
def _lognormal(
    seed: int,
    subsystem: int,
    key: int,
    first: int,
    stride: int,
    median: int,
    sigma: float,
    most: Integers,
    out: Integers,
) -> None:
    """Write lognormal draws, rounded, at least 1 and at most `most`; without a sigma the median itself."""
    for i in range(len(out)):
        out[i] = min(median, most[i])
        if sigma > 0.0:
            draw = median * math.exp(sigma * normal(seed, subsystem, key, first + stride * i)) + 0.5
            out[i] = most[i] if draw >= most[i] else max(1, int(draw))
