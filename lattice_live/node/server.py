"""The node's HTTP interface, an ASGI application: submit a prompt and read its tokens, probe, ask what is served.

    POST /v1/submit        {"leg", "model", "prompt": [ids], "max_tokens", "seed", "temperature"}
                           → NDJSON: {"n": tokens so far, "token": id} a line, then {"done": true, "output_tok", "reason"}
    GET  /v1/probe         a short prompt, served like any other → {"ok": true, "latency_s", "models": [name]}
    GET  /v1/capabilities  → {"model", "context", "vocabulary", "model_hash", "provider", "queue", "in_flight", "queued"}

One request runs and at most `queue` wait, first come first served; the headers of an answer say that it was admitted. An end
mark that the model draws is delivered and counted like any token. A stream without its `done` line has failed. A client that
leaves frees its place at once. Every refusal is {"error": {"code": HTTP status, "message"}}: 400 malformed, 404 unknown model,
413 too large, 429 queue full. A probe's latency includes its wait in the queue.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from lattice_core.units import MAX_TOKENS
from lattice_live.node.engine import Engine
from lattice_live.node.tokens import encode

MAX_BODY_BYTES = 16 * MAX_TOKENS
"""Ample for the longest prompt, written as JSON numbers."""

PROBE_TOKENS = 4

type Natural = Annotated[int, Field(ge=0, lt=2**63)]


class Order(BaseModel):
    """A request to answer: one leg of the Nexus, whose number is for the logs."""

    model_config = ConfigDict(strict=True, extra="forbid")

    leg: Natural
    model: str
    prompt: list[int]
    max_tokens: int
    seed: Natural
    temperature: Annotated[float, Field(ge=0.0, le=2.0, allow_inf_nan=False)]


class Node:
    """An engine, the one thread that runs it, and the queue before it.

    `step_s` is a floor under the time of each token: with it a tiny model, which takes less than a millisecond, keeps the pace
    of a larger one, and a failure finds an answer to interrupt. 0 means as fast as it goes.
    """

    def __init__(self, name: str, engine: Engine, *, queue: int, step_s: float = 0.0) -> None:
        self.name = name
        self.engine = engine
        self.queue = queue
        self.step_s = step_s
        self._admitted = 0
        self._turn = asyncio.Lock()  # wakes its waiters in the order they came
        self._thread = ThreadPoolExecutor(1, "engine")

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold the place that runs or one that waits; HTTP 429 if all are taken."""
        if self._admitted > self.queue:
            raise HTTPException(429, f"queue full: {self.queue} waiting, which is all this node allows")
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

    async def answer(self, order: Order) -> AsyncGenerator[int]:
        """Token ids of the answer, once its turn has come. Close it to give the turn to the next."""
        async with self._turn:
            tokens = self.engine.generate(
                order.prompt, max_tokens=order.max_tokens, seed=order.seed, temperature=order.temperature
            )
            while (token := await self._step(tokens)) is not None:
                yield token

    async def _step(self, tokens: Iterator[int]) -> int | None:
        loop = asyncio.get_running_loop()
        due_s = loop.time() + self.step_s
        token = await loop.run_in_executor(self._thread, next, tokens, None)
        if token is not None:
            await asyncio.sleep(max(0.0, due_s - loop.time()))
        return token

    async def probe(self) -> int:
        """Serve a short prompt like any other; the number of tokens that came."""
        order = Order(leg=0, model=self.name, prompt=encode("?"), max_tokens=PROBE_TOKENS, seed=0, temperature=1.0)
        async with aclosing(self.answer(order)) as tokens:
            return len([token async for token in tokens])

    def capabilities(self) -> dict[str, Any]:
        """What this node serves and how busy it is now."""
        in_flight = int(self._turn.locked())
        return {
            "model": self.name,
            "context": self.engine.context,
            "vocabulary": self.engine.vocabulary,
            "model_hash": self.engine.model_hash,
            "provider": self.engine.provider,
            "queue": self.queue,
            "in_flight": in_flight,
            "queued": self._admitted - in_flight,
        }


def application(node: Node, ready: Callable[[], None] = lambda: None) -> Starlette:
    """The ASGI application of `node`; `ready` is called when it has served its first probe."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await node.probe()
        ready()
        yield

    async def probe(request: Request) -> JSONResponse:
        began = time.perf_counter()
        with node.place():
            await while_connected(request.receive, node.probe())
        return JSONResponse({"ok": True, "latency_s": time.perf_counter() - began, "models": [node.name]})

    async def capabilities(request: Request) -> JSONResponse:
        return JSONResponse(node.capabilities())

    async def refuse(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        body = {"error": {"code": error.status_code, "message": error.detail}}
        return JSONResponse(body, error.status_code, headers=error.headers)

    routes = [
        Route("/v1/submit", Submit(node), methods=["POST"]),
        Route("/v1/probe", probe),
        Route("/v1/capabilities", capabilities),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: refuse}, lifespan=lifespan)


class Submit:
    """The streaming endpoint, in plain ASGI: its place in the queue is held exactly as long as the call lasts."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            order = await self._read(Request(scope, receive))
        except ClientDisconnect:
            return
        with self._node.place():
            await while_connected(receive, self._stream(order, send))

    async def _read(self, request: Request) -> Order:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise HTTPException(413, f"body: expected at most {MAX_BODY_BYTES} bytes")
        try:
            order = Order.model_validate_json(bytes(body))
            if order.model != self._node.name:
                raise HTTPException(404, f"model: {order.model!r} is not served here; expected {self._node.name!r}")
            self._node.engine.check(order.prompt, order.max_tokens)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"]) or "body"
            raise HTTPException(400, f"{key}: {first['msg']}") from None
        except ValueError as error:
            raise HTTPException(400, str(error)) from None
        return order

    async def _stream(self, order: Order, send: Send) -> None:
        async def line(content: dict[str, Any], *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": json.dumps(content).encode() + b"\n", "more_body": more})

        headers = [(b"content-type", b"application/x-ndjson")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        count, token = 0, -1
        async with aclosing(self._node.answer(order)) as tokens:
            async for token in tokens:
                count += 1
                await line({"n": count, "token": token})
        reason = "stop" if token == self._node.engine.end else "length"
        await line({"done": True, "output_tok": count, "reason": reason}, more=False)


async def while_connected(receive: Receive, work: Coroutine[Any, Any, object]) -> None:
    """Run `work` to its end, or cancel it as soon as the client is gone."""

    async def departure() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    answer, gone = asyncio.create_task(work), asyncio.create_task(departure())
    try:
        await asyncio.wait([answer, gone], return_when=asyncio.FIRST_COMPLETED)
    finally:
        answer.cancel()
        gone.cancel()
        await asyncio.gather(answer, gone, return_exceptions=True)
    if not answer.cancelled():
        answer.result()  # raises what it raised
