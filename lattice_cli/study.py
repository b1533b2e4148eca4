"""`lattice sweep`, `sensitivity` and `tune`: a question to a network, asked of many runs of it."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lattice_cli.interrupt import deferred, interruptible
from lattice_core.config import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from lattice_sim.study.document import Study
    from lattice_sim.study.executors import Executor
    from lattice_sim.study.store import Store

_INTERRUPTED = 130

_SHOWN = 12
"""Points in a table on the terminal."""


def add(subparsers: Any) -> None:
    _add(subparsers, "sweep", "compare points of a design, each replicated, with intervals", _sweep)
    _add(subparsers, "sensitivity", "find out which factors matter, and how much, with intervals", _sensitivity)
    _add(subparsers, "tune", "search for better values, and judge them by seeds the search has not seen", _tune)


def _add(subparsers: Any, kind: str, said: str, command: Callable[..., int]) -> None:
    parser = subparsers.add_parser(kind, help=said)
    parser.add_argument("study", metavar="STUDY", help=f"YAML file with version: 1 and the mapping {kind}")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        dest="overrides",
        action="append",
        default=[],
        help="replace what the study says, such as replications=2; may be repeated",
    )
    parser.add_argument("--out", metavar="DIR", help="study directory to write or go on with; studies/NAME-HASH if not given")
    parser.add_argument("--executor", default="processes", help="inprocess, processes (the default) or ray")
    parser.add_argument("--workers", metavar="N", type=int, help="how many; one for each processor if not given")
    parser.add_argument("--address", metavar="A", help="of a Ray cluster; one on this machine is started if not given")
    parser.add_argument("--no-cache", action="store_true", help="make it anew, and then replace what is in DIR")
    parser.add_argument("--yes", action="store_true", help="begin however many runs that are")
    parser.set_defaults(command=deferred()(lambda arguments: _made(arguments, kind, command)))


def _made(arguments: argparse.Namespace, kind: str, command: Callable[..., int]) -> int:
    """Read the study, open its store and its workers, and have `command` make it."""
    from lattice_sim.rundir import REPORT
    from lattice_sim.study.document import read_study
    from lattice_sim.study.executors import executor
    from lattice_sim.study.store import Store, default_folder

    study = read_study(arguments.study, kind, arguments.overrides)
    _ask(arguments, study)
    workers = executor(arguments.executor, arguments.workers, arguments.address)
    with Store.open(arguments.out or default_folder(study), study, fresh=arguments.no_cache) as store:
        if store.is_complete:
            print(f"{store.folder}: holds this study already; nothing is run. --no-cache makes it anew", file=sys.stderr)
        else:
            try:
                with interruptible(), workers, _bar() as told:
                    command(study, store, workers, told)
            except KeyboardInterrupt:
                done = len(store.done())
                print(f"{arguments.study}: interrupted with {done} runs done; the same command goes on", file=sys.stderr)
                return _INTERRUPTED
    if not (store.folder / REPORT).exists():
        from lattice_sim.study.report import write_report

        write_report(store.folder)
    return _TABLES[kind](study, store)


def _ask(arguments: argparse.Namespace, study: "Study") -> None:
    """Raises ConfigError for a study of very many runs, unless it is meant, and for a point that makes no network."""
    from lattice_sim.study import sensitivity, sweep, tune
    from lattice_sim.study.sweep import MOST_RUNS

    counted: Any = {"sweep": sweep, "sensitivity": sensitivity, "tune": tune}[study.kind]
    runs = counted.runs_of(study.asked)
    if runs > MOST_RUNS and not arguments.yes:
        raise ConfigError(f"{study.source}: {study.kind}: would be {runs:,} runs, more than {MOST_RUNS:,}; --yes begins them")
    if study.kind == "sweep":
        sweep.points_of(study)


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    """A bar of runs with the time left; none when piped."""
    from tqdm import tqdm

    with tqdm(unit="run", disable=None, leave=False, smoothing=0.05) as bar:

        def told(done: int, of: int) -> None:
            if bar.total != of:
                bar.total = of
                bar.initial = done  # of an earlier process, which says nothing of the pace
                bar.last_print_n = done
            bar.update(done - bar.n)

        yield told


def _sweep(study: "Study", store: "Store", workers: "Executor", told: Callable[[int, int], None]) -> int:
    from lattice_sim.study.sweep import sweep

    sweep(study, store, workers, told)
    return 0


def _sweep_tables(study: "Study", store: "Store") -> int:
    from lattice_sim.study.statistics import LEVEL, is_clear
    from lattice_sim.study.sweep import corrected_for, effects, trends

    frame, asked = store.frame(), study.asked
    points, factors = store.manifest["points"], list(asked.factors)
    design = store.manifest["study"]["sweep"]["design"]
    print(f"{asked.name}: {asked.question}".rstrip(": "))
    if design == "grid":
        found = effects(frame, asked.metrics, common=asked.seeds == "common")
        heads = [*factors, "mean", "+/-", "to the first", "+/-", f"p (Holm, of {corrected_for(found)})", "n"]
        for metric in asked.metrics:
            rows = [effect for effect in found if effect.metric == metric]
            print(f"\n{metric}")
            _print(heads, [_effect(points, e) for e in rows[:_SHOWN]])
            if len(rows) > _SHOWN:
                print(f"… and {len(rows) - _SHOWN} points more, in {store.folder}")
        if frame["replication"].nunique() > 1:
            paired = "differences are paired" if asked.seeds == "common" else "seeds are independent: nothing is paired"
            print(f"\n+/- is half of a {LEVEL:.0%} interval; {paired}")
    else:
        print(f"\nrank correlation of factor and metric over {len(points)} points")
        seen = trends(frame, asked.metrics, factors)
        cells = {metric: [metric] for metric in asked.metrics}
        for trend in seen:
            shown = f"{trend.correlation.rho:+.2f}" if trend.correlation else "-"
            cells[trend.metric].append(f"{shown} *" if is_clear(trend.p) else f"{shown}  ")
        _print(["metric", *(f"{factor}  " for factor in dict.fromkeys(trend.factor for trend in seen))], list(cells.values()))
        print(f"* p < {1 - LEVEL:.2g}, corrected for all {corrected_for(seen)} (Holm)")
    _failures(frame)
    if frame["replication"].nunique() == 1:
        print("\none replication: nothing can be said of how far its figures are from the mean")
    print(f"\n{store.folder}: {len(points)} points, {len(frame)} runs, report.html")
    return 0


def _effect(points: Sequence[dict[str, Any]], effect: Any) -> list[str]:
    mean, change = effect.mean, effect.change
    return [
        *(str(value) for value in points[effect.point].values()),
        _number(mean and mean.mean),
        _number(mean and mean.half_width),
        _number(change and change.interval.mean),
        _number(change and change.interval.half_width),
        "-" if effect.p is None else f"{effect.p:.2g}",
        str(mean.n if mean else 0),
    ]


def _failures(frame: "pd.DataFrame") -> None:
    failed = frame[frame["status"] != "complete"]
    if len(failed):
        first = failed.iloc[0]
        print(
            f"\n{len(failed)} runs are left out: point {first['point']}: {first['status']}: {first['reason']}", file=sys.stderr
        )


def _sensitivity(study: "Study", store: "Store", workers: "Executor", told: Callable[[int, int], None]) -> int:
    from lattice_sim.study.sensitivity import sensitivity

    sensitivity(study, store, workers, told)
    return 0


_NOISE = {"morris": "it adds to mu_star and sigma", "sobol": "it takes from first and adds to total"}


def _sensitivity_tables(study: "Study", store: "Store") -> int:
    import pandas as pd

    from lattice_sim.study.document import Sensitivity
    from lattice_sim.study.sensitivity import RANKED_BY

    assert isinstance(study.asked, Sensitivity)
    table, noise = pd.read_parquet(store.folder / "indices.parquet"), store.manifest["noise"]
    names, ranked = list(dict.fromkeys(table["index"])), RANKED_BY[study.asked.method]
    for metric, verdict in store.manifest["verdicts"].items():
        print(f"\n{verdict}")
        mine = table[table["metric"] == metric]
        if not mine["value"].any():
            continue
        last = mine[mine["samples"] == mine["samples"].max()]
        earlier = mine[(mine["samples"] < mine["samples"].max()) & (mine["index"] == ranked)]
        _print(
            ["factor", *names, *(f"{ranked} of {count:,}" for count in earlier["samples"].unique())],
            [
                [
                    str(factor),
                    *(_index(row) for _, row in last[last["factor"] == factor].iterrows()),
                    *(_index(row) for _, row in earlier[earlier["factor"] == factor].iterrows()),
                ]
                for factor in last["factor"].unique()
            ],
        )
        if noise[metric] is not None:
            print(f"noise: {noise[metric]:.1%} of the variance between points; {_NOISE[study.asked.method]}")
    _failures(store.frame())
    if store.frame()["replication"].nunique() == 1:
        print("\none replication: nothing can be said of the noise in the indices")
    print(f"\n{store.folder}: {len(store.manifest['points'])} points, {len(store.frame())} runs, report.html")
    return 0


def _index(row: Any) -> str:
    half = row["half_width"]
    return f"{_number(row['value'])} ± {_number(half)}" if half == half else _number(row["value"])


def _tune(study: "Study", store: "Store", workers: "Executor", told: Callable[[int, int], None]) -> int:
    from lattice_sim.study.tune import tune

    tune(study, store, workers, told)
    return 0


def _tune_tables(study: "Study", store: "Store") -> int:
    import pandas as pd

    from lattice_sim.study.document import Tune
    from lattice_sim.study.search import DEFAULTS

    asked = study.asked
    assert isinstance(asked, Tune)
    trials = pd.read_parquet(store.folder / "trials.parquet")
    counts = ", ".join(f"{count} {status}" for status, count in trials["status"].value_counts().items())
    print(f"\n{len(trials)} trials: {counts}; the front, and the defaults:")
    shown = trials[trials["on_front"] | (trials["trial"] == DEFAULTS)].sort_values(asked.objectives[0].metric)
    columns = [*asked.factors, *asked.recorded]
    named = [_named(row) for _, row in shown.iterrows()]
    cells = [
        [str(row["trial"]), *(_cell(row[c]) for c in columns), n] for n, (_, row) in zip(named, shown.iterrows(), strict=True)
    ]
    _print(["trial", *columns, ""], cells)
    if not trials["on_front"].any():
        broken = trials[trials["status"] == "broken"].sort_values("violation")
        nearest = f"; the nearest is trial {broken.iloc[0]['trial']}, {broken.iloc[0]['reason']}" if len(broken) else ""
        print(f"\n{store.folder}: no trial keeps every constraint{nearest}", file=sys.stderr)
        return 1
    if trials.loc[trials["chosen"], "trial"].iloc[0] == DEFAULTS:
        print("\nthe defaults are chosen: nothing is held against them")
    else:
        judged = pd.read_parquet(store.folder / "held_out.parquet")
        print("\ntuned against defaults, by seeds that the search has not seen; 95 % intervals of paired differences")
        heads = ["objective", "scenario", "defaults", "tuned", "difference", "half_width", "p", "n", "verdict"]
        cells = [[_cell(row[head]) for head in heads] for _, row in judged.iterrows()]
        _print([{"half_width": "+/-", "p": "p (Holm)"}.get(head, head) for head in heads], cells)
    print(f"\n{store.folder}: {len(store.frame())} runs, tuned.yaml, pareto.svg, report.html")
    return 0


def _named(row: Any) -> str:
    return ", ".join(word for word, of in (("defaults", row["trial"] == 0), ("chosen", row["chosen"])) if of)


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else "-" if value != value else _number(float(value))


_TABLES: dict[str, Callable[["Study", "Store"], int]] = {
    "sweep": _sweep_tables,
    "sensitivity": _sensitivity_tables,
    "tune": _tune_tables,
}


def _print(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = [list(heads), *map(list, rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(heads))]
    for row in table:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1_000 or value == int(value) else f"{value:.4g}"
