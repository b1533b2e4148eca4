"""The sweep: each point of a design, replicated; then intervals, and differences to the first point."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import pandas as pd

from lattice_core.config import ConfigError, revise
from lattice_sim.study import design
from lattice_sim.study.document import Point, Question, Study, Sweep, Until
from lattice_sim.study.executors import Executor
from lattice_sim.study.statistics import FIRST_REPLICATIONS, Difference, Interval, holm, mean_interval, paired, replications_for
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
    """Of the difference, corrected for all differences of the metric (Holm); None without one, and for a single pair."""


def effects(frame: pd.DataFrame, metrics: Sequence[str], *, common: bool) -> list[Effect]:
    """Every metric at every point; a metric's rows stand together. Runs that failed are left out."""
    found: list[Effect] = []
    for metric in metrics:
        table = frame.pivot(index="replication", columns="point", values=metric)
        changes: dict[int, Difference] = {}
        points = [int(point) for point in table.columns]
        for point in points[1:] if common else []:
            pairs = table[[points[0], point]].dropna()
            if len(pairs):
                changes[point] = paired(pairs.iloc[:, 0].tolist(), pairs.iloc[:, 1].tolist())
        known = {point: change.p for point, change in changes.items() if change.p is not None}
        corrected = dict(zip(known, holm(list(known.values())), strict=True))
        for point in points:
            values = table[point].dropna().tolist()
            mean = mean_interval(values) if values else None
            found.append(Effect(metric, point, mean, changes.get(point), corrected.get(point)))
    return found


class Trend(NamedTuple):
    """How a metric's mean at a point goes with a factor over all points: Spearman's rank correlation, from −1 to 1."""

    metric: str
    factor: str
    correlation: float | None
    """None if either does not vary."""
    p: float | None


def trends(frame: pd.DataFrame, metrics: Sequence[str], factors: Sequence[str]) -> list[Trend]:
    """Of each metric with each numeric factor: what a design that fills the space shows first."""
    from scipy.stats import spearmanr

    numeric = [factor for factor in factors if pd.api.types.is_numeric_dtype(frame[factor])]
    means = frame.groupby("point")[[*metrics, *numeric]].mean()
    found = []
    for metric in metrics:
        for factor in numeric:
            both = means[[metric, factor]].dropna()
            if len(both) < 3 or both[metric].nunique() == 1 or both[factor].nunique() == 1:
                found.append(Trend(metric, factor, None, None))
                continue
            result = spearmanr(both[metric], both[factor])
            found.append(Trend(metric, factor, float(result.statistic), float(result.pvalue)))
    return found
