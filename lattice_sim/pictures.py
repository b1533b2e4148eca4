"""The pictures of a report. Colours are Okabe and Ito's, which all eyes tell apart; equal runs give equal bytes."""

from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from lattice_core.records import SETUP
from lattice_core.units import DAY_NS, HOUR_NS, MINUTE_NS, NANO
from lattice_sim import metrics
from lattice_sim.rundir import Run

BLUE, ORANGE, GREEN, PURPLE, SKY, RED, YELLOW, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999",
)  # fmt: skip
POPULATIONS = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED)
_OUTCOMES = {"completed": SKY, "in_flight": GREY, "failed": RED, "rejected": ORANGE}
_CUTS = {"operators": BLUE, "treasury": GREEN, "auditors": PURPLE, "burned": RED, "delegators": SKY}

STYLE: Any = {
    "svg.hashsalt": "lattice",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.labelcolor": "#333333",
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "xtick.color": "#666666",
    "ytick.color": "#666666",
    "xtick.labelcolor": "#333333",
    "ytick.labelcolor": "#333333",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
}
_MANY = 2_000
"""Marks above which a picture is drawn as pixels."""


class _Time(NamedTuple):
    """The unit of a time axis."""

    name: str
    ns: int


def svg[Of](draw: Callable[[Of, Figure], None], of: Of, height: float) -> bytes:
    """A picture of a run or of a study, 9 by `height` inches, as a self-contained SVG."""
    file = BytesIO()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, height), layout="constrained")
        draw(of, figure)
        for axes in figure.axes:
            if not axes.has_data():
                axes.set(xticks=[], yticks=[])
                axes.text(0.5, 0.5, "nothing to show", transform=axes.transAxes, ha="center", color=GREY)
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None}, dpi=150)
    return file.getvalue()


def load_and_latency(run: Run, figure: Figure) -> None:
    """Arrivals by outcome, slots busy and on offer, first token and whole answer, over time."""
    rate, slots, first, whole = figure.subplots(4, 1, sharex=True, height_ratios=(1.2, 1, 1, 1))
    requests, time = run.requests, _time(run)
    arrivals_ns = requests["arrival_ns"] - _start_ns(run)
    edges_ns = _bins(run)
    middles = (edges_ns[:-1] + edges_ns[1:]) / 2 / time.ns
    per_minute = run.manifest["requests"]["every"] / (np.diff(edges_ns) / MINUTE_NS)
    base = np.zeros(len(edges_ns) - 1)
    for outcome, colour in _OUTCOMES.items():
        counts = np.histogram(arrivals_ns[requests["outcome"] == outcome], edges_ns)[0]
        if counts.any():
            top = base + counts * per_minute
            rate.stairs(top, edges_ns / time.ns, baseline=base, fill=True, color=colour, label=outcome.replace("_", " "))
            base = top
    if len(requests):
        _legend(rate)
    rate.set_title("Requests per minute, by how they ended")

    lengths_ns = (run.epochs["end_ns"] - run.epochs["start_ns"]).to_numpy()
    busy, offered = (run.epochs[name].to_numpy(float) / lengths_ns for name in ("busy_slot_ns", "offered_slot_ns"))
    if len(run.epochs):
        slots.stairs(offered, _edges(run) / time.ns, baseline=None, label="on offer", color=GREY, linewidth=1.6)
        slots.stairs(busy, _edges(run) / time.ns, fill=True, label="busy", color=BLUE)
        _legend(slots)
    slots.set_title("Slots, mean of each epoch")

    for axes, column, condition, title in (
        (first, "first_token_ns", requests["first_token_ns"] >= 0, "First token after arrival, s"),
        (whole, "end_ns", requests["outcome"] == "completed", "Whole answer after arrival, s"),
    ):
        rows = requests[condition]
        bins = np.searchsorted(edges_ns, arrivals_ns[rows.index], side="right") - 1
        delays = (rows[column] - rows["arrival_ns"]).groupby(bins)
        for percent, colour in ((95, ORANGE), (50, BLUE)):
            level_s = [(metrics.quantile(ns.to_numpy(), percent) or 0) / NANO for _, ns in delays]
            if level_s:
                axes.plot(middles[np.unique(bins)], level_s, color=colour, label=f"p{percent}", marker=_marker(level_s))
                _legend(axes)
        axes.set_title(title)
    for axes in (rate, slots, first, whole):
        axes.set_ylim(bottom=0)
    _time_axis(whole, run)


