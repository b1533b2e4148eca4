"""The wheel alone is enough: installed in an empty environment, outside the checkout, it runs the baseline."""

import importlib.util
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.require import require

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel in it; its dependencies are lent by the present one, this project is not."""
    require(importlib.util.find_spec("hatchling") is not None, "hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder, ROOT]
    subprocess.run(build, check=True, cwd=folder)
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", "--no-deps", "--no-index", *folder.glob("*.whl")], check=True)
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    # A path named in a .pth file is searched last, and the .pth files in it, such as an editable install's, are not read.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return python


def run(*command: str | Path, cwd: Path) -> str:
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=outside, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("package", ["lattice_core", "lattice_sim", "lattice_live", "lattice_cli"])
def test_each_package_comes_from_the_wheel(python: Path, tmp_path: Path, package: str) -> None:
    where = run(python, "-c", f"import {package}; print({package}.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(python.parents[1])


def test_the_wheel_carries_experiments_artifacts_the_gas_model_and_types(python: Path) -> None:
    (site,) = python.parents[1].glob("lib/python*/site-packages")
    shipped = {path.relative_to(ROOT / "experiments") for path in (ROOT / "experiments").rglob("*.yaml")}
    assert shipped
    assert shipped == {p.relative_to(site / "lattice_sim/experiments") for p in (site / "lattice_sim").rglob("*.yaml")}
    artifacts = [path.relative_to(ROOT) for path in (ROOT / "lattice_core").rglob("*.json")]
    assert artifacts
    assert all((site / path).read_bytes() == (ROOT / path).read_bytes() for path in artifacts)
    assert (site / "lattice_core/gas.json").read_bytes() == (ROOT / "contracts/gas.json").read_bytes()
    assert (site / "lattice_core/py.typed").exists()


def test_the_baseline_runs_outside_the_checkout(python: Path, tmp_path: Path) -> None:
    lattice = python.parent / "lattice"
    run(lattice, "run", "baseline.yaml", "--set", "sim.epochs=1", "--out", "out", cwd=tmp_path)
    assert (tmp_path / "out" / "manifest.json").exists()
    assert (tmp_path / "out" / "report.html").exists()
