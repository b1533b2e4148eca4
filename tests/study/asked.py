"""Small studies for the tests: a network that is simulated in a tenth of a second."""

from pathlib import Path
from typing import Any

import yaml

from lattice_sim.networks import SHIPPED
from lattice_sim.study.document import Study, read_study

SMALL = {"sim.epochs": 2, "chain.backend": "revm", "chain.epoch": "1m", "users.visitor.count": 10}

SWEEP: dict[str, Any] = {
    "name": "small",
    "question": "What does a heavier price buy?",
    "base": "local.yaml",
    "set": SMALL,
    "factors": {"routing.weights.price": [0.5, 2]},
    "replications": 2,
    "metrics": ["completed_share", "ttft_p95_s", "charged_nlai"],
}


def written(folder: Path, kind: str = "sweep", **changes: Any) -> Path:
    """A study's file, of SWEEP with other values; None takes a key out."""
    said = {key: value for key, value in (SWEEP | changes).items() if value is not None}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({"version": 1, kind: said}), encoding="utf-8")
    return path


def study(folder: Path, kind: str = "sweep", **changes: Any) -> Study:
    return read_study(written(folder, kind, **changes), kind)


assert (SHIPPED / SWEEP["base"]).is_file()
