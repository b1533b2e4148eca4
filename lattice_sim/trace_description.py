"""What a trace is like: a few numbers, and a picture of them.

The index of dispersion of counts over w is the variance of the number of arrivals in windows of w over its mean, the windows
laid end to end from the first arrival: 1 for Poisson arrivals, more for bursts. A last window that is not whole is left out.
"""

from collections.abc import Iterator
from io import BytesIO
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from lattice_core.units import DAY_NS, HOUR_NS, MINUTE_NS, NANO
from lattice_sim.pictures import BLUE, GREEN, GREY, ORANGE, STYLE
from lattice_sim.trace import Header, Trace

WINDOWS_NS = (NANO, 10 * NANO, 60 * NANO)
PERCENTILES = (1, 10, 50, 90, 99)

type Integers = NDArray[np.int64]


class Description(NamedTuple):
    """A trace in numbers; None where it is too short to tell."""

    requests: int
    span_s: float
    per_s: float | None
    """Mean rate."""
    gap_cv: float | None
    """Standard deviation of the gaps between arrivals over their mean; 1 for Poisson arrivals."""
    dispersion: dict[int, float | None]
    """Index of dispersion of counts, by window in ns."""
    prompt_tok: dict[int, int]
    """Percentiles."""
    output_tok: dict[int, int]
    """Percentiles."""
    sessions: int
    turns: float | None
    """Mean requests of a session; None without sessions."""
    prefixes: int
    """Different prefixes."""
    reused: float
    """Share of all prompt tokens that an earlier prompt began with too."""


def describe(trace: Trace) -> Description:
    """The numbers of `trace`."""
    span_ns = int(trace.t_ns[-1])
    turns = np.unique(trace.session[trace.session != 0], return_counts=True)[1]
    return Description(
        requests=len(trace.t_ns),
        span_s=span_ns / NANO,
        per_s=len(trace.t_ns) / span_ns * NANO if span_ns else None,
        gap_cv=gap_cv(trace.t_ns),
        dispersion={window_ns: dispersion(trace.t_ns, window_ns, span_ns) for window_ns in WINDOWS_NS},
        prompt_tok=_percentiles(trace.prompt_tok),
        output_tok=_percentiles(trace.output_tok),
        sessions=len(turns),
        turns=float(turns.mean()) if len(turns) else None,
        prefixes=len(np.unique(trace.prefix[trace.prefix != 0])),
        reused=float(trace.reused_tok.sum() / trace.prompt_tok.sum()),
    )


def gap_cv(t_ns: Integers) -> float | None:
    """Coefficient of variation of the gaps; None for fewer than two gaps, or none above 0."""
    gaps_ns = np.diff(t_ns)
    return float(gaps_ns.std() / gaps_ns.mean()) if len(gaps_ns) > 1 and gaps_ns.any() else None


