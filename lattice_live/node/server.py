"""The node's HTTP interface, an ASGI application for one Nexus.

    POST /v1/submit        {"leg", "model", "prompt": [ids], "max_tokens", "sampling": {…}, "session"?}
                           → NDJSON: {"n", "token"} a line, with "logprob" and "top" if asked for; among them receipts,
                             {"receipt": {…}, "signature": hex}; at last {"done": true, "output_tok", "reason"}
    POST /v1/cancel        {"leg"} → {"cancelled": true}: its stream ends with reason "cancelled"
    POST /v1/join          {"nexus", "node", "chain_id", "registry": hex, "nonce": hex}
                           → {"address": hex, "url", "models": {name: hash}, "signature": hex}; without it no prompt is taken
    POST /v1/vouchers      {"tokenomics", "promises": […]} → {"kept"}: what payers have signed for, kept before the reply
    POST /v1/drain         → {"draining": true, "in_flight", "queued"}: nothing more is taken, what is taken is served
    GET  /v1/probe         a short prompt to each model, served like any other → {"ok": true, "joined", "latency_s": {name: s}}
    GET  /v1/capabilities  who this is, what it serves, how fast it was when it started, how busy it is now
    GET  /metrics          counters for Prometheus

The headers of an answer say that it was taken. An end mark that the model draws is delivered and counted like any token. A
stream without its `done` line has failed; if the engine did, its last line is an error. A client that leaves frees its place at
once, one that takes nothing for STALLED_S is left. Every refusal is {"error": {"code": HTTP status, "message"}}: 400 malformed,
404 unknown model or leg, 409 not joined, leg under way or wrong voucher, 413 too large, 429 queue full, 500 engine failed,
503 draining. A probe's latency includes its wait in the queue. Without TLS whoever reaches the node is taken for its Nexus.
"""

import asyncio
import json
import math
import time
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from lattice_core.chain.keys import Key
from lattice_core.units import MAX_TOKENS
from lattice_live.node.engine import Token
from lattice_live.node.identity import Terms, join
from lattice_live.node.metrics import MEDIA_TYPE, Metrics
from lattice_live.node.purse import Handed, Purse, PurseError
from lattice_live.node.receipts import RECEIPT_S, Book, Leg
from lattice_live.node.sampling import Sampling
from lattice_live.node.worker import EngineError, QueueFullError, Stream, UnavailableError, Worker

MAX_BODY_BYTES = 16 * MAX_TOKENS
"""Ample for the longest prompt, written as JSON numbers."""

STALLED_S = 60.0
PROBE_TOK = 4
PRIOR_TOK = 64
"""Prompt tokens of the benchmark at start, if the context has room for them."""

_STATUS: dict[type[Exception], int] = {QueueFullError: 429, UnavailableError: 503, EngineError: 500}

type Natural = Annotated[int, Field(ge=0, lt=2**63)]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class Draw(_Body):
    """How tokens are drawn: the fields of `Sampling`, which has the defaults and says what is allowed."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    logit_bias: dict[int, float] | None = None
    top_logprobs: int | None = None

    @property
    def sampling(self) -> Sampling:
        return Sampling(**self.model_dump(exclude_none=True))


class Order(_Body):
    """A request to answer: one leg of the Nexus."""

    leg: Natural
    model: str
    prompt: list[int]
    max_tokens: int
    sampling: Draw = Draw()
    session: Annotated[str, Field(max_length=128)] | None = None


class LegNumber(_Body):
    """Which leg to cancel."""

    leg: Natural


class Invitation(_Body):
    """A Nexus's challenge."""

    nexus: Annotated[int, Field(ge=0, lt=2**16)]
    node: Annotated[int, Field(ge=0, lt=2**32)]
    chain_id: Natural
    registry: Annotated[str, Field(pattern=r"\A[0-9a-f]{40}\z")]
    nonce: Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]


class Prior(NamedTuple):
    """Speed of a lone request when the node started; anything may have changed since."""

    prompt_tok: int
    ttft_s: float
    itl_s: float


