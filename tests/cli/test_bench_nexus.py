"""`lattice bench nexus` measures a real Nexus before stubs whose receipts it accepts."""

import json

import pytest

from lattice_cli.main import main


def test_a_short_bench_has_every_figure_and_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    short = ["--seconds", "1", "--rate-seconds", "0.5", "--step-seconds", "0.4", "--streams", "3", "--most", "25"]
    assert main(["bench", "nexus", *short, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"cores", "rate_per_s", "whole", "stream", "capacity", "streams", "rss_mib", "bare", "litellm"}
    assert found["litellm"] is None
    assert found["streams"]["tokens"] > 0
    assert found["stream"]["added_ms"]["p50"] is not None
    for part in (found["whole"], found["stream"], found["capacity"]["steps"][0], found["streams"]):
        assert part["failures"] == 0
        assert part["generator_late_ms"]["p99"] is not None


def test_a_nexus_that_is_killed_behind_so_many_events_answers_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "nexus", "--restart", "200", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["events"] >= 200
    assert 0.0 < found["ready_s"] <= found["first_answer_s"]
