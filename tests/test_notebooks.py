"""Notebooks and their scripts say the same; `make test` runs one of them whole, `make test-all` all."""

import re
from pathlib import Path

import jupytext
import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def test_every_notebook_has_its_script_and_every_script_its_notebook() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.py")) == NAMES
    assert NAMES == ["01-validation", "02-tokenomics", "03-routing", "04-tuning-to-launch", "template"]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_and_its_script_have_the_same_cells(name: str) -> None:
    notebook, script = nbformat.read(FOLDER / f"{name}.ipynb", 4), jupytext.read(FOLDER / f"{name}.py")
    cells = [[(cell.cell_type, cell.source) for cell in either.cells] for either in (notebook, script)]
    assert cells[0] == cells[1]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_kept_without_what_it_printed(name: str) -> None:
    for cell in nbformat.read(FOLDER / f"{name}.ipynb", 4).cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_begins_with_summary_question_and_assumptions(name: str) -> None:
    first = nbformat.read(FOLDER / f"{name}.ipynb", 4).cells[0].source
    assert re.match(r"# .+\n\n\*\*Summary\.\*\* [\s\S]+\n\n\*\*Question\.\*\* [\s\S]+\n\n\*\*Assumptions\.\*\* ", first)
