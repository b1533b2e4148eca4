"""A sweep: kept as it goes, resumed to the same bytes, not made twice; and what is said of it."""

import errno
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pytest

from lattice_cli.main import main
from lattice_core.config import ConfigError
from lattice_sim import load_study
from lattice_sim.study import store as stores
from lattice_sim.study.executors import InProcess
from lattice_sim.study.statistics import holm, mean_interval, paired
from lattice_sim.study.store import Store, describe
from lattice_sim.study.sweep import corrected_for, effects, sweep, trends
from lattice_sim.study.task import Plan, Row, Task
from tests.study.asked import study, written

KEYS = ["point", "replication", "seed"]


def made(folder: Path, told: Callable[[int, int], object] = lambda done, of: None, **changes: Any) -> Store:
    """A study in `folder`/out, made here."""
    found = study(folder, **changes)
    with Store.open(folder / "out", found) as store:
        if not store.is_complete:
            sweep(found, store, InProcess(), told)
    return store


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("whole")).folder


def test_a_study_is_a_tidy_table(whole: Path) -> None:
    frame = load_study(whole)
    assert list(frame) == [*KEYS, "routing.weights.price", "status", "reason", "completed_share", "ttft_p95_s", "charged_nlai"]
    assert frame[["point", "replication"]].to_numpy().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert frame["routing.weights.price"].tolist() == [0.5, 0.5, 2.0, 2.0]
    assert frame["seed"][0] == frame["seed"][2] != frame["seed"][1]
    assert frame.attrs["study"]["sweep"]["name"] == "small"
    assert describe(whole)["points"] == [{"routing.weights.price": 0.5}, {"routing.weights.price": 2}]


def test_one_that_is_stopped_can_be_read_and_goes_on_to_the_same_bytes(tmp_path: Path, whole: Path) -> None:
    def stop(done: int, of: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(tmp_path, stop)
    assert describe(tmp_path / "out")["status"] == "interrupted"
    assert len(load_study(tmp_path / "out")) == 3
    counted: list[tuple[int, int]] = []
    store = made(tmp_path, lambda done, of: counted.append((done, of)))
    assert counted == [(3, 4), (4, 4)]
    for name in ("results.parquet", "manifest.json"):
        assert (store.folder / name).read_bytes() == (whole / name).read_bytes(), name
    assert not (store.folder / "parts").exists()


def test_the_same_study_is_not_made_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["sweep", str(written(tmp_path)), "--out", str(tmp_path / "out"), "--executor", "inprocess"]
    assert main(asked) == 0
    first = capsys.readouterr()
    assert "nothing is run" not in first.err
    assert main(asked) == 0
    second = capsys.readouterr()
    assert "nothing is run" in second.err
    assert second.out == first.out
    assert "2 points, 4 runs" in second.out


def test_what_other_rules_made_is_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path)
    with pytest.raises(ConfigError, match="holds another study; choose another --out"):
        made(tmp_path, replications=3)
    for name in ("rules_hash", "contracts_hash"):
        with monkeypatch.context() as other:
            other.setattr(stores, name, lambda: "other")
            with pytest.raises(ConfigError, match=f"other code made it: {name.removesuffix('_hash')}_sha256 differ"):
                made(tmp_path)


def test_an_older_one_is_replaced_once_the_new_one_is_whole(tmp_path: Path) -> None:
    made(tmp_path)
    found = study(tmp_path, replications=1)
    store = Store.open(tmp_path / "out", found, fresh=True)
    aside = tmp_path / ".out.old"
    assert len(load_study(aside)) == 4
    sweep(found, store, InProcess())
    assert not aside.exists()
    assert len(load_study(tmp_path / "out")) == 2


def test_an_older_one_stays_however_often_the_new_one_is_begun(tmp_path: Path) -> None:
    made(tmp_path)
    found = study(tmp_path, replications=1)
    for _ in range(2):
        Store.open(tmp_path / "out", found, fresh=True).close()
    assert len(load_study(tmp_path / ".out.old")) == 4


