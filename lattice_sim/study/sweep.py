"""The sweep: each point of a design, replicated; then intervals, and differences to the first point.

points.parquet       a row for each metric and point: factors, mean ± half_width, n; of a grid also the difference and its p
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import pandas as pd

from lattice_core.config import ConfigError, revise
from lattice_sim.study import design
from lattice_sim.study.document import Point, Question, Study, Sweep, Until
from lattice_sim.study.executors import Executor
from lattice_sim.study.statistics import (
    FIRST_REPLICATIONS,
    Correlation,
    Difference,
    Interval,
    holm,
    mean_interval,
    paired,
    rank_correlation,
    replications_for,
)
from lattice_sim.study.store import Store
from lattice_sim.study.task import Plan, Row, Task, seed_of

MOST_RUNS = 10_000
"""More are not begun without being asked for once more."""

_KEEP_EVERY = 8
"""Rows kept at once: Ctrl-C keeps all, a killed process loses no more."""


def points_of(study: Study) -> list[Point]:
    """The points of a sweep. Raises ConfigError for one that makes no network."""
    assert isinstance(study.asked, Sweep)
    points = design.points(study.asked, study.base.seed)
    for point in points:
        try:
            revise(study.base, point)
        except ConfigError as error:
            line = str(error).splitlines()[0].removeprefix("--set").lstrip(": ")
            raise ConfigError(f"{study.source}: {study.kind}: the point {json.dumps(point)}: {line}") from error
    return points


def runs_of(asked: Sweep) -> int:
    """How many runs a sweep takes at most, without making its points."""
    each = asked.replications.most if isinstance(asked.replications, Until) else asked.replications
    return design.count(asked) * each


def sweep(study: Study, store: Store, workers: Executor, told: Callable[[int, int], object] = lambda done, of: None) -> None:
    """Make what is missing of a sweep, and keep it in `store`. `told` hears how many runs of how many are done.

    Ctrl-C leaves what is done, from which the same call goes on. Raises ConfigError.
    """
    assert isinstance(study.asked, Sweep)
    points = points_of(study)
    store.plan(points)
    for replications in _rounds(study.asked, store, len(points)):
        replicated(study, store, workers, points, replications, told)
    store.table("points", _points(study, store.frame()))
    store.finish()


def replicated(
    study: Study,
    store: Store,
    workers: Executor,
    points: Sequence[Point],
    replications: int,
    told: Callable[[int, int], object] = lambda done, of: None,
) -> None:
    """Have so many replications of each point in the store."""
    made(study, store, workers, tasks_of(study.asked, study.base.seed, points, replications), told)


def made(
    study: Study,
    store: Store,
    workers: Executor,
    tasks: Sequence[Task],
    told: Callable[[int, int], object] = lambda done, of: None,
) -> None:
    """Have the rows of these tasks in the store."""
    plan = Plan(study.base, tuple(study.asked.recorded))
    done = store.done()
    missing = [task for task in tasks if task[:2] not in done]
    told(len(tasks) - len(missing), len(tasks))
    with _kept(store) as keep:
        for number, ended in enumerate(workers.run(plan, missing), len(tasks) - len(missing) + 1):
            keep(ended)
            told(number, len(tasks))


def tasks_of(asked: Question, seed: int, points: Sequence[Point], replications: int) -> list[Task]:
    """All replications, those with the same random numbers side by side."""
    common = asked.seeds == "common"
    return [
        Task(number, replication, seed_of(seed, replication, None if common else number), point)
        for replication in range(replications)
        for number, point in enumerate(points)
    ]


@contextmanager
def _kept(store: Store) -> Iterator[Callable[[tuple[Task, Row]], None]]:
    """Gathers rows and keeps them a few at a time; all of them in the end, however it comes."""
    rows: list[tuple[Task, Row]] = []

    def keep(ended: tuple[Task, Row]) -> None:
        rows.append(ended)
        if len(rows) >= _KEEP_EVERY:
            store.add(rows)
            rows.clear()

    try:
        yield keep
    finally:
        if rows:
            store.add(rows)


def _rounds(asked: Sweep, store: Store, points: int) -> Iterator[int]:
    """How many replications each point is to have, until there are enough."""
    if not isinstance(asked.replications, Until):
        yield asked.replications
        return
    until, most = asked.replications.until, asked.replications.most
    half_width, relative = until.target
    replications = min(FIRST_REPLICATIONS, most)
    while True:
        yield replications
        frame = store.frame()
        frame = frame[frame["replication"] < replications]  # one that goes on may have more of some points already
        needed = 0
        for point in range(points):
            values = frame.loc[frame["point"] == point, until.metric].dropna().tolist()
            needed = max(needed, (replications_for(values, half_width, relative) if values else None) or most)
        if needed <= replications or replications == most:
            return
        replications = min(needed, most)


# What came of it


class Effect(NamedTuple):
    """A metric at a point: its mean, and the difference to the first point, of paired replications."""

    metric: str
    point: int
    mean: Interval | None
    """None if nothing was measured."""
    change: Difference | None
    """None at the first point, and without common random numbers."""
    p: float | None
    """Of the difference, corrected for all that are shown beside it (Holm); None without one, and for a single pair."""


def effects(frame: pd.DataFrame, metrics: Sequence[str], *, common: bool) -> list[Effect]:
    """Every metric at every point; a metric's rows stand together. Runs that failed are left out."""
    found: list[Effect] = []
    for metric in metrics:
        table = frame.pivot(index="replication", columns="point", values=metric)
        points = [int(point) for point in table.columns]
        for point in points:
            values = table[point].dropna().tolist()
            change = _change(table[points[0]], table[point]) if common and point != points[0] else None
            found.append(Effect(metric, point, mean_interval(values) if values else None, change, change and change.p))
    return _corrected(found)


