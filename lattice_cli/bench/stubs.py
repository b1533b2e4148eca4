"""Stand-ins for nodes and for OpenAI: they answer after a set delay at a set pace, and cost little.

A node's stub joins, signs receipts as a node does, and streams the letter `a`. Each request's `seed` is its number here:
`sent_s` has when each of its tokens went out.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import httptools

from lattice_core.chain.keys import Key
from lattice_live.node.identity import Terms, join
from lattice_live.node.receipts import RECEIPT_S, Book, Leg

TOKEN = ord("a")
"""The model of random weights has a token for each letter."""

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ntransfer-encoding: chunked\r\n\r\n"


class Pace(NamedTuple):
    """The first token comes after `delay_s`, each further one `chunk_s` after the one before; all at once if that is 0."""

    delay_s: float
    chunk_s: float


class Stubs:
    """Servers at free ports of loopback, all of one pace, on the running loop."""

    def __init__(self, models: Mapping[str, str]) -> None:
        """`models` are the model hashes in hex, by name, that the nodes say they serve."""
        self.models = models
        self.pace = Pace(0.0, 0.0)
        self.sent_s: dict[int, list[float]] = {}
        """When each token of each request went out, until someone clears it."""
        self.late_s: list[float] = []
        """How much later than by the pace."""
        self.terms: dict[str, Terms] = {}
        """That each node has taken, by its URL."""
        self.legs: dict[tuple[str, int], _Answer] = {}
        """Under way, by node and number."""
        self._servers: list[asyncio.Server] = []

    async def node(self, key: Key) -> str:
        """Another node; its URL."""
        return await self._serve(lambda url: lambda: _Node(self, key, url))

    async def openai(self) -> str:
        """A server with OpenAI's chat endpoint; its URL."""
        return await self._serve(lambda url: lambda: _OpenAI(self))

    def close(self) -> None:
        for server in self._servers:
            server.close()

    async def _serve(self, connection: Callable[[str], Callable[[], asyncio.Protocol]]) -> str:
        made: list[Callable[[], asyncio.Protocol]] = []
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: made[0](), "127.0.0.1", 0, backlog=4096)
        self._servers.append(server)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        made.append(connection(url))
        return url


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, stubs: Stubs) -> None:
        self.stubs = stubs
        self.loop = asyncio.get_running_loop()
        self.answer: _Answer | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._path = ""
        self._body = bytearray()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self.answer is not None:
            self.answer.cancel()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._body.clear()

    def on_url(self, url: bytes) -> None:
        self._path = url.decode()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self.take(self._path, json.loads(self._body or b"null"))

    def take(self, path: str, body: Any) -> None:
        raise NotImplementedError

    def reply(self, content: Any) -> None:
        """One JSON value."""
        body = json.dumps(content).encode()
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )

    def begin(self, media_type: bytes) -> None:
        self._transport.write(_HEAD % media_type)

    def send(self, lines: str, *, last: bool = False) -> None:
        """A chunk of a body."""
        body = lines.encode()
        self._transport.write(b"%x\r\n%b\r\n%b" % (len(body), body, b"0\r\n\r\n" if last else b""))
        if last:
            self.answer = None


class _Answer:
    """One answer at the stubs' pace: `write(n)` sends token n, `end()` the rest."""

    def __init__(
        self, connection: _Connection, number: int, count: int, write: Callable[[int], object], end: Callable[[], object]
    ) -> None:
        self._loop, self._stubs = connection.loop, connection.stubs
        self._pace, self._count = self._stubs.pace, count
        self._write, self._end = write, end
        self._times_s = self._stubs.sent_s.setdefault(number, [])
        self._due_s = time.monotonic() + self._pace.delay_s
        self._timer = self._loop.call_later(self._pace.delay_s, self._step)

    def cancel(self) -> None:
        self._timer.cancel()

    def finish(self) -> None:
        """End it here."""
        self.cancel()
        self._end()

    def _step(self) -> None:
        now_s = time.monotonic()
        self._stubs.late_s.append(now_s - self._due_s)
        for _ in range(1 if self._pace.chunk_s else self._count):
            self._times_s.append(now_s)
            self._write(len(self._times_s))
        if len(self._times_s) >= self._count:
            self._end()
            return
        self._due_s += self._pace.chunk_s
        self._timer = self._loop.call_later(max(0.0, self._due_s - time.monotonic()), self._step)