class Node:
    """Several models under one key. `url` is where the Nexus reaches it; `prompts` are short ones to probe each model with."""

    def __init__(
        self,
        key: Key,
        url: str,
        workers: Sequence[Worker],
        prompts: Mapping[str, Sequence[int]],
        metrics: Metrics,
        purse: Purse | None = None,
    ) -> None:
        self.key = key
        self.url = url
        self.workers = {worker.name: worker for worker in workers}
        self.metrics = metrics
        self.purse = purse
        self.terms: Terms | None = None  # those of the Nexus it has joined
        self.legs: dict[int, Stream] = {}
        self._prompts = prompts
        self._priors: dict[str, Prior] = {}

    @property
    def models(self) -> dict[str, str]:
        """Model hashes in hex, by name."""
        return {name: worker.engine.model_hash for name, worker in self.workers.items()}

    async def start(self) -> None:
        """Serve one prompt of each model, then time one. Raises EngineError."""
        for name, worker in self.workers.items():
            await self._serve(worker, self._prompts[name], PROBE_TOK)
            self._priors[name] = await self._time(worker)

    async def probe(self) -> dict[str, float]:
        """Serve a short prompt of each model like any other; the seconds that each took."""
        latency_s = {}
        for name, worker in self.workers.items():
            began_s = time.perf_counter()
            await self._serve(worker, self._prompts[name], PROBE_TOK)
            latency_s[name] = time.perf_counter() - began_s
        return latency_s

    def join(self, invitation: Invitation) -> dict[str, Any]:
        """Take a Nexus's terms and sign its challenge."""
        self.terms = Terms(invitation.nexus, invitation.node, invitation.chain_id, bytes.fromhex(invitation.registry))
        joining = join(self.key, self.terms, bytes.fromhex(invitation.nonce), self.url, self.models)
        return {"address": self.key.address.hex(), **joining._asdict(), "signature": joining.signature.hex()}

    def drain(self) -> dict[str, Any]:
        """Take no more; how much is left."""
        for worker in self.workers.values():
            worker.drain()
        loads = [(worker.in_flight, worker.queued) for worker in self.workers.values()]
        return {"draining": True, "in_flight": sum(load[0] for load in loads), "queued": sum(load[1] for load in loads)}

    async def finish(self, drain_s: float) -> None:
        """Take no more, wait at most `drain_s` for what is left, and end the rest: each gets its last receipt."""
        self.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                for worker in self.workers.values():
                    await worker.drained()
        for worker in self.workers.values():
            worker.cancel_all()

    def close(self) -> None:
        """Cancel what is left and end the engines' threads."""
        for worker in self.workers.values():
            worker.close()

    def capabilities(self) -> dict[str, Any]:
        """What this node serves and how busy it is now."""
        return {
            "address": self.key.address.hex(),
            "url": self.url,
            "joined": self.terms is not None,
            "models": {name: self._describe(worker) for name, worker in self.workers.items()},
        }

    def _describe(self, worker: Worker) -> dict[str, Any]:
        engine = worker.engine
        return {
            "model_hash": engine.model_hash,
            "context": engine.context,
            "vocabulary": engine.vocabulary,
            "provider": engine.provider,
            "memory_bytes": engine.memory_bytes,
            "prior": self._priors[worker.name]._asdict(),
            "slots": engine.slots,
            "queue": worker.queue,
            "in_flight": worker.in_flight,
            "queued": worker.queued,
            "free": worker.free,
        }

    async def _serve(self, worker: Worker, prompt: Sequence[int], max_tokens: int) -> list[float]:
        """Serve a prompt; when it began, and when its tokens came."""
        ends = dict.fromkeys(worker.engine.end, -100.0)  # the answer is to be as long as it may
        stream = worker.open(prompt, Sampling(temperature=0.0, logit_bias=ends), max_tokens)
        times_s = [time.perf_counter()]
        try:
            while tokens := await stream.take():
                times_s += [time.perf_counter()] * len(tokens)
        finally:
            stream.cancel()
        return times_s

    async def _time(self, worker: Worker) -> Prior:
        probe = self._prompts[worker.name]
        prompt_tok = min(PRIOR_TOK, worker.engine.context - 2 * PROBE_TOK)
        prompt = [probe[i % len(probe)] for i in range(prompt_tok)]
        began_s, first_s, *rest_s = await self._serve(worker, prompt, 2 * PROBE_TOK)
        return Prior(prompt_tok, round(first_s - began_s, 6), round((rest_s[-1] - first_s) / len(rest_s), 6))


def application(node: Node) -> Starlette:
    """The ASGI application of `node`, which has started; whoever starts it closes it."""

    async def probe(request: Request) -> JSONResponse:
        latency_s = await while_connected(request.receive, node.probe())
        return JSONResponse({"ok": True, "joined": node.terms is not None, "latency_s": latency_s})

    async def cancel(request: Request) -> JSONResponse:
        leg = (await _read(request, LegNumber)).leg
        stream = node.legs.get(leg)
        if stream is None:
            raise HTTPException(404, f"leg: {leg} is not under way")
        stream.cancel()
        return JSONResponse({"cancelled": True})

    async def joined(request: Request) -> JSONResponse:
        return JSONResponse(node.join(await _read(request, Invitation)))

    async def vouchers(request: Request) -> JSONResponse:
        handed = await _read(request, Handed)
        if node.terms is None or node.purse is None:
            raise HTTPException(409, "this node has joined no Nexus, or keeps no key")
        try:
            return JSONResponse({"kept": node.purse.take(handed, node.terms)})
        except PurseError as error:
            raise HTTPException(409, str(error)) from None

    async def drain(request: Request) -> JSONResponse:
        return JSONResponse(node.drain())

    async def capabilities(request: Request) -> JSONResponse:
        return JSONResponse(node.capabilities())

    async def metrics(request: Request) -> Response:
        return Response(node.metrics.text(), media_type=MEDIA_TYPE)

    async def refuse(request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, HTTPException):
            error = HTTPException(_STATUS[type(error)], str(error))
        return JSONResponse(_error(error.status_code, error.detail), error.status_code, headers=error.headers)

    routes = [
        Route("/v1/submit", Submit(node), methods=["POST"]),
        Route("/v1/cancel", cancel, methods=["POST"]),
        Route("/v1/join", joined, methods=["POST"]),
        Route("/v1/vouchers", vouchers, methods=["POST"]),
        Route("/v1/drain", drain, methods=["POST"]),
        Route("/v1/probe", probe),
        Route("/v1/capabilities", capabilities),
        Route("/metrics", metrics),
    ]
    refused: list[type[Exception]] = [HTTPException, *_STATUS]
    handlers: Any = dict.fromkeys(refused, refuse)
    return Starlette(routes=routes, exception_handlers=handlers)


