"""What a test needs beyond the Python packages: a tool that may be absent on a laptop, but not in CI."""

import os

import pytest


def require(condition: bool, what: str) -> None:
    """Skip the calling test unless `condition`; with LATTICE_REQUIRE=all in the environment, fail it."""
    if condition:
        return
    if os.environ.get("LATTICE_REQUIRE") == "all":
        pytest.fail(f"needs {what}, and LATTICE_REQUIRE=all")
    pytest.skip(f"needs {what}")
