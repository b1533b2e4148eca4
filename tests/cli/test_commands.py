"""The command line: what it accepts, what it refuses and how, and how it stops."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lattice_cli.main import main
from lattice_core.config import schema
from lattice_sim import load_run
from lattice_sim.networks import SHIPPED

LATTICE = [sys.executable, "-m", "lattice_cli.main"]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", sorted(path.name for path in SHIPPED.glob("*.yaml")))
def test_every_shipped_network_is_good_wherever_one_is(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", name]) == 0
    assert capsys.readouterr().out.startswith("OK  ")


def test_check_says_what_to_expect(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "baseline.yaml", "--set", "users.chat.count=500"]) == 0
    said = capsys.readouterr().out
    for words in ("72  (12 datacentre, 60 household)", "500 chat", "100,000 requests a day", "% busy, from 20:00"):
        assert words in said


TRACES = {
    "columns.csv": "TIMESTAMP,ContextTokens\n2023-11-16 18:17:03,10\n",
    "unsorted.csv": "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:04,1,1\n2023-11-16 18:17:03,1,1\n",
    "empty.csv": "TIMESTAMP,ContextTokens,GeneratedTokens\n",
    "nan.csv": "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,NaN,1\n",
}


@pytest.mark.parametrize(
    ("said", "arguments"),
    [
        ("nowhere.yaml: does not exist; must be a YAML file or one of baseline.yaml", ["nowhere.yaml"]),
        ("must be a mapping", ["not.yaml"]),
        ("must be UTF-8 text", ["binary.yaml"]),
        ("is a folder", ["."]),
        ("unknown key; did you mean epochs?", ["local.yaml", "--set", "sim.epoch=3"]),
        ("must be PATH=VALUE", ["local.yaml", "--set", "sim.epochs"]),
        ("0 or more", ["local.yaml", "--set", "nodes.laptop.price.input=-1"]),
        ("must be of smollm2-135m, not gpt", ["local.yaml", "--set", "users.visitor.model=gpt"]),
        ("must hold a deposit", ["local.yaml", "--set", "users.visitor.budget={}"]),
        ("nodes: must have at least 1", ["local.yaml", "--set", "nodes=[]"]),
        ("version: must be 1, not 2", ["local.yaml", "--set", "version=2"]),
        ("routing.policy", ["local.yaml", "--set", "routing.policy=nowhere:Policy"]),
        *(("workload.trace", ["local.yaml", "--set", f"users.visitor.workload={{trace: {name}}}"]) for name in TRACES),
        ("workload.trace", ["local.yaml", "--set", "users.visitor.workload={trace: nowhere.csv}"]),
    ],
)
@pytest.mark.parametrize("command", ["check", "run"])
def test_bad_input_gets_one_clear_line_and_leaves_nothing(
    command: str, said: str, arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "not.yaml").write_text("- a list")
    (folder / "binary.yaml").write_bytes(b"\xff\xfe")
    for name, text in TRACES.items():
        (folder / name).write_text(text)
    before = sorted(folder.iterdir())
    assert main([command, *arguments]) == 2
    out, line = capsys.readouterr()
    assert said in line
    assert line.count("\n") == 1
    assert out == ""
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [[], ["fly"], ["run"], ["run", "local.yaml", "--fast"], ["bench", "engine", "--nodes", "0"], ["check", "a", "b"]],
)
def test_a_command_line_that_makes_no_sense_gets_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_run_writes_a_directory_named_by_network_and_config(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "local.yaml", "--set", "sim.epochs=1", "--engine", "reference", "--chain", "py-evm"]) == 0
    (out,) = (folder / "runs").iterdir()
    assert out.name == f"local-{load_run(out).manifest['config_sha256'][:8]}"
    said, progress = capsys.readouterr()
    assert f"runs/{out.name}/report.html" in said
    assert "requests arrived" in said
    assert progress == ""
    assert main(["run", "local.yaml", "--set", "sim.epochs=1", "--engine", "reference"]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_valid_run_of_the_epochs_done(number: signal.Signals, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [*LATTICE, "run", "local.yaml", "--set", "sim.epochs=1000000", "--out", out, "--journal"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a job in the background inherits it
    try:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    finally:
        signal.signal(signal.SIGINT, ignored)
    while process.poll() is None and not any(path.stat().st_size > 20_000 for path in tmp_path.glob(".out.*/journal.jsonl")):
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == 130
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    done = load_run(out)
    assert done.status == "interrupted"
    assert said == f"local.yaml: interrupted after {len(done.epochs)} of 1000000 epochs\n"
    assert len(done.epochs) > 0
    assert done.epochs["arrived"].sum() == len(done.requests)
    assert main(["replay", str(out)]) == 0


@pytest.mark.parametrize("arguments", [["--help"], ["schema"], ["check", "baseline.yaml"]])
def test_what_needs_no_simulator_does_not_wait_for_one(arguments: list[str]) -> None:
    heavy = ("mesa", "matplotlib", "eth", "simpy", "pandas", "onnxruntime")
    code = f"""
