"""A run that goes on from a checkpoint is the run that never stopped; any other future begins where it was told to."""

import json
import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import mesa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lattice_cli.main import main
from lattice_core.chain.backends import open_chain
from lattice_core.chain.port import Transaction
from lattice_core.config import Config, ConfigError, revise
from lattice_core.records import TABLES
from lattice_core.streams import entity_key
from lattice_sim import load_run, networks, report, resume, run
from lattice_sim.checkpoint import CHECKPOINT, FREE, Checkpoint
from lattice_sim.model import LatticeModel
from tests.chain.anvil import anvil
from tests.sim.hostile import hostile
from tests.sim.served import plain

type Outcome = tuple[bytes, dict[str, dict[str, list[Any]]], list[dict[str, Any]]]

NETWORK = networks.read("local.yaml", ["sim.epochs=4"])
OTHER = {"routing.policy": "random", "users.visitor.retries": 1}


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take seconds, and most tests do not look at them."""
    monkeypatch.setattr(report, "report", lambda run: "")


def outcome(model: LatticeModel) -> Outcome:
    """What the rest of the run comes to, all in all."""
    while model.running:
        model.step()
    tables = {table: model.records.columns(table) for table in TABLES}
    rows = {table: {name: column.tolist() for name, column in columns.items()} for table, columns in tables.items()}
    return model.nexus.digest(), rows, model.datacollector.get_model_vars_dataframe().to_dict("records")


def checkpoints(config: Config) -> tuple[list[Checkpoint], Outcome]:
    """A checkpoint before each epoch and after the last, and what the run came to that left them."""
    model = LatticeModel(config)
    found = [model.checkpoint()]
    while model.running:
        model.step()
        found.append(model.checkpoint())
    return found, outcome(model)


@pytest.fixture(scope="module")
def half_way() -> Checkpoint:
    return checkpoints(NETWORK)[0][2]


# Going on


@settings(max_examples=6)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "seed": st.integers(0, 2**63 - 1),
            "chain.backend": st.just("revm"),
            "chain.chunk_users": st.sampled_from([1, 2]),
            "economics.bonus.per_day": st.just(2400),
            "node.failures": st.just({"mtbf": "3m", "mttr": "30s"}),
            "node.availability": st.sampled_from([{"on": "2m", "off": "1m"}, {"diurnal": {"up": "12h"}}]),
            "people.budget": st.just({"deposit": 0.01, "wallet": 0.02, "top_up": 0.01, "withdraw_above": 0.005}),
            "people.retries": st.just(2),
            "people.patience": st.just({"median": "2s", "sigma": 0.5}),
            "routing.policy": st.sampled_from(["round_robin", "sticky", "random", "argmax"]),
        },
    )
)
def test_a_run_resumed_after_any_epoch_is_the_run_that_never_stopped(changes: dict[str, Any]) -> None:
    network = {"node.count": 3, "people.count": 5, "people.workload.poisson.requests_per_day": 40_000, "sim.epochs": 3}
    found, whole = checkpoints(plain({"chain.epoch": "2m", **network, **changes}))
    for checkpoint in found:
        there = Checkpoint.from_bytes(checkpoint.to_bytes())
        model = LatticeModel.resume(there)
        assert (model.epoch, model.steps, model.running) == (there.epoch, there.epoch, there.epoch < 3)
        assert outcome(model) == whole


def test_a_hostile_network_goes_on_as_well() -> None:
    found, whole = checkpoints(hostile({"sim.epochs": 2, "sim.engine": "compiled"}))
    assert outcome(LatticeModel.resume(found[1])) == whole


def test_what_a_future_does_leaves_its_checkpoint_as_it_was(half_way: Checkpoint) -> None:
    before = half_way.to_bytes()
    first = outcome(LatticeModel.resume(half_way, **OTHER))
    assert half_way.to_bytes() == before
    assert outcome(LatticeModel.resume(half_way, **OTHER)) == first


@pytest.mark.parametrize("backend", ["py-evm", "revm"])
def test_a_chain_that_was_saved_is_the_chain_that_was(backend: str) -> None:
    chain, sender, contract = open_chain(backend), bytes(range(20)), None
    chain.fund(sender, 10**18)
    stores_and_counts = bytes.fromhex("600a600c600039600a6000f360005460010160005500")
    for dt_s in (5, 7):
        contract = chain.deploy(sender, stores_and_counts).contract
        chain.advance_block(dt_s)
        chain.transact(Transaction(sender, contract, value_wei=0))
    again = open_chain(backend)
    again.load(pickle.loads(pickle.dumps(chain.save())))
    assert contract is not None
    for one in (chain, again):
        one.transact(Transaction(sender, contract))
        one.advance_block(3)
    assert (again.block(), again.nonce(sender), again.balance(sender)) == (
        chain.block(), chain.nonce(sender), chain.balance(sender)
    )  # fmt: skip
    assert (again.code(contract), again.storage(contract, 0)) == (chain.code(contract), chain.storage(contract, 0))
    assert chain.storage(contract, 0) == 2


# Run directories


def stop_after(epoch: int) -> Callable[[LatticeModel], None]:
    def on_epoch(model: LatticeModel) -> None:
        if model.epoch == epoch:
            raise KeyboardInterrupt

    return on_epoch


def same_files(one: Path, other: Path) -> None:
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    for name in names:
        held, wanted = ((folder / name).read_bytes() for folder in (one, other))
        if name == "manifest.json":
            assert {**json.loads(held), "timings": None} == {**json.loads(wanted), "timings": None}
        else:
            assert held == wanted, name


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    run(NETWORK, out=out)
    return out


def test_a_run_that_was_stopped_twice_ends_with_the_bytes_of_one_that_was_not(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """INV-5."""
    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(report, "report", lambda run: "")
        assert run(NETWORK, out=out, on_epoch=stop_after(1)).status == "interrupted"
        assert (Checkpoint.read(out).epoch, len(load_run(out).epochs)) == (1, 1)
        assert resume(out, out=out, force=True, on_epoch=stop_after(3)).status == "interrupted"
        assert (Checkpoint.read(out).epoch, len(load_run(out).epochs)) == (3, 3)
    assert main(["run", "--resume", str(out)]) == 0
    same_files(out, whole)
    assert CHECKPOINT not in [path.name for path in out.iterdir()]


@pytest.mark.usefixtures("no_pictures")
def test_a_run_stopped_in_the_middle_of_an_epoch_goes_on_from_its_beginning(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = LatticeModel.settle

    def stopping(model: LatticeModel) -> Any:
        if model.epoch == 2:
            raise KeyboardInterrupt
        return settle(model)

    with monkeypatch.context() as patched:
        patched.setattr(LatticeModel, "settle", stopping)
        stopped = run(NETWORK, out=tmp_path / "run")
    assert (len(stopped.epochs), Checkpoint.read(tmp_path / "run").epoch) == (2, 2)
    assert resume(tmp_path / "run").summary() == load_run(whole).summary()


@pytest.mark.usefixtures("no_pictures")
def test_a_process_that_is_killed_leaves_the_checkpoint_that_was_asked_for(tmp_path: Path, whole: Path) -> None:
    class Killed(BaseException):
        """Nothing is tidied up for it."""

    def die(model: LatticeModel) -> None:
        if model.epoch == 3:
            raise Killed

    out = tmp_path / "run"
    with pytest.raises(Killed):
        run(NETWORK, out=out, keep_every=2, on_epoch=die)
    assert [path.name for path in out.iterdir()] == [CHECKPOINT]
    assert Checkpoint.read(out).epoch == 2
    with pytest.raises(ConfigError, match="exists already"):
        run(NETWORK, out=out)
    done = resume(out, out=out, force=True)
    assert done.summary() == load_run(whole).summary()
    assert load_run(out).status == "complete"
    assert CHECKPOINT not in [path.name for path in out.iterdir()]


# Futures


def future(checkpoint: Checkpoint, changes: dict[str, Any]) -> Outcome:
    return outcome(LatticeModel.resume(checkpoint, **changes))


def test_futures_are_the_same_in_other_processes(half_way: Checkpoint) -> None:
    futures: list[dict[str, Any]] = [{}, OTHER]
    here = [future(half_way, changes) for changes in futures]
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        there = [task.result() for task in [pool.submit(future, half_way, changes) for changes in futures]]
    assert there == here
    assert here[0] != here[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 8},
        {"routing.policy": "round_robin"},
        {"routing.weights.price": 4.0, "routing.candidates": 1},
        {"sim.epochs": 5},
        {"users.visitor.patience": {"median": "20ms"}, "users.visitor.deadline": "200ms"},
    ],
)
def test_a_future_shares_its_past_and_then_is_another(half_way: Checkpoint, changes: dict[str, Any]) -> None:
    model = LatticeModel.resume(half_way, **changes)
    assert model.config == revise(NETWORK, changes)
    assert model.branches == ((2, NETWORK.sha256()),)
    now_ns = model.t_ns
    (_, rows, _), (_, others, _) = outcome(model), future(half_way, {})
    past = [[t_ns for t_ns in found["requests"]["arrival_ns"] if t_ns < now_ns] for found in (rows, others)]
    assert past[0] == past[1] != []
    for name, column in rows["epochs"].items():
        assert column[:2] == others["epochs"][name][:2]
    assert rows != others
    assert rows["requests"]["arrival_ns"] == sorted(rows["requests"]["arrival_ns"])


def test_a_run_can_be_given_more_epochs_when_it_is_over() -> None:
    found, _ = checkpoints(revise(NETWORK, {"sim.epochs": 2}))
    digest, rows, _ = future(found[-1], {"sim.epochs": 4})
    assert (digest, rows) == outcome(LatticeModel(NETWORK))[:2]


@pytest.mark.usefixtures("no_pictures")
def test_the_manifest_of_another_future_says_when_the_config_changed(half_way: Checkpoint, tmp_path: Path) -> None:
    manifest = resume(half_way, OTHER, out=tmp_path / "run").manifest
    assert manifest["branches"] == [{"epochs": 2, "config_sha256": NETWORK.sha256()}]
    assert manifest["config_sha256"] == revise(NETWORK, OTHER).sha256()
    assert run(NETWORK, {"sim.epochs": 1}).manifest["branches"] == []


# What is refused


def one_line(said: pytest.ExceptionInfo[ConfigError]) -> str:
    assert "\n" not in str(said.value)
    return str(said.value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("nodes.laptop.count", 3),
        ("users.visitor.count", 3),
        ("users.visitor.budget.deposit", 3),
        ("users.visitor.name", "guest"),
        ("chain.epoch", "2m"),
        ("economics.bonds.minimum", 1),
        ("models.smollm2-135m.context", 1024),
    ],
)
def test_what_has_left_its_mark_cannot_be_changed(half_way: Checkpoint, path: str, value: Any) -> None:
    with pytest.raises(ConfigError) as said:
        half_way.future({path: value})
    assert f"local: {path}" in one_line(said)
    assert all(free in str(said.value) for free in FREE)


def test_a_future_cannot_end_before_it_begins(half_way: Checkpoint) -> None:
    with pytest.raises(ConfigError, match=r"sim\.epochs: must be at least 2, which are done, not 1"):
        half_way.future({"sim.epochs": 1})


def header(blob: bytes, **changes: Any) -> bytes:
    line, _, body = blob.partition(b"\n")
    return json.dumps({**json.loads(line), **changes}).encode() + b"\n" + body


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda blob: b"", "must begin with a header of lattice-checkpoint"),
        (lambda blob: b"[1]\n", "must begin with a header of lattice-checkpoint"),
        (lambda blob: blob[:-1], "is damaged"),
        (lambda blob: blob[:-1] + b"\x00", "is damaged"),
        (lambda blob: header(blob, format="lattice-snapshot"), "format: must be lattice-checkpoint"),
        (lambda blob: header(blob, version=0), "version: must be 1, not 0"),
        (lambda blob: header(blob, lattice="0.0.1"), "lattice: must be"),
        (lambda blob: header(blob, sources="00"), "sources: must be"),
        (lambda blob: header(blob, contracts="00"), "contracts: must be"),
    ],
)
def test_a_checkpoint_of_other_code_or_damaged_is_refused_in_one_line(
    half_way: Checkpoint, spoil: Callable[[bytes], bytes], said: str, tmp_path: Path
) -> None:
    (tmp_path / CHECKPOINT).write_bytes(spoil(half_way.to_bytes()))
    with pytest.raises(ConfigError, match=said) as refusal:
        Checkpoint.read(tmp_path)
    assert one_line(refusal).startswith(str(tmp_path / CHECKPOINT))


def test_a_checkpoint_that_holds_anything_but_data_is_refused(half_way: Checkpoint) -> None:
    forged = Checkpoint(half_way.config, 0, (), {"kernel": json.loads})
    with pytest.raises(ConfigError, match=r"must hold plain data, and holds json\.loads"):
        Checkpoint.from_bytes(forged.to_bytes())


def test_the_reference_engine_has_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"local: checkpoint: sim\.engine: reference") as said:
        LatticeModel(revise(NETWORK, {"sim.engine": "reference"})).checkpoint()
    assert one_line(said)
    with pytest.raises(ConfigError, match=r"sim\.engine: reference"):
        run(NETWORK, {"sim.engine": "reference"}, out=tmp_path / "run", keep_every=1)
    assert list(tmp_path.iterdir()) == []


def test_a_chain_behind_rpc_has_no_checkpoint() -> None:
    with anvil() as url:
        model = LatticeModel(revise(NETWORK, {"chain.backend": "rpc", "chain.url": url}))
        with pytest.raises(ConfigError, match=r"local: checkpoint: chain\.backend: rpc") as said:
            model.checkpoint()
    assert one_line(said)


def test_an_agent_of_ones_own_has_no_checkpoint() -> None:
    class Stranger(mesa.Agent):
        key = entity_key("stranger", 0)

    model = LatticeModel(NETWORK)
    Stranger(model)
    with pytest.raises(ConfigError, match="agents must be User and Operator only, not Stranger"):
        model.checkpoint()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--resume", "nowhere"], "nowhere: must be a checkpoint, or a run directory with one"),
        (["--resume", "stopped", "local.yaml"], "local.yaml: must be the config of the run in stopped"),
    ],
)
def test_resume_refuses_what_it_cannot_go_on_with_in_one_line(
    arguments: list[str], said: str, half_way: Checkpoint, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("stopped").mkdir()
    Path("stopped", CHECKPOINT).write_bytes(half_way.to_bytes())
    assert main(["run", *arguments]) == 2
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1


@pytest.mark.parametrize("more", [["--out", "x"], ["--journal"], ["--set", "seed=3"], ["--force"]])
def test_resume_goes_on_with_the_run_as_it_is(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "--resume", "nowhere", *more])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_journal_and_a_checkpoint_do_not_go_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sim\.engine: reference"):
        run(NETWORK, out=tmp_path / "run", journal=True, keep_every=1)
