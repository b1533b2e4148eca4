"""What users ask, and when: a population's requests in time order, handed out block by block.

Request i of a population is a pure function of (seed, population name, i): no node, no user and no other population changes its
time or its lengths (INV-8). One more user moves 1/n of the requests to that user.

Synthetic arrivals are exact: unit-exponential steps of the cumulated intensity, mapped back through the rate, which is constant
over each piece of time between two hours or two periods of a burst:

    rate(t) = scale/stretch · requests per day/24 h · weight(hour of day)/mean weight · Π burst(⌊t/(stretch · period)⌋)

with a factor of mean 1 for each burst: a gamma draw, or 0 where it is silent. What scaling keeps of burstiness, with IDC(w) the
index of dispersion of counts over w:

    volume    scale keeps the relative variance of the rate:    (IDC(w) − 1)/mean count in w    stays
    time      stretch keeps the arrivals, at t·stretch:         IDC(w · stretch)                stays

A trace is what happened and has one volume: its `scale` plays it that much faster, as a `stretch` of 1/scale does.

Turns of a session: request i belongs to session ⌊(i + spread · uniform(i))/turns⌋, which has one user, model and prefix.
"""

import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lattice_core.config import Config, UserPopulation
from lattice_core.config.network import Modulated, TokenLaw
from lattice_core.config.quantities import MAX_DURATION_NS
from lattice_core.jit import jit
from lattice_core.streams import (
    ARRIVALS,
    BURST,
    PATIENCE,
    SESSIONS,
    SILENCE,
    TOKENS,
    USERS,
    bits,
    entity_key,
    exponential,
    gamma,
    jump_hash,
    normal_quantile,
    uniform,
)
from lattice_core.units import DAY_NS, HOUR_NS, NEVER_NS
from lattice_sim.trace import read_trace

type Integers = NDArray[np.int64]
type Floats = NDArray[np.float64]

_POPULATION = -1
"""Ordinal of a population as a whole beside its users 0, 1, 2 …"""

_BLOCK = 8_192
"""Requests that `until` computes at once."""

_LEAST_CV2 = 1e-12
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
    session: Integers
    """What the request is a turn of; 0 for none."""
    prefix: Integers
    """What its prompt begins with; 0 where nothing is known of it."""


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

    def block(self, t_ns: int, most: int) -> Requests:
        """The next requests that arrive before `t_ns`, at most `most`; none when there is no other before it.

        Where the caller cuts makes no difference to any request.
        """
        times_ns = self._arrive(t_ns, most)
        count = len(times_ns)
        who, session, prefix = self._belong(count)
        user, model, patience_ns = (np.empty(count, np.int64) for _ in range(3))
        fill_users(self._seed, self._key, who, self._users, self._edges, self._models, user, model)
        prompt_tok, output_tok, max_tok = self._lengths(self._context_tok[model])
        if self._patience is None:
            patience_ns[:] = NEVER_NS
        else:
            most_ns = np.full(count, MAX_DURATION_NS)
            median_ns, sigma = self._patience.median_ns, self._patience.sigma
            fill_lognormal(self._seed, PATIENCE, self._key, self._index, 1, median_ns, sigma, most_ns, patience_ns)
        self._index += count
        return Requests(times_ns, user, model, prompt_tok, output_tok, max_tok, patience_ns, session, prefix)

    def until(self, t_ns: int) -> Requests:
        """All requests since the last call that arrive before `t_ns`."""
        blocks = [self.block(t_ns, _BLOCK)]
        while len(blocks[-1].t_ns) == _BLOCK:
            blocks.append(self.block(t_ns, _BLOCK))
        return Requests(*map(np.concatenate, zip(*blocks, strict=True)))

    def position(self) -> tuple[Any, ...]:
        """How far it has come, for `go_to`: plain numbers."""
        return (self._index,)

    def go_to(self, position: tuple[Any, ...], t_ns: int) -> None:
        """Go on at a position that was reached at `t_ns`, when all arrivals before it had been asked for."""
        (self._index,) = position

    @abstractmethod
    def remaining(self) -> int:
        """Requests of a trace that have not arrived yet; 0 for a workload without an end."""

    @abstractmethod
    def _arrive(self, t_ns: int, most: int) -> Integers:
        """Times of the arrivals before `t_ns`, from request `_index` on, at most `most`."""

    @abstractmethod
    def _belong(self, count: int) -> tuple[Integers, Integers, Integers]:
        """Of the `count` requests from `_index` on: whose draw of a user each shares, its session and its prefix."""

    @abstractmethod
    def _lengths(self, context_tok: Integers) -> tuple[Integers, Integers, Integers]:
        """Prompt, true and longest answer of the requests from `_index` on whose models have these contexts, tokens."""


