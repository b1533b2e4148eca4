"""What a run leaves behind: whole, the same twice, and valid however it ended."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lattice_core import records
from lattice_core.chain.contracts.tokenomics import Tokenomics
from lattice_core.chain.gas import load
from lattice_core.chain.port import Receipt
from lattice_core.config import Config, ConfigError
from lattice_core.records import TABLES
from lattice_core.request_log import new_request_log
from lattice_sim import load_run, metrics, networks, report, run
from lattice_sim.model import LatticeModel
from lattice_sim.rundir import Draft, Run

EPOCHS = 3


@pytest.fixture(scope="module")
def config() -> Config:
    return networks.read("local.yaml", [f"sim.epochs={EPOCHS}"])


@pytest.fixture(scope="module")
def folder(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    run(config, out=out, journal=True)
    return out


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take seconds, and most tests do not look at them."""
    monkeypatch.setattr(report, "report", lambda run: "")


def same(one: Run, other: Run) -> None:
    for table in TABLES:
        pd.testing.assert_frame_equal(getattr(one, table), getattr(other, table))


def test_two_runs_of_one_config_write_the_same_bytes(config: Config, folder: Path, tmp_path: Path) -> None:
    """INV-5."""
    ticks = iter(range(100))
    run(config, out=tmp_path / "again", journal=True, clock=lambda: next(ticks))
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir())
    for name in names:
        one, other = ((place / name).read_bytes() for place in (folder, tmp_path / "again"))
        if name == "manifest.json":
            one, other = ({**json.loads(text), "timings": None} for text in (one, other))
        assert one == other, name


def test_a_run_read_back_is_the_run_that_was_written(config: Config, folder: Path) -> None:
    read, made = load_run(folder), run(config)
    same(read, made)
    assert read.summary() == made.summary()


def test_every_request_that_arrived_has_one_row_whatever_its_end(folder: Path) -> None:
    """INV-2, in the files."""
    done = load_run(folder)
    counts = done.requests["outcome"].value_counts()
    for outcome in ("completed", "failed", "rejected"):
        assert counts.get(outcome, 0) == done.epochs[outcome].sum()
    assert counts.get("in_flight", 0) == done.epochs["in_flight"].iloc[-1] == done.users["in_flight"].sum()
    assert len(done.requests) == done.requests["request"].nunique() == done.epochs["arrived"].sum() > 0
    assert done.summary()["littles_law_gap_ns"] == 0


def test_times_of_a_request_never_decrease(folder: Path) -> None:
    """INV-3, in the files."""
    for row in load_run(folder).requests.itertuples():
        times = [t for t in (row.arrival_ns, row.dispatch_ns, row.first_token_ns, row.end_ns) if t >= 0]
        assert times == sorted(times)


def test_what_users_paid_is_what_nodes_were_owed_and_where_the_fees_went(folder: Path) -> None:
    done = load_run(folder)
    summary = done.summary()
    spent = int(done.users[["spent_nlai", "faucet_spent_nlai"]].to_numpy().sum())
    settled = int(done.nodes[["settled_nlai", "settled_faucet_nlai"]].to_numpy().sum())
    parts = [summary[f"{part}_nlai"] for part in ("burned", "treasury", "auditors", "delegators", "operators")]
    assert spent == settled == summary["settled_nlai"] == sum(parts) > 0
    assert summary["charged_nlai"] == done.requests["fee_nlai"].sum()


def test_a_users_credit_is_all_in_the_places_that_the_table_names(folder: Path) -> None:
    """INV-1, in the files."""
    users = load_run(folder).users
    places = ["free_nlai", "held_nlai", "debit_nlai", "unsettled_nlai", "overdue_nlai", "spent_nlai"]
    assert (users["deposited_nlai"] == users[[*places, "withdrawn_nlai"]].sum(axis=1)).all()
    assert (users["granted_nlai"] == users[[f"faucet_{place}" for place in places]].sum(axis=1)).all()


