"""The studies that are shipped can be made as they stand."""

from pathlib import Path

import pytest
import yaml

from lattice_sim.study.document import KINDS, read_study

STUDIES = sorted((Path(__file__).parents[2] / "experiments/studies").glob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_is_of_the_kind_that_its_file_is_called_by(path: Path) -> None:
    kind = path.stem.partition("-")[0]
    assert set(yaml.safe_load(path.read_text(encoding="utf-8"))) == {"version", kind}
    assert read_study(path, kind, []).asked.question.endswith("?")


def test_there_is_a_study_of_each_kind() -> None:
    assert {path.stem.partition("-")[0] for path in STUDIES} == set(KINDS)