class Synthetic(Workload):
    """Poisson arrivals, at a constant rate or at one that changes, with lengths drawn from the population's laws."""

    def __init__(self, config: Config, population: UserPopulation) -> None:
        super().__init__(config, population)
        rhythm, scale, stretch = population.workload.rhythm, population.workload.scale, population.workload.stretch
        assert rhythm is not None
        assert population.prompt is not None
        assert population.output is not None
        self._prompt, self._output = _law(population.prompt), _law(population.output)
        self._max_tok = population.tokens.max_tokens
        self._sessions = population.sessions
        per_ns = rhythm.requests_per_day * scale / stretch / DAY_NS
        weights = np.array(rhythm.hourly if isinstance(rhythm, Modulated) else [1.0] * 24)
        self._hourly_per_ns = per_ns * (24.0 * weights / weights.sum())
        self._midnight_ns = -int(config.sim.start_hour * HOUR_NS)
        bursts = rhythm.bursts if isinstance(rhythm, Modulated) else []
        self._silent = np.array([burst.silent for burst in bursts])
        self._shapes = np.array([1.0 / max(burst.loud_cv2, _LEAST_CV2) for burst in bursts])
        self._periods_ns = np.array([max(1, round(burst.period_ns * stretch)) for burst in bursts], np.int64)
        self._piece_ns = 0
        self._due = exponential(self._seed, ARRIVALS, self._key, 0)

    def position(self) -> tuple[Any, ...]:
        return self._index, self._seed, self._piece_ns, self._due

    def go_to(self, position: tuple[Any, ...], t_ns: int) -> None:
        """With another seed the next arrival is drawn anew: as the law has no memory, from `t_ns` on."""
        self._index, seed, self._piece_ns, self._due = position
        if seed != self._seed:
            self._piece_ns, self._due = t_ns, exponential(self._seed, ARRIVALS, self._key, self._index)

    def remaining(self) -> int:
        return 0

    def _arrive(self, t_ns: int, most: int) -> Integers:
        times_ns = np.empty(most, np.int64)
        count, self._piece_ns, self._due = fill_arrivals(
            self._seed, self._key, self._index, self._hourly_per_ns, self._midnight_ns, self._silent, self._shapes,
            self._periods_ns, self._piece_ns, self._due, t_ns, times_ns,
        )  # fmt: skip
        return times_ns[:count]

    def _belong(self, count: int) -> tuple[Integers, Integers, Integers]:
        who, session = np.arange(self._index, self._index + count), np.zeros(count, np.int64)
        if self._sessions is not None:
            fill_turns(self._seed, self._key, self._sessions.turns, self._sessions.spread, who, session)
        return who, session, session

    def _lengths(self, context_tok: Integers) -> tuple[Integers, Integers, Integers]:
        prompt_tok = self._draw(self._prompt, 0, context_tok - 1)
        max_tok = np.minimum(self._max_tok, context_tok - prompt_tok)
        return prompt_tok, self._draw(self._output, 1, max_tok), max_tok

    def _draw(self, law: "_Law", lane: int, most: Integers) -> Integers:
        """Draw a length, at most `most`, for the requests from `_index` on; request i takes the index 2·i + lane."""
        tok = np.empty_like(most)
        first = 2 * self._index + lane
        if law.median:
            fill_lognormal(self._seed, TOKENS, self._key, first, 2, law.median, law.sigma, most, tok)
        else:
            fill_quantiles(self._seed, TOKENS, self._key, first, 2, law.share, law.log_tok, most, tok)
        return tok


