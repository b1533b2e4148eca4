"""The API does what its description says: schemathesis writes requests from it, good ones and bad ones, to a real network."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.live.networks import Live, live, local
from tests.require import require

try:
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.checks import CHECKS
except ImportError:
    schemathesis = None  # type: ignore[assignment]

CHECKED = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")

NODES = r"^/v1/nodes"
"""Nodes' own: what it asks would send the network's away."""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    require(schemathesis is not None, "schemathesis")
    with live(local(), tmp_path_factory.mktemp("schema") / "run") as network:
        yield network


def test_no_request_is_answered_otherwise_than_described(network: Live) -> None:
    description = schemathesis.openapi.from_url(f"{network.url}/openapi.json").exclude(path_regex=NODES)
    headers = {"Authorization": f"Bearer {network.key}"}
    checks = [CHECKS.get_one(name) for name in CHECKED]
    operations = [found.ok() for found in description.get_all_operations()]
    assert len(operations) > 15
    answered: set[tuple[str, int]] = set()
    for operation in operations:
        _fuzz(operation, lambda case: _answered(case, headers, checks, answered))
    assert {(path, status) for path in ("/v1/chat/completions", "/v1/completions") for status in (200, 400)} <= answered


def _fuzz(operation: Any, check: Callable[[Any], None]) -> None:
    @settings(
        max_examples=settings().max_examples // 2,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of(operation.as_strategy(generation_mode=mode) for mode in _modes(operation)))
    def test(case: Any) -> None:
        check(case)

    test()


def _answered(case: Any, headers: dict[str, str], checks: list[Any], answered: set[tuple[str, int]]) -> None:
    if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):  # not to be turned away at the door
        longest = {name: 4 for name in ("max_tokens", "max_completion_tokens") if isinstance(case.body.get(name), int)}
        wishes = {"lattice": {}} if isinstance(case.body.get("lattice"), dict) else {}
        case.body |= {"model": "tiny", **longest, **wishes}
    response = case.call_and_validate(headers=headers, checks=checks)
    answered.add((case.path, response.status_code))


def _modes(operation: Any) -> list[Any]:
    """Where there is nothing to get wrong, only what is right."""
    takes = operation.body or operation.path_parameters or operation.query
    return list(GenerationMode) if takes else [GenerationMode.POSITIVE]
