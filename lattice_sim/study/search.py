"""The search of a tuning study: a sampler proposes points, each runs in every scenario with the seeds of all others.

    ask for `parallel` points ─► run them, to each number of epochs that `prune` looks at ─► tell the sampler, in order ─► …

What is asked depends on what was told, and on nothing else: neither on the executor nor on which run ends first.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any, Literal, NamedTuple

from lattice_core.streams import entity_key
from lattice_sim.study.document import Point, Range, Tune
from lattice_sim.study.front import better_in_all, dominates, front, knee

DEFAULTS = 0
"""The trial that changes nothing."""

DIGITS = 4
"""Of a value between the ends of a range, so that the number in the tuned file is the one that was run."""

type Row = Mapping[str, Any]
type Status = Literal["complete", "broken", "stopped", "failed"]
"""A trial that ran to its end; that broke a constraint there; that was given up before; of which a run failed."""


class Ask(NamedTuple):
    """A trial's point in one scenario, to be run for so many epochs, once for each replication."""

    trial: int
    scenario: int
    epochs: int
    point: Point


type Measure = Callable[[Sequence[Ask]], list[list[Row]]]
"""The rows of each Ask, one for each replication."""


class Trial(NamedTuple):
    """What came of a point.

    `figures` are of all metrics: of an objective what counts of it over scenarios, of others the mean; None where a run did
    not know it. `costs` are the objectives', the less the better, and `violations` each constraint's, as a share of its limit,
    0 or less where it is kept; both are empty if one is not known.
    """

    number: int
    point: Point
    status: Status
    reason: str
    epochs: int
    figures: dict[str, float | None]
    costs: tuple[float, ...]
    violations: tuple[float, ...]

    @property
    def violation(self) -> float:
        """Of the constraint that is broken most; 0 if none is."""
        return max(0.0, *self.violations) if self.violations else 0.0


def search(tune: Tune, epochs: int, seed: int, defaults: Point, measure: Measure) -> list[Trial]:
    """All trials, in order: the defaults, which have the values `defaults`, then as many as `tune` says."""
    sampler, trials = _Sampler(tune, seed), list[Trial]()
    earlier = {stage: list[tuple[float, ...]]() for stage in (tune.prune.after if tune.prune else [])}
    while len(trials) <= tune.trials:
        first = len(trials)
        count = min(tune.parallel, tune.trials + 1 - first)
        asked = [(None, defaults) if first + i == DEFAULTS else sampler.ask() for i in range(count)]
        ended = _race(tune, epochs, {first + i: point for i, (_, point) in enumerate(asked)}, earlier, measure)
        for (handle, _), trial in zip(asked, ended, strict=True):
            sampler.tell(handle, trial)
        trials += ended
    return trials


def best(trials: Sequence[Trial], tune: Tune) -> tuple[list[Trial], Trial | None]:
    """The front among trials that keep all constraints, and the trial chosen of it by the rule `choose`; None of none."""
    complete = [trial for trial in trials if trial.status == "complete"]
    ahead = [complete[place] for place in front([trial.costs for trial in complete])]
    if not ahead:
        return [], None
    if tune.choose == "first":
        return ahead, min(ahead, key=lambda trial: trial.costs)
    defaults = trials[DEFAULTS].costs
    as_good = [place for place, trial in enumerate(ahead) if defaults and dominates(trial.costs, defaults)]
    return ahead, ahead[knee([trial.costs for trial in ahead], as_good or range(len(ahead)))]


def _race(
    tune: Tune, epochs: int, points: Mapping[int, Point], earlier: dict[int, list[tuple[float, ...]]], measure: Measure
) -> list[Trial]:
    """What comes of some points that run side by side; `earlier` are the costs of the trials so far by epochs, and grows."""
    ended: dict[int, Trial] = {}
    for stage in (*earlier, epochs):
        running = [number for number in points if number not in ended]
        scenarios = max(1, len(tune.scenarios))
        asks = [Ask(number, scenario, stage, points[number]) for number in running for scenario in range(scenarios)]
        rows = measure(asks) if asks else []
        for place, number in enumerate(running):
            trial = _judged(tune, number, points[number], stage, rows[place * scenarios : (place + 1) * scenarios])
            if stage == epochs or trial.status == "failed":
                ended[number] = trial
            elif number != DEFAULTS and (reason := _hopeless(tune, trial, earlier[stage])):
                ended[number] = trial._replace(status="stopped", reason=reason)
            if stage < epochs and trial.status == "complete":
                earlier[stage].append(trial.costs)
    return [ended[number] for number in points]


def _hopeless(tune: Tune, trial: Trial, earlier: Sequence[tuple[float, ...]]) -> str:
    """Why a trial is not worth its other epochs; empty if it is."""
    assert tune.prune is not None
    if trial.violation > tune.prune.margin:
        worst = max(range(len(trial.violations)), key=trial.violations.__getitem__)
        return f"{tune.bounds[worst].metric} is beyond its limit by {trial.violation:.0%}"
    better = sum(better_in_all(costs, trial.costs) for costs in earlier)
    return f"{better} earlier trials are better in every objective" if better >= tune.prune.beaten_by else ""


