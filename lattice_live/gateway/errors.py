"""Errors in OpenAI's shape. One for a request that the kernel ended has the kernel's reason as its code."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException

from lattice_core.config import Config
from lattice_core.events import Status
from lattice_core.state import OUTCOMES, REASONS
from lattice_core.units import NANO

UNSUPPORTED = "unsupported_parameter"
"""What a schema says of a parameter that no node can honour."""

RETRY_S = 1
"""When to come back to a network that is busy, or about to go."""

HTTP_STATUS = {
    "no_such_offer": 404,
    "node_down": 503,
    "bond_too_low": 503,
    "boundary": 403,
    "not_listed": 403,
    "tried_before": 503,
    "breaker_open": 429,
    "newcomer_cap": 429,
    "busy": 429,
    "price_above_cap": 402,
    "no_funds": 402,
    "bad_request": 400,
    "context_too_long": 400,
    "unknown_account": 403,
    "deadline": 504,
    "reservation_expired": 504,
    "node_lost": 502,
    "node_refused": 503,
    "node_timeout": 504,
    "bad_answer": 502,
}
"""By the kernel's reason; 500 for any other, which this interface cannot cause."""

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    409: "conflict_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}


class Refusal(HTTPException):
    """An error in OpenAI's shape."""

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.code = code
        self.param = param

    def body(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status_code, "server_error")
        return {"error": {"message": self.detail, "type": kind, "param": self.param, "code": self.code}}


def come_back(status: int, code: str, message: str, after_s: float = RETRY_S) -> Refusal:
    """A refusal of now, with Retry-After."""
    return Refusal(status, code, message, headers={"Retry-After": str(max(1, -int(-after_s // 1)))})


def of_status(status: Status, config: Config) -> Refusal:
    """Why a request did not complete."""
    reason = REASONS[status.reason]
    code = HTTP_STATUS.get(reason, 500)
    message = f"request {status.request} {OUTCOMES[status.outcome]}: {reason.replace('_', ' ')}"
    if code in (429, 503):
        return come_back(code, reason, message, config.routing.breaker.open_ns / NANO if reason == "breaker_open" else RETRY_S)
    return Refusal(code, reason, message)


def of_validation(error: ValidationError) -> Refusal:
    """What is wrong with a body; of several things, the first."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return Refusal(400, "invalid_json", f"body: {first['msg']}")
    param = ".".join(str(part) for part in first["loc"]) or None
    code = {"extra_forbidden": "unknown_parameter", UNSUPPORTED: UNSUPPORTED}.get(first["type"], "invalid_value")
    return Refusal(400, code, f"{param or 'body'}: {first['msg']}", param)