def test_every_transaction_has_the_models_gas_whatever_the_chain_measured(folder: Path) -> None:
    done = load_run(folder)
    sent = done.transactions
    assert list(sent["gas"]) == [
        load().gas(*row) for row in zip(sent["operation"], sent["entries"], sent["nodes"], strict=True)
    ]
    assert done.summary()["gas"] == sent["gas"].sum()
    settles = sent[sent["operation"] == "settle"]
    assert (settles["nodes"] > 0).all()
    assert done.summary()["gas_per_user"] == pytest.approx(settles["gas"].sum() / settles["entries"].sum())
    measured = done.gas_measured[(done.gas_measured["operation"] == "settle") & (done.gas_measured["epoch"] > 0)]
    assert list(measured["gas_used"]) == pytest.approx(list(sent["gas"][measured["transaction"]]), rel=0.02)


@pytest.fixture
def room_for_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "new_request_log", partial(new_request_log, capacity=8))


@pytest.fixture
def sample(config: Config, room_for_few: None) -> Run:
    return run(config)


def test_of_many_requests_every_kth_is_kept_and_the_manifest_says_which(folder: Path, sample: Run) -> None:
    whole, about = load_run(folder).requests, sample.manifest["requests"]
    every, offset = about["every"], about["offset"]
    assert every > 1
    pd.testing.assert_frame_equal(sample.requests, whole[(whole["request"] + offset) % every == 0].reset_index(drop=True))
    assert len(sample.requests) == about["kept"]
    assert len(whole) == about["arrived"]


def test_every_other_table_is_the_same_whether_all_requests_are_kept_or_not(folder: Path, sample: Run) -> None:
    whole = load_run(folder)
    for table in TABLES:
        if table != "requests":
            pd.testing.assert_frame_equal(getattr(sample, table), getattr(whole, table))
    assert sample.manifest["requests"]["reasons"] == whole.manifest["requests"]["reasons"]


def test_a_summary_of_a_sample_is_that_of_the_whole_but_for_the_error_of_quantiles(folder: Path, sample: Run) -> None:
    exact, found = load_run(folder).summary(), sample.summary()
    error = found["quantile_error"]
    assert (exact["quantile_error"], 0 < error <= 0.01) == (0, True)
    for name, value in exact.items():
        if re.match(r"(ttft|latency)_p", name):
            assert found[name] == pytest.approx(value, rel=error)
        elif name != "quantile_error":
            assert found[name] == value