class Replay(Workload):
    """A trace, played once from t = 0 with its own lengths, sessions and prefixes.

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
        self._session = np.zeros_like(self._times_ns)
        fill_sessions(self._seed, self._key, self._trace.session, self._session)
        faster = population.workload.scale / population.workload.stretch
        if faster != 1.0:  # an exact time stays exact
            self._times_ns = np.minimum(self._times_ns / faster, 2.0**62).astype(np.int64)
        self._max_tok = max(population.tokens.max_tokens, int(self._trace.output_tok.max()))

    def remaining(self) -> int:
        return len(self._times_ns) - self._index

    def _arrive(self, t_ns: int, most: int) -> Integers:
        end = min(self._index + most, int(np.searchsorted(self._times_ns, t_ns)))
        return self._times_ns[self._index : end].copy()

    def _belong(self, count: int) -> tuple[Integers, Integers, Integers]:
        rows = slice(self._index, self._index + count)
        session, prefix = self._session[rows], self._trace.prefix[rows]
        return np.where(session, session, np.arange(rows.start, rows.stop)), session.copy(), prefix.copy()

    def _lengths(self, context_tok: Integers) -> tuple[Integers, Integers, Integers]:
        rows = slice(self._index, self._index + len(context_tok))
        prompt_tok, output_tok = self._trace.prompt_tok[rows].copy(), self._trace.output_tok[rows].copy()
        max_tok = np.maximum(np.minimum(self._max_tok, context_tok - prompt_tok), output_tok)
        return prompt_tok, output_tok, max_tok


def workload(config: Config, population: UserPopulation) -> Workload:
    """The requests of `population`, one of `config.users`. Raises TraceError for a bad trace."""
    return (Synthetic if population.workload.trace is None else Replay)(config, population)


class _Law(NamedTuple):
    """A law of lengths: lognormal, or without a median by points of its distribution function."""

    median: int
    sigma: float
    share: Floats
    log_tok: Floats


def _law(law: TokenLaw) -> _Law:
    points = law.quantiles
    share, tok = ([], []) if points is None else (points.share, points.tok)
    return _Law(law.median or 0, law.sigma, np.array(share), np.array([math.log(x) for x in tok]))


@jit
def fill_arrivals(
    seed: int,
    key: int,
    first: int,
    hourly_per_ns: Floats,
    midnight_ns: int,
    silent: Floats,
    shapes: Floats,
    periods_ns: Integers,
    piece_ns: int,
    due: float,
    until_ns: int,
    out: Integers,
) -> tuple[int, int, float]:
    """Write times before `until_ns` of requests `first`, `first` + 1 … to `out`, until it is full.

    The next request is `due` after so much intensity from `piece_ns` on, where a piece begins. Returns how many were written,
    and `piece_ns` and `due` as they now are: where the caller stops makes no difference to what comes next.
    """
    count, bursts = 0, len(shapes)
    factor, end_ns = np.ones(bursts), np.full(bursts, piece_ns)
    while piece_ns < until_ns:
        hour = (piece_ns - midnight_ns) // HOUR_NS
        next_ns = (hour + 1) * HOUR_NS + midnight_ns
        per_ns = hourly_per_ns[hour % 24]
        for burst in range(bursts):
            if end_ns[burst] <= piece_ns:
                period = piece_ns // periods_ns[burst]
                end_ns[burst] = (period + 1) * periods_ns[burst]
                factor[burst] = _factor(silent[burst], shapes[burst], seed, key, period * bursts + burst)
            per_ns *= factor[burst]
            next_ns = min(next_ns, end_ns[burst])
        intensity = per_ns * (next_ns - piece_ns)
        while due < intensity:
            t_ns = piece_ns + int(due / per_ns)
            if t_ns >= until_ns or count == len(out):
                return count, piece_ns, due
            out[count] = t_ns
            count += 1
            due += exponential(seed, ARRIVALS, key, first + count)
        due -= intensity
        piece_ns = next_ns
    return count, piece_ns, due


@jit
def _factor(silent: float, shape: float, seed: int, key: int, index: int) -> float:
    """A draw of mean 1: 0 with probability `silent`, else a gamma of that shape."""
    if silent > 0.0 and uniform(seed, SILENCE, key, index) < silent:
        return 0.0
    return gamma(shape, seed, BURST, key, index) / (shape * (1.0 - silent))


@jit
def fill_turns(seed: int, key: int, turns: float, spread: float, who: Integers, session: Integers) -> None:
    """Write the ordinal of each request's session over the request's own in `who`, and the id of the session."""
    for i in range(len(who)):
        who[i] = int((who[i] + spread * uniform(seed, SESSIONS, key, 2 * who[i])) / turns)
    fill_sessions(seed, key, who + 1, session)


@jit
def fill_sessions(seed: int, key: int, ordinal: Integers, session: Integers) -> None:
    """Write an id, above 0, for each session of a population by its ordinal from 1 on; the 0 stays."""
    for i in range(len(ordinal)):
        if ordinal[i] != 0:
            session[i] = np.int64(bits(seed, SESSIONS, key, 2 * ordinal[i] + 1) >> np.uint64(1)) | 1


@jit
def fill_users(
    seed: int, key: int, who: Integers, users: int, edges: Floats, models: Integers, user: Integers, model: Integers
) -> None:
    """Write the user of each request, and its model: one of `models`, whose shares lie between `edges`."""
    for i in range(len(who)):
        user[i] = jump_hash(bits(seed, USERS, key, 2 * who[i]), users)
    last = len(edges) - 1
    if last == 0:
        model[:] = models[0]
        return
    for i in range(len(who)):
        at = uniform(seed, USERS, key, 2 * who[i] + 1)
        choice = 0
        while choice < last and at >= edges[choice]:
            choice += 1
        model[i] = models[choice]


@jit
def fill_quantiles(
    seed: int, subsystem: int, key: int, first: int, stride: int, share: Floats, log_tok: Floats, most: Integers, out: Integers
) -> None:
    """Write draws, rounded, whose logarithm is linear between points of the distribution function; 1 to `most`."""
    for i in range(len(out)):
        at = uniform(seed, subsystem, key, first + stride * i)
        low, high = 0, len(share) - 1
        while high - low > 1:
            middle = (low + high) // 2
            if at < share[middle]:
                high = middle
            else:
                low = middle
        along = (at - share[low]) / (share[high] - share[low])
        draw = math.exp(log_tok[low] + along * (log_tok[high] - log_tok[low])) + 0.5
        out[i] = most[i] if draw >= most[i] else max(1, int(draw))


@jit
def fill_lognormal(
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
    if sigma == 0.0:
        for i in range(len(out)):
            out[i] = min(median, most[i])
        return
    z = np.empty(len(out))
    for i in range(len(out)):  # three loops, because each is short enough for the compiler to make the most of
        z[i] = uniform(seed, subsystem, key, first + stride * i)
    for i in range(len(out)):
        z[i] = normal_quantile(z[i])
    for i in range(len(out)):
        draw = median * math.exp(sigma * z[i]) + 0.5
        out[i] = most[i] if draw >= most[i] else max(1, int(draw))
