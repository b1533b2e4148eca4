"""A preset fitted to a trace: few numbers that say when requests come, how long they are and which belong together.

**Rate.** Poisson arrivals at a rate that is multiplied by bursts, gamma factors of mean 1 with variance v over periods P. Then

    IDC(w) = 1 + m·w·C(w)      C(w) = 2/w² ∫₀ʷ (w − τ) (Π (1 + v·max(0, 1 − τ/P)) − 1) dτ      m the mean rate

is the index of dispersion of counts in the long run, and over a span T its mean is about 1 − w/T + m·w·(C(w) − C(T)). There is
a burst for each window of 1, 10 and 60 s, and for each further tenfold window that goes twenty times into the trace, with a
period a little shorter or longer than it; the variances are those with which this equals the trace's index at each window. It
says nothing of silences: a burst may be 0 in a share of its periods, from none to v/(1 + v), and keep its variance. The same
part of that most is taken for all bursts, so that the gaps of the preset vary as the trace's do.

**Lengths.** Points of the distribution function, taken where the law so far is furthest from the trace, until it is nearer than
chance would leave a sample of the same size. Prompt and answer are drawn independently.

**Sessions.** Poisson turns, scattered evenly: see `lattice_sim/workload.py`.

The preset is then played for 200 hours or more, cut into spans as long as the trace, and held to the trace by the tests below.
"""

import itertools
import json
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from lattice_core.config import Config, parse
from lattice_core.units import DAY_NS, HOUR_NS, MAX_TOKENS, NANO
from lattice_sim.trace import Header, Integers, Trace, TraceError
from lattice_sim.trace_description import WINDOWS_NS, dispersion, gap_cv
from lattice_sim.workload import Requests, workload

LEAST_REQUESTS = 100
LEAST_SPAN_NS = 2 * max(WINDOWS_NS)
SIMULATED_NS = 200 * HOUR_NS
_LEAST_SPANS = 20
_MOST_LENGTHS = 2_000_000
_MOST_VARIANCE = 50.0
_PERIODS_NS = {WINDOWS_NS[0]: 700_000_000, WINDOWS_NS[1]: 7 * NANO, WINDOWS_NS[2]: 70 * NANO}

type Floats = NDArray[np.float64]


class Check(NamedTuple):
    """A comparison of the preset with the trace."""

    what: str
    trace: float
    """The trace's number."""
    preset: float
    """The preset's, a mean where it has many."""
    low: float
    """Least value with which it passes, of the preset's number or of the trace's, as `what` says."""
    high: float
    """Largest such value."""
    passed: bool


class Fit(NamedTuple):
    """A preset, in the form of `lattice_core.config.network.Preset`, and how it compares with its trace."""

    preset: dict[str, Any]
    tests: list[Check]


def fit(trace: Trace, about: Header, path: str) -> Fit:
    """Fit a preset to a trace, and test it. `path` names the trace in errors. Raises TraceError for one that is too short."""
    if len(trace.t_ns) < LEAST_REQUESTS or trace.t_ns[-1] < LEAST_SPAN_NS:
        least = f"must have {LEAST_REQUESTS} requests over {LEAST_SPAN_NS // NANO} s at least to be fitted"
        raise TraceError(f"{path}: {least}, not {len(trace.t_ns)} over {trace.t_ns[-1] / NANO:,.1f} s")
    bursts = _bursts(trace.t_ns)
    preset: dict[str, Any] = {
        "source": about.source,
        "licence": about.licence,
        "modulated": {
            "requests_per_day": round(len(trace.t_ns) / int(trace.t_ns[-1]) * DAY_NS, 1),
            "bursts": bursts,
        },
        "prompt": {"quantiles": quantiles(trace.prompt_tok)},
        "output": {"quantiles": quantiles(trace.output_tok)},
        "sessions": sessions(trace.session),
    }
    _silence(trace.t_ns, preset)
    return Fit(preset, list(_tests(trace, preset)))


# Rate


def _bursts(t_ns: Integers) -> list[dict[str, Any]]:
    """The bursts whose dispersion is the trace's, fastest first."""
    span_ns = int(t_ns[-1])
    periods_ns = dict(_PERIODS_NS)
    window_ns = 10 * max(WINDOWS_NS)
    while window_ns * _LEAST_SPANS <= span_ns:
        periods_ns[window_ns] = window_ns * 7 // 6
        window_ns *= 10
    windows_s = [window_ns / NANO for window_ns in periods_ns]
    seen = [dispersion(t_ns, window_ns, span_ns) or 1.0 for window_ns in periods_ns]
    periods_s = np.array([period_ns / NANO for period_ns in periods_ns.values()])
    variances = _variances(len(t_ns) / span_ns * NANO, span_ns / NANO, windows_s, seen, periods_s)
    return [
        {"cv": round(math.sqrt(variance), 4), "period": f"{period_s:.12g}s"}
        for variance, period_s in zip(variances, periods_s, strict=True)
        if variance > 1e-4
    ]


