"""A tuning study whole, on a small network: the same from any executor, resumed, judged, and a config that runs as it is."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lattice_cli.main import main
from lattice_core.config import ConfigError
from lattice_sim import networks
from lattice_sim.study import tune as tuning
from lattice_sim.study.document import Study, read_study
from lattice_sim.study.executors import InProcess
from lattice_sim.study.search import DEFAULTS
from lattice_sim.study.store import Store
from lattice_sim.study.task import Plan, Row, Task, replicate
from lattice_sim.study.tune import compared, defaults, tune
from tests.study.asked import SMALL, study
from tests.study.test_search import asked

HASH = networks.read("local.yaml").sha256()

TUNE: dict[str, Any] = {
    "question": "Which routing is best?",
    "set": SMALL | {"chain.epoch": "20s", "users.visitor.workload.poisson.requests_per_day": 400_000, "nodes.laptop.count": 3},
    "factors": {"routing.weights.price": {"from": 0.1, "to": 4, "scale": "log"}, "routing.explore": [0.03, 0.3]},
    "objectives": [{"minimise": "ttft_p95_s"}, {"maximise": "charged_nlai"}],
    "constraints": [{"completed_share": {"least": 0.01}}],
    "metrics": ["rejected_share"],
    "trials": 3,
    "parallel": 2,
    "replications": 2,
    "prune": {"after": [1]},
    "scenarios": [{"name": "usual"}, {"name": "impatient", "set": {"users.visitor.patience": "2s"}}],
    "held_out": {"seeds": 3, "scenarios": [{"name": "fewer", "set": {"users.visitor.count": 9}}]},
    "defaults_sha256": HASH[:8],
}


def small(folder: Path, **changes: Any) -> Study:
    return study(folder, "tune", **(TUNE | changes))


def tuned(folder: Path, name: str = "out", workers: Any = None, **changes: Any) -> Path:
    asked = small(folder, **changes)
    with Store.open(folder / name, asked) as store:
        tune(asked, store, workers or InProcess())
    return store.folder


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tuned(tmp_path_factory.mktemp("tune"))


def test_trials_say_what_each_point_came_to(done: Path) -> None:
    trials = pd.read_parquet(done / "trials.parquet")
    assert list(trials["trial"]) == [0, 1, 2, 3]
    assert list(trials.loc[DEFAULTS, ["routing.weights.price", "routing.explore"]]) == [1.0, 0.03]
    assert set(trials["status"]) <= {"complete", "broken", "stopped"}
    assert trials["chosen"].sum() == 1
    assert (
        trials[trials["on_front"]].reset_index(drop=True).equals(pd.read_parquet(done / "front.parquet").reset_index(drop=True))
    )
    runs = pd.read_parquet(done / "results.parquet")
    mine = runs[(runs["trial"] == 0) & (runs["part"] == "search") & (runs["epochs"] == 2)]
    assert trials.loc[DEFAULTS, "ttft_p95_s"] == mine.groupby("scenario")["ttft_p95_s"].mean().max()
    assert trials.loc[DEFAULTS, "rejected_share"] == pytest.approx(mine["rejected_share"].mean())


def test_all_trials_have_the_same_seeds_and_the_judgement_has_others(done: Path) -> None:
    runs = pd.read_parquet(done / "results.parquet")
    seeds = {part: {tuple(sorted(of["seed"])) for _, of in rows.groupby("point")} for part, rows in runs.groupby("part")}
    assert len(seeds["search"]) == 1
    for held_out in seeds.get("held out", set()):
        assert not set(held_out) & set(*seeds["search"])
        assert len(set(held_out)) == 3


def test_the_tuned_config_is_the_base_with_the_chosen_values_and_is_accepted_unchanged(done: Path) -> None:
    trials = pd.read_parquet(done / "trials.parquet")
    chosen = trials[trials["chosen"]].iloc[0]
    config, base = networks.read(done / "tuned.yaml"), networks.read("local.yaml")
    assert config.routing.weights.price == chosen["routing.weights.price"]
    assert config.routing.explore == chosen["routing.explore"]
    routing = config.routing.model_copy(update={"weights": base.routing.weights, "explore": base.routing.explore})
    assert config.model_copy(update={"routing": routing}) == base
    assert main(["check", str(done / "tuned.yaml")]) == 0


def test_files_that_the_base_names_are_found_from_where_the_tuned_config_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "base").mkdir()
    text = networks.read_text(networks.find("local.yaml"))
    (tmp_path / "base" / "mine.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    mine = small(tmp_path, base="base/mine.yaml", defaults_sha256=networks.read("base/mine.yaml").sha256())
    trial = tuning.Trial(1, {"routing.explore": 0.3}, "complete", "", 2, {}, (), ())
    data = tuning.tuned_text(mine, trial, tmp_path / "out" / "deep")
    assert "explore: 0.3" in data


class Backwards:
    """An executor whose runs end in the other order, and which may be stopped after so many."""

    def __init__(self, most: int = 10_000) -> None:
        self._left = most

    def run(self, plan: Plan, tasks: Sequence[Task]) -> Iterator[tuple[Task, Row]]:
        for task in reversed(tasks):
            if not self._left:
                raise KeyboardInterrupt
            self._left -= 1
            yield task, replicate(plan, task)


def test_what_is_found_does_not_depend_on_the_order_in_which_runs_end_and_goes_on_after_a_stop(
    done: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        tuned(tmp_path, workers=Backwards(most=21))
    assert not (tmp_path / "out" / "trials.parquet").exists()
    again = tuned(tmp_path, workers=Backwards())
    for name in ("results.parquet", "trials.parquet", "front.parquet", "pareto.svg", "tuned.yaml", "manifest.json"):
        assert (again / name).read_bytes() == (done / name).read_bytes(), name


def test_a_study_that_another_sampler_began_is_not_gone_on_with(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        tuned(tmp_path, workers=Backwards(most=9))
    with Store.open(tmp_path / "out", small(tmp_path)) as store:
        points = store.manifest["points"]
        points[-1]["routing.weights.price"] = 7.0
        store.plan(points)
    with pytest.raises(ConfigError, match="cannot go on: another version of the sampler"):
        tuned(tmp_path)


def test_without_a_trial_that_keeps_the_constraints_there_is_no_tuned_config(tmp_path: Path) -> None:
    folder = tuned(tmp_path, constraints=[{"completed_share": {"least": 2}}], trials=1, prune=None, replications=1)
    assert set(os.listdir(folder)) == {"manifest.json", "results.parquet", "trials.parquet"}
    assert set(pd.read_parquet(folder / "trials.parquet")["status"]) == {"broken"}


def test_durations_and_money_of_the_base_count_as_numbers(tmp_path: Path) -> None:
    paths = {"chain.epoch": [60], "economics.split.burn": [0.1], "routing.policy": ["random"], "routing.candidates": [4]}
    mine = small(tmp_path, factors=paths, set={})
    base = networks.read("local.yaml")
    assert defaults(mine) == {
        "chain.epoch": base.chain.epoch_ns / 1e9,
        "economics.split.burn": base.economics.split.burn_ppm / 1e6,
        "routing.policy": base.routing.policy,
        "routing.candidates": base.routing.candidates,
    }


def test_the_judgement_pairs_runs_of_equal_seeds() -> None:
    rows = [
        {"trial": trial, "scenario": scenario, "replication": r, "ttft_p95_s": 10.0 * r + wait, "completed_share": 0.1 * r}
        for trial, wait in ((0, 5.0), (9, 4.0))
        for scenario in ("x", "y")
        for r in range(4)
    ]
    table = compared(asked(), pd.DataFrame(rows)).set_index(["objective", "scenario"])
    assert list(table.loc["ttft_p95_s"].index) == ["x", "y", "all"]
    wait = table.loc[("ttft_p95_s", "all")]
    assert (wait["difference"], wait["half_width"], wait["n"], wait["verdict"]) == (-1.0, 0.0, 4, "better")
    assert table.loc[("completed_share", "x"), "verdict"] == "unclear"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"defaults_sha256": "0" * 8}, f"tune.defaults_sha256: must be the hash of local.yaml, {HASH[:8]}, not 00000000"),
        ({"defaults_sha256": None}, "defaults_sha256: missing"),
        ({"objectives": []}, "objectives: must have at least 1 item"),
        ({"objectives": [{"minimise": "wait_s"}]}, "wait_s is not recorded"),
        ({"objectives": [{"minimise": "gas", "maximise": "gas"}]}, "must be {minimise: METRIC} or {maximise: METRIC}"),
        ({"constraints": [{"gas": {"most": "2s"}}]}, "constraints: gas: must be a number, not the duration 2s"),
        ({"constraints": [{"ttft_p95_s": {}}]}, "must be {most: VALUE} or {least: VALUE}"),
        ({"prune": {"after": [2, 1]}}, "after: must rise, not [2, 1]"),
        ({"prune": {"after": [2]}}, "prune.after: must be below sim.epochs, 2, not 2"),
        (
            {"scenarios": [{"name": "x", "set": {"routing.explore": 0.1}}]},
            "x: must not set routing.explore, which the study does",
        ),
        (
            {"scenarios": [{"name": "x", "set": {"users.nobody.count": 1}}]},
            "tune.scenarios: x: users.nobody.count: users: must go on with visitor",
        ),
        ({"scenarios": [{"name": "x"}, {"name": "x"}]}, "scenarios: must have a name each, not x, x"),
        ({"held_out": {"scenarios": [{"name": "all"}]}}, "held_out.scenarios: must not be named all"),
        ({"seeds": "independent"}, "seeds: must be common"),
        ({"sampler": "bayes"}, "sampler: "),
        ({"trials": 0}, "trials: "),
        ({"factors": {}}, "factors: "),
        ({"factors": {"seed": [1]}}, "seed is not a factor"),
        ({"factors": {"routing.nothing": [1]}}, "routing.nothing"),
    ],
)
def test_bad_input_is_one_line_that_names_file_and_key(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        small(tmp_path, **changes)
    line = str(refused.value)
    assert said in line
    assert line.startswith(str(tmp_path / "study.yaml"))
    assert len(line.splitlines()) == 1


def test_the_command_shows_the_front_and_the_judgement(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", str(done.parent / "study.yaml"), "--out", str(done)]) == 0
    shown = capsys.readouterr()
    assert "holds this study already; nothing is run" in shown.err
    assert "4 trials: " in shown.out
    assert "defaults" in shown.out
    assert "95 % intervals of paired differences" in shown.out or "the defaults are chosen" in shown.out
    assert "tuned.yaml, pareto.svg" in shown.out


@pytest.mark.parametrize("path", sorted((networks.SHIPPED / "studies").glob("tune-*.yaml")), ids=lambda path: path.stem)
def test_a_tuning_study_that_ships_has_the_defaults_of_today(path: Path) -> None:
    read_study(path, "tune")
