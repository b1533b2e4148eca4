"""The page of `lattice view`: a network to step through, sliders for what it is, charts of what it does.

It is Mesa's SolaraViz around `LatticeModel`, whose parameters are the config's dotted paths: the button Reset makes the network
anew, with the sliders' values in place of the config's.
"""

from collections.abc import Iterator, Sequence
from math import ceil, inf, sqrt
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
import solara
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from mesa.visualization import Slider, SolaraViz
from mesa.visualization.utils import update_counter

from lattice_core.config import Config, revise, schema
from lattice_core.config.network import POLICIES
from lattice_core.state import UP
from lattice_core.units import HOUR_NS, NANO
from lattice_sim import metrics
from lattice_sim.model import LatticeModel
from lattice_sim.pictures import BLUE, GREEN, GREY, ORANGE, POPULATIONS, PURPLE, RED, SKY, STYLE
from lattice_sim.rundir import COMPLETE, Run

STATES = {"free": (BLUE, "o"), "busy": (ORANGE, "s"), "full": (RED, "^"), "down": ("white", "o")}
"""Colours and shapes of nodes: free slots in plenty, half of them taken or more, none left, not listed."""

_ACROSS = 30
"""Nodes side by side in the picture, unless there are very many."""


class Shown(NamedTuple):
    """What the page is of: a network, and the run that its charts are compared with, if any."""

    config: Config
    run: Run | None = None


_shown: list[Shown] = []


def show(config: Config, run: Run | None = None) -> None:
    """Have `Page` be of this network. What settles it is revm where the config says py-evm: the same, and it starts sooner."""
    fast = revise(config, {"chain.backend": "revm"}) if config.chain.backend == "py-evm" else config
    _shown[:] = [Shown(fast, run)]


class Viewed(LatticeModel):
    """A network as SolaraViz makes one anew: with a Mesa scenario, which says nothing that the sliders do not."""

    def __init__(self, config: Config, scenario: object = None, **changes: Any) -> None:
        super().__init__(config, **changes)


class _Kept(NamedTuple):
    """What the charts have shown last, and what they are compared with."""

    model: LatticeModel
    before: pd.DataFrame | None


@solara.component
def Page() -> Any:  # noqa: N802
    """What the server shows each visitor: a network of the visitor's own."""
    config, run = _shown[0]
    model = solara.use_memo(lambda: Viewed(config), [])
    kept: Any = solara.use_ref(_Kept(model, None if run is None else by_epoch(run)))
    return SolaraViz(
        model,
        components=[(Network, 0), (lambda model: Charts(model, run, kept), 0)],
        model_params={"config": config, **sliders(config)},
        name=f"Lattice: {config.name}",
        play_interval=200,
    )


def sliders(config: Config) -> dict[str, Any]:
    """Mesa's parameters by dotted path: the config's own values, and how far they can be moved."""
    document = config.document()
    found: dict[str, Any] = {
        "routing.policy": {
            "type": "Select",
            "label": "routing policy",
            "value": config.routing.policy,
            "values": sorted({*POLICIES, config.routing.policy}),
        }
    }
    for factor in ("price", "latency", "reliability", "bond"):
        path = f"routing.weights.{factor}"
        found[path] = _slider(f"weight of {factor}", path, document["routing"]["weights"][factor])
    found["routing.explore"] = _slider("share of exploration", "routing.explore", config.routing.explore)
    found["routing.newcomer_cap"] = _slider("newcomer cap", "routing.newcomer_cap", config.routing.newcomer_cap)
    for users in document["users"]:
        for kind, workload in users["workload"].items():
            if isinstance(workload, dict) and "requests_per_day" in workload:
                path = f"users.{users['name']}.workload.{kind}.requests_per_day"
                found[path] = _slider(f"requests a day, {users['name']}", path, workload["requests_per_day"])
    least_bond = float(document["economics"]["bonds"]["minimum"])
    for nodes in document["nodes"]:
        name = nodes["name"]
        for label, key, value, least in (
            ("slots", "slots", nodes["slots"], 0.0),
            ("price out", "price.output", nodes["price"]["output"], 0.0),
            ("bond, LAI", "bond", nodes["bond"], least_bond),
        ):
            found[f"nodes.{name}.{key}"] = _slider(f"{label}, {name}", f"nodes.{name}.{key}", value, least)
    for part in ("burn", "treasury"):
        path = f"economics.split.{part}"
        found[path] = _slider(f"share of fees, {part}", path, document["economics"]["split"][part])
    return found


_STEPS = 80
"""Of a slider that does not move by whole numbers."""


