"""The Nexus's HTTP interface to users, an ASGI application in OpenAI's shapes.

    POST /v1/chat/completions   a chat, whole or as server-sent events
    GET  /v1/models             what is served
    GET  /healthz               how the network is; needs no key

The answer to a request that the kernel refuses has the kernel's reason as its error code.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import ExitStack
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from lattice_core import state
from lattice_core.census import users
from lattice_core.config import Config
from lattice_core.events import Arrive, Status
from lattice_core.state import KINDS, OUTCOMES, PRIVACY, PUBLIC, REASONS, UP
from lattice_core.units import MAX_TOKENS, NANO
from lattice_live.driver import Answer, Ask
from lattice_live.folder import ApiKey
from lattice_live.network import Network
from lattice_live.node.tokens import END, Detokeniser, encode

MAX_BODY_BYTES = 8 * MAX_TOKENS
"""Ample for the longest prompt as escaped JSON."""

_HTTP_STATUS = {
    state.NO_SUCH_OFFER: 404,
    state.NODE_DOWN: 503,
    state.BOND_TOO_LOW: 503,
    state.BOUNDARY: 403,
    state.TRIED_BEFORE: 503,
    state.BREAKER_OPEN: 429,
    state.NEWCOMER_CAP: 429,
    state.BUSY: 429,
    state.PRICE_ABOVE_CAP: 402,
    state.NO_FUNDS: 402,
    state.BAD_REQUEST: 400,
    state.CONTEXT_TOO_LONG: 400,
    state.UNKNOWN_ACCOUNT: 403,
    state.DEADLINE: 504,
    state.RESERVATION_EXPIRED: 504,
    state.NODE_LOST: 502,
    state.NODE_REFUSED: 503,
    state.NODE_TIMEOUT: 504,
    state.BAD_ANSWER: 502,
}
"""By the kernel's reason; 500 for any other, which this interface cannot cause."""

_ERROR_TYPE = {400: "invalid_request_error", 401: "authentication_error", 402: "insufficient_quota", 403: "permission_error"}
_ERROR_TYPE |= {404: "not_found_error", 405: "invalid_request_error", 413: "invalid_request_error", 429: "rate_limit_error"}


class Part(BaseModel):
    """A piece of a message's content."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One turn of a chat."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    name: str | None = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(BaseModel):
    """What a stream carries besides the answer."""

    include_usage: bool = False


type Tokens = Annotated[int, Field(ge=1, lt=2**31)]


class Chat(BaseModel):
    """The body of a chat request. What the nodes cannot honour is refused, not ignored."""

    model_config = ConfigDict(extra="forbid")

    model: str
    messages: list[Message] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    temperature: Annotated[float, Field(ge=0.0, le=2.0, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Literal[1] | None = None
    top_p: Literal[1] | None = None
    user: str | None = None

    @property
    def prompt(self) -> list[int]:
        """Token ids of the chat, one line a turn, and the beginning of the turn that is asked for."""
        turns = "".join(f"{message.role}: {message.text}\n" for message in self.messages)
        return encode(f"{turns}assistant:")


class Refusal(HTTPException):
    """An error in OpenAI's shape."""

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.code = code
        self.param = param

    def body(self) -> dict[str, Any]:
        kind = _ERROR_TYPE.get(self.status_code, "server_error")
        return {"error": {"message": self.detail, "type": kind, "param": self.param, "code": self.code}}


class EventStream(StreamingResponse):
    """Server-sent events that call `left` when they end, however they end, even before the first."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[str], left: Callable[[], object]) -> None:
        super().__init__(events, headers={"Cache-Control": "no-cache"})
        self._left = left

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._left()


def application(network: Network) -> FastAPI:
    """The gateway of `network`."""
    config, driver = network.config, network.driver
    accounts = users(config)
    models = list(config.models)
    began_s = int(time.time())
    app = FastAPI(title="Lattice", docs_url=None, redoc_url=None, openapi_url=None)

    def authenticate(request: Request) -> ApiKey:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        found = network.folder.find_key(key.strip()) if scheme.lower() == "bearer" else None
        if found is None:
            message = "Authorization: must be `Bearer sk-lattice-…` with a key that this network gave out"
            raise Refusal(401, "invalid_api_key", message, headers={"WWW-Authenticate": "Bearer"})
        return found

    def ask(chat: Chat, key: ApiKey) -> Answer:
        """Let the chat arrive as the account's own population asks."""
        user = accounts[key.account].population
        prompt, now_ns = chat.prompt, driver.now_ns()
        privacy = PRIVACY.index(user.privacy)
        request = driver.nexus.count("last_request") + 1
        arrive = Arrive(
            now_ns,
            request,
            key.account,
            models.index(chat.model),
            len(prompt),
            chat.max_completion_tokens or chat.max_tokens or user.tokens.max_tokens,
            kind=KINDS.index(config.models[chat.model].kind),
            max_fee_nlai=user.max_fee_nlai or 0,
            deadline_ns=now_ns + user.deadline_ns,
            principal=key.principal,
            cluster=0 if privacy == PUBLIC else accounts[key.account].cluster,
            privacy=privacy,
        )
        seed = request if chat.seed is None else chat.seed % 2**63
        return driver.ask(Ask(arrive, chat.model, prompt, seed, 1.0 if chat.temperature is None else chat.temperature))

    @app.post("/v1/chat/completions", response_model=None)
    async def chat_completions(request: Request) -> Response:
        key = authenticate(request)
        chat = _parse(await _body(request))
        if chat.model not in models:
            message = f"model: must be one of {', '.join(models)}, not {chat.model!r}"
            raise Refusal(404, "model_not_found", message, "model")
        with ExitStack() as stack:
            answer = ask(chat, key)
            stack.callback(driver.leave, answer)
            waited = answer.begun if chat.stream else answer.over
            if not await _unless_gone(request.receive, waited.wait()):
                return Response(status_code=499)  # nobody reads it
            status = answer.status
            if status is not None and status.outcome != state.COMPLETED and not (chat.stream and status.first_token_ns):
                raise _refusal(status, config)
            if chat.stream:
                left = stack.pop_all().close
                return EventStream(_events(chat, answer, config), left)
            return JSONResponse(_completion(chat, answer, [token async for token in answer.tokens()]))

    @app.get("/v1/models", response_model=None)
    async def list_models(request: Request) -> Response:
        authenticate(request)
        served = sorted({models[model] for model in driver.nexus.table("offers")["model"][: driver.nexus.count("offers")]})
        data = [{"id": model, "object": "model", "created": began_s, "owned_by": "lattice"} for model in served]
        return JSONResponse({"object": "list", "data": data})

    @app.get("/healthz", response_model=None)
    async def healthz() -> Response:
        nodes_up = int((driver.nexus.table("nodes")["status"] == UP).sum())
        counts = {
            name: driver.nexus.count(name) for name in ("epoch", "arrived", "completed", "failed", "rejected", "in_flight")
        }
        return JSONResponse({"status": "ok", "nodes_up": nodes_up, **counts})

    @app.exception_handler(HTTPException)
    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if not isinstance(error, Refusal):
            message = f"{request.method} {request.url.path}: {error.detail}"
            error = Refusal(error.status_code, "unknown_url", message, headers=error.headers)
        return JSONResponse(error.body(), error.status_code, headers=error.headers)

    @app.exception_handler(Exception)
    async def excuse(request: Request, error: Exception) -> Response:
        refusal = Refusal(500, "internal_error", "the Nexus made a mistake; its log says which")
        return JSONResponse(refusal.body(), 500)

    return app