class _Node(_Connection):
    """The interface of `lattice_live.node.server`, as far as a Nexus uses it."""

    def __init__(self, stubs: Stubs, key: Key, url: str) -> None:
        super().__init__(stubs)
        self._key, self._url = key, url

    def take(self, path: str, body: Any) -> None:
        if path == "/v1/submit":
            self._submit(body)
        elif path == "/v1/join":
            terms = Terms(body["nexus"], body["node"], body["chain_id"], bytes.fromhex(body["registry"]))
            self.stubs.terms[self._url] = terms
            joining = join(self._key, terms, bytes.fromhex(body["nonce"]), self._url, self.stubs.models)
            self.reply({**joining._asdict(), "address": self._key.address.hex(), "signature": joining.signature.hex()})
        elif path == "/v1/cancel":
            if (answer := self.stubs.legs.get((self._url, body["leg"]))) is not None:
                answer.finish()
            self.reply({"cancelled": True})
        else:
            self.reply({"ok": True, "joined": self._url in self.stubs.terms, "latency_s": {}})

    def _submit(self, order: dict[str, Any]) -> None:
        hashed = bytes.fromhex(self.stubs.models[order["model"]])
        book = Book(Leg(self.stubs.terms[self._url], order["leg"], hashed, len(order["prompt"])), self._key)
        began_s = time.monotonic()
        lines: list[str] = []
        due_s = began_s  # of the next receipt, if tokens wait for one
        place = self._url, order["leg"]

        def receipt() -> None:
            signed = book.sign(round((time.monotonic() - began_s) * 1e3))
            lines.append(json.dumps({"receipt": signed.progress.to_json(), "signature": signed.signature.hex()}))

        def write(n: int) -> None:
            nonlocal due_s
            if book.count == book.receipted:
                due_s = time.monotonic() + RECEIPT_S
            lines.append(f'{{"n": {n}, "token": {TOKEN}}}')
            if book.add(TOKEN) or (n < order["max_tokens"] and time.monotonic() >= due_s):
                receipt()
            if n < order["max_tokens"]:
                flush()

        def end() -> None:
            del self.stubs.legs[place]
            if book.count > book.receipted:
                receipt()
            reason = "length" if book.count == order["max_tokens"] else "cancelled"
            lines.append(json.dumps({"done": True, "output_tok": book.count, "reason": reason}))
            flush(last=True)

        def flush(last: bool = False) -> None:
            if last or pace.chunk_s:
                self.send("".join(f"{line}\n" for line in lines), last=last)
                lines.clear()

        pace = self.stubs.pace
        self.begin(b"application/x-ndjson")
        self.answer = self.stubs.legs[place] = _Answer(self, order["sampling"]["seed"], order["max_tokens"], write, end)

    def connection_lost(self, error: Exception | None) -> None:
        for place in [place for place, answer in self.stubs.legs.items() if answer is self.answer]:
            del self.stubs.legs[place]
        super().connection_lost(error)


class _OpenAI(_Connection):
    """POST /v1/chat/completions."""

    def take(self, path: str, body: Any) -> None:
        if not path.endswith("/chat/completions"):  # a proxy's question whether we are well
            self.reply({})
            return
        count = body.get("max_tokens") or body["max_completion_tokens"]
        head = {"id": f"chatcmpl-{body['seed']}", "created": 0, "model": body["model"]}
        usage = {"prompt_tokens": 1, "completion_tokens": count, "total_tokens": count + 1}
        stream, whole = bool(body.get("stream")), bool(self.stubs.pace.chunk_s == 0)
        waiting: list[str] = []

        def chunk(delta: dict[str, str], finish: str | None = None) -> None:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            event = {**head, "object": "chat.completion.chunk", "choices": [choice]}
            waiting.append(f"data: {json.dumps(event)}\n\n")

        def write(n: int) -> None:
            if stream:
                chunk({"role": "assistant", "content": "a"})
                if not whole:
                    self.send("".join(waiting))
                    waiting.clear()

        def end() -> None:
            if stream:
                chunk({}, "length")
                waiting.append("data: [DONE]\n\n")
                self.send("".join(waiting), last=True)
                return
            message = {"role": "assistant", "content": "a" * count}
            choice = {"index": 0, "message": message, "finish_reason": "length"}
            self.answer = None
            self.reply({**head, "object": "chat.completion", "choices": [choice], "usage": usage})

        if stream:
            self.begin(b"text/event-stream")
        self.answer = _Answer(self, body["seed"], count, write, end)