MAKING = """
import sys, time
from lattice_sim.study.document import read_study
from lattice_sim.study.store import Store

store = Store.open(sys.argv[2], read_study(sys.argv[1], "sweep"))
print("mine", flush=True)
time.sleep(600)
"""


@contextmanager
def another_process(asked: Path, out: Path) -> Iterator[subprocess.Popen[str]]:
    """One that makes this study, and is killed in the end."""
    with subprocess.Popen([sys.executable, "-c", MAKING, asked, out], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "mine\n"
            yield process
        finally:
            process.kill()


def test_a_study_is_made_by_one_process_at_a_time_and_by_the_next_one_if_that_is_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = written(tmp_path), tmp_path / "out"
    command = ["sweep", str(path), "--out", str(out), "--executor", "inprocess"]
    with another_process(path, out) as process:
        before = {file: file.read_bytes() for file in out.iterdir()}
        for more in ([], ["--no-cache"]):
            assert main([*command, *more]) == 2
            said = f"{out}: is being made by another process (PID {process.pid}); wait for its end, or choose another --out\n"
            assert capsys.readouterr().err.endswith(said)
        assert {file: file.read_bytes() for file in out.iterdir()} == before
        assert load_study(out).empty
    assert (out / "lock").exists()
    assert main(command) == 0
    assert not (out / "lock").exists()


def test_a_study_that_replaces_another_is_made_by_one_process_at_a_time(tmp_path: Path) -> None:
    made(tmp_path)
    found = study(tmp_path, replications=1)
    with Store.open(tmp_path / "out", found, fresh=True), pytest.raises(ConfigError, match="is being made by another process"):
        Store.open(tmp_path / "out", found, fresh=True)
    assert len(load_study(tmp_path / ".out.old")) == 4


def test_what_is_no_study_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    for fresh in (False, True):
        with pytest.raises(ConfigError, match="must be the folder of a study"):
            Store.open(tmp_path / "out", study(tmp_path), fresh=fresh)
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_a_full_disk_is_one_line_and_what_was_whole_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lattice_sim.study.sweep._KEEP_EVERY", 2)
    written_before = stores.write_table

    def full(table: Any, path: Path) -> None:
        if not path.name.startswith(".000001"):
            raise OSError(errno.ENOSPC, "No space left on device")
        written_before(table, path)

    monkeypatch.setattr(stores, "write_table", full)
    with pytest.raises(ConfigError, match=r"parts/\d+\.parquet: cannot be written: No space left on device"):
        made(tmp_path)
    assert len(load_study(tmp_path / "out")) == 2


def test_replications_are_made_until_the_interval_is_narrow(tmp_path: Path) -> None:
    until = {"until": {"metric": "charged_nlai", "half_width": "30 %"}, "most": 64}
    frame = made(tmp_path, replications=until).frame()
    counts = frame.groupby("point").size()
    assert counts.nunique() == 1  # so that points can be paired
    assert 10 <= counts[0] < 64
    for _, rows in frame.groupby("point"):
        interval = mean_interval(rows["charged_nlai"].tolist())
        assert interval.half_width is not None
        assert interval.half_width <= 0.3 * interval.mean


class Instant:
    """Rows out of the air: a metric that spreads wider in some replications than in others."""

    def run(self, plan: Plan, tasks: Sequence[Task]) -> Iterator[tuple[Task, Row]]:
        for task in tasks:
            value = 100.0 + (-1) ** task.replication * (30 if 12 <= task.replication < 20 else 5)
            yield task, {"status": "complete", "reason": "", **dict.fromkeys(plan.metrics, value)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_one_that_is_stopped_makes_no_other_number_of_replications(tmp_path: Path) -> None:
    until = {"until": {"metric": "charged_nlai", "half_width": 2.5}, "most": 1_000}
    found = study(tmp_path, replications=until)

    def stop(done: int, of: int) -> None:
        if done == 35:
            raise KeyboardInterrupt

    for name in ("once", "twice"):
        if name == "twice":
            with pytest.raises(KeyboardInterrupt), Store.open(tmp_path / name, found) as store:
                sweep(found, store, Instant(), stop)
        store = Store.open(tmp_path / name, found)
        sweep(found, store, Instant())
        assert 2 * 20 < len(store.frame()) < 2 * 1_000
    assert (tmp_path / "once" / "results.parquet").read_bytes() == (tmp_path / "twice" / "results.parquet").read_bytes()


def test_effects_are_intervals_and_paired_differences_to_the_first_point(whole: Path) -> None:
    frame = load_study(whole)
    found = effects(frame, ["charged_nlai"], common=True)
    first, second = (frame.loc[frame["point"] == point, "charged_nlai"].tolist() for point in range(2))
    assert [effect.mean for effect in found] == [mean_interval(first), mean_interval(second)]
    assert [effect.change for effect in found] == [None, paired(first, second)]
    assert found[1].p == paired(first, second).p
    assert [effect.change for effect in effects(frame, ["charged_nlai"], common=False)] == [None, None]


def test_a_replication_that_failed_is_left_out_of_both_sides_of_a_pair(whole: Path) -> None:
    frame = load_study(whole)
    frame.loc[0, "charged_nlai"] = float("nan")
    _, second = effects(frame, ["charged_nlai"], common=True)
    assert second.mean is not None
    assert second.change is not None
    assert (second.mean.n, second.change.interval.n) == (2, 1)


def test_p_is_corrected_for_all_metrics_at_all_points() -> None:
    rng = np.random.default_rng(1)
    frame = pd.DataFrame(
        [
            {"point": point, "replication": r, "a": 0.5 * point + rng.normal(), "b": rng.normal()}
            for point in range(3)
            for r in range(8)
        ]
    )
    found = [effect for effect in effects(frame, ["a", "b"], common=True) if effect.change]
    raw = [effect.change.p for effect in found if effect.change]
    assert corrected_for(found) == 4
    assert [effect.p for effect in found] == holm(raw)  # type: ignore[arg-type]


def test_a_trend_is_the_rank_correlation_of_factor_and_metric() -> None:
    frame = pd.DataFrame({"point": range(9), "a": range(9), "b": [1.0] * 9, "c": list("abcdefghi"), "d": [3, 1, 2] * 3})
    frame["m"] = -(frame["a"] ** 3)
    rising, still, other = seen = trends(frame, ["m"], ["a", "b", "c", "d"])
    assert rising.correlation is not None
    assert rising.correlation.rho == -1.0
    assert (still.correlation, still.p) == (None, None)
    assert other.correlation is not None
    assert [rising.p, other.p] == holm([rising.correlation.p, other.correlation.p])
    assert corrected_for(seen) == 2


def test_each_points_mean_and_interval_are_kept(whole: Path, tmp_path: Path) -> None:
    table, frame = pd.read_parquet(whole / "points.parquet"), load_study(whole)
    first, second = effects(frame, ["charged_nlai"], common=True)
    kept = table[table["metric"] == "charged_nlai"]
    assert kept["routing.weights.price"].tolist() == [0.5, 2.0]
    assert kept["mean"].tolist() == [effect.mean.mean for effect in (first, second) if effect.mean]
    assert kept["half_width"].tolist() == [effect.mean.half_width for effect in (first, second) if effect.mean]
    assert second.change is not None
    assert kept["difference"].iloc[1] == second.change.interval.mean
    space = made(tmp_path, design={"sobol": 2}, factors={"routing.weights.price": {"from": 0.5, "to": 2}})
    table = pd.read_parquet(space.folder / "points.parquet")
    assert (len(table), table["n"].unique().tolist()) == (2 * 3, [2])
    assert table["difference"].isna().all()  # no point of these is one to compare with


def test_one_replication_has_no_interval_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["sweep", str(written(tmp_path, replications=1)), "--out", str(tmp_path / "out"), "--executor", "inprocess"]
    assert main(asked) == 0
    assert "one replication: nothing can be said" in capsys.readouterr().out