import sys
from lattice_cli.main import main
try: main({arguments!r})
except SystemExit: pass
print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.stderr == "[]\n"


def test_schema_prints_the_schema_of_a_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema()


@pytest.fixture
def small_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bench of gas in seconds: a small settlement, and few sizes."""
    from lattice_cli.bench import costs

    sizes = {1: [(1,), (5,)], 2: [(2, 1), (20, 2), (40, 8)]}
    monkeypatch.setattr(costs, "GRIDS", {name: sizes.get(len(grid[0]), grid) for name, grid in costs.GRIDS.items()})
    monkeypatch.setattr(costs, "USERS", 40)
    monkeypatch.setattr(costs, "NODES", 4)


@pytest.mark.usefixtures("small_grids")
def test_the_bench_of_gas_writes_the_model_it_has_measured_and_takes_a_settlement_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lattice_core.chain import gas

    monkeypatch.setattr(gas, "IN_CHECKOUT", tmp_path / "gas.json")
    assert main(["bench", "gas", "--json", "--write"]) == 0
    said = json.loads(capsys.readouterr().out)
    model = gas.GasModel.parse((tmp_path / "gas.json").read_text())
    assert json.loads(json.dumps(model.operations())) == said["operations"]
    assert set(model.prices) == set(gas.load().prices)
    assert all(fit.error_ppm < 20_000 for fit in model.fits.values())
    settle = said["settle_1000_100"]
    user, node, base = (sum(settle["breakdown"][share].values()) for share in ("per_user", "per_node", "base"))
    assert 40 * user + 4 * node + base == pytest.approx(settle["gas"])
    assert settle["gas_per_user"] == settle["gas"] / 40
    assert said["settle_1000_100_s"] > 0
    assert "revm_over_py_evm" in said


def test_the_bench_of_gas_writes_only_in_a_checkout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lattice_core.chain.gas.IN_CHECKOUT", tmp_path / "contracts" / "gas.json")
    assert main(["bench", "gas", "--write"]) == 2
    assert "--write: needs a checkout" in capsys.readouterr().err


@pytest.mark.usefixtures("small_grids")
def test_the_bench_of_gas_prints_a_row_for_each_operation(capsys: pytest.CaptureFixture[str]) -> None:
    from lattice_core.chain import gas

    assert main(["bench", "gas"]) == 0
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line]
    assert set(gas.load().prices) < set(rows)


def test_a_run_is_refused_in_one_line_if_the_gas_model_is_of_other_contracts(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lattice_core.chain import bridge, gas

    monkeypatch.setattr(gas, "contracts_hash", lambda: "of other contracts")
    monkeypatch.setattr(bridge, "load", gas.load.__wrapped__)
    assert main(["run", "local.yaml"]) == 2
    said = capsys.readouterr().err
    assert "gas.json: contracts_sha256: must be of other contracts" in said
    assert "lattice bench gas --write" in said
    assert said.count("\n") == 1
    assert not list(folder.glob("runs/*"))