def _silence(t_ns: Integers, preset: dict[str, Any]) -> None:
    """Write into the preset's bursts how often they are silent."""
    span_ns, seen = int(t_ns[-1]), gap_cv(t_ns) or 0.0

    def excess(part: float) -> float:
        for burst in preset["modulated"]["bursts"]:
            burst["silent"] = math.floor(part * 1e4 * (1 - 1 / (1 + burst["cv"] ** 2))) / 1e4
        played = itertools.islice(_play(preset, span_ns), _LEAST_SPANS)
        return float(np.mean([gap_cv(requests.t_ns) or 0.0 for requests in played])) - seen

    if excess(0.0) < 0:
        excess(_root(excess, 0.0, 1.0, steps=10))


def _variances(per_s: float, span_s: float, windows_s: list[float], seen: list[float], periods_s: Floats) -> Floats:
    """Variances of the factors over `periods_s` with which the dispersion at each window is the one seen, if any are."""
    variances = np.zeros(len(windows_s))
    for _ in range(40):
        for place in reversed(range(len(windows_s))):

            def excess(variance: float, place: int = place) -> float:
                variances[place] = variance
                window_s = windows_s[place]
                spread = covariance(window_s, variances, periods_s) - covariance(span_s, variances, periods_s)
                return 1 - window_s / span_s + per_s * window_s * spread - seen[place]

            variances[place] = _root(excess, 0.0, _MOST_VARIANCE)
    return variances


def covariance(window_s: float, variances: Floats, periods_s: Floats) -> float:
    """C(w): the relative variance of the mean rate over a window."""
    lags_s = (np.arange(2_000) + 0.5) / 2_000 * window_s
    alike = np.maximum(0.0, 1.0 - lags_s / periods_s[:, None])
    return float(2 * np.mean((1 - lags_s / window_s) * (np.prod(1 + variances[:, None] * alike, axis=0) - 1)))


