"""The API reference is built from docstrings, and pdoc understands all of them."""

import runpy
import warnings
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "docs" / "reference.py"


@pytest.mark.parametrize(
    "packages",
    [("lattice_sim",), pytest.param(("lattice_core", "lattice_live"), marks=pytest.mark.thorough)],
    ids=lambda packages: "-".join(packages),
)
def test_the_reference_is_built_without_a_warning(packages: tuple[str, ...], tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        runpy.run_path(str(SCRIPT))["build"](tmp_path, packages)
    told = [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
    assert not told
    for package in packages:
        modules = [path.stem for path in (SCRIPT.parents[1] / package).glob("[a-z]*.py")]
        assert all((tmp_path / package / f"{module}.html").is_file() for module in modules)
    if "lattice_sim" in packages:
        assert "LatticeModel" in (tmp_path / "lattice_sim.html").read_text()
