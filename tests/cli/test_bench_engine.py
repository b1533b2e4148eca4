"""The bench of engines: what it measures, what it refuses, and that its yardsticks are right."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice_cli.bench import engine, table, yardsticks
from lattice_cli.main import main
from lattice_core.capacity import utilisation
from tests.require import require
from tests.theory.queues import erlang_c_wait


@given(st.integers(1, 3_000))
def test_it_asks_for_seventy_percent_of_its_nodes(nodes: int) -> None:
    config = engine.network(nodes, "compiled")
    assert sum(population.count for population in config.nodes) == nodes
    assert utilisation(config, next(iter(config.models))) == pytest.approx([engine.LOAD] * 24)


@pytest.mark.parametrize("which", ["compiled", "reference"])
def test_it_reports_what_it_measured(which: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "engine", "--nodes", "3", "--requests", "400", "--engine", which, "--no-check", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    names = ["engine", "nodes", "requests", "requests_per_s", "compile_s", "peak_mib", "digest", "digest_20000"]
    assert list(said)[: len(names)] == names
    assert (said["engine"], said["nodes"], said["runs"]) == (which, 3, engine.RUNS)
    assert 0 < said["completed"] < said["requests"]
    assert said["digest_20000"] is None


def test_both_engines_decide_alike_and_a_bench_in_which_they_do_not_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "CHECKED", 300)
    measured = engine.measure(5, 500, "compiled")
    reference = engine.first_digest(5)
    engine.check(measured, reference)
    assert measured["digest_20000"] != measured["digest"]
    with pytest.raises(engine.BenchError, match=f"at 5 nodes must be the reference's, {'0' * 32}, not {reference}"):
        engine.check(measured, "0" * 32)


def test_as_many_requests_as_it_compares_arrive_before_it_does() -> None:
    config = engine.network(2, "compiled")
    running = engine.found(config)
    running.run_until(engine.first_ns(config))
    assert running.nexus.count("arrived") == engine.CHECKED


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nodes", "0"], "argument --nodes: must be from 1 to 100000, not 0"),
        (["--requests", "1000000001"], "argument --requests: must be from 1 to 1000000000, not 1000000001"),
        (["--engine", "steam"], "invalid choice: 'steam'"),
        (["--write", "x.md"], "--whole and --write need --table"),
    ],
)
def test_it_refuses_in_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["bench", "engine", *arguments])
    assert refused.value.code == 2
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1


@pytest.mark.parametrize(("content", "said"), [(None, "cannot be read"), ("# No place\n", "must have the lines <!--")])
def test_a_file_without_a_place_for_the_table_is_refused_before_anything_is_measured(
    content: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    if content is not None:
        page.write_text(content)
    assert main(["bench", "engine", "--table", "--write", str(page)]) == 2
    assert said in capsys.readouterr().err


def test_the_table_takes_its_place_in_a_page_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(nodes: int, requests: int, which: str) -> dict[str, Any]:
        per_s = 2_000_000 if which == "compiled" else 4_000
        row = {"engine": which, "nodes": nodes, "requests": requests, "requests_per_s": per_s, "events": 9 * requests}
        return {**row, "compile_s": 1.0, "peak_mib": 300, "digest_20000": "00"}

    def apart(function: Any, *arguments: Any) -> Any:
        if function is engine.measure:
            return measured(*arguments)
        if function is yardsticks.ciw_network:
            raise ImportError
        return arguments[0] / 100_000, None

    monkeypatch.setattr(table, "apart", apart)
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    for _ in range(2):
        assert main(["bench", "engine", "--table", "--whole", "--write", str(page)]) == 0
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1], lines.count(table.BEGIN)) == ("before", "after", 1)
    assert "old" not in lines
    assert "| compiled | 100,000 | 100,000,000 | 2,000,000 | 500 | 1.0 | 300 |" in lines
    assert "| Ciw, M/M/4 | not installed |  |" in lines
    assert "| SimPy, M/M/4 | 100,000 | 20 times that |" in lines
    assert "* Compiled over reference, the same network: 500 at 100 nodes, 500 at 1,000 nodes, 500 at 10,000 nodes." in lines


@pytest.mark.parametrize(
    ("serve", "customers", "off"),
    [
        (yardsticks.simpy_processes, 20_000, 0.3),
        (yardsticks.ciw_network, 10_000, 0.4),
        (yardsticks.event_heap, 2_000_000, 0.03),
    ],
)
def test_a_yardstick_waits_as_long_as_erlang_says(serve: Any, customers: int, off: float) -> None:
    """Each bound is about 4 σ of a mean over so many customers."""
    try:
        took_s, wait = serve(customers)
    except ImportError:
        require(False, "ciw")
    assert took_s > 0
    assert wait == pytest.approx(erlang_c_wait(yardsticks.SERVERS, engine.LOAD), rel=off)