def _root(rising: Callable[[float], float], low: float, high: float, steps: int = 50) -> float:
    """Where `rising` is 0; the end next to it where it is nowhere."""
    for _ in range(steps):
        middle = (low + high) / 2
        if rising(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


# Lengths


def quantiles(tok: Integers) -> dict[str, list[float]]:
    """Points of the distribution function of whole lengths: at most k tokens is below k + 0.5."""
    lengths, counts = np.unique(tok, return_counts=True)
    at = np.unique(np.concatenate([lengths - 1, lengths]))
    share = np.concatenate([[0], np.cumsum(counts)])[np.searchsorted(lengths, at, side="right")] / len(tok)
    near = max(0.6 / math.sqrt(len(tok)), 0.003)
    kept = [0, len(at) - 1]
    while len(kept) < 64:
        law = np.interp(np.log(at + 0.5), np.log(at[kept] + 0.5), share[kept])
        worst = int(np.argmax(abs(law - share)))
        if abs(law[worst] - share[worst]) <= near:
            break
        kept = sorted({*kept, worst})
    return {"share": [round(float(share[i]), 5) for i in kept], "tok": [float(at[i]) + 0.5 for i in kept]}


# Sessions


def sessions(session: Integers) -> dict[str, float] | None:
    """Turns and their spread; None where no two requests belong together. A request without a session is one of one turn."""
    rows = np.flatnonzero(session)
    if not len(rows):
        return None
    frame = pd.DataFrame({"session": session[rows], "row": rows}).groupby("session")["row"]
    turns, first, last = (frame.agg(how).to_numpy() for how in ("count", "min", "max"))
    mean = len(session) / (len(turns) + len(session) - len(rows))
    several = turns > 1
    if not several.any():
        return None
    spread = np.mean((last - first)[several] * (turns[several] + 1) / (turns[several] - 1))
    return {"turns": round(_root(lambda x: x / -math.expm1(-x) - mean, 1e-6, 1e4), 4), "spread": round(float(spread), 1)}


# Tests


def _play(preset: dict[str, Any], span_ns: int, longest_tok: int = MAX_TOKENS) -> Iterator[Requests]:
    """The preset, played by itself: one span after another, each with its times from 0 on."""
    config = _network(preset, longest_tok)
    source = workload(config, config.users[0])
    for span in itertools.count():
        requests = source.until((span + 1) * span_ns)
        yield requests._replace(t_ns=requests.t_ns - span * span_ns)


def _tests(trace: Trace, preset: dict[str, Any]) -> Iterator[Check]:
    """The preset, played, against the trace."""
    span_ns = int(trace.t_ns[-1])
    spans = max(_LEAST_SPANS, -(-SIMULATED_NS // span_ns))
    indices: dict[int, list[float]] = {window_ns: [] for window_ns in WINDOWS_NS}
    gaps: list[float] = []
    lengths: list[Requests] = []
    for requests in itertools.islice(_play(preset, span_ns, int(trace.output_tok.max())), spans):
        for window_ns, values in indices.items():
            values.append(dispersion(requests.t_ns, window_ns, span_ns) or 0.0)
        gaps.append(gap_cv(requests.t_ns) or 0.0)
        if sum(len(kept.t_ns) for kept in lengths) < _MOST_LENGTHS:
            lengths.append(requests)
    for window_ns, values in indices.items():
        seen = dispersion(trace.t_ns, window_ns, span_ns) or 0.0
        name, mean = f"index of dispersion, {window_ns // NANO} s", float(np.mean(values))
        yield _test(f"{name}: the preset's mean is within 20 % of the trace's", seen, mean, 0.8 * seen, 1.2 * seen, mean)
        yield _central(name, seen, values)
    yield _central("CV of gaps", gap_cv(trace.t_ns) or 0.0, gaps)
    for name, column in (("prompt", "prompt_tok"), ("answer", "output_tok")):
        drawn = np.concatenate([getattr(requests, column) for requests in lengths])
        yield _same_law(name, getattr(trace, column), drawn)
    seen = _rank_correlation(trace.prompt_tok, trace.output_tok)
    yield _test("rank correlation of prompt and answer, of which the preset has none", seen, 0.0, -0.1, 0.1, seen)
    if preset["sessions"] is not None:
        turns = preset["sessions"]["turns"]
        alone = turns * math.exp(-turns) / -math.expm1(-turns)
        counts = np.unique(trace.session[trace.session != 0], return_counts=True)[1]
        others = int((trace.session == 0).sum())
        seen = float(((counts == 1).sum() + others) / (len(counts) + others))
        yield _test("share of sessions of one turn: within 0.05", seen, alone, seen - 0.05, seen + 0.05, alone)
    elif trace.reused_tok.any():
        seen = float(trace.reused_tok.sum() / trace.prompt_tok.sum())
        yield _test("share of prompt tokens that came before, of which the preset has none", seen, 0.0, 0.0, 0.01, seen)


def _central(name: str, seen: float, values: list[float]) -> Check:
    low, high = (float(np.quantile(values, level)) for level in (0.05, 0.95))
    return _test(f"{name}: the trace's is in the preset's central 90 %", seen, float(np.mean(values)), low, high, seen)


def _test(what: str, trace: float, preset: float, low: float, high: float, value: float) -> Check:
    """Whether `value` lies from `low` to `high`."""
    passed = low <= value <= high
    trace, preset, low, high = (float(f"{number:.4g}") for number in (trace, preset, low, high))
    return Check(what, trace, preset, low, high, passed)


def _same_law(name: str, trace: Integers, preset: Integers) -> Check:
    """Kolmogorov and Smirnov's test of two samples: the distance, and the one that chance passes in 5 % of cases."""
    at = np.unique(np.concatenate([trace, preset]))
    shares = [np.searchsorted(np.sort(tok), at, side="right") / len(tok) for tok in (trace, preset)]
    distance = float(np.max(abs(shares[0] - shares[1])))
    critical = 1.3581 * math.sqrt(1 / len(trace) + 1 / len(preset))
    what = f"tokens of the {name}: Kolmogorov–Smirnov distance, at 5 %"
    return _test(what, 0.0, distance, 0.0, critical, distance)


def _rank_correlation(one: Integers, other: Integers) -> float:
    if (one == one[0]).all() or (other == other[0]).all():
        return 0.0
    return float(pd.Series(one).rank().corr(pd.Series(other).rank()))


def _network(preset: dict[str, Any], longest_tok: int) -> Config:
    """A network whose one population asks as the preset says."""
    reference = {"ttft": 1, "itl": 1, "prefill_tok_s": 1, "output_tok": 1, "price_input": 1, "price_output": 1}
    node = {"models": ["any"], "hardware": {"a": 1, "b": 0, "prefill_tok_s": 1}, "slots": 1, "bond": 100}
    asked = {"workload": {key: preset[key] for key in ("modulated", "sessions")}, "budget": {"deposit": 1}}
    tokens = {"prompt": preset["prompt"], "output": preset["output"], "max_tokens": min(longest_tok + 1, MAX_TOKENS - 1)}
    document = {
        "version": 1,
        "name": "fit",
        "models": {"any": {"kind": "llm", "context": MAX_TOKENS, "reference": reference}},
        "nodes": [{"name": "node", "count": 1, "price": {"input": 1, "output": 1}} | node],
        "users": [{"name": "fitted", "count": 1, "model": "any", "tokens": tokens} | asked],
    }
    return parse(json.dumps(document), "fit")


def text(name: str, fitted: Fit) -> str:
    """The preset as YAML: its numbers, and what the tests found."""
    failed = [test.what for test in fitted.tests if not test.passed]
    verdict = f"{len(failed)} of {len(fitted.tests)} tests failed" if failed else f"all {len(fitted.tests)} tests passed"
    document = {"name": name, **fitted.preset, "verdict": verdict, "tests": [test._asdict() for test in fitted.tests]}
    return yaml.safe_dump(document, sort_keys=False, default_flow_style=None, allow_unicode=True, width=128)