def _slider(label: str, path: str, of: Any, least: float = 0.0) -> Slider:
    """From the least that the config allows, or a step above, to four times its value, or the most that it allows."""
    value, (low, high, whole) = float(of), _limits(path)
    high = min(high, 4.0 * value or 1.0)
    if whole:
        return Slider(label, int(value), int(low or 0), int(high), 1)
    step = high / _STEPS
    return Slider(label, value, min(value, max(step if low is None else low, least)), high, step, dtype=float)


def _limits(path: str) -> tuple[float | None, float, bool]:
    """The least, if not only more than 0, and the most that a config may say at a dotted path, and whether it must be whole."""
    whole = schema()
    at: Any = whole
    for step in path.split("."):
        if "items" in at:  # the entry of this name
            at = at["items"]
        else:
            at = at["properties"][step]
        at = next((one for one in at.get("anyOf", ()) if one.get("type") != "null"), at)
        if "$ref" in at:
            at = whole["$defs"][at["$ref"].rpartition("/")[2]]
    low = None if "exclusiveMinimum" in at else float(at.get("minimum", 0.0))
    return low, float(at.get("maximum", inf)), at["type"] == "integer"


@solara.component
def Network(model: LatticeModel) -> None:  # noqa: N802
    """Every node, by population: how many of its slots are taken, or that it is down."""
    update_counter.get()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, _height(model)), layout="constrained")
        axes = figure.subplots()
        _draw_nodes(model, axes)
        solara.FigureMatplotlib(figure, format="svg", bbox_inches="tight")


