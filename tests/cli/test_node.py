"""`lattice node`: what a node would earn, and bad input."""

import json

import pytest

from lattice_cli.main import main

SMALL = ["baseline.yaml", "--set", "sim.epochs=1", "--set", "users.chat.count=20", "--set", "chain.backend=revm"]


def test_estimate_gives_each_future_and_the_interval_of_their_mean(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["node", "estimate", *SMALL, "--hardware", "home-gpu", "--replications", "2", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [day["seed"] for day in said["days"]] == [42, 43]
    assert said["low_lai"] <= said["mean_lai"] <= said["high_lai"]
    assert main(["node", "estimate", *SMALL, "--hardware", "home-gpu", "--replications", "1"]) == 0
    assert "one replication has no interval" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("said", "arguments"),
    [
        (
            "--hardware: must be one of server-gpu, home-gpu, cpu-2-cores, or a profile's file, not toaster",
            ["--hardware", "toaster"],
        ),
        ("must be two numbers with a comma between", ["--hardware", "home-gpu", "--watts", "90"]),
        ("must be a number from 0 on", ["--hardware", "home-gpu", "--kwh", "-1"]),
        ("--model: must be one of deepseek-r1-distill-70b, not other", ["--hardware", "home-gpu", "--model", "other"]),
    ],
)
def test_bad_input_gets_one_clear_line(said: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(["node", "estimate", *SMALL, *arguments])
    except SystemExit as end:
        code = int(str(end.code))
    assert code == 2
    assert said in capsys.readouterr().err