def _judged(tune: Tune, number: int, point: Point, epochs: int, worlds: Sequence[Sequence[Row]]) -> Trial:
    """A trial from its rows, those of each scenario."""
    means = {metric: [_mean([row[metric] for row in rows]) for rows in worlds] for metric in tune.recorded}
    known = {metric: [value for value in values if value is not None] for metric, values in means.items()}
    figures = {metric: fmean(values) if len(values) == len(worlds) else None for metric, values in known.items()}

    def fails(reason: str) -> Trial:
        return Trial(number, point, "failed", reason, epochs, figures, (), ())

    if bad := next((row for rows in worlds for row in rows if row["status"] != "complete"), None):
        return fails(str(bad["reason"]) or str(bad["status"]))
    needed = [objective.metric for objective in tune.objectives] + [constraint.metric for constraint in tune.bounds]
    if unknown := next((metric for metric in needed if figures[metric] is None), None):
        return fails(f"{unknown} is not known in every run")
    counts = max if tune.robust == "worst" else fmean
    costs = tuple(float(counts([aim.sign * value for value in known[aim.metric]])) for aim in tune.objectives)
    figures |= {aim.metric: aim.sign * cost for aim, cost in zip(tune.objectives, costs, strict=True)}
    violations = tuple(float(counts([bound.violation(value) for value in known[bound.metric]])) for bound in tune.bounds)
    broken = [bound.metric for bound, violation in zip(tune.bounds, violations, strict=True) if violation > 0.0]
    status: Status = "broken" if broken else "complete"
    reason = f"beyond its limit: {', '.join(dict.fromkeys(broken))}" if broken else ""
    return Trial(number, point, status, reason, epochs, figures, costs, violations)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [float(value) for value in values if value is not None and value == value]
    return fmean(known) if known and len(known) == len(values) else None


class _Sampler:
    """Optuna's, asked and told."""

    def __init__(self, tune: Tune, seed: int) -> None:
        import optuna
        from optuna import samplers

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        key = entity_key("tune", seed) % 2**32
        chosen = {
            "tpe": lambda: samplers.TPESampler(seed=key, n_startup_trials=min(16, max(4, tune.trials // 4))),
            "nsga2": lambda: samplers.NSGAIISampler(seed=key, population_size=max(4, min(50, tune.trials // 6))),
            "random": lambda: samplers.RandomSampler(seed=key),
        }[tune.sampler]()
        self._study = optuna.create_study(sampler=chosen, directions=["minimize"] * len(tune.objectives))
        self._factors = tune.factors
        self._ranges = {path: _distribution(factor) for path, factor in tune.factors.items()}

    def ask(self) -> tuple[Any, Point]:
        """A handle for `tell`, and the point."""
        handle = self._study.ask(self._ranges)
        return handle, {path: _value(factor, handle.params[path]) for path, factor in self._factors.items()}

    def tell(self, handle: Any, trial: Trial) -> None:
        """What came of a point; of the defaults, which were not asked for, if they are within all ranges."""
        from optuna.trial import TrialState, create_trial

        states = {"complete": TrialState.COMPLETE, "broken": TrialState.COMPLETE, "stopped": TrialState.PRUNED}
        state = states.get(trial.status, TrialState.FAIL)
        values = list(trial.costs) if state == TrialState.COMPLETE else None
        constraints = {str(i): violation for i, violation in enumerate(trial.violations)}
        if handle is not None:
            for name, violation in constraints.items():
                handle.set_constraint(name, violation)
            self._study.tell(handle, values, state)
            return
        places = {path: _place(factor, trial.point.get(path)) for path, factor in self._factors.items()}
        if None not in places.values() and values is not None:
            self._study.add_trial(
                create_trial(values=values, params=places, distributions=self._ranges, constraints=constraints)
            )  # fmt: skip


def _distribution(factor: list[Any] | Range) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(factor, Range):
        return CategoricalDistribution(tuple(range(len(factor))))
    log = factor.scale == "log"
    if factor.whole:
        return IntDistribution(round(factor.low), round(factor.high), log=log)
    return FloatDistribution(factor.low, factor.high, log=log)


def _value(factor: list[Any] | Range, drawn: Any) -> Any:
    """What the config is given for what Optuna drew: a level for its number."""
    if not isinstance(factor, Range):
        return factor[drawn]
    return drawn if factor.whole else min(max(float(f"{drawn:.{DIGITS}g}"), factor.low), factor.high)


def _place(factor: list[Any] | Range, value: Any) -> Any:
    """The other way round; None for a value that is none of the factor's."""
    if not isinstance(factor, Range):
        return factor.index(value) if value in factor else None
    fits = isinstance(value, int | float) and not isinstance(value, bool) and factor.low <= value <= factor.high
    return value if fits and (not factor.whole or value == int(value)) else None