@solara.component
def Charts(model: LatticeModel, run: Run | None, kept: Any) -> None:  # noqa: N802
    """What each epoch came to, beside the same of a run or else of the network before it was made anew."""
    update_counter.get()
    now = by_epoch(Run.of(model.config, model.records, COMPLETE))
    if kept.current.model is not model:
        old = by_epoch(Run.of(kept.current.model.config, kept.current.model.records, COMPLETE))
        kept.current = _Kept(model, old if run is None and len(old) else kept.current.before)
    before = kept.current.before
    solara.Text("; ".join(_told(now)), classes=["lattice-last-epoch"])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.8, 8.6), layout="constrained")
        panels = figure.subplots(-(-len(CHARTS) // 2), 2, sharex=True)
        for axes, (said, lines) in zip(panels.flat, charts(model.config), strict=True):
            for name, colour, label in lines:
                if before is not None and name in before:
                    axes.plot(before.index, before[name], color=GREY, linewidth=1.2)
                axes.plot(now.index, now[name], "o-", color=colour, markersize=3, label=label)
            axes.set_title(said)
            if len(lines) > 1:
                axes.legend(loc="best", ncols=2)
            axes.update_datalim([(0, 0)])  # room above the highest value in proportion to it
            axes.autoscale_view()
            axes.set_ylim(bottom=0)
            axes.set_xlim(0, model.epochs)
        for axes in panels[-1]:
            axes.set_xlabel("epoch")
        if before is not None:
            grey = Line2D([], [], color=GREY, linewidth=1.2, label="the run" if run else "before Reset")
            figure.legend(handles=[grey], loc="outside upper right")
        solara.FigureMatplotlib(figure, format="svg", bbox_inches="tight")


class Chart(NamedTuple):
    """A title with its unit, and lines: a column of `by_epoch`, its colour, its name."""

    said: str
    lines: Sequence[tuple[str, str, str]]


CHARTS = (
    Chart("requests an hour", [("arrivals_per_h", BLUE, "")]),
    Chart("first token, 95th percentile, s", [("ttft_p95_s", ORANGE, "")]),
    Chart("completed, share of ended requests", [("completed_share", GREEN, "")]),
    Chart("lost, share of ended requests", [("failed_share", RED, "failed"), ("rejected_share", ORANGE, "rejected")]),
    Chart("slots busy, share of those on offer", [("utilisation", PURPLE, "")]),
    Chart("fees settled, LAI", [("settled_lai", SKY, "")]),
    Chart("revenue of a node, LAI", []),
    Chart("Gini of the nodes' revenue", [("revenue_gini", BLUE, "")]),
)
"""In the place of no lines, one for each population of nodes."""


def charts(config: Config) -> list[Chart]:
    """CHARTS, with a line for each population of a network."""
    each = [
        (f"revenue_lai, {nodes.name}", POPULATIONS[number % len(POPULATIONS)], nodes.name)
        for number, nodes in enumerate(config.nodes)
    ]
    return [chart if chart.lines else chart._replace(lines=each) for chart in CHARTS]


def by_epoch(run: Run) -> pd.DataFrame:
    """The columns of `charts`, by the number of the epoch that has ended; NaN where there is nothing to measure."""
    epochs, requests, nodes = run.epochs, run.requests, run.nodes
    ended = epochs["completed"] + epochs["failed"] + epochs["rejected"]
    hours = (epochs["end_ns"] - epochs["start_ns"]) / HOUR_NS
    of = np.searchsorted(epochs["end_ns"].to_numpy(), requests["arrival_ns"].to_numpy(), side="right")
    ttft = [metrics.quantile(metrics.ttft_ns(requests[of == epoch]), 95) for epoch in range(len(epochs))]
    revenue = nodes.assign(lai=(nodes["settled_nlai"] + nodes["settled_faucet_nlai"]) / NANO)
    names = [population["name"] for population in run.manifest["config"]["nodes"]]
    by_node = revenue.groupby(["epoch", "population"])["lai"].mean().unstack().reindex(columns=names)
    gini = {epoch: metrics.gini(metrics.revenue_nlai(rows).to_numpy()) for epoch, rows in nodes.groupby("epoch")}
    return pd.DataFrame(
        {
            "arrivals_per_h": epochs["arrived"] / hours,
            **{f"{end}_share": epochs[end] / ended.where(ended > 0) for end in ("completed", "failed", "rejected")},
            "ttft_p95_s": [np.nan if ns is None else ns / NANO for ns in ttft],
            "utilisation": epochs["busy_slot_ns"] / epochs["offered_slot_ns"].where(epochs["offered_slot_ns"] > 0),
            "settled_lai": (epochs["purchased_nlai"] + epochs["faucet_nlai"]) / NANO,
            "revenue_gini": epochs["epoch"].map(gini).astype(float),
            **{f"revenue_lai, {name}": epochs["epoch"].map(by_node[name]) for name in by_node},
        }
    ).set_index(epochs["epoch"] + 1)


def _told(now: pd.DataFrame) -> Iterator[str]:
    """The last epoch in words."""
    if not len(now):
        yield "no epoch yet: press Step or ▶; Reset makes the network anew with the sliders' values"
        return
    last = now.iloc[-1]
    yield f"epoch {now.index[-1]}: {last['arrivals_per_h']:,.0f} requests an hour"
    yield f"{last['completed_share']:.1%} completed"
    yield f"first token {last['ttft_p95_s']:.2f} s at the 95th percentile"
    yield f"{last['settled_lai']:.2f} LAI settled"


def _across(model: LatticeModel) -> int:
    """Nodes side by side."""
    return max(_ACROSS, ceil(sqrt(4 * max(nodes.count for nodes in model.config.nodes))))


def _height(model: LatticeModel) -> float:
    """Inches that the picture of the nodes is high."""
    across = _across(model)
    lines = sum(-(-nodes.count // across) for nodes in model.config.nodes)
    return 0.3 * len(model.config.nodes) + 0.34 * lines * _ACROSS / across + 0.8


def _draw_nodes(model: LatticeModel, axes: Axes) -> None:
    across = _across(model)
    small, gap = _ACROSS / across, across / _ACROSS  # of a mark; of a line of text, in lines of marks
    table = model.nexus.table("nodes")
    line = 0.0
    for nodes in model.config.nodes:
        mine = [entry.node for entry in model.engine.nodes if entry.population is nodes]
        rows = table[mine]
        load = rows["in_flight"] / np.maximum(rows["slots"], 1)
        up = rows["status"] == UP
        axes.text(-0.6, -line, f"{nodes.name}: {up.sum()} of {len(mine)} up", va="center", fontsize=9)
        line += gap
        x, y = np.arange(len(mine)) % across, -(line + np.arange(len(mine)) // across)
        for state, where in (
            ("down", ~up),
            ("free", up & (load < 0.5)),
            ("busy", up & (load >= 0.5) & (load < 1.0)),
            ("full", up & (load >= 1.0)),
        ):
            axes.scatter(
                x[where],
                y[where],
                s=(20 + 60 * np.minimum(load[where], 1.0)) * small,
                c=STATES[state][0],
                marker=STATES[state][1],
                edgecolors="#555555",
                linewidths=0.6 * small,
            )
        line += -(-len(mine) // across) - 1 + gap
    said = {"free": "free", "busy": "half full or more", "full": "full", "down": "down"}
    marks = [
        Line2D([], [], marker=marker, linestyle="", markerfacecolor=colour, markeredgecolor="#555555", label=said[state])
        for state, (colour, marker) in STATES.items()
    ]
    axes.legend(handles=marks, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=4)
    axes.set_xlim(-1, across)
    axes.set_ylim(-line, 0.7 * gap)
    axes.set_axis_off()