async def _body(request: Request) -> bytes:
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise Refusal(413, "body_too_large", f"body: must be at most {MAX_BODY_BYTES} bytes")
    except ClientDisconnect:
        raise Refusal(400, "client_left", "body: breaks off") from None
    return bytes(body)


def _parse(body: bytes) -> Chat:
    try:
        return Chat.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            raise Refusal(400, "invalid_json", f"body: {first['msg']}") from None
        param = ".".join(str(part) for part in first["loc"]) or None
        code = "unknown_parameter" if first["type"] == "extra_forbidden" else "invalid_value"
        raise Refusal(400, code, f"{param or 'body'}: {first['msg']}", param) from None


async def _unless_gone[T](receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """What `work` returns, or None, and `work` is cancelled, if the client goes first."""

    async def departure() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    task, gone = asyncio.create_task(work), asyncio.create_task(departure())
    try:
        await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


def _refusal(status: Status, config: Config) -> Refusal:
    """A request that did not complete, as an error with the kernel's reason."""
    reason = REASONS[status.reason]
    code = _HTTP_STATUS.get(status.reason, 500)
    headers = {}
    if code == 429:
        wait_ns = config.routing.breaker.open_ns if status.reason == state.BREAKER_OPEN else NANO
        headers = {"Retry-After": str(-(-wait_ns // NANO))}
    return Refusal(
        code, reason, f"request {status.request} {OUTCOMES[status.outcome]}: {reason.replace('_', ' ')}", headers=headers
    )


async def _events(chat: Chat, answer: Answer, config: Config) -> AsyncIterator[str]:
    """The answer as server-sent events; one that fails on the way ends with an error instead of [DONE]."""
    head = {**_head(chat, answer), "object": "chat.completion.chunk"}

    def chunk(delta: dict[str, str], finish: str | None = None) -> str:
        return _event({**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]})

    yield chunk({"role": "assistant", "content": ""})
    text, last = Detokeniser(), -1
    async for last in answer.tokens():
        if piece := text.feed(last):
            yield chunk({"content": piece})
    status = answer.ended()
    if status.outcome != state.COMPLETED:
        yield _event(_refusal(status, config).body())
        return
    if piece := text.finish():
        yield chunk({"content": piece})
    yield chunk({}, _finish(last))
    if chat.stream_options is not None and chat.stream_options.include_usage:
        yield _event({**head, "choices": [], "usage": _usage(answer)})
    yield "data: [DONE]\n\n"


def _completion(chat: Chat, answer: Answer, tokens: list[int]) -> dict[str, Any]:
    """The whole answer as one object."""
    text = Detokeniser()
    content = "".join(map(text.feed, tokens)) + text.finish()
    message = {"role": "assistant", "content": content, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(tokens[-1])}
    return {**_head(chat, answer), "object": "chat.completion", "choices": [choice], "usage": _usage(answer)}


def _head(chat: Chat, answer: Answer) -> dict[str, Any]:
    return {"id": f"chatcmpl-{answer.request}", "created": int(time.time()), "model": chat.model}


def _finish(last: int) -> str:
    return "stop" if last == END else "length"


def _usage(answer: Answer) -> dict[str, int]:
    prompt_tok, output_tok = answer.ask.arrive.prompt_tok, answer.ended().output_tok
    return {"prompt_tokens": prompt_tok, "completion_tokens": output_tok, "total_tokens": prompt_tok + output_tok}


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, separators=(',', ':'))}\n\n"
