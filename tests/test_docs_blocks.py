"""The Python and YAML that the pages show can be taken as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lattice_core.config.text import load

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]

RUN = [path for path in PAGES if path.name in ("policies.md", "studies.md", "view.md") or path.parent.name == "how-to"]
"""Pages whose Python is run, one block after the other in one folder."""


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_python_compiles_and_yaml_is_read(path: Path) -> None:
    for number, text in enumerate(blocks(path, "python")):
        compile(text, f"{path.name}, block {number}", "exec")
    for text in blocks(path, "yaml"):
        load(text, path.name)


@pytest.mark.parametrize("path", RUN, ids=lambda path: path.name)
def test_python_runs_as_it_stands(path: Path, tmp_path: Path) -> None:
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    for number, text in enumerate(blocks(path, "python")):
        named = re.match(r"# (\w+\.py)\n", text)
        script = tmp_path / (named[1] if named else f"block{number}.py")
        script.write_text(text, encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
        done = subprocess.run(
            [sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, f"{path.name}, block {number}: {done.stderr[-2_000:]}"