@pytest.mark.usefixtures("room_for_few", "no_pictures")
def test_an_interrupted_run_of_a_sample_holds_what_of_its_epochs_is_in_the_sample_then(
    config: Config, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_in_the_middle_of_the_second_epoch(monkeypatch)
    done, whole = run(config), load_run(folder)
    every, offset = (done.manifest["requests"][name] for name in ("every", "offset"))
    arrived = whole.requests[whole.requests["arrival_ns"] < done.epochs["end_ns"].iloc[-1]]
    sampled = arrived[(arrived["request"] + offset) % every == 0]
    assert len(done.epochs) == 1
    assert done.requests["request"].tolist() == sampled["request"].tolist()
    assert (done.requests["end_ns"] <= done.epochs["end_ns"].iloc[-1]).all()
    assert done.summary()["littles_law_gap_ns"] == 0


def test_latencies_count_each_request_that_saw_a_first_token_and_each_that_was_completed(folder: Path) -> None:
    done = load_run(folder)
    for metric, values in (("ttft", metrics.ttft_ns(done.requests)), ("latency", metrics.latency_ns(done.requests))):
        bins = done.latencies[done.latencies["metric"] == metric]
        inside = [((row.low_ns <= values) & (values <= row.high_ns)).sum() for row in bins.itertuples()]
        assert bins["count"].tolist() == inside
        assert bins["count"].sum() == len(values)


def stop_in_the_middle_of_the_second_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    settle = LatticeModel.settle

    def interrupted(model: LatticeModel) -> Any:
        if model.epoch == 1:
            raise KeyboardInterrupt
        return settle(model)

    monkeypatch.setattr(LatticeModel, "settle", interrupted)


@pytest.mark.usefixtures("no_pictures")
def test_a_run_interrupted_within_an_epoch_is_the_run_of_the_epochs_before(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(config, {"sim.epochs": 1}, out=tmp_path / "short", journal=True)
    stop_in_the_middle_of_the_second_epoch(monkeypatch)
    done = run(config, out=tmp_path / "stopped", journal=True)
    assert done.status == load_run(tmp_path / "stopped").status == "interrupted"
    short = load_run(tmp_path / "short")
    same(done, short)
    assert done.manifest["digest"] == short.manifest["digest"]
    stopped, whole = (
        (tmp_path / name / "journal.jsonl").read_text().splitlines()[1:] for name in ("stopped", "short")
    )  # the headers differ in the config
    assert stopped == whole


@pytest.mark.usefixtures("no_pictures")
def test_a_run_interrupted_before_anything_happened_is_empty_and_valid(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LatticeModel, "__init__", interrupted)
    run(config, out=tmp_path / "out", journal=True)
    done = load_run(tmp_path / "out")
    assert done.status == "interrupted"
    assert all(len(getattr(done, table)) == 0 for table in TABLES)
    assert done.summary()["arrived"] == 0


@pytest.mark.usefixtures("no_pictures")
def test_a_settlement_that_reverts_ends_the_run_with_its_reason_after_writing_what_it_has(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reverting(*_: object) -> Receipt:
        return Receipt(ok=False, gas_used=21_000, output=b"", logs=())

    monkeypatch.setattr(Tokenomics, "settle", reverting)
    done = run(config, out=tmp_path / "out")
    assert done.status == "failed"
    assert done.manifest["reason"] == "reverted without a reason"
    assert len(done.epochs) == 1
    assert done.transactions["status"].iloc[-1] == "reverted"
    assert done.summary()["settled_nlai"] == 0
    same(load_run(tmp_path / "out"), done)


def test_a_folder_that_exists_is_refused_before_anything_runs(config: Config, folder: Path) -> None:
    before = sorted(folder.parent.iterdir())
    with pytest.raises(ConfigError, match=r"exists already; .*--force"):
        run(config, out=folder, on_epoch=lambda model: pytest.fail("it ran"))
    assert sorted(folder.parent.iterdir()) == before


@pytest.mark.usefixtures("no_pictures")
def test_force_replaces_a_run_and_leaves_nothing_of_it(config: Config, tmp_path: Path) -> None:
    for name in ("journal.jsonl", "manifest.json"):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / name).write_text('{"engine": "reference"}')
    run(config, out=tmp_path / "out", force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (tmp_path / "out" / "journal.jsonl").exists()
    load_run(tmp_path / "out")


def test_force_replaces_nothing_but_a_run(config: Config, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="is not a simulated run"):
        run(config, out=tmp_path, force=True)
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.usefixtures("no_pictures")
def test_what_goes_wrong_while_writing_leaves_the_old_run_and_nothing_else(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = load_run(folder)
    done.save(tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def full_disk(_: Run) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "report", full_disk)
    with pytest.raises(OSError, match="No space"):
        done.save(tmp_path / "out", force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}


def test_a_draft_that_is_not_published_leaves_nothing(tmp_path: Path) -> None:
    with Draft(tmp_path / "out") as draft:
        (draft.path / "half").write_text("")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("manifest", ["", "{", "[]", "{}", '{"format": "lattice-run", "version": 1}'])
def test_what_is_not_a_run_directory_is_refused_in_one_line(tmp_path: Path, manifest: str) -> None:
    if manifest:
        (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(ConfigError) as refused:
        load_run(tmp_path)
    assert str(tmp_path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_manifest_says_what_ran(config: Config, folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["status"] == "complete"
    assert manifest["config"] == config.document()
    assert manifest["config_sha256"] == config.sha256()
    assert manifest["requests"]["beyond_horizon"] == 0
    for name in (
        "seed",
        "digest",
        "rules_sha256",
        "contracts_sha256",
        "contracts",
        "engine",
        "chain",
        "packages",
        "cpu",
        "timings",
    ):
        assert name in manifest
