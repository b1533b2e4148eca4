"""A study's file says what is wrong with it in one line."""

from pathlib import Path
from typing import Any

import pytest

from lattice_cli.main import main
from lattice_core.config import ConfigError
from lattice_sim.study.document import read_study
from tests.study.asked import SMALL, study, written

PRICE = "routing.weights.price"
MANY = {f"routing.weights.{name}": [n / 10 for n in range(1, 101)] for name in ("price", "latency", "quality")}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"factors": {"routing.weights.pric": [1]}}, ["routing.weights.pric", "did you mean price"]),
        ({"factors": {PRICE: [1, -1]}}, [PRICE, "0", "-1"]),
        ({"factors": {"seed": [1, 2]}}, ["factors", "seed is not a factor"]),
        ({"factors": {}}, ["factors", "at least 1"]),
        ({"factors": {PRICE: {"from": 2, "to": 1}}}, [PRICE, "from must be less than to"]),
        ({"factors": {PRICE: {"from": 0, "to": 1, "scale": "log"}}}, [PRICE, "more than 0"]),
        ({"factors": {PRICE: {"from": 1, "to": 2}}}, [PRICE, "must be levels for design: grid"]),
        ({"factors": {PRICE: "high"}}, [PRICE, "a list of levels, or {from, to}", '"high"']),
        ({"design": {"latin": 4}}, ["design", "grid, {latin_hypercube: N} or {sobol: N}"]),
        ({"design": {"sobol": 0}}, ["design.sobol", "greater than or equal to 1", "0"]),
        ({"metrics": ["ttft_p95"]}, ["metrics", "ttft_p95 is not recorded", "did you mean ttft_p95_s"]),
        ({"replications": 0}, ["replications", "greater than or equal to 1", "0"]),
        ({"replications": "many"}, ["replications", "a number, or {until: {metric, half_width}, most: N}", '"many"']),
        ({"replications": {"until": {"metric": "gas", "half_width": 1}}}, ["until.metric", "must be one of metrics", "gas"]),
        ({"set": {"sim.epoch": 1}}, ["sim.epoch", "did you mean epochs"]),
        ({"set": {"chain.backend": "rpc"}}, ["chain.backend", "py-evm or revm", "rpc"]),
        ({"set": {"routing.policy": "mine:absent"}}, ["routing.policy", "mine:absent"]),
        ({"factors": {"routing.policy": ["random", "mine:absent"]}}, ["routing.policy", "mine:absent"]),
        ({"base": "nowhere.yaml"}, ["nowhere.yaml", "does not exist"]),
        ({"desing": "grid"}, ["desing", "unknown key", "design"]),
        ({"name": None}, ["name", "missing"]),
    ],
)
def test_what_a_study_cannot_be_is_said_in_one_line(tmp_path: Path, changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as said:
        study(tmp_path, **changes)
    (line,) = str(said.value).splitlines()
    for word in words:
        assert word in line, line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sweep: {}", "version: 1"),
        ("version: 2\nsweep: {}", "version: 1"),
        ("version: 1\ntune: {}", "the mapping sweep, not tune"),
        ("version: 1\nsweep: []", "the mapping sweep"),
        ("- 1", "version: 1"),
    ],
)
def test_what_is_no_study_is_refused_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_study(path, "sweep")


def test_values_can_be_replaced_from_the_command_line(tmp_path: Path) -> None:
    found = read_study(written(tmp_path), "sweep", ["replications=5", "set.seed=3"])
    assert (found.asked.replications, found.base.seed) == (5, 3)
    with pytest.raises(ConfigError, match="must be KEY=VALUE"):
        read_study(written(tmp_path), "sweep", ["replications"])


def test_a_path_of_the_network_is_replaced_and_nothing_beside_it(tmp_path: Path) -> None:
    found = read_study(written(tmp_path), "sweep", ["set.sim.start_hour=9", "factors.routing.explore=[0, 1]"])
    assert (found.base.sim.start_hour, found.base.sim.epochs) == (9, 2)
    assert list(found.asked.factors) == [PRICE, "routing.explore"]


def test_a_range_is_whole_where_the_network_takes_whole_numbers_only(tmp_path: Path) -> None:
    ranges = {path: {"from": 1, "to": 9} for path in ("routing.candidates", PRICE, "users.visitor.deadline")}
    found = study(tmp_path, factors=ranges, design={"latin_hypercube": 4})
    said = found.document()["sweep"]["factors"]
    assert [said[path]["whole"] for path in ranges] == [True, False, False]


def test_a_point_that_makes_no_network_is_named_before_anything_is_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting = {"nodes.laptop.hardware.a": [0, 1], "nodes.laptop.hardware.b": [0, 1]}
    changes = SMALL | {"nodes.laptop.hardware": {"a": 1, "b": 1, "prefill_tok_s": 100}}
    path = written(tmp_path, factors=waiting, set=changes)
    assert main(["sweep", str(path), "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert 'the point {"nodes.laptop.hardware.a": 0, "nodes.laptop.hardware.b": 0}' in line
    assert "must not both be 0" in line
    assert not (tmp_path / "out").exists()


def test_a_million_points_are_not_begun_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, factors=MANY)
    assert main(["sweep", str(path), "--out", str(tmp_path / "out")]) == 2
    assert "2,000,000 runs, more than 10,000; --yes" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--executor", "slurm"], "--executor: must be one of inprocess, processes, ray, not slurm"),
        (["--workers", "0"], "--workers: must be 1 or more"),
        (["--address", "host:1"], "--address: goes with --executor ray"),
    ],
)
def test_workers_that_cannot_be_are_refused_in_one_line(
    tmp_path: Path, more: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", str(written(tmp_path)), "--out", str(tmp_path / "out"), *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert not (tmp_path / "out").exists()
