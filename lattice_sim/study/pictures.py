"""The pictures of a study's report."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from lattice_core.units import NANO
from lattice_sim.page import number
from lattice_sim.pictures import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY
from lattice_sim.study.document import Question, Range, Sensitivity, Sweep, Tune
from lattice_sim.study.search import DEFAULTS
from lattice_sim.study.sensitivity import RANKED_BY
from lattice_sim.study.statistics import is_clear, mean_interval
from lattice_sim.study.sweep import Effect, Trend, effects, trends

MOST_LINES = 6
"""Levels of a second factor that have a line each."""

MOST_CONTRASTS = 20
"""Differences in one panel."""

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED)
_MARKS = ("o", "s", "^", "D", "v", "P", "X")


class Made(NamedTuple):
    """A study as it lies in its folder."""

    kind: str
    asked: Question
    manifest: dict[str, Any]
    frame: pd.DataFrame
    """A row for each replication."""
    tables: Mapping[str, pd.DataFrame]
    """What this kind of study leaves beside, by name."""


class Unit(NamedTuple):
    """How a metric is shown: its name for people, and what its values are divided by."""

    label: str
    divisor: float


def unit(metric: str) -> Unit:
    words = metric.replace("_", " ")
    if metric.endswith("_nlai"):
        return Unit(words.removesuffix(" nlai") + ", LAI", NANO)
    if metric.endswith("_s") and not metric.endswith("_per_s"):
        return Unit(words.removesuffix(" s") + ", s", 1)
    return Unit(words, 1)


def short(factors: Sequence[str]) -> dict[str, str]:
    """The last word of each path, or as many as tell it from the others."""
    names = {}
    for path in factors:
        steps = path.split(".")
        tails = (".".join(steps[-count:]) for count in range(1, len(steps) + 1))
        names[path] = next((t for t in tails if sum(f".{other}".endswith(f".{t}") for other in factors) == 1), path)
    return names


def point_name(point: Mapping[str, Any]) -> str:
    names = short(list(point))
    return ", ".join(f"{names[path]} {_level(value)}" for path, value in point.items())


def columns(factors: int) -> int:
    """Panels side by side of metrics over so many factors: of one factor two metrics; of several, each metric begins a row."""
    return 2 if factors in (1, 2, 4) else 3


# A sweep


def over_factors(made: Made, figure: Figure, metrics: Sequence[str]) -> None:
    """Each metric over each factor: of a grid means with intervals, of a design that fills the space its points."""
    asked = made.asked
    assert isinstance(asked, Sweep)
    abreast = columns(len(asked.factors))
    each = 1 if len(asked.factors) == 1 else abreast * -(-len(asked.factors) // abreast)
    rows = -(-each * len(metrics) // abreast)
    pairs = [
        (1 + each * row + column, metric, factor)
        for row, metric in enumerate(metrics)
        for column, factor in enumerate(asked.factors)
    ]
    seen = [] if asked.design == "grid" else trends(made.frame, asked.metrics, list(asked.factors))
    found = {(trend.metric, trend.factor): trend for trend in seen}
    for place, metric, factor in pairs:
        axes = figure.add_subplot(rows, abreast, place)
        if asked.design == "grid":
            _levels(axes, made, metric, factor, named=place <= abreast)
        else:
            _cloud(axes, made, metric, factor, found.get((metric, factor)))
        axes.yaxis.set_major_formatter(PLAIN)
        low, high = axes.get_ylim()
        if high - low < 1e-6 * abs(high):  # nothing but rounding
            axes.set_ylim(0.95 * low, 1.05 * high)
        axes.set_title(unit(metric).label)
        axes.set_xlabel(factor)


def other_factor(asked: Question, factor: str) -> str | None:
    """The factor whose levels have lines of their own in a panel over `factor`."""
    others = [other for other in asked.factors if other != factor]
    levels = asked.factors[others[0]] if len(others) == 1 else None
    return others[0] if isinstance(levels, list) and len(levels) <= MOST_LINES else None


def _levels(axes: Axes, made: Made, metric: str, factor: str, named: bool) -> None:
    frame, other = made.frame, other_factor(made.asked, factor)
    levels = list(pd.unique(frame[factor]))
    places = _axis(axes, levels)
    lines: list[Any] = list(pd.unique(frame[other])) if other else [None]
    spread = _spread(places, len(lines), axes.get_xscale() == "log")
    for line, colour, mark, aside in zip(lines, cycle(_COLOURS), cycle(_MARKS), spread, strict=False):
        part = frame if line is None else frame[frame[other] == line]
        means = []
        for level in levels:
            table = part[part[factor] == level].pivot(index="replication", columns="point", values=metric).dropna()
            means.append(mean_interval(table.mean(axis=1).tolist()) if len(table) else None)
        known = [(x, mean) for x, mean in zip(aside, means, strict=True) if mean]
        if not known:
            continue
        x = [at for at, _ in known]
        y = [mean.mean / unit(metric).divisor for _, mean in known]
        half = [(mean.half_width or 0.0) / unit(metric).divisor for _, mean in known]
        named_so = None if line is None else f"{short(list(made.asked.factors))[str(other)]} {_level(line)}"
        joined = "-" if _numeric(levels) else ""
        axes.errorbar(
            x, y, half, color=colour, marker=mark, markersize=4.5, linestyle=joined, linewidth=1.2, capsize=3, label=named_so
        )
    axes.margins(x=0.08, y=0.12)
    if other and named and axes.has_data():
        beside = sum(len(text) for text in axes.get_legend_handles_labels()[1]) <= 30  # as much as the title leaves
        over: Any = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": len(lines), "borderaxespad": 0}
        axes.legend(fontsize=7.5, handlelength=1.4, **(over if beside else {"loc": "best", "frameon": True}))


def _cloud(axes: Axes, made: Made, metric: str, factor: str, trend: Trend | None) -> None:
    divisor = unit(metric).divisor
    groups = made.frame.dropna(subset=[metric]).groupby("point")
    x = groups[factor].first()
    y = groups[metric].mean() / divisor
    levels = list(pd.unique(made.frame[factor]))
    spec = made.asked.factors[factor]
    if isinstance(spec, Range):
        if spec.scale == "log":
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(PLAIN)
            axes.xaxis.set_minor_formatter(NullFormatter())
        at = x.to_numpy(float)
        edges = (np.geomspace if spec.scale == "log" else np.linspace)(spec.low, spec.high, 1 + _parts(len(x)))
        bins = np.clip(np.searchsorted(edges, at, side="right") - 1, 0, len(edges) - 2)
        axes.plot(at, y, linestyle="", marker="o", markersize=4, color=SKY, markeredgewidth=0)
        for part in np.unique(bins):
            axes.hlines(y.to_numpy()[bins == part].mean(), edges[part], edges[part + 1], color=BLUE, linewidth=2)
    else:
        places = dict(zip(levels, _axis(axes, levels), strict=True))
        at = np.array([places[level] for level in x])
        axes.plot(at, y, linestyle="", marker="o", markersize=4, color=SKY, markeredgewidth=0)
        for level in levels:
            axes.plot(places[level], y[x == level].mean(), marker="_", markersize=16, markeredgewidth=2, color=BLUE)
    if trend is not None and trend.correlation is not None:
        star = " *" if is_clear(trend.p) else ""
        axes.set_title(f"ρ {trend.correlation.rho:+.2f}{star}", loc="right", fontweight="normal")
    axes.margins(0.06, 0.1)


def _parts(points: int) -> int:
    return int(np.clip(points // 6, 1, 8))


def contrasts(made: Made) -> dict[str, list[Effect]]:
    """The differences to the first point that a picture shows, by metric: those farthest from 0 for their width."""
    found = effects(made.frame, made.asked.metrics, common=made.asked.seeds == "common")
    shown: dict[str, list[Effect]] = {}
    for effect in found:
        if effect.change is not None and effect.change.interval.half_width is not None:
            shown.setdefault(effect.metric, []).append(effect)
    for metric, mine in shown.items():
        kept = sorted(mine, key=_distance, reverse=True)[:MOST_CONTRASTS]
        shown[metric] = [effect for effect in mine if effect in kept]
    return shown


def _distance(effect: Effect) -> float:
    assert effect.change is not None
    mean, half = effect.change.interval.mean, effect.change.interval.half_width
    return abs(mean) / half if half else np.inf if mean else 0.0


def differences(made: Made, figure: Figure, metrics: Sequence[str]) -> None:
    """Each point's paired difference to the first, with its interval."""
    shown, points = contrasts(made), made.manifest["points"]
    for place, metric in enumerate(metrics, 1):
        axes = figure.add_subplot(-(-len(metrics) // 2), 2, place)
        rows = []
        for effect in shown[metric]:
            assert effect.change is not None
            interval = effect.change.interval
            name, half = point_name(points[effect.point]), interval.half_width or 0.0
            rows.append(_Row(name, interval.mean, half, is_clear(effect.p), BLUE))
        _forest(axes, rows, unit(metric))


class _Row(NamedTuple):
    """A difference in a forest plot."""

    name: str
    mean: float
    half_width: float
    clear: bool
    colour: str
    mark: str = "o"


def _forest(axes: Axes, rows: Sequence[_Row], of: Unit) -> None:
    axes.axvline(0, color="#666666", linewidth=1)
    for place, row in enumerate(rows):
        mean, half = row.mean / of.divisor, row.half_width / of.divisor
        face = row.colour if row.clear else "white"
        style: Any = {"marker": row.mark, "markersize": 6, "markerfacecolor": face, "capsize": 3, "linewidth": 1.4}
        axes.errorbar(mean, place, xerr=half, color=row.colour, **style)
    axes.set_yticks(range(len(rows)), [f"{row.name} *" if row.clear else row.name for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(PLAIN)
    axes.margins(x=0.1)
    axes.grid(axis="y", visible=False)
    axes.set_title(of.label)


# A sensitivity study


def ranking(made: Made, metric: str) -> list[str]:
    """The factors, the one that matters most first."""
    assert isinstance(made.asked, Sensitivity)
    rows = last(made)
    mine = rows[(rows["metric"] == metric) & (rows["index"] == RANKED_BY[made.asked.method])]
    return list(mine.sort_values("value", ascending=False, kind="stable")["factor"])


def known(made: Made) -> list[str]:
    """The metrics that have indices."""
    return list(pd.unique(made.tables["indices"]["metric"]))


def last(made: Made) -> pd.DataFrame:
    """The indices of the whole sample."""
    table = made.tables["indices"]
    return table[table["samples"] == table["samples"].max()]


def shares(made: Made, figure: Figure, metrics: Sequence[str]) -> None:
    """Sobol's indices, first and total, with intervals: a panel for each metric."""
    names = short(list(made.asked.factors))
    for place, metric in enumerate(metrics, 1):
        axes = figure.add_subplot(-(-len(metrics) // 2), 2, place)
        ranked = ranking(made, metric)
        for index, colour, aside in (("first", BLUE, -0.19), ("total", ORANGE, 0.19)):
            _bars(axes, made, metric, index, ranked, colour, aside, 0.36, 1)
        _factor_axis(axes, [names[factor] for factor in ranked])
        axes.set_title(unit(metric).label)
        if place == 1:
            axes.legend(loc="lower right")


def effects_and_spread(made: Made, figure: Figure, metrics: Sequence[str]) -> None:
    """Morris' μ* with intervals and, beside it, σ against μ*: a row for each metric."""
    names = short(list(made.asked.factors))
    for place, metric in enumerate(metrics):
        bars, plane = (figure.add_subplot(len(metrics), 2, 2 * place + side) for side in (1, 2))
        ranked, shown = ranking(made, metric), unit(metric)
        _bars(bars, made, metric, "mu_star", ranked, BLUE, 0.0, 0.6, shown.divisor)
        _factor_axis(bars, [names[factor] for factor in ranked])
        bars.set_title(f"μ*: {shown.label}")
        rows = last(made)
        mine = rows[rows["metric"] == metric].pivot(index="factor", columns="index", values="value") / shown.divisor
        limit = float(mine[["mu_star", "sigma"]].to_numpy().max()) or 1.0
        plane.plot([0, limit], [0, limit], color=GREY, linewidth=1, linestyle="--")
        for factor in ranked:
            colour, mark = _look(made, factor)
            x, y = mine.loc[factor, ["mu_star", "sigma"]].to_numpy(float)
            plane.plot(x, y, marker=mark, color=colour, linestyle="", label=names[factor], clip_on=False)
        plane.set(xlabel="μ*", ylabel="σ", xlim=(0, 1.1 * limit), ylim=(0, 1.1 * limit))
        plane.set_title(f"σ against μ*: {shown.label}")
        plane.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7.5)


def _look(made: Made, factor: str) -> tuple[str, str]:
    """A factor's colour and mark, in all panels the same."""
    place = list(made.asked.factors).index(factor)
    return _COLOURS[place % len(_COLOURS)], _MARKS[place % len(_MARKS)]


def _bars(
    axes: Axes, made: Made, metric: str, index: str, ranked: list[str], colour: str, aside: float, wide: float, divisor: float
) -> None:
    rows = last(made)
    mine = rows[(rows["metric"] == metric) & (rows["index"] == index)].set_index("factor").loc[ranked]
    style: Any = {"height": wide, "color": colour, "ecolor": "#333333", "capsize": 2, "error_kw": {"linewidth": 1}}
    at = np.arange(len(ranked)) + aside
    axes.barh(at, mine["value"] / divisor, xerr=mine["half_width"] / divisor, label=index.replace("_", " "), **style)


def _factor_axis(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(PLAIN)


def convergence(made: Made, figure: Figure, metrics: Sequence[str]) -> None:
    """The index that ranks the factors, over the length of the sample: a panel for each metric."""
    assert isinstance(made.asked, Sensitivity)
    names, index = short(list(made.asked.factors)), RANKED_BY[made.asked.method]
    table = made.tables["indices"]
    counts = sorted(table["samples"].unique())
    for place, metric in enumerate(metrics, 1):
        axes = figure.add_subplot(-(-len(metrics) // 2), 2, place)
        divisor = unit(metric).divisor if made.asked.method == "morris" else 1
        spread = _spread(counts, len(made.asked.factors), log=True)
        for factor, x in zip(ranking(made, metric), spread, strict=True):
            colour, mark = _look(made, factor)
            chosen = (table["metric"] == metric) & (table["index"] == index) & (table["factor"] == factor)
            mine = table[chosen].sort_values("samples")
            style: Any = {
                "color": colour,
                "marker": mark,
                "markersize": 4,
                "linewidth": 1,
                "capsize": 2,
                "label": names[factor],
            }
            axes.errorbar(x, mine["value"] / divisor, mine["half_width"] / divisor, **style)
        axes.set_xscale("log")
        _ticks(axes, counts, [f"{count:,}" for count in counts])
        axes.set_xlabel("samples")
        axes.set_title(f"{'μ*' if index == 'mu_star' else index}: {unit(metric).label}")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7.5)


# A tuning study


def parameters(made: Made, figure: Figure) -> None:
    """The values of each trial, an axis for each factor from the one end of what was searched to the other."""
    asked, trials = made.asked, made.tables["trials"]
    assert isinstance(asked, Tune)
    axes = figure.add_subplot()
    factors, names = list(asked.factors), short(list(asked.factors))
    x = np.arange(len(factors))
    for _, trial in trials[~trials["on_front"]].iterrows():
        axes.plot(x, _heights(asked, trial), color=GREY, alpha=0.25, linewidth=0.7)
    for _, trial in trials[trials["on_front"]].iterrows():
        axes.plot(x, _heights(asked, trial), color=BLUE, linewidth=1.3, marker="o", markersize=3)
    for mask, colour, line, mark, name in (
        (trials["trial"] == DEFAULTS, ORANGE, "--", "D", "defaults"),
        (trials["chosen"], GREEN, "-", "*", "chosen"),
    ):
        for _, trial in trials[mask].iterrows():
            axes.plot(
                x, _heights(asked, trial), color=colour, linestyle=line, linewidth=2.4, marker=mark, markersize=8, label=name
            )
    axes.plot([], [], color=BLUE, marker="o", markersize=3, label="on the front")
    axes.plot([], [], color=GREY, alpha=0.6, linewidth=0.7, label="other trials")
    for place, factor in enumerate(factors):
        low, high = _ends(asked.factors[factor])
        axes.axvline(place, color="#666666", linewidth=0.8)
        for y, text, align in ((-0.05, low, "top"), (1.05, high, "bottom")):
            axes.text(place, y, text, ha="center", va=align, fontsize=8, bbox={"color": "white", "pad": 1.0})
    axes.set_xticks(x, [names[factor] for factor in factors])
    axes.tick_params(axis="x", pad=12)
    axes.set(yticks=[], xlim=(-0.4, len(factors) - 0.6), ylim=(-0.16, 1.16))
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.grid(visible=False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4)


def _heights(asked: Tune, trial: pd.Series) -> list[float]:
    return [_height(factor, trial[path]) for path, factor in asked.factors.items()]


def _height(factor: Any, value: Any) -> float:
    """Where a value stands on the axis of its factor, from 0 to 1; not a number if it is none of its levels."""
    if isinstance(factor, Range):
        if factor.scale == "log":
            return float(np.log(value / factor.low) / np.log(factor.high / factor.low)) if value > 0 else np.nan
        return float((value - factor.low) / (factor.high - factor.low))
    levels = [str(level) for level in factor]
    same = [place for place, level in enumerate(factor) if level == value or str(value) == levels[place]]
    return same[0] / max(1, len(levels) - 1) if same else np.nan


def _ends(factor: Any) -> tuple[str, str]:
    if isinstance(factor, Range):
        return number(factor.low), number(factor.high) + (" (log)" if factor.scale == "log" else "")
    return str(factor[0]), str(factor[-1]) if len(factor) > 1 else ""


def held_out(made: Made, figure: Figure, metrics: Sequence[str]) -> None:
    """Tuned less defaults by seeds that the search has not seen: a panel for each objective, a row for each scenario."""
    asked, judged = made.asked, made.tables["held_out"]
    assert isinstance(asked, Tune)
    looks = {"better": (True, GREEN, "o"), "worse": (True, RED, "s"), "unclear": (False, "#666666", "o")}
    aims = [aim for aim in asked.objectives if aim.metric in metrics]
    for place, aim in enumerate(aims, 1):
        axes = figure.add_subplot(-(-len(aims) // 2), min(2, len(aims)), place)
        rows = [
            _Row(row["scenario"], row["difference"], row["half_width"], *looks[row["verdict"]])
            for _, row in judged[judged["objective"] == aim.metric].iterrows()
        ]
        _forest(axes, rows, unit(aim.metric))
        axes.set_xlabel(f"tuned − defaults; {'less' if aim.minimise else 'more'} is better")


# Axes

PLAIN = FuncFormatter(lambda value, _: f"{value:,.10g}".replace("-", "\N{MINUS SIGN}"))
"""Whole numbers beside the ticks, and no power of ten or offset elsewhere."""


def _level(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _numeric(levels: Sequence[Any]) -> bool:
    return all(isinstance(level, int | float | np.number) and not isinstance(level, bool | np.bool_) for level in levels)


def _axis(axes: Axes, levels: Sequence[Any]) -> list[float]:
    """Where levels stand: numbers where they are, on a scale of ratios if they span a decade; others one beside the other."""
    if not _numeric(levels):
        axes.set_xticks(range(len(levels)), [_level(level) for level in levels])
        return [float(place) for place in range(len(levels))]
    places = [float(level) for level in levels]
    if min(places) > 0 and max(places) >= 10 * min(places):
        axes.set_xscale("log")
    if len(levels) <= 8:
        _ticks(axes, places, [_level(float(level)) for level in levels])
    return places


def _ticks(axes: Axes, places: Sequence[float], names: Sequence[str]) -> None:
    axes.xaxis.set_major_locator(FixedLocator(list(places)))
    axes.xaxis.set_minor_locator(NullLocator())
    named = dict(zip(map(float, places), names, strict=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: named.get(float(x), "")))


def _spread(places: Sequence[float], lines: int, log: bool) -> list[list[float]]:
    """The places for each of several lines, a little aside, so that their intervals do not cover each other."""
    at = np.log(places) if log else np.asarray(places, float)
    step = 0.012 * (float(np.ptp(at)) or 1.0)
    moved = [at + step * (line - (lines - 1) / 2) for line in range(lines)]
    return [(np.exp(of) if log else of).tolist() for of in moved]
