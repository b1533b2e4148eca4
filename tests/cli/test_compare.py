"""`lattice compare` pairs runs of equal seeds, and says when it cannot; a run's requests become a trace."""

import json
from pathlib import Path

import pytest

from lattice_cli.compare import compare, lines
from lattice_cli.main import main
from lattice_sim import Run, load_run, run
from lattice_sim.study.statistics import mean_interval
from lattice_sim.trace import read_with_header

CHANGES = {"sim.epochs": 2, "chain.epoch": "30s"}
FASTER = {"nodes.laptop.hardware": {"a": "2ms", "b": "1ms", "prefill_tok_s": 4000}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `slow` and `fast`, each with runs of seeds 1 to 3."""
    folder = tmp_path_factory.mktemp("runs")
    for side, more in (("slow", {}), ("fast", FASTER)):
        for seed in (1, 2, 3):
            changes = CHANGES | NODE_FIGURES | more | {"seed": seed}
            run("local.yaml", changes, out=folder / side / str(seed))
    return folder


NODE_FIGURES = {"nodes.laptop.hardware": {"a": "4ms", "b": "1ms", "prefill_tok_s": 2000}}


def loaded(folder: Path) -> dict[str, Run]:
    return {path.name: load_run(path) for path in sorted(folder.iterdir())}


def test_runs_of_equal_seeds_are_paired_whatever_their_order(runs: Path) -> None:
    slow, fast = loaded(runs / "slow"), loaded(runs / "fast")
    found = compare(slow, dict(reversed(fast.items())))
    assert (found.pairs, found.rows) == (3, compare(slow, fast).rows)
    rows = {row.metric: row for row in found.rows}
    changes = [fast[seed].summary()["ttft_p50_s"] - slow[seed].summary()["ttft_p50_s"] for seed in slow]
    ttft = rows["ttft_p50_s"]
    assert (ttft.change, ttft.half) == mean_interval(changes)[:2]
    assert ttft.change is not None
    assert ttft.half is not None
    assert ttft.change + ttft.half < 0, "the faster nodes answer sooner, beyond chance"
    assert (rows["arrived"].change, rows["arrived"].half) == (0, 0), "both sides were asked the same"


def test_without_pairs_there_is_no_interval_and_the_table_says_so(runs: Path) -> None:
    slow, fast = loaded(runs / "slow"), loaded(runs / "fast")
    for a, b, why in (
        ({"1": slow["1"]}, {"1": fast["1"]}, "one run a side"),
        ({"1": slow["1"], "2": slow["2"]}, {"2": fast["2"], "3": fast["3"]}, "not of equal seeds"),
    ):
        found = compare(a, b)
        assert why in found.note
        assert why in lines(found)[-1]
        assert all(row.half is None for row in found.rows)


def test_the_command_takes_runs_and_folders_of_runs(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    assert main(["compare", str(runs / "slow"), str(runs / "fast"), "--json", "--out", str(page)]) == 0
    folders = json.loads(capsys.readouterr().out)
    sides = [[str(runs / side / seed) for seed in "123"] for side in ("slow", "fast")]
    assert main(["compare", "--a", *sides[0], "--b", *sides[1], "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == folders
    assert "<td>ttft_p50_s</td>" in page.read_text()
    assert main(["compare", str(tmp_path), str(runs)]) == 2
    assert "must be a run directory, or hold some" in capsys.readouterr().err


def test_a_runs_requests_become_a_trace_with_its_nodes_resources(runs: Path, tmp_path: Path) -> None:
    source, trace = runs / "slow" / "1", tmp_path / "t.parquet"
    assert main(["trace", "import", str(source), "--out", str(trace)]) == 0
    imported, about = read_with_header(str(trace))
    whole = load_run(source).requests.query("outcome == 'completed'")
    assert imported.output_tok.tolist() == whole["output_tok"].tolist()
    assert about.source.startswith("run local, seed 1")
    assert b'"prefill_tok_s": 2000.0' in trace.read_bytes()
    workload = {"users.visitor.workload": {"trace": str(trace)}}
    again = run("local.yaml", CHANGES | NODE_FIGURES | workload)
    assert again.requests["prompt_tok"].tolist() == whole["prompt_tok"].tolist()