def _change(first: pd.Series, other: pd.Series) -> Difference | None:
    """Of a metric at two points, by replication; None if none has both."""
    known = first.notna() & other.notna()
    return paired(first[known].tolist(), other[known].tolist()) if known.any() else None


class Trend(NamedTuple):
    """How a metric's mean at a point goes with a factor over all points."""

    metric: str
    factor: str
    correlation: Correlation | None
    """Spearman's; None if either does not vary."""
    p: float | None
    """Of it, corrected for all that are shown beside it (Holm)."""


def trends(frame: pd.DataFrame, metrics: Sequence[str], factors: Sequence[str]) -> list[Trend]:
    """Of each metric with each numeric factor: what a design that fills the space shows first."""
    numeric = [factor for factor in factors if pd.api.types.is_numeric_dtype(frame[factor])]
    means = frame.groupby("point")[[*metrics, *numeric]].mean()
    found = []
    for metric in metrics:
        for factor in numeric:
            both = means[[metric, factor]].dropna()
            correlation = rank_correlation(both[factor].tolist(), both[metric].tolist())
            found.append(Trend(metric, factor, correlation, correlation and correlation.p))
    return _corrected(found)


def _corrected[Of: (Effect, Trend)](found: list[Of]) -> list[Of]:
    """With each p corrected for being one of so many."""
    corrected = iter(holm([each.p for each in found if each.p is not None]))
    return [each if each.p is None else each._replace(p=next(corrected)) for each in found]


def corrected_for(found: Sequence[Effect] | Sequence[Trend]) -> int:
    """How many p there are, for all of which each is corrected."""
    return sum(each.p is not None for each in found)


def _points(study: Study, frame: pd.DataFrame) -> pd.DataFrame:
    """points.parquet: a row for each metric and point, with its factors, mean and, of a grid, difference to the first point."""
    asked = study.asked
    assert isinstance(asked, Sweep)
    common = asked.seeds == "common" and asked.design == "grid"
    rows = []
    for metric, point, mean, change, p in effects(frame, asked.metrics, common=common):
        shown = {"mean": mean and mean.mean, "half_width": mean and mean.half_width}
        away = {"difference": change and change.interval.mean, "difference_half_width": change and change.interval.half_width}
        rows.append({"point": point, "metric": metric, "n": mean.n if mean else 0} | shown | away | {"p": p})
    factors = frame.groupby("point")[list(asked.factors)].first()
    table = pd.DataFrame(rows).merge(factors, on="point")
    numbers = dict.fromkeys(("mean", "half_width", "difference", "difference_half_width", "p"), "float64")
    return table[["point", *factors, "metric", "n", *numbers]].astype(numbers)