def revenue(run: Run, figure: Figure) -> None:
    """Revenue of each node, largest first, and its Lorenz curve."""
    bars, lorenz = figure.subplots(1, 2, width_ratios=(2, 1))
    income = metrics.revenue_nlai(run.nodes) / NANO
    population = run.nodes.groupby("node")["population"].first()
    ranked = income.sort_values(ascending=False, kind="stable")
    ranks = np.arange(1, len(ranked) + 1)
    for name, colour in _colours(run):
        mine = (population[ranked.index] == name).to_numpy()
        bars.bar(ranks[mine], ranked[mine], width=0.9, color=colour, label=name, rasterized=len(ranked) > _MANY)
    bars.set_title("Revenue, LAI")
    bars.set_xlabel("node, by rank")
    bars.xaxis.set_major_locator(MaxNLocator(integer=True))
    bars.grid(axis="x", visible=False)
    if len(ranked):
        bars.legend(loc="upper right")
    total = float(income.sum())
    if total > 0:
        lorenz.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--")
        curve = np.concatenate([[0.0], np.cumsum(np.sort(income.to_numpy())) / total])
        shares = np.linspace(0, 1, len(curve))
        lorenz.fill_between(shares, curve, shares, color=BLUE, alpha=0.15, linewidth=0)
        lorenz.plot(shares, curve, color=BLUE)
        lorenz.text(0.05, 0.9, f"Gini {metrics.gini(metrics.revenue_nlai(run.nodes).to_numpy()):.2f}", fontweight="bold")
    lorenz.set_title("Share of revenue")
    lorenz.set_xlabel("share of nodes, poorest first")
    for axis in (lorenz.xaxis, lorenz.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))
    lorenz.set_aspect("equal")


def reputation(run: Run, figure: Figure) -> None:
    """Reliability and quality of each population's nodes over time: median, and from the 5th to the 95th percentile."""
    time = _time(run)
    every_axes = figure.subplots(1, 2, sharex=True)
    ends = pd.Series(_edges(run)[1:] / time.ns, index=run.epochs["epoch"])
    for axes, column, title in zip(
        every_axes, ("reliability", "quality"), ("Reliability, share of successes", "Quality, from audits"), strict=True
    ):
        for name, colour in _colours(run):
            epochs = run.nodes[run.nodes["population"] == name].groupby("epoch")[column]
            median = epochs.median()
            t = ends[median.index]
            axes.fill_between(t, epochs.quantile(0.05), epochs.quantile(0.95), color=colour, alpha=0.2, linewidth=0)
            axes.plot(t, median, color=colour, label=name, marker=_marker(median), clip_on=False)
        axes.set_title(title)
        axes.margins(y=0.15)
        _time_axis(axes, run)
    if len(run.nodes):
        every_axes[0].legend(loc="best")


def fees(run: Run, figure: Figure) -> None:
    """Where the fees went: in each epoch, and in all."""
    over_time, in_all = figure.subplots(1, 2, width_ratios=(1.4, 1))
    time = _time(run)
    edges = _edges(run) / time.ns
    base = np.zeros(len(run.epochs))
    for cut, colour in _CUTS.items():
        top = base + run.epochs[f"{cut}_nlai"].to_numpy() / NANO
        if (top > base).any():
            over_time.stairs(top, edges, baseline=base, fill=True, color=colour, label=cut)
        base = top
    over_time.set_title("Settled in each epoch, LAI")
    over_time.set_ylim(bottom=0)
    _time_axis(over_time, run)
    totals = {cut: int(run.epochs[f"{cut}_nlai"].sum()) for cut in _CUTS}
    whole = sum(totals.values())
    cuts = [cut for cut in _CUTS if totals[cut]]
    shares = [totals[cut] / whole for cut in cuts]
    in_all.barh(cuts, shares, color=[_CUTS[cut] for cut in cuts], height=0.65)
    for row, (cut, share) in enumerate(zip(cuts, shares, strict=True)):
        inside = share > 0.5
        in_all.text(
            share - 0.02 if inside else share + 0.02,
            row,
            f"{totals[cut] / NANO:,.4g} LAI · {share:.2%}",
            ha="right" if inside else "left",
            va="center",
            color="white" if inside else "#333333",
        )
    in_all.invert_yaxis()
    in_all.set_xlim(0, 1)
    in_all.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))
    in_all.grid(axis="y", visible=False)
    in_all.set_title("In all")


