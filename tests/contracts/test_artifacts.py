"""The committed artifacts are what the sources compile to."""

import shutil
import subprocess
from pathlib import Path

from lattice_core.chain.artifacts import artifact, contracts_hash, names
from tests.require import require

ROOT = Path(__file__).parents[2]


def test_the_artifacts_are_built_from_the_sources(tmp_path: Path) -> None:
    node = shutil.which("node")
    require(node is not None and (ROOT / "contracts/node_modules/solc").is_dir(), "node, and npm ci in contracts/")
    subprocess.run([str(node), str(ROOT / "contracts/build.mjs"), str(tmp_path)], check=True, capture_output=True, text=True)
    built = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert built == {path.name: path.read_text() for path in (ROOT / "lattice_core/artifacts").iterdir()}


def test_every_contract_is_there_and_hashes_to_something() -> None:
    assert names() == (
        "AddressBook",
        "EpochClock",
        "LAIToken",
        "NetworkStatus",
        "NodeRegistry",
        "Slashing",
        "Tokenomics",
        "UserRegistry",
    )
    assert all(artifact(name).bytecode for name in names())
    assert len(contracts_hash()) == 64
