"""The page of `lattice view`: a network to step through, sliders for what it is, charts of what it does.

It is Mesa's SolaraViz around `LatticeModel`, whose parameters are the config's dotted paths: the button Reset makes the network
anew, with the sliders' values in place of the config's.
"""

from collections.abc import Iterator
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

from lattice_core.config import Config, revise
from lattice_core.config.network import POLICIES
from lattice_core.state import UP
from lattice_core.units import HOUR_NS, NANO
from lattice_sim import metrics
from lattice_sim.model import LatticeModel
from lattice_sim.pictures import BLUE, GREEN, GREY, ORANGE, RED, SKY, STYLE
from lattice_sim.rundir import COMPLETE, Run

STATES = {"free": (BLUE, "o"), "busy": (ORANGE, "s"), "full": (RED, "^"), "down": ("white", "o")}
"""Colours and shapes of nodes: free slots in plenty, half of them taken or more, none left, not listed."""

_ACROSS = 30
"""Nodes side by side in the picture."""


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
    for users in document["users"]:
        for kind, workload in users["workload"].items():
            if isinstance(workload, dict) and "requests_per_day" in workload:
                rate = float(workload["requests_per_day"])
                path = f"users.{users['name']}.workload.{kind}.requests_per_day"
                found[path] = _slider(f"requests a day, {users['name']}", rate, 0.1 * rate, 2.0 * rate, 0.05 * rate)
    for nodes in document["nodes"]:
        slots, price = int(nodes["slots"]), float(nodes["price"]["output"])
        found[f"nodes.{nodes['name']}.slots"] = Slider(f"slots, {nodes['name']}", slots, 1, 2 * slots + 2, 1)
        path = f"nodes.{nodes['name']}.price.output"
        found[path] = _slider(f"price out, {nodes['name']}", price, 0.1 * price, 3.0 * price, 0.05 * price)
    for factor in ("price", "latency", "reliability"):
        found[f"routing.weights.{factor}"] = _slider(
            f"weight of {factor}", float(document["routing"]["weights"][factor]), 0.0, 8.0, 0.25
        )
    found["routing.explore"] = _slider("share of exploration", config.routing.explore, 0.0, 0.5, 0.01)
    found["routing.newcomer_cap"] = _slider("newcomer cap", config.routing.newcomer_cap, 0.0, 32.0, 1.0)
    for part in ("burn", "treasury"):
        share = float(document["economics"]["split"][part])
        found[f"economics.split.{part}"] = _slider(f"share of fees, {part}", share, 0.0, max(0.2, share), 0.005)
    return found


def _slider(label: str, value: float, low: float, high: float, step: float) -> Slider:
    return Slider(label, value, min(low, value), max(high, value), step, dtype=float)


@solara.component
def Network(model: LatticeModel) -> None:  # noqa: N802
    """Every node, by population: how many of its slots are taken, or that it is down."""
    update_counter.get()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, _rows(model) * 0.34 + 1.0), layout="constrained")
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
        figure = Figure(figsize=(6.4, 6.4), layout="constrained")
        for axes, (name, said, colour) in zip(figure.subplots(len(CHARTS), sharex=True), CHARTS, strict=True):
            if before is not None:
                axes.plot(before.index, before[name], color=GREY, linewidth=1.2, label="the run" if run else "before Reset")
            axes.plot(now.index, now[name], "o-", color=colour, markersize=3, label="now")
            axes.set_title(said)
            axes.update_datalim([(0, 0)])  # room above the highest value in proportion to it
            axes.autoscale_view()
            axes.set_ylim(bottom=0)
            axes.set_xlim(0, model.epochs)
        axes.set_xlabel("epoch")
        if before is not None:
            figure.axes[0].legend(loc="lower right", ncols=2)
        solara.FigureMatplotlib(figure, format="svg", bbox_inches="tight")


CHARTS = (
    ("arrivals_per_h", "requests an hour", BLUE),
    ("completed_share", "share of ended requests that were completed", GREEN),
    ("ttft_p95_s", "first token, 95th percentile, s", ORANGE),
    ("settled_lai", "fees settled, LAI", SKY),
)


def by_epoch(run: Run) -> pd.DataFrame:
    """The columns of CHARTS, by the number of the epoch that has ended."""
    epochs, requests = run.epochs, run.requests
    ended = epochs["completed"] + epochs["failed"] + epochs["rejected"]
    hours = (epochs["end_ns"] - epochs["start_ns"]) / HOUR_NS
    of = np.searchsorted(epochs["end_ns"].to_numpy(), requests["arrival_ns"].to_numpy(), side="right")
    ttft = [metrics.quantile(metrics.ttft_ns(requests[of == epoch]), 95) for epoch in range(len(epochs))]
    return pd.DataFrame(
        {
            "arrivals_per_h": epochs["arrived"] / hours,
            "completed_share": epochs["completed"] / ended.where(ended > 0),
            "ttft_p95_s": [np.nan if ns is None else ns / NANO for ns in ttft],
            "settled_lai": (epochs["purchased_nlai"] + epochs["faucet_nlai"]) / NANO,
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


def _rows(model: LatticeModel) -> int:
    """Lines that the picture of the nodes has."""
    return sum(-(-nodes.count // _ACROSS) + 1 for nodes in model.config.nodes)


def _draw_nodes(model: LatticeModel, axes: Axes) -> None:
    table = model.nexus.table("nodes")
    line = 0.0
    for nodes in model.config.nodes:
        mine = [entry.node for entry in model.engine.nodes if entry.population is nodes]
        rows = table[mine]
        load = rows["in_flight"] / np.maximum(rows["slots"], 1)
        up = rows["status"] == UP
        axes.text(-0.6, -line, f"{nodes.name}: {up.sum()} of {len(mine)} up", va="center", fontsize=9)
        line += 1
        x, y = np.arange(len(mine)) % _ACROSS, -(line + np.arange(len(mine)) // _ACROSS)
        for state, where in (
            ("down", ~up),
            ("free", up & (load < 0.5)),
            ("busy", up & (load >= 0.5) & (load < 1.0)),
            ("full", up & (load >= 1.0)),
        ):
            axes.scatter(
                x[where],
                y[where],
                s=20 + 60 * np.minimum(load[where], 1.0),
                c=STATES[state][0],
                marker=STATES[state][1],
                edgecolors="#555555",
                linewidths=0.6,
            )
        line += -(-len(mine) // _ACROSS)
    said = {"free": "free", "busy": "half full or more", "full": "full", "down": "down"}
    marks = [
        Line2D([], [], marker=marker, linestyle="", markerfacecolor=colour, markeredgecolor="#555555", label=said[state])
        for state, (colour, marker) in STATES.items()
    ]
    axes.legend(handles=marks, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=4)
    axes.set_xlim(-1, _ACROSS)
    axes.set_ylim(-line, 0.7)
    axes.set_axis_off()