def dispersion(t_ns: Integers, window_ns: int, span_ns: int) -> float | None:
    """Index of dispersion of counts in [0, span_ns); None for fewer than two whole windows, or none with an arrival."""
    windows = span_ns // window_ns
    seen = np.bincount(t_ns[t_ns < windows * window_ns] // window_ns, minlength=windows)
    return float(seen.var() / seen.mean()) if windows > 1 and seen.any() else None


def lines(about: Header, description: Description) -> Iterator[tuple[str, str]]:
    """The numbers as (name, value) for people."""
    yield "source", about.source
    yield "licence", about.licence
    yield "requests", f"{description.requests:,}"
    yield "span", f"{description.span_s:,.1f} s"
    yield "rate", _number(description.per_s, " requests/s")
    yield "CV of gaps", _number(description.gap_cv)
    for window_ns, value in description.dispersion.items():
        yield f"index of dispersion, {window_ns // NANO} s", _number(value)
    for name, quantiles in (("prompt", description.prompt_tok), ("answer", description.output_tok)):
        yield f"{name}, tokens", "   ".join(f"p{percent} {tok:,}" for percent, tok in quantiles.items())
    if description.turns is not None:
        yield "sessions", f"{description.sessions:,}, of {description.turns:.2f} turns in the mean"
    if description.prefixes:
        yield "prefixes", f"{description.prefixes:,}"
    if "reused_tok" in about.columns:
        yield "prefix reuse", f"{description.reused:.1%} of prompt tokens"


def picture(trace: Trace, about: Header, format: str) -> bytes:
    """The picture as a PNG, SVG or PDF: rate over time, dispersion by window, gaps, lengths, and reuse where it is told of."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 8), layout="constrained")
        reuse = "reused_tok" in about.columns
        axes = figure.subplot_mosaic([["rate", "rate"], ["dispersion", "gaps"], ["lengths", "reuse" if reuse else "lengths"]])
        _rate(axes["rate"], trace)
        _dispersion(axes["dispersion"], trace)
        _gaps(axes["gaps"], trace)
        _lengths(axes["lengths"], trace)
        if reuse:
            _reuse(axes["reuse"], trace)
        for panel in axes.values():
            if not panel.has_data():
                panel.set(xticks=[], yticks=[])
                panel.text(0.5, 0.5, "nothing to show", transform=panel.transAxes, ha="center", color=GREY)
        file = BytesIO()
        figure.savefig(file, format=format, dpi=150)
    return file.getvalue()


def _percentiles(tok: Integers) -> dict[int, int]:
    return {percent: int(np.percentile(tok, percent, method="inverted_cdf")) for percent in PERCENTILES}


def _number(value: float | None, unit: str = "") -> str:
    return "too short to tell" if value is None else f"{value:,.3g}{unit}"


def _rate(axes: matplotlib.axes.Axes, trace: Trace) -> None:
    span_ns = int(trace.t_ns[-1])
    if span_ns:
        edges_ns = np.linspace(0, span_ns, 241)
        name, unit_ns = _unit(span_ns)
        width_s = span_ns / 240 / NANO
        axes.stairs(np.histogram(trace.t_ns, edges_ns)[0] / width_s, edges_ns / unit_ns, fill=True, color=BLUE)
        axes.set(xlabel=f"time, {name}", xlim=(0, span_ns / unit_ns))
        axes.set_title(f"Requests per second, in pieces of {width_s:,.3g} s")


def _dispersion(axes: matplotlib.axes.Axes, trace: Trace) -> None:
    span_ns = int(trace.t_ns[-1])
    windows_ns = np.unique(np.geomspace(NANO // 10, max(span_ns // 20, NANO // 10 + 1), 25).astype(np.int64))
    values = [(window_ns / NANO, dispersion(trace.t_ns, int(window_ns), span_ns)) for window_ns in windows_ns]
    told = [(window_s, value) for window_s, value in values if value]
    axes.set_title("Index of dispersion of counts")
    if told:
        axes.axhline(1, color=GREY, linewidth=1, linestyle="--")
        axes.annotate("Poisson", (1, 1), xycoords=("axes fraction", "data"), ha="right", va="bottom", color=GREY)
        axes.loglog(*zip(*told, strict=True), color=ORANGE)
        for window_ns in WINDOWS_NS:
            if value := dispersion(trace.t_ns, window_ns, span_ns):
                axes.plot([window_ns / NANO], [value], "o", color=ORANGE, markersize=4)
                axes.annotate(f"{value:,.3g}", (window_ns / NANO, value), (5, -9), textcoords="offset points")
        axes.set_xlabel("window, s")
        _plain(axes.xaxis, axes.yaxis)
        if max(value for _, value in told) < 10:
            axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _gaps(axes: matplotlib.axes.Axes, trace: Trace) -> None:
    gaps_s = np.sort(np.diff(trace.t_ns)) / NANO
    axes.set_title("Share of gaps longer than")
    if len(gaps_s) > 1 and gaps_s[-1] > 0:
        some = gaps_s[gaps_s > 0]
        longer = np.linspace(1, 0, len(gaps_s), endpoint=False)[gaps_s > 0]
        kept = len(some) - np.unique(np.geomspace(1, len(some), 1000).astype(int))[::-1]  # each of the longest
        axes.loglog(some[kept], longer[kept], color=BLUE, label="trace")
        at = np.geomspace(some[0], some[-1], 200)
        poisson = np.exp(-at / gaps_s.mean())
        visible = poisson > 0.3 / len(gaps_s)
        axes.loglog(at[visible], poisson[visible], color=GREY, linestyle="--", linewidth=1, label="Poisson of this rate")
        axes.set_xlabel("gap, s")
        axes.legend(loc="lower left")
        _plain(axes.xaxis)


def _lengths(axes: matplotlib.axes.Axes, trace: Trace) -> None:
    axes.set_title("Share of requests with at most so many tokens")
    for tok, label, colour in ((trace.prompt_tok, "prompt", BLUE), (trace.output_tok, "answer", ORANGE)):
        levels = np.linspace(0, 1, min(len(tok), 501))
        axes.step(np.quantile(tok, levels, method="inverted_cdf"), levels, where="post", color=colour, label=label)
    axes.set_xscale("log")
    axes.set_xlabel("tokens")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))
    axes.legend(loc="best")
    _plain(axes.xaxis)


def _reuse(axes: matplotlib.axes.Axes, trace: Trace) -> None:
    axes.set_title("Share of prompt tokens that came before")
    if trace.t_ns[-1]:
        edges_ns = np.linspace(0, int(trace.t_ns[-1]), 41)
        asked, reused = (np.histogram(trace.t_ns, edges_ns, weights=tok)[0] for tok in (trace.prompt_tok, trace.reused_tok))
        share = np.divide(reused, asked, out=np.zeros_like(asked, dtype=float), where=asked > 0)
        name, unit_ns = _unit(int(trace.t_ns[-1]))
        axes.stairs(share, edges_ns / unit_ns, fill=True, color=GREEN)
        axes.set(xlabel=f"time, {name}", xlim=(0, edges_ns[-1] / unit_ns), ylim=(0, 1))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))


def _unit(span_ns: int) -> tuple[str, int]:
    """Name and length of the unit of a time axis."""
    units = (("d", DAY_NS), ("h", HOUR_NS), ("min", MINUTE_NS), ("s", NANO))
    return next((unit for unit in units if span_ns >= 3 * unit[1]), units[-1])


def _plain(*every: matplotlib.axis.Axis) -> None:
    for axis in every:
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
