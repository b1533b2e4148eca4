"""`lattice verify`: settlements computed again from the journal agree with the chain's, and altered ones do not."""

import json
import shutil
from pathlib import Path

import pytest

from lattice_cli.main import main
from lattice_sim.simulate import run
from tests.chain.anvil import anvil

CHANGES = {"sim.epochs": 3, "users.visitor.budget.faucet": 1e-5}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its journal."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    run("local.yaml", CHANGES, out=folder, journal=True)
    return folder


def altered(run_folder: Path, folder: Path, find: str, replace: str) -> Path:
    """A copy of the run with the first `find` of its journal replaced."""
    copy = Path(shutil.copytree(run_folder, folder / "copy"))
    journal = (copy / "journal.jsonl").read_text()
    assert find in journal
    (copy / "journal.jsonl").write_text(journal.replace(find, replace, 1))
    return copy


def test_a_run_is_as_its_journal_says(simulated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(simulated)]) == 0
    assert capsys.readouterr().out == "3 settlements of 3 epochs are as they must be\n"
    assert main(["verify", str(simulated), "--epoch", "1"]) == 0
    assert capsys.readouterr().out == "1 settlements of 1 epochs are as they must be\n"


def test_one_token_less_in_the_journal_is_missed_on_the_chain(
    simulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    complete = next(line for line in (simulated / "journal.jsonl").open() if line.startswith('["Complete"'))
    *what, output_tok = json.loads(complete)
    shorter = json.dumps([*what, output_tok - 1], separators=(",", ":")) + "\n"
    assert main(["verify", str(altered(simulated, tmp_path, complete, shorter))]) == 1
    said = capsys.readouterr().err
    assert "epoch 0, chunk 0: operators_nlai: must be " in said
    assert "epoch 1" not in said


def test_a_deposit_that_never_was_changes_what_the_chain_must_skip(
    simulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    confirmed = next(line for line in (simulated / "journal.jsonl").open() if line.startswith('["BatchConfirmed"'))
    kind, t_ns, epoch, chunk, _ = json.loads(confirmed)
    claimed = json.dumps([kind, t_ns, epoch, chunk, [0]], separators=(",", ":")) + "\n"
    assert main(["verify", str(altered(simulated, tmp_path, confirmed, claimed))]) == 1
    assert "must skip users [], not [0]" in capsys.readouterr().err


def test_without_a_journal_there_is_nothing_to_verify(
    simulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(simulated, tmp_path / "copy"))
    (copy / "journal.jsonl").unlink()
    assert main(["verify", str(copy)]) == 2
    assert "must be a run with a journal" in capsys.readouterr().err
    assert main(["verify", str(simulated), "--rpc", "http://127.0.0.1:9"]) == 2
    assert "must be left out for a run on py-evm" in capsys.readouterr().err


def test_a_nodes_own_logs_tell_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with anvil() as url:
        run("local.yaml", {**CHANGES, "chain.backend": "rpc", "chain.url": url}, out=tmp_path / "run", journal=True)
        assert main(["verify", str(tmp_path / "run"), "--rpc", url]) == 0
        assert main(["verify", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.count("3 settlements of 3 epochs are as they must be") == 2
