"""slither's findings of high or medium impact are those that docs/protocol.md explains."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.require import require

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| `([a-z-]+)` \| (`[^|]+`) \|", re.MULTILINE)


def _where(element: dict[str, Any]) -> str:
    """`Contract.function` or `Contract.function.variable`, without arguments."""
    parent = element.get("type_specific_fields", {}).get("parent")
    return f"{_where(parent)}.{element['name']}" if parent else element["name"]


@pytest.mark.thorough
def test_every_high_or_medium_finding_of_slither_is_explained_and_every_explanation_is_of_one(tmp_path: Path) -> None:
    node = shutil.which("node")
    built = node is not None and (ROOT / "contracts/node_modules/solc").is_dir()
    require(built and shutil.which("slither") is not None, "slither on the PATH, node, and npm ci in contracts/")
    report = tmp_path / "report.json"
    options = ["--exclude-low", "--exclude-informational", "--exclude-optimization", "--fail-none", "--json", str(report)]
    subprocess.run([str(node), str(ROOT / "contracts/analyse.mjs"), *options], check=True, capture_output=True, text=True)
    findings = json.loads(report.read_text())["results"].get("detectors", [])
    _, section = (ROOT / "docs/protocol.md").read_text().split("## Static analysis\n")
    rows = ROW.findall(section.split("\n## ")[0])
    explained = {(detector, where) for detector, cell in rows for where in re.findall("`([^`]+)`", cell)}
    assert {(finding["check"], _where(finding["elements"][0])) for finding in findings} == explained
