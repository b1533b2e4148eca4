"""A study's report: one self-contained page, pictures first, then tables. It is made of what lies in the study's folder."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from html import escape
from itertools import batched
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from lattice_core.config import ConfigError
from lattice_sim.page import figure, number, page, percent, table
from lattice_sim.pictures import svg
from lattice_sim.rundir import REPORT, replaced
from lattice_sim.study import pictures
from lattice_sim.study.document import KINDS, Sensitivity, Sweep, Tune
from lattice_sim.study.pareto import pareto
from lattice_sim.study.pictures import Made, contrasts, known, other_factor, short, unit
from lattice_sim.study.search import DEFAULTS
from lattice_sim.study.store import COMPLETE, describe, load_study
from lattice_sim.study.sweep import Trend, corrected_for, effects, trends

MOST_ROWS = 48
"""Of a table on the page; the study's tables have all."""

MOST_INCHES = 8.5
"""Of a picture's height, where its width is 9: so it fits on a printed page with its caption, and under the page's head."""

_TABLES = ("indices", "trials", "held_out")


class _Picture(NamedTuple):
    title: str
    draw: Callable[[Made], bytes]
    caption: str


def write_report(folder: Path) -> None:
    """Write the report of a complete study into its folder. Raises ConfigError."""
    try:
        with replaced(folder / REPORT) as path:
            path.write_text(report(folder), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{folder / REPORT}: cannot be written: {error.strerror or error}") from error


def report(folder: str | Path) -> str:
    """The page of the complete study in a folder. Raises ConfigError if there is none."""
    made = _read(Path(folder))
    drawn = {"sweep": _sweep, "sensitivity": _sensitivity, "tune": _tune}[made.kind](made)
    figures = (
        figure(place, picture.title, picture.draw(made), escape(picture.caption).replace(" %", "&nbsp;%"))
        for place, picture in enumerate(drawn, 1)
    )
    tables = {"sweep": _sweep_tables, "sensitivity": _sensitivity_tables, "tune": _tune_tables}[made.kind](made)
    return page(made.asked.name, _subtitle(made), _above(made), figures, [*tables, *_made_of(made)])


def _read(folder: Path) -> Made:
    manifest = describe(folder)
    if manifest["status"] != COMPLETE:
        raise ConfigError(f"{folder}: must be complete for a report; the command that made it goes on")
    kind = manifest["kind"]
    tables = {name: pd.read_parquet(path) for name in _TABLES if (path := folder / f"{name}.parquet").is_file()}
    return Made(kind, KINDS[kind].model_validate(manifest["study"][kind]), manifest, load_study(folder), tables)


def _subtitle(made: Made) -> str:
    words = [
        made.kind,
        f"{len(made.tables['trials']):,} trials" if made.kind == "tune" else f"{len(made.manifest['points']):,} points",
        f"{len(made.frame):,} runs",
        f"seed {made.manifest['base']['seed']}",
        f"config <code>{made.manifest['base_sha256'][:12]}</code>",
    ]
    return " · ".join(words)


def _above(made: Made) -> str:
    """The question, and what a reader must know before the pictures."""
    lines = [f'<p class="question">{escape(made.asked.question)}</p>'] if made.asked.question else []
    failed = made.frame[made.frame["status"] != COMPLETE]
    if len(failed):
        first = failed.iloc[0]
        reason = f"point {first['point']}: {first['status']}: {first['reason']}"
        lines.append(
            f'<p class="stopped">{len(failed):,} of {len(made.frame):,} runs failed and are left out; {escape(reason)}</p>'
        )
    if made.kind == "sweep" and _replications(made) == 1:
        lines.append('<p class="stopped">One replication: nothing can be said of how far its figures are from the mean.</p>')
    if made.kind == "tune" and not made.tables["trials"]["on_front"].any():
        lines.append('<p class="stopped">No trial keeps every constraint: nothing is chosen.</p>')
    return "\n".join(lines)


def _replications(made: Made) -> int:
    return int(made.frame["replication"].nunique())


def _picture(title: str, draw: Callable[[Made, Figure], None], height: float, caption: str) -> _Picture:
    return _Picture(title, lambda made: svg(draw, made, height), caption)


def _panels(
    title: str, draw: Callable[..., None], metrics: Sequence[str], abreast: int, each: float, caption: str, n: str
) -> Iterator[_Picture]:
    """Pictures of metrics, `abreast` of them in a row of `each` inches: as many as keep each on a printed page."""
    parts = list(batched(metrics, abreast * max(1, int(MOST_INCHES / each))))
    for place, part in enumerate(parts, 1):
        named = f"{title}, {place} of {len(parts)}" if len(parts) > 1 else title
        said = caption if place == 1 else "As before, of other metrics."
        yield _picture(named, partial(draw, metrics=part), -(-len(part) // abreast) * each, f"{said} {n}")


# A sweep


def _sweep(made: Made) -> Iterator[_Picture]:
    asked = made.asked
    assert isinstance(asked, Sweep)
    factors = len(asked.factors)
    n = f"n = {_replications(made)} replication{'s' * (_replications(made) > 1)} of {len(made.manifest['points'])} points."
    abreast, each = (2, 2.5) if factors == 1 else (1, 2.5 * -(-factors // pictures.columns(factors)))
    title = "Each metric over each factor"
    yield from _panels(title, pictures.over_factors, asked.metrics, abreast, each, _levels_caption(made), n)
    if asked.design == "grid" and (shown := contrasts(made)):
        of, first = sum(len(rows) for rows in shown.values()), pictures.point_name(made.manifest["points"][0])
        most = f" The {pictures.MOST_CONTRASTS} that are farthest from 0 for their width." if _cut(made, shown) else ""
        yield from _panels(
            "Differences to the first point",
            pictures.differences,
            list(shown),
            2,
            1.0 + 0.24 * max(map(len, shown.values())),
            f"Mean of the paired differences to {first}, with its 95 % interval: each replication has the same users and "
            "failures at both points. A full mark and a star say that a difference is clear at 5 %, corrected for "
            f"all differences of the study (Holm).{most}",
            f"n = {_replications(made)} pairs in each of {of} differences.",
        )


def _cut(made: Made, shown: dict[str, Any]) -> bool:
    return any(len(rows) < len(made.manifest["points"]) - 1 for rows in shown.values())


def _levels_caption(made: Made) -> str:
    asked = made.asked
    if made.manifest["study"]["sweep"]["design"] != "grid":
        return (
            "A point is the mean of its replications; bars are means over parts of the factor's range, in which others vary "
            "freely. ρ is Spearman's rank correlation over all points, from −1 to 1: near 0, the factor moves nothing by "
            "itself; a star says that it is clear at 5 %, corrected for all of them (Holm)."
        )
    interval = "Mean and 95 % interval of each point." if _replications(made) > 1 else "The one run of each point."
    lined = [factor for factor in asked.factors if other_factor(asked, factor)]
    lines = " Lines are levels of the other factor: where they are not parallel, the two act on each other." if lined else ""
    rest = len(asked.factors) > 1 and len(lined) < len(asked.factors)
    mean = " Without lines of its own, another factor is averaged over." if rest and lined else ""
    mean = " Other factors are averaged over." if rest and not lined else mean
    sharper = " Points have seeds in common, so that differences between them are surer than these intervals look."
    return f"{interval}{lines}{mean}{sharper if asked.seeds == 'common' and _replications(made) > 1 else ''}"


def _sweep_tables(made: Made) -> Iterator[str]:
    asked, points = made.asked, made.manifest["points"]
    names = list(short(list(asked.factors)).values())
    if made.manifest["study"]["sweep"]["design"] == "grid":
        found = effects(made.frame, asked.metrics, common=asked.seeds == "common")
        for metric in asked.metrics:
            label, divisor = unit(metric)
            rows = [
                (
                    *(str(value) for value in points[effect.point].values()),
                    *_interval(effect.mean, divisor),
                    *_interval(effect.change and effect.change.interval, divisor),
                    "–" if effect.p is None else f"{effect.p:.2g}",
                    str(effect.mean.n if effect.mean else 0),
                )
                for effect in found
                if effect.metric == metric
            ]
            heads = (*names, "mean", "±", "to the first", "±", f"p (Holm, of {corrected_for(found)})", "n")
            yield table(_titled(label, len(rows)), heads, rows[:MOST_ROWS])
        return
    seen = [trend for trend in trends(made.frame, asked.metrics, list(asked.factors)) if trend.correlation]
    if seen:
        shown = short(list(asked.factors))
        seen.sort(key=lambda trend: -abs(trend.correlation.rho))  # type: ignore[union-attr]
        rows = [(unit(trend.metric).label, shown[trend.factor], *_correlation(trend)) for trend in seen]
        heads = ("metric", "factor", "ρ", "95 % interval", f"p (Holm, of {corrected_for(seen)})", "n")
        yield table(_titled("Rank correlations, the strongest first", len(rows)), heads, rows[:MOST_ROWS])
    cells: dict[int, list[str]] = {}
    for effect in effects(made.frame, asked.metrics, common=False):
        mean, half = _interval(effect.mean, unit(effect.metric).divisor)
        cells.setdefault(effect.point, []).append(mean if half == "–" else f"{mean} ± {half}")
    rows = [(*(_shown(value) for value in points[point].values()), *of) for point, of in cells.items()]
    many = _replications(made)
    title = f"Mean of each point over {many} replications" if many > 1 else "The one run of each point"
    yield table(_titled(title, len(rows)), (*names, *(unit(metric).label for metric in asked.metrics)), rows[:MOST_ROWS])


def _correlation(trend: Trend) -> tuple[str, str, str, str]:
    found = trend.correlation
    assert found is not None
    ends = "–" if found.low is None or found.high is None else f"{found.low:+.2f} to {found.high:+.2f}"
    return f"{found.rho:+.2f}", ends, f"{trend.p:.2g}", str(found.n)


def _interval(of: Any, divisor: float) -> tuple[str, str]:
    if of is None:
        return "–", "–"
    return number(of.mean / divisor), number(None if of.half_width is None else of.half_width / divisor)


def _titled(title: str, rows: int) -> str:
    return title if rows <= MOST_ROWS else f"{title}: the first {MOST_ROWS} of {rows:,}"


# A sensitivity study


def _sensitivity(made: Made) -> Iterator[_Picture]:
    asked, metrics = made.asked, known(made)
    assert isinstance(asked, Sensitivity)
    if not metrics:
        return
    n = f"n = {asked.samples:,} samples, {len(made.frame):,} runs."
    factors = len(asked.factors)
    if asked.method == "sobol":
        yield from _panels(
            "What each factor explains",
            pictures.shares,
            metrics,
            2,
            1.1 + 0.42 * factors,
            "Shares of the variance between points, with 95 % bootstrap intervals. First: what a factor explains alone. Total: "
            "that and all it does together with others; where it is much longer than first, factors act on each other. An "
            "interval that reaches 0 says that the factor may not matter.",
            n,
        )
    else:
        yield from _panels(
            "What each factor moves",
            pictures.effects_and_spread,
            metrics,
            1,
            1.2 + 0.32 * max(3, factors),
            "Left, μ*, the mean size of a factor's elementary effects, as if it went through its whole range, with 95 % "
            "bootstrap intervals. Right, σ, their spread: near the axis effects are the same everywhere; at the dashed line "
            "and above, they depend on the other factors or on where the factor stands.",
            n,
        )
    yield from _panels(
        "Whether the sample is large enough",
        pictures.convergence,
        metrics,
        2,
        2.6,
        "The index that ranks the factors, from a quarter, half and all of the sample, with 95 % bootstrap intervals. If lines "
        "still cross at the right, take more samples.",
        n,
    )


def _sensitivity_tables(made: Made) -> Iterator[str]:
    manifest, rows = made.manifest, pictures.last(made)
    verdicts = [(unit(metric).label, said.partition(": ")[2]) for metric, said in manifest["verdicts"].items()]
    yield table("The ranking", ("metric", "of the factors"), verdicts)
    for metric in known(made):
        mine = rows[rows["metric"] == metric]
        indices = list(pd.unique(mine["index"]))
        divisor = unit(metric).divisor if made.asked.method == "morris" else 1  # type: ignore[attr-defined]
        body = []
        for factor in pictures.ranking(made, metric):
            cells = [mine[(mine["factor"] == factor) & (mine["index"] == index)].iloc[0] for index in indices]
            body.append((factor, *(_plus_minus(cell["value"] / divisor, cell["half_width"] / divisor) for cell in cells)))
        yield table(unit(metric).label, ("factor", *(index.replace("_", " ") for index in indices)), body)
    if noise := {metric: share for metric, share in manifest["noise"].items() if share is not None}:
        rows_of = [(unit(metric).label, percent(share)) for metric, share in noise.items()]
        yield table("Noise", ("metric", "of the variance between points"), rows_of)


def _plus_minus(value: float, half: float) -> str:
    return f"{number(value)} ± {number(half)}" if half == half else number(value)


# A tuning study


def _tune(made: Made) -> Iterator[_Picture]:
    asked, trials = made.asked, made.tables["trials"]
    assert isinstance(asked, Tune)
    counts = ", ".join(f"{count} {status}" for status, count in trials["status"].value_counts().items())
    n = f"n = {len(trials):,} trials ({counts})."
    scenarios = f" In {len(asked.scenarios)} scenarios, of which the {asked.robust} counts." if len(asked.scenarios) > 1 else ""
    aims = len(asked.objectives)
    what = "the front is what no other trial beats in every objective" if aims > 1 else "the front is the best trial"
    yield _Picture(
        "The trials",
        lambda made: pareto(made.tables["trials"], asked),
        f"What each trial came to: {what}. Look for how far the defaults are from it, and what one objective costs in "
        f"the other. A cross breaks a constraint.{scenarios} {n}",
    )
    yield _picture(
        "Where the front lies",
        pictures.parameters,
        4.2,
        "A line is a trial, and crosses each axis at its value. Where the front's lines run together, the value matters; where "
        "they spread, it does not, or it is what the objectives disagree on. "
        f"n = {int(trials['on_front'].sum())} trials on the front of {len(trials):,}.",
    )
    if (judged := made.tables.get("held_out")) is not None and len(judged):
        rows = judged.groupby("objective").size().max()
        yield from _panels(
            "Tuned against defaults, on seeds that the search has not seen",
            pictures.held_out,
            [aim.metric for aim in asked.objectives],
            min(2, aims),
            1.3 + 0.3 * rows,
            "Mean of the paired differences, with its 95 % interval, in each scenario. A full mark and a star say that the "
            "interval does not reach 0: a green circle is better, a red square worse; an empty mark leaves it open.",
            f"n = {int(judged['n'].min())} pairs in each row.",
        )


def _tune_tables(made: Made) -> Iterator[str]:
    asked, trials = made.asked, made.tables["trials"]
    assert isinstance(asked, Tune)
    units = {metric: unit(metric) for metric in asked.recorded}
    if (judged := made.tables.get("held_out")) is not None:
        rows = []
        for _, row in judged.iterrows():
            label, divisor = units[row["objective"]]
            values = (number(row[name] / divisor) for name in ("defaults", "tuned"))
            rows.append(
                (
                    label,
                    row["scenario"],
                    *values,
                    _plus_minus(row["difference"] / divisor, row["half_width"] / divisor),
                    f"{row['p']:.2g}",
                    str(row["n"]),
                    row["verdict"],
                )
            )
        heads = ("objective", "scenario", "defaults", "tuned", "difference", "p (Holm)", "n", "verdict")
        yield table("Tuned against defaults", heads, rows)
    shown = trials[trials["on_front"] | (trials["trial"] == DEFAULTS)].sort_values(asked.objectives[0].metric)
    names = short(list(asked.factors))
    listed = [
        (
            str(row["trial"]),
            *(_shown(row[factor]) for factor in asked.factors),
            *(number(row[metric] / units[metric].divisor) for metric in asked.recorded),
            ", ".join(word for word, of in (("defaults", row["trial"] == DEFAULTS), ("chosen", row["chosen"])) if of),
        )
        for _, row in shown.iterrows()
    ]
    columns = ("trial", *names.values(), *(units[metric].label for metric in asked.recorded), "")
    yield table(_titled("The front and the defaults", len(listed)), columns, listed[:MOST_ROWS])


# What all have


def _made_of(made: Made) -> Iterable[str]:
    asked = made.manifest["study"][made.kind]
    told = [
        (key, _told(value)) for key, value in asked.items() if key not in ("name", "question") and value not in ({}, [], None)
    ]
    yield table("What was asked", ("", ""), told)
    hashes = [(name.replace("_", " "), made.manifest[name]) for name in ("base_sha256", "rules_sha256", "contracts_sha256")]
    versions = ", ".join(f"{package} {version}" for package, version in made.manifest["packages"].items() if version)
    rows = [(name, f"<code>{value}</code>") for name, value in hashes]
    yield table("What ran", ("", ""), [*rows, ("packages", escape(versions))], marked_up=True)


def _told(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _shown(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)