def gas(run: Run, figure: Figure) -> None:
    """Gas of each epoch's transactions, and of one user's entry in a settlement."""
    used, each = figure.subplots(1, 2, width_ratios=(1.4, 1))
    time = _time(run)
    sent = run.transactions[run.transactions["epoch"] != SETUP]
    edges = _edges(run) / time.ns
    base = np.zeros(len(run.epochs))
    operations = sorted(sent["operation"].unique(), key=lambda name: (name != "settle", name))
    for name, colour in zip(operations, _cycle(len(operations)), strict=True):
        by_epoch = sent[sent["operation"] == name].groupby("epoch")["gas"].sum()
        top = base + by_epoch.reindex(run.epochs["epoch"], fill_value=0).to_numpy() / 1e6
        used.stairs(top, edges, baseline=base, fill=True, color=colour, label=name)
        base = top
    used.set_title("Gas in each epoch, millions")
    used.set_ylim(bottom=0)
    settles = sent[sent["operation"] == "settle"].groupby("epoch")[["gas", "entries"]].sum()
    settles = settles[settles["entries"] > 0]
    t = pd.Series(edges[1:], index=run.epochs["epoch"])[settles.index]
    if len(settles):
        each.plot(t, settles["gas"] / settles["entries"], color=BLUE, marker="o", markersize=3)
    each.margins(y=0.15)
    each.set_ylim(bottom=0)
    each.yaxis.set_major_formatter(FuncFormatter(lambda gas, _: f"{gas:,.0f}"))
    each.set_title("Gas per user in a settlement")
    for axes in (used, each):
        _time_axis(axes, run)
    if len(operations):
        _legend(used)


def outcomes(run: Run, figure: Figure) -> None:
    """How long answers took, and why requests had none."""
    delays, why = figure.subplots(1, 2, width_ratios=(1.4, 1))
    for values_ns, label, colour in (
        (metrics.ttft_ns(run.requests), "first token", BLUE),
        (metrics.latency_ns(run.requests), "whole answer", ORANGE),
    ):
        if len(values_ns):
            levels = np.linspace(0, 1, min(len(values_ns), 501))
            delays.plot(np.quantile(values_ns, levels, method="inverted_cdf") / NANO, levels, color=colour, label=label)
    delays.set_xscale("log")
    delays.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
    delays.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))
    delays.set_title("Share answered within")
    delays.set_xlabel("s after arrival")
    if len(run.requests):
        delays.legend(loc="best")
    about = run.manifest["requests"]
    shares = metrics.reasons(about["reasons"], about["arrived"])
    names = [name.replace("_", " ") for name in shares]
    why.barh(names, list(shares.values()), color=RED, height=0.65)
    for row, share in enumerate(shares.values()):
        why.text(share, row, f" {share:.2%}", va="center")
    why.set_ylim(max(len(names), 4) - 0.5, -0.5)
    why.set_xlim(0, max([*shares.values(), 0.01]) * 1.35)
    why.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.1%}"))
    why.xaxis.set_major_locator(MaxNLocator(4))
    why.grid(axis="y", visible=False)
    why.set_title("Requests without an answer, by reason")


def _time(run: Run) -> _Time:
    horizon_ns = metrics.horizon_ns(run.epochs)
    units = (_Time("d", DAY_NS), _Time("h", HOUR_NS), _Time("min", MINUTE_NS), _Time("s", NANO))
    return next((unit for unit in units if horizon_ns >= 3 * unit.ns), units[-1])


def _time_axis(axes: Axes, run: Run) -> None:
    unit = _time(run)
    axes.set_xlabel(f"time, {unit.name}")
    if len(run.epochs):
        axes.set_xlim(0, metrics.horizon_ns(run.epochs) / unit.ns)
    if unit.name == "h":
        axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 3, 6, 10], integer=True))


def _edges(run: Run) -> NDArray[np.int64]:
    """Where the epochs begin and end, ns since the start."""
    return np.concatenate([[0], run.epochs["end_ns"].to_numpy() - _start_ns(run)])


def _bins(run: Run) -> NDArray[np.int64]:
    """Edges of up to 96 equal pieces of time, fewer for few requests, ns since the start."""
    pieces = int(np.clip(len(run.requests) // 10, 1, 96))
    return np.linspace(0, max(1, metrics.horizon_ns(run.epochs)), 1 + pieces).astype(np.int64)


def _start_ns(run: Run) -> int:
    return int(run.epochs["start_ns"].min()) if len(run.epochs) else 0


def _colours(run: Run) -> list[tuple[str, str]]:
    names = list(pd.unique(run.nodes.sort_values("node", kind="stable")["population"]))
    return list(zip(names, _cycle(len(names)), strict=True))


def _cycle(count: int) -> Sequence[str]:
    return [POPULATIONS[i % len(POPULATIONS)] for i in range(count)]


def _marker(points: Sequence[Any] | pd.Series) -> str:
    """A single point shows only as a mark."""
    return "o" if len(points) < 2 else ""


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=4, borderaxespad=0, handlelength=1.4, columnspacing=1.4)