class Submit:
    """The streaming endpoint, in plain ASGI: its place is held exactly as long as the call lasts."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        node = self._node
        try:
            order = await _read(Request(scope, receive), Order)
        except ClientDisconnect:
            return
        worker = node.workers.get(order.model)
        if worker is None:
            served = ", ".join(map(repr, node.workers))
            raise HTTPException(404, f"model: {order.model!r} is not served here; expected {served}")
        if node.terms is None:
            raise HTTPException(409, "this node has joined no Nexus: see /v1/join")
        if order.leg in node.legs:
            raise HTTPException(409, f"leg: {order.leg} is under way already")
        try:
            stream = worker.open(order.prompt, order.sampling.sampling, order.max_tokens, order.session)
        except ValueError as error:
            raise HTTPException(400, str(error)) from None
        node.legs[order.leg] = stream
        leg = Leg(node.terms, order.leg, bytes.fromhex(worker.engine.model_hash), len(order.prompt))
        try:
            with suppress(TimeoutError):  # the client has stalled
                await while_connected(receive, _stream(stream, Book(leg, node.key), send))
        finally:
            del node.legs[order.leg]
            stream.cancel()


async def _stream(stream: Stream, book: Book, send: Send) -> None:
    """Send an answer's lines as they come."""

    async def write(lines: Sequence[dict[str, Any]], *, more: bool = True) -> None:
        body = "".join(f"{json.dumps(line)}\n" for line in lines).encode()
        async with asyncio.timeout(STALLED_S):
            await send({"type": "http.response.body", "body": body, "more_body": more})

    def receipt() -> dict[str, Any]:
        signed = book.sign(round((loop.time() - began_s) * 1e3))
        return {"receipt": signed.progress.to_json(), "signature": signed.signature.hex()}

    loop = asyncio.get_running_loop()
    began_s = loop.time()
    headers = [(b"content-type", b"application/x-ndjson")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    due_s: float | None = None  # when the tokens without a receipt must have one
    over = False
    while not over:
        lines: list[dict[str, Any]] = []
        try:
            async with asyncio.timeout_at(due_s):
                tokens = await stream.take()
        except TimeoutError:
            lines.append(receipt())
        except EngineError as failure:
            await write([_error(500, str(failure))], more=False)
            return
        else:
            for token in tokens:
                lines.append(_line(token))
                if book.add(token.token):
                    lines.append(receipt())
                    due_s = None
            over = not tokens
            if over and book.count > book.receipted:
                lines.append(receipt())
        if book.count == book.receipted:
            due_s = None
        elif due_s is None:
            due_s = loop.time() + RECEIPT_S
        if over:
            lines.append({"done": True, "output_tok": book.count, "reason": stream.reason})
        await write(lines, more=not over)


def _line(token: Token) -> dict[str, Any]:
    line: dict[str, Any] = {"n": token.n, "token": token.token}
    if token.logprob is not None:
        rivals = [rival for rival in token.top if math.isfinite(rival[1])]  # JSON has no −∞, and what has it cannot be drawn
        line |= {"logprob": token.logprob, "top": rivals}
    return line


async def _read[T: BaseModel](request: Request, kind: type[T]) -> T:
    """The body of a request. Raises HTTPException."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise HTTPException(413, f"body: expected at most {MAX_BODY_BYTES} bytes")
    try:
        return kind.model_validate_json(bytes(body))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "body"
        raise HTTPException(400, f"{key}: {first['msg']}") from None


def _error(status: int, message: str) -> dict[str, Any]:
    return {"error": {"code": status, "message": message}}


async def while_connected[T](receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """Run `work` to its end, or cancel it as soon as the client is gone; None then."""

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
    return None if answer.cancelled() else answer.result()
