"""A live network under load, and its simulated twin beside it."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lattice_cli.main import main
from lattice_sim import load_run, run
from tests.live.networks import LOCAL, Live, live, local

CHANGES = {
    "users.visitor.workload": {"poisson": {"requests_per_day": 432_000}},
    "users.visitor.tokens": {"prompt": {"median": 90}, "output": {"median": 8}, "max_tokens": 16},
    "chain.epoch": "1s",
    "sim.epochs": 3,
}
LOAD = ["load", str(LOCAL), *(f"--set={key}={value}" for key, value in CHANGES.items())]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    changes = {key.replace(".", "__"): value for key, value in CHANGES.items()}
    with live(local(**changes), tmp_path_factory.mktemp("live") / "run") as network:
        yield network


def test_a_live_network_is_asked_what_its_simulated_twin_was_and_both_stand_in_one_table(
    network: Live, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    simulated = run(network.network.config, out=tmp_path / "simulated")
    seen = tmp_path / "seen"
    command = [*LOAD, "--against", network.url, "--key", network.key, "--out", str(seen)]
    before = network.ask(lambda network: network.driver.nexus.count("arrived"))
    assert main(command) == 0
    assert main(command) == 2, "it is there already"
    arrived = network.ask(lambda network: network.driver.nexus.count("arrived")) - before
    loaded = load_run(seen)
    assert "generator late" in capsys.readouterr().out
    assert arrived == len(loaded.requests) + 2, "two find out what a word costs"
    asked = ["request", "population", "user", "model", "arrival_ns"]
    assert loaded.requests[asked].equals(simulated.requests[asked])
    assert set(loaded.requests["outcome"]) == {"completed"}
    assert loaded.epochs["completed"].sum() == loaded.users["completed"].sum() == len(loaded.requests)
    assert (loaded.requests["output_tok"] <= 8).all()
    assert ((loaded.requests["prompt_tok"] - 90).abs() <= 5).all(), "a word of this model is five tokens"
    assert main(["compare", str(tmp_path / "simulated"), str(seen)]) == 0
    table = capsys.readouterr().out
    for name in ("ttft_p50_s", "itl_p95_s", "charged_nlai", "one run a side: differences have no interval"):
        assert name in table


def test_a_load_that_is_stopped_leaves_a_whole_run_directory(network: Live, tmp_path: Path) -> None:
    out = tmp_path / "seen"
    endless = [*LOAD, "--epochs", "60", "--against", network.url, "--key", network.key, "--out", str(out)]
    process = subprocess.Popen([sys.executable, "-m", "lattice_cli.main", *endless], stdout=subprocess.DEVNULL)
    before = network.ask(lambda network: network.driver.nexus.count("completed"))
    while network.ask(lambda network: network.driver.nexus.count("completed")) < before + 5:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    stopped = load_run(out)
    assert stopped.status == "interrupted"
    assert 3 <= len(stopped.requests) < 300
    ends = stopped.epochs[["completed", "failed", "rejected"]].sum().sum()
    assert stopped.epochs["arrived"].sum() == len(stopped.requests) == ends + stopped.epochs["in_flight"].iloc[-1]


def test_a_network_that_refuses_the_key_is_said_in_one_line(
    network: Live, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "seen"
    assert main([*LOAD, "--against", network.url, "--key", "sk-lattice-wrong", "--out", str(out)]) == 2
    assert "with a key that this network gave out" in capsys.readouterr().err
    assert not out.exists()
