"""A tuning study: search, then judge what was chosen by seeds and scenarios that the search never saw.

trials.parquet       each trial: its values, what came of it, whether it is on the front, and which one is chosen
front.parquet        those that no other beats in everything, among trials that keep all constraints
held_out.parquet     chosen against defaults, objective by objective, with intervals of paired differences; unless they are one
pareto.svg           the front among the trials
tuned.yaml           the base file with the chosen values
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from pydantic import TypeAdapter

from lattice_core.config import ConfigError
from lattice_core.config.document import anchor_paths, assign
from lattice_core.config.quantities import Delay
from lattice_core.config.text import load
from lattice_core.units import to_s
from lattice_sim import networks
from lattice_sim.rundir import replaced
from lattice_sim.study.document import Point, Scenario, Study, Tune, base_file
from lattice_sim.study.executors import Executor
from lattice_sim.study.search import DEFAULTS, Ask, Row, Trial, best, search
from lattice_sim.study.statistics import holm, paired
from lattice_sim.study.store import Store
from lattice_sim.study.sweep import made
from lattice_sim.study.task import Task, seed_of

TUNED, PICTURE = "tuned.yaml", "pareto.svg"

SEARCH, HELD_OUT = "search", "held out"
"""What a run belongs to."""

ALL = "all"
"""In place of a scenario: the mean over all, seed by seed."""

_AS_IT_IS = Scenario(name="base")

type Told = Callable[[int, int], object]


def tune(study: Study, store: Store, workers: Executor, told: Told = lambda done, of: None) -> None:
    """Make what is missing of a tuning study, and leave its tables, its picture and the tuned config.

    If no trial keeps every constraint, there is no front, no held-out comparison and no tuned config. Ctrl-C leaves what is
    done, from which the same call goes on. Raises ConfigError.
    """
    asked = study.asked
    assert isinstance(asked, Tune)
    runs = _Runs(study, asked, store, workers, told)
    trials = search(asked, study.base.sim.epochs, study.base.seed, defaults(study), runs.measure)
    front, chosen = best(trials, asked)
    table = _table(asked, trials, front, chosen)
    store.table("trials", table)
    if chosen is not None:
        store.table("front", table[table["on_front"]])
        if chosen.number != DEFAULTS:
            store.table("held_out", compared(asked, runs.held_out(chosen)))
        _write(store.folder / TUNED, tuned_text(study, chosen, store.folder).encode())
        networks.check(networks.read(store.folder / TUNED), str(store.folder / TUNED))  # without what the study sets

        from lattice_sim.study.pareto import pareto

        _write(store.folder / PICTURE, pareto(table, asked))
    store.finish()


def runs_of(asked: Tune) -> int:
    """How many runs a study takes if no trial is stopped."""
    assert isinstance(asked.replications, int)
    stages = 1 + (len(asked.prune.after) if asked.prune else 0)
    searched = (asked.trials + 1) * stages * max(1, len(asked.scenarios)) * asked.replications
    return searched + 2 * max(1, len(asked.held_out.scenarios or asked.scenarios)) * asked.held_out.seeds


def defaults(study: Study) -> Point:
    """The values of the factors in the base: durations in seconds, other quantities as numbers."""
    document = study.base.document()
    return {path: _plain(_at(document, path)) for path in study.asked.factors}


def tuned_text(study: Study, chosen: Trial, folder: Path) -> str:
    """The base file with the chosen values, to lie in `folder`: its comments go, and its paths lead from there."""
    source = base_file(study.asked, study.source)
    data = load(networks.read_text(source), str(source))
    anchor_paths(data, os.path.relpath(source.parent, folder))
    for path, value in chosen.point.items() if chosen.number != DEFAULTS else ():
        assign(data, path, value)
    head = f"# {source.name} with the values of trial {chosen.number} of the tuning study {study.asked.name}.\n"
    return head + yaml.safe_dump(data, sort_keys=False, default_flow_style=None, allow_unicode=True, width=128)


def compared(asked: Tune, frame: pd.DataFrame) -> pd.DataFrame:
    """Tuned against defaults: for each objective and scenario, and over all, the difference of runs with equal seeds.

    `frame` has a row for each run of either side: trial, scenario, replication and metrics. `p` is Holm's over the table. The
    verdict is better or worse if the difference's interval does not reach 0.
    """
    rows: list[dict[str, Any]] = []
    names = list(dict.fromkeys(frame["scenario"]))
    for aim in asked.objectives:
        sides = [
            part.pivot(index="replication", columns="scenario", values=aim.metric)
            for _, part in frame.groupby("trial", sort=True)
        ]
        for scenario in names if len(names) == 1 else [*names, ALL]:
            part = names if scenario == ALL else [scenario]
            both = pd.concat([side[part].mean(axis=1, skipna=False) for side in sides], axis=1, keys=["a", "b"]).dropna()
            if not len(both):
                continue
            change = paired(both["a"].tolist(), both["b"].tolist())
            mean, half = change.interval.mean, change.interval.half_width
            clear = half is not None and abs(mean) > half
            verdict = ("better" if aim.sign * mean < 0.0 else "worse") if clear else "unclear"
            row = {"objective": aim.metric, "scenario": scenario, "defaults": both["a"].mean(), "tuned": both["b"].mean()}
            rows.append(row | {"difference": mean, "half_width": half, "p": change.p, "n": len(both), "verdict": verdict})
    columns = ["objective", "scenario", "defaults", "tuned", "difference", "half_width", "p", "n", "verdict"]
    table = pd.DataFrame(rows, columns=columns)
    known = table["p"].notna()
    table.loc[known, "p"] = holm(table.loc[known, "p"].tolist())
    return table


class _Runs:
    """The runs of a study in its store: a point for each trial, scenario and number of epochs, in the order of asking."""

    def __init__(self, study: Study, asked: Tune, store: Store, workers: Executor, told: Told) -> None:
        self._study, self._asked, self._store, self._workers, self._told = study, asked, store, workers, told
        self._values = defaults(study)
        self._points: list[Point] = []
        self._before: list[Point] = store.manifest["points"]
        self._done = 0
        assert isinstance(asked.replications, int)
        searched = asked.scenarios or [_AS_IT_IS]
        self._scenarios = {SEARCH: searched, HELD_OUT: asked.held_out.scenarios or searched}
        self._replications = {SEARCH: range(asked.replications)}
        self._replications[HELD_OUT] = range(asked.replications, asked.replications + asked.held_out.seeds)

    def measure(self, asks: Sequence[Ask]) -> list[list[Row]]:
        """For the search: the rows of each Ask."""
        first = len(self._points)
        rows: list[list[Row]] = [[] for _ in asks]
        for row in self._make(SEARCH, asks).to_dict("records"):
            rows[row["point"] - first].append({str(key): value for key, value in row.items()})
        return rows

    def held_out(self, chosen: Trial) -> pd.DataFrame:
        """The rows of the defaults and of the chosen trial, with seeds that the search did not have."""
        scenarios = range(len(self._scenarios[HELD_OUT]))
        sides = {DEFAULTS: self._values, chosen.number: chosen.point}
        last = self._study.base.sim.epochs
        return self._make(HELD_OUT, [Ask(trial, place, last, point) for trial, point in sides.items() for place in scenarios])

    def _make(self, part: str, asks: Sequence[Ask]) -> pd.DataFrame:
        """The rows of these points, made or found in the store."""
        first, seed, tasks = len(self._points), self._study.base.seed, list[Task]()
        for number, ask in enumerate(asks, first):
            scenario = self._scenarios[part][ask.scenario]
            told = {"part": part, "trial": ask.trial, "scenario": scenario.name, "epochs": ask.epochs}
            self._points.append(told | ask.point)
            values = ask.point if ask.trial != DEFAULTS else {}
            changes = scenario.set | values | {"sim.epochs": ask.epochs}
            tasks += [Task(number, place, seed_of(seed, of), changes) for place, of in enumerate(self._replications[part])]
        self._check_same(first)
        self._store.plan(max(self._points, self._before, key=len))
        before, self._done = self._done, self._done + len(tasks)
        made(self._study, self._store, self._workers, tasks, lambda done, of: self._told(before + done, self._most(part)))
        frame = self._store.frame()
        return frame[frame["point"].between(first, len(self._points) - 1)]

    def _most(self, part: str) -> int:
        """Runs that there may be; trials that are stopped leave some out."""
        return self._done if part == HELD_OUT else runs_of(self._asked)

    def _check_same(self, first: int) -> None:
        """Raises ConfigError if what was done before, and is to be gone on with, had other points."""
        for number, (point, before) in enumerate(zip(self._points[first:], self._before[first:], strict=False), first):
            if point != before:
                raise ConfigError(
                    f"{self._store.folder}: cannot go on: another version of the sampler asked for point {number}, of trial "
                    f"{before['trial']}; --no-cache makes the study anew"
                )


def _table(asked: Tune, trials: Sequence[Trial], front: Sequence[Trial], chosen: Trial | None) -> pd.DataFrame:
    """A row for each trial, as in trials.parquet."""
    ahead = {trial.number for trial in front}
    rows = [
        {"trial": trial.number, "status": trial.status, "reason": trial.reason, "epochs": trial.epochs}
        | {"violation": trial.violation}
        | trial.point
        | {"on_front": trial.number in ahead, "chosen": trial is chosen}
        for trial in trials
    ]
    table = pd.DataFrame(rows)
    for path in asked.factors:  # a column of one kind, as a table has
        if len({type(value) for value in table[path]} - {int, float}) and table[path].map(type).nunique() > 1:
            table[path] = table[path].map(str)
    for metric in asked.recorded:
        table[metric] = pd.Series([trial.figures[metric] for trial in trials], dtype="float64")
    return table


def _at(document: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path; None if there is none."""
    at: Any = document
    step: Any
    for step in assign(deepcopy(dict(document)), path, None):
        at = at[step] if isinstance(at, list) else at.get(step) if isinstance(at, dict) else None
    return at


def _plain(value: Any) -> Any:
    """A quantity of a config's document as a number: durations in seconds."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            with suppress(ValueError):
                return to_s(TypeAdapter(Delay).validate_python(value))
    return value


def _write(path: Path, content: bytes) -> None:
    try:
        with replaced(path) as new:
            new.write_bytes(content)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from error
