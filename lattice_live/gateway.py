"""The Nexus's HTTP interface to users, an ASGI application in OpenAI's shapes.

    POST /v1/chat/completions   a chat, whole or as server-sent events
    GET  /v1/models             what is served
    GET  /healthz               how the network is; needs no key

The answer to a request that the kernel refuses has the kernel's reason as its error code.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack
from typing import Annotated, Any, Literal, NamedTuple, Self

from fastapi import FastAPI, Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
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
from lattice_live.models.text import StopStrings, Text, TextError
from lattice_live.network import Network
from lattice_live.node.sampling import Drawn, Sampling

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


type Stop = Annotated[str, Field(min_length=1, max_length=256)]

_TEMPLATE_ROLE = {"developer": "system"}

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
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0.0, le=10.0)] | None = None
    logit_bias: dict[Annotated[int, Field(ge=0, lt=2**31)], Annotated[float, Field(ge=-100.0, le=100.0)]] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    stop: Annotated[list[Stop], BeforeValidator(lambda stop: [stop] if isinstance(stop, str) else stop or [])] = Field(
        default=[], max_length=4
    )
    """Strings that end the answer."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Literal[1] | None = None
    user: str | None = None

    @model_validator(mode="after")
    def _logprobs_first(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self

    @property
    def turns(self) -> list[dict[str, str]]:
        """The messages as chat templates know them: what a developer says, they call the system's."""
        return [{"role": _TEMPLATE_ROLE.get(message.role, message.role), "content": message.text} for message in self.messages]

    def sampling(self, seed: int) -> Sampling:
        """How tokens are drawn; `seed` if the user gives none."""
        asked: dict[str, Any] = {
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "logit_bias": self.logit_bias,
            "top_logprobs": (self.top_logprobs or 0) if self.logprobs else None,
        }
        given = {name: value for name, value in asked.items() if value is not None}
        return Sampling(seed=seed if self.seed is None else self.seed % 2**63, **given)


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
        now_ns = driver.now_ns()
        try:
            prompt = network.texts[chat.model].chat(chat.turns)
        except TextError as error:
            raise Refusal(400, "invalid_value", f"messages: {error}", "messages") from None
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
        return driver.ask(Ask(arrive, chat.model, prompt, chat.sampling(request)))

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
            reader = Reader(answer, network.texts[chat.model], chat.stop)
            whole: list[Piece] = []

            async def ready() -> bool:
                if chat.stream:
                    return await answer.begun.wait()
                whole.extend([piece async for piece in reader.pieces()])
                return True

            if not await _unless_gone(request.receive, ready()):
                return Response(status_code=499)  # nobody reads it
            status = answer.status
            if status is not None and status.outcome != state.COMPLETED and not (chat.stream and status.first_token_ns):
                raise _refusal(status, config)
            if chat.stream:
                left = stack.pop_all().close
                return EventStream(_events(chat, answer, reader, config), left)
            return JSONResponse(_completion(chat, answer, reader, whole))

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


class Piece(NamedTuple):
    """What one token adds to the text, often nothing or several tokens' worth, and its log-probability in OpenAI's shape."""

    text: str
    logprob: dict[str, Any] | None


class Reader:
    """Reads an answer as text, up to its end or a stop string, which ends the request. `finish` then says which."""

    def __init__(self, answer: Answer, text: Text, stops: Sequence[str]) -> None:
        self._answer, self._text, self._stops = answer, text, stops
        self.finish = "length"

    async def pieces(self) -> AsyncIterator[Piece]:
        """The text, token by token; the last may be what a stop string held back."""
        words, stop = self._text.detokeniser(), StopStrings(self._stops)
        async for drawn in self._answer.tokens():
            text, stopped = stop.feed(words.feed(drawn.token))
            yield Piece(text, self._logprob(drawn))
            if stopped:
                self.finish = "stop"
                self._answer.enough = True
                await self._answer.over.wait()
                return
            if drawn.token in self._text.end:
                self.finish = "stop"
        text, stopped = stop.feed(words.finish())
        if text := text if stopped else text + stop.finish():
            yield Piece(text, None)

    def _logprob(self, drawn: Drawn) -> dict[str, Any] | None:
        if drawn.logprob is None:
            return None
        top = [self._entry(token, logprob) for token, logprob in drawn.top]
        return {**self._entry(drawn.token, drawn.logprob), "top_logprobs": top}

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        word = self._text.word(token)
        return {"token": word.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(word)}


async def _events(chat: Chat, answer: Answer, reader: Reader, config: Config) -> AsyncIterator[str]:
    """The answer as server-sent events; one that fails on the way ends with an error instead of [DONE]."""
    head = {**_head(chat, answer), "object": "chat.completion.chunk"}

    def chunk(delta: dict[str, str], finish: str | None = None, logprob: dict[str, Any] | None = None) -> str:
        logprobs = None if logprob is None else {"content": [logprob], "refusal": None}
        return _event({**head, "choices": [{"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]})

    yield chunk({"role": "assistant", "content": ""})
    async for piece in reader.pieces():
        if piece.text or piece.logprob:
            yield chunk({"content": piece.text}, logprob=piece.logprob)
    status = answer.ended()
    if status.outcome != state.COMPLETED:
        yield _event(_refusal(status, config).body())
        return
    yield chunk({}, reader.finish)
    if chat.stream_options is not None and chat.stream_options.include_usage:
        yield _event({**head, "choices": [], "usage": _usage(answer)})
    yield "data: [DONE]\n\n"


def _completion(chat: Chat, answer: Answer, reader: Reader, pieces: Sequence[Piece]) -> dict[str, Any]:
    """The whole answer as one object."""
    message = {"role": "assistant", "content": "".join(piece.text for piece in pieces), "refusal": None}
    content = [piece.logprob for piece in pieces if piece.logprob is not None]
    logprobs = {"content": content, "refusal": None} if chat.logprobs else None
    choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": reader.finish}
    return {**_head(chat, answer), "object": "chat.completion", "choices": [choice], "usage": _usage(answer)}


def _head(chat: Chat, answer: Answer) -> dict[str, Any]:
    return {"id": f"chatcmpl-{answer.request}", "created": int(time.time()), "model": chat.model}


def _usage(answer: Answer) -> dict[str, int]:
    prompt_tok, output_tok = answer.ask.arrive.prompt_tok, answer.ended().output_tok
    return {"prompt_tokens": prompt_tok, "completion_tokens": output_tok, "total_tokens": prompt_tok + output_tok}


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, separators=(',', ':'))}\n\n"
