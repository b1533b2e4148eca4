"""The search, on functions in place of networks: what it finds, what it gives up, and that nothing but its study decides it."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice_sim.study.document import Tune
from lattice_sim.study.front import dominates, front, knee
from lattice_sim.study.search import DEFAULTS, Ask, Row, Trial, best, search

EPOCHS = 4
HALF = {"a": 0.5, "b": 0.5}


def asked(**more: Any) -> Tune:
    return Tune.model_validate(
        {
            "name": "search",
            "question": "What is best?",
            "base": "baseline.yaml",
            "factors": {"a": {"from": 0.0, "to": 1.0}, "b": {"from": 0.0, "to": 1.0}},
            "objectives": [{"minimise": "ttft_p95_s"}, {"maximise": "completed_share"}],
            "trials": 23,
            "defaults_sha256": "0" * 8,
            **more,
        }
    )


def measure(asks: Sequence[Ask]) -> list[list[Row]]:
    """The wait is least at a = 0, the share greatest at a = 1, and b harms both; the second scenario is twice as bad."""
    found: list[list[Row]] = []
    for ask in asks:
        a, b = ask.point["a"], ask.point["b"]
        wait = (a + b) * (1 + ask.scenario) * ask.epochs
        found.append([{"status": "complete", "reason": "", "ttft_p95_s": wait, "completed_share": a - b}])
    return found


def found(tune: Tune, seed: int = 1) -> list[Trial]:
    return search(tune, EPOCHS, seed, HALF, measure)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_a_search_tries_the_defaults_first_and_then_as_many_points_as_it_says(sampler: str) -> None:
    trials = found(asked(sampler=sampler))
    assert [trial.number for trial in trials] == list(range(24))
    assert trials[DEFAULTS].point == HALF
    assert all(0.0 <= value <= 1.0 for trial in trials for value in trial.point.values())
    assert trials == found(asked(sampler=sampler))
    assert trials[1:] != found(asked(sampler=sampler), seed=2)[1:]


def test_the_sampler_learns_what_harms() -> None:
    late = found(asked(trials=79))[40:]
    assert sum(trial.point["b"] for trial in late) / len(late) < 0.3


def test_the_chosen_trial_beats_the_defaults_in_something_and_is_worse_in_nothing() -> None:
    trials = found(asked(trials=47))
    ahead, chosen = best(trials, asked(trials=47))
    assert chosen in ahead
    assert dominates(chosen.costs, trials[DEFAULTS].costs)
    first = best(trials, asked(choose="first"))[1]
    assert first is not None
    assert first.costs[0] == min(trial.costs[0] for trial in trials)


def test_a_trial_that_breaks_a_constraint_is_never_on_the_front() -> None:
    tune = asked(constraints=[{"ttft_p95_s": {"most": "2s"}}, {"completed_share": {"least": 0.0}}])
    trials = found(tune)
    broken = [trial for trial in trials if trial.status == "broken"]
    assert broken
    for trial in broken:
        assert trial.figures["ttft_p95_s"] > 2.0 or trial.figures["completed_share"] < 0.0  # type: ignore[operator]
        assert trial.violation > 0.0
    assert not {trial.number for trial in best(trials, tune)[0]} & {trial.number for trial in broken}


def test_without_a_trial_that_keeps_the_constraints_nothing_is_chosen() -> None:
    tune = asked(constraints=[{"completed_share": {"least": 2.0}}])
    assert best(found(tune), tune) == ([], None)


@pytest.mark.parametrize(("robust", "wait"), [("worst", 8.0), ("mean", 6.0)])
def test_what_counts_over_scenarios_is_the_worst_or_the_mean(robust: str, wait: float) -> None:
    trials = found(asked(robust=robust, scenarios=[{"name": "usual"}, {"name": "busy"}]))
    assert trials[DEFAULTS].figures == {"ttft_p95_s": wait, "completed_share": 0.0}


def test_hopeless_trials_stop_early_and_the_defaults_never_do() -> None:
    tune = asked(prune={"after": [1, 2], "beaten_by": 2}, constraints=[{"ttft_p95_s": {"most": 1.2}}])
    trials = found(tune)
    assert trials[DEFAULTS].epochs == EPOCHS
    stopped = [trial for trial in trials if trial.status == "stopped"]
    assert {trial.epochs for trial in stopped} <= {1, 2}
    assert any("earlier trials are better in every objective" in trial.reason for trial in stopped)
    assert any("ttft_p95_s is beyond its limit by" in trial.reason for trial in stopped)
    for trial in stopped:
        assert trial.number not in {other.number for other in best(trials, tune)[0]}


def test_a_trial_of_which_a_run_failed_or_knows_too_little_fails_and_the_search_goes_on() -> None:
    def failing(asks: Sequence[Ask]) -> list[list[Row]]:
        rows = measure(asks)
        for ask, (row,) in zip(asks, rows, strict=True):
            if ask.trial == 2:
                row.update(status="failed", reason="reverted")  # type: ignore[attr-defined]
            if ask.trial == 3:
                row.update(ttft_p95_s=float("nan"))  # type: ignore[attr-defined]
        return rows

    trials = search(asked(), EPOCHS, 1, HALF, failing)
    assert (trials[2].status, trials[2].reason) == ("failed", "reverted")
    assert (trials[3].status, trials[3].reason) == ("failed", "ttft_p95_s is not known in every run")
    assert len(trials) == 24


def test_levels_may_be_anything_and_the_defaults_need_not_be_among_them() -> None:
    levels = [None, "2s", {"median": 1}]
    tune = asked(factors={"a": [0.25, 0.75], "b": levels})
    seen: list[Any] = []

    def noted(asks: Sequence[Ask]) -> list[list[Row]]:
        seen.extend(ask.point["b"] for ask in asks)
        return measure([ask._replace(point=ask.point | {"b": 0.0}) for ask in asks])

    search(tune, EPOCHS, 1, {"a": 0.5, "b": 7}, noted)
    assert all(level in seen[1:] for level in levels)
    assert all(value in levels for value in seen[1:])


COSTS = st.lists(st.lists(st.integers(0, 5), min_size=2, max_size=2), min_size=1, max_size=12)


@given(COSTS)
def test_a_front_beats_all_others_and_none_of_itself(costs: list[list[float]]) -> None:
    ahead = front(costs)
    for place, cost in enumerate(costs):
        beaten = any(dominates(costs[other], cost) for other in ahead)
        assert beaten == (cost not in [costs[other] for other in ahead])
        assert not (place in ahead and beaten)
    assert knee(costs, ahead) in ahead
