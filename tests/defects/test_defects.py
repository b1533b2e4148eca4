"""`make defects`: each planted fault, in a copy of the project of its own, is caught by the test that guards its invariant."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.defects.defects import DEFECTS, Defect

ROOT = Path(__file__).parents[2]
PASSED, FAILED = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED

each_defect = pytest.mark.parametrize("defect", DEFECTS, ids=[f"{d.invariant}-{d.file}-{n}" for n, d in enumerate(DEFECTS)])


def copy_of_the_project(folder: Path) -> Path:
    """The checkout without what is installed, built or cached in it."""
    clutter = shutil.ignore_patterns(".*", "__pycache__", "node_modules", "runs", "build", "dist")
    return Path(shutil.copytree(ROOT, folder, ignore=clutter, dirs_exist_ok=True))


def outcome(project: Path, *tests: str) -> tuple[int, str]:
    """The exit code and output of `tests` run in `project`, with a compile cache of its own. That a test fails is enough."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    own = {"PYTHONPATH": str(project), "NUMBA_CACHE_DIR": str(project / ".numba"), "HYPOTHESIS_PROFILE": "unshrunk"}
    environment = inherited | own
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not defects", *tests]
    run = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    return run.returncode, run.stdout + run.stderr


@pytest.fixture(scope="session")
def sound_tests(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], None]:
    """Asserts, once a test, that it passes while nothing is planted; else its failure would prove nothing."""
    project = copy_of_the_project(tmp_path_factory.mktemp("sound"))
    seen: set[str] = set()

    def passes(test: str) -> None:
        if test not in seen:
            code, output = outcome(project, test)
            assert code == PASSED, f"{test} does not pass without the defect:\n{output}"
            seen.add(test)

    return passes


@pytest.mark.defects
@each_defect
def test_the_planted_fault_is_caught(defect: Defect, sound_tests: Callable[[str], None], tmp_path: Path) -> None:
    sound_tests(defect.test)
    file = copy_of_the_project(tmp_path) / defect.file
    file.write_text(file.read_text().replace(defect.find, defect.replace))
    code, output = outcome(tmp_path, defect.test)
    assert code == FAILED, f"{defect.test} ended with code {code} in spite of `{defect.replace}` in {defect.file}:\n{output}"


@each_defect
def test_the_fault_can_be_planted_and_its_test_exists(defect: Defect) -> None:
    occurrences = (ROOT / defect.file).read_text().count(defect.find)
    assert occurrences == 1, f"{defect.file} holds `{defect.find}` {occurrences} times; a defect needs exactly one"
    file, *names = defect.test.partition("[")[0].split("::")
    source = (ROOT / file).read_text()
    assert all(f"def {name}(" in source or f"class {name}" in source or f"{name} = " in source for name in names), defect.test
