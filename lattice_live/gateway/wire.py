"""HTTP as ASGI sees it: a request's id and its line in the log, its body, and whether somebody still waits for the answer."""

import asyncio
import re
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from random import Random
from typing import Any

import orjson
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lattice_core.units import MAX_TOKENS
from lattice_live.driver import STALLED_S
from lattice_live.gateway.errors import Refusal, come_back, of_validation

MAX_BODY_BYTES = 8 * MAX_TOKENS
"""Ample for the longest prompt as escaped JSON."""

BODY_S = 30.0
"""How long a client may take to send its body."""

_IDS = Random()  # no secrets

_ECHOED = re.compile(rb"[\x21-\x7e]{1,128}")
"""An id of the client's own that is given back."""


class Visit:
    """What is noted of one HTTP request for its headers and its line in the log. `noted` is nothing that a user wrote."""

    def __init__(self, headers: list[tuple[bytes, bytes]]) -> None:
        self.id = f"req_{_IDS.getrandbits(96):024x}"
        self.headers = [(b"x-request-id", self.id.encode())]
        self.noted: dict[str, Any] = {}
        self.status = 0
        self.authorization = ""
        for name, value in headers:
            if name == b"authorization":
                self.authorization = value.decode("latin-1")
            elif name in (b"x-request-id", b"x-client-request-id") and _ECHOED.fullmatch(value):
                self.headers[1:] = [(b"x-client-request-id", value)]
                self.noted["client_request_id"] = value.decode()


class Doorman:
    """The outermost layer: it gives every request a `Visit`, every response its id, and the log a line of each.

    What is posted to one of the paths `straight` goes there, past the layers of the application, which cost as much as the rest
    of a request; `excuse` makes a response of what is raised there.
    """

    def __init__(
        self,
        app: ASGIApp,
        answered: Callable[[int], object],
        straight: Mapping[str, Callable[[Request], Awaitable[None]]],
        excuse: Callable[[Request, Exception], Awaitable[Response]],
    ) -> None:
        self._app = app
        self._answered = answered
        self._straight = straight
        self._excuse = excuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit = scope["visit"] = Visit(scope["headers"])
        began_s = time.perf_counter()

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                visit.status = message["status"]
                message["headers"] = [*message.get("headers", ()), *visit.headers]
            await send(message)

        serve = self._straight.get(scope["path"]) if scope["method"] == "POST" else None
        try:
            if serve is None:
                await self._app(scope, receive, sending)
            else:
                await self._serve(serve, Request(scope, receive, sending))
        finally:
            self._answered(visit.status)
            line = {
                "time": round(time.time(), 3),
                "id": visit.id,
                "method": scope["method"],
                "route": scope["path"] if serve else getattr(scope.get("route"), "path", None),
                "status": visit.status,
                "seconds": round(time.perf_counter() - began_s, 6),
                **visit.noted,
            }
            print(orjson.dumps(line).decode(), file=sys.stderr)

    async def _serve(self, serve: Callable[[Request], Awaitable[None]], request: Request) -> None:
        try:
            await serve(request)
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError):  # the server stops, and what is not durable never will be
                error = come_back(503, "stopping", "this Nexus stops, and answers nothing any more")
            begun = request.scope["visit"].status
            if not begun:
                await (await self._excuse(request, error))(request.scope, request.receive, request._send)
            if begun or not isinstance(error, HTTPException | ClientDisconnect):
                raise  # into the log


async def read[T: BaseModel](request: Request, kind: type[T], most_bytes: int = MAX_BODY_BYTES) -> T:
    """The body of a request, at most `most_bytes` long. Raises Refusal."""
    try:
        async with asyncio.timeout(BODY_S):
            body = await _body(request.receive, most_bytes)
    except TimeoutError:
        message = f"body: must be here within {BODY_S:g} s"
        raise Refusal(408, "request_timeout", message, headers={"Connection": "close"}) from None
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise of_validation(error) from None


async def _body(receive: Receive, most_bytes: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message["body"]
        if len(body) > most_bytes:
            too_long = f"body: must be at most {most_bytes} bytes"
            raise Refusal(413, "body_too_large", too_long, headers={"Connection": "close"})
        if not message["more_body"]:
            return bytes(body)


class Line:
    """Where an answer goes out."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.waits_since_s: float | None = None
        """Since when the client has not taken what was sent."""

    async def start(self, headers: list[tuple[bytes, bytes]]) -> None:
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def write(self, body: bytes, *, more: bool = True) -> None:
        self.waits_since_s = asyncio.get_running_loop().time()
        await self._send({"type": "http.response.body", "body": body, "more_body": more})
        self.waits_since_s = None


LISTEN_S = 0.05
"""So long nobody looks whether the client is gone: many answers are out by then, and looking takes a task."""


class Listener:
    """A block that is left, without an error, once the client is gone, or has taken nothing from `line` for STALLED_S."""

    def __init__(self, receive: Receive, line: Line | None = None) -> None:
        self._receive = receive
        self._line = line
        self._leave = asyncio.timeout(None)
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        await self._leave.__aenter__()
        self._later = asyncio.get_running_loop().call_later(LISTEN_S, self._listen)

    async def __aexit__(self, *raised: Any) -> bool:
        self._later.cancel()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None  # what it is cancelled with leads back to here: a circle that only a collector would find
        try:
            await self._leave.__aexit__(*raised)
        except TimeoutError:
            return True
        return False

    def _listen(self) -> None:
        self._watch = asyncio.create_task(self._stalled() if self._line else self._gone())

    async def _gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._leave.reschedule(0.0)

    async def _stalled(self) -> None:
        assert self._line is not None
        loop = asyncio.get_running_loop()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(STALLED_S / 4):
                    await self._gone()
                    return
            since_s = self._line.waits_since_s
            if since_s is not None and loop.time() - since_s > STALLED_S:
                self._leave.reschedule(0.0)
                return
