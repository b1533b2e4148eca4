"""A Nexus's live half on the test's own event loop: real kernel and driver, real HTTP, but nodes that act, and no chain."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any

from lattice_core.chain.keys import Key, key_of
from lattice_core.config import Config, parse
from lattice_core.events import EVENTS, Arrive, BatchConfirmed, Command, Event
from lattice_core.founding import founding
from lattice_core.nexus import Nexus
from lattice_core.units import NANO
from lattice_live.driver import Answer, Ask, Driver
from lattice_live.node.identity import Terms, join
from lattice_live.node.receipts import Book, Leg, Signed
from lattice_live.node.sampling import Drawn, Sampling
from lattice_live.settlement import Outcome
from lattice_live.upstream import Peer, Realm, Upstream

MODEL = SimpleNamespace(model_hash="ab" * 32, vocabulary=100, end=[7])
"""As much of a model's manifest as the Nexus needs."""

FREELY = Sampling()
REALM = Realm(nexus=0, chain_id=31337, registry=bytes(range(20)))

YAML = """
version: 1
name: stage
models:
  a:
    kind: llm
    context: 512
    reference: {{ttft: 50ms, itl: 5ms, prefill_tok_s: 2000, output_tok: 64, price_input: 0.1, price_output: 0.2}}
nodes:
{nodes}
users:
  - name: visitor
    count: 2
    model: a
    workload: {{poisson: {{requests_per_day: 100}}}}
    tokens: {{prompt: {{median: 40, sigma: 0.5}}, output: {{median: 48, sigma: 0.5}}, max_tokens: 128}}
    budget: {{deposit: 1}}
    deadline: 30s
routing: {{policy: cheapest, explore: 0.0, newcomer_cap: 0}}
reputation: {{probe_interval: 1h}}
live: {{timeouts: {{connect: 1s, first_token: {first_token}, idle: {idle}}}}}
"""
NODE = """  - name: n{n}
    count: 1
    models: [a]
    hardware: {{a: 4ms, b: 1ms, prefill_tok_s: 2000}}
    slots: 1024
    queue: 1024
    price: {{input: {price}, output: {price}}}
    bond: 200
"""


def config_of(nodes: int, first_token: str = "1s", idle: str = "1s") -> Config:
    """A network of so many nodes; the first is the cheapest, and asked first."""
    populations = "".join(NODE.format(n=n, price=(n + 1) / 10) for n in range(nodes))
    return parse(YAML.format(nodes=populations, first_token=first_token, idle=idle), "stage.yaml")


def next_token(context: Sequence[int]) -> int:
    """What the model says after `context`: a function of all of it, which never ends the answer."""
    token = (31 * len(context) + 17 * context[-1] + sum(context)) % 100
    return 8 if token == 7 else token


def truth(prompt: Sequence[int], count: int) -> list[int]:
    """The whole answer."""
    context = list(prompt)
    for _ in range(count):
        context.append(next_token(context))
    return context[len(prompt) :]


class Play:
    """How an actor plays one leg: what it has been asked, its book, and the lines that an honest node would send."""

    def __init__(
        self, actor: "Actor", order: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.actor = actor
        self.order = order
        self.cancelled = False
        self.context: list[int] = list(order["prompt"])
        terms = actor.terms
        assert terms is not None
        self.book = Book(Leg(terms, order["leg"], bytes.fromhex(MODEL.model_hash), len(self.context)), actor.key)
        self._reader, self._writer = reader, writer

    async def send(self, *lines: object) -> None:
        """Lines as they are, if they are bytes or text, or as JSON."""
        parts = [line if isinstance(line, bytes | str) else f"{json.dumps(line)}\n" for line in lines]
        body = b"".join(part if isinstance(part, bytes) else part.encode() for part in parts)
        if body:
            self._writer.write(b"%x\r\n%b\r\n" % (len(body), body))
            await self._writer.drain()

    def token(self, token: int | None = None) -> list[dict[str, Any]]:
        """The next token, with its receipt if one is due."""
        self.context.append(next_token(self.context) if token is None else token)
        due = self.book.add(self.context[-1])
        return [{"n": self.book.count, "token": self.context[-1]}, *([self.receipt()] if due else [])]

    def receipt(self) -> dict[str, Any]:
        return wire(self.book.sign(self.book.count))

    def end(self, reason: str | None = None) -> list[dict[str, Any]]:
        reason = reason or ("cancelled" if self.cancelled else "length")
        last = [self.receipt()] if self.book.count > self.book.receipted else []
        return [*last, {"done": True, "output_tok": self.book.count, "reason": reason}]

    async def gone(self) -> None:
        """Wait until the Nexus has closed the connection."""
        await self._reader.read()

    async def honestly(self, count: int | None = None) -> None:
        """Send so many tokens, or all and the end."""
        left = self.order["max_tokens"] - self.book.count
        for _ in range(left if count is None else min(count, left)):
            if self.cancelled:
                break
            await self.send(*self.token())
            if self.actor.pause_s is not None:
                await asyncio.sleep(self.actor.pause_s)
        if count is None:
            await self.send(*self.end())


def wire(signed: Signed) -> dict[str, Any]:
    return {"receipt": signed.progress.to_json(), "signature": signed.signature.hex()}


class Actor:
    """A node that joins as it should and plays each leg as `act` says, honestly by default."""

    def __init__(self, number: int, act: Callable[[Play], Any] = lambda play: play.honestly()) -> None:
        self.key: Key = key_of(100 + number)
        self.act = act
        self.pause_s: float | None = None
        self.models = {"a": MODEL.model_hash}
        self.terms: Terms | None = None
        self.url = ""
        self.plays: list[Play] = []
        self.joined = True
        self.earlier: dict[str, Any] = {}
        self._server: asyncio.Server
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def address(self) -> bytes:
        return self.key.address

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Be gone at once, as a process that is killed."""
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split()[1].decode()
                length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                await self._reply(path, json.loads(await reader.readexactly(length) or b"{}"), reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _reply(self, path: str, body: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if path == "/v1/submit":
            play = Play(self, body, reader, writer)
            self.plays.append(play)
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            await self.act(play)
            writer.write(b"0\r\n\r\n")
            return
        if path == "/v1/join":
            self.terms = Terms(body["nexus"], body["node"], body["chain_id"], bytes.fromhex(body["registry"]))
            joining = join(self.key, self.terms, bytes.fromhex(body["nonce"]), self.url, self.models)
            said: dict[str, Any] = {**joining._asdict(), "signature": joining.signature.hex()}
        elif path == "/v1/cancel":
            for play in self.plays:
                play.cancelled = play.cancelled or play.order["leg"] == body["leg"]
            said = {"cancelled": True}
        else:
            said = {"ok": True, "joined": self.joined}
        content = json.dumps(said).encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(content), content))


class Held:
    """A storage in memory; while `closed`, nothing becomes durable."""

    def __init__(self) -> None:
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lines: list[str] = []
        self.decided: list[str] = []
        self.receipts: list[Signed] = []
        self.closed = False
        self._waiting: list[Callable[[], object]] = []

    def receipt(self, signed: Signed) -> None:
        self.receipts.append(signed)

    def after(self, done: Callable[[], object]) -> None:
        if self.closed:
            self._waiting.append(done)
        else:
            asyncio.get_running_loop().call_soon(done)

    async def durable(self) -> None:
        durable = asyncio.Event()
        self.after(durable.set)
        await durable.wait()

    def open(self) -> None:
        self.closed = False
        for done in self._waiting:
            done()
        self._waiting.clear()


class Stage:
    """Actors before a Nexus, and all that went in and came out of it."""

    def __init__(self, config: Config, actors: Sequence[Any], model: Any = MODEL) -> None:
        self.actors = actors
        self.storage = Held()
        self.events: list[Event] = []
        self.commands: list[Command] = []
        self.nexus = Nexus(config, self.storage.lines.append, self.storage.decided.append)
        for fact in founding(config):
            self.nexus.handle(fact)
        peers = {node: Peer(actor.url, actor.address) for node, actor in enumerate(actors)}
        self.upstream = Upstream(peers, REALM, {"a": model}, config.live.timeouts)
        never = {"until_end_s": lambda epoch: None, "closable": lambda epoch: asyncio.sleep(0), "holds": lambda epoch: False}
        chain = SimpleNamespace(settle=self._settle, **never)
        history = SimpleNamespace(see=self._see, settle=lambda *told: None)
        self.driver = Driver(self.nexus, self.upstream, chain, history, self.storage)  # type: ignore[arg-type]

    def ask(
        self,
        prompt: Sequence[int],
        max_tok: int,
        sampling: Sampling = FREELY,
        deadline_s: float = 30.0,
        enough: Callable[[Drawn], bool] | None = None,
    ) -> Answer:
        now_ns, request = self.driver.now_ns(), self.nexus.count("last_request") + 1
        deadline_ns = now_ns + round(deadline_s * NANO)
        arrive = Arrive(now_ns, request, 0, 0, len(prompt), max_tok, deadline_ns=deadline_ns)
        return self.driver.ask(Ask(arrive, "a", list(prompt), sampling, enough=enough))

    def seen[T](self, kind: type[T]) -> list[T]:
        """The events or commands of a kind, in order."""
        return [one for one in (*self.events, *self.commands) if isinstance(one, kind)]

    def _see(self, event: Event, commands: Sequence[Command]) -> None:
        self.events.append(event)
        self.commands += commands

    async def _settle(self, batch: Any, standing: Any) -> Outcome:
        return Outcome(BatchConfirmed(0, batch.epoch, batch.chunk), None, [], "")


@asynccontextmanager
async def stage(config: Config, *actors: Any, model: Any = MODEL) -> AsyncIterator[Stage]:
    """The actors, joined, and a driver that runs until the block ends."""
    await asyncio.gather(*(actor.start() for actor in actors))
    scene = Stage(config, actors, model)
    try:
        for node in range(len(actors)):
            await scene.upstream.join(node)
        scene.driver.start(len(actors), [])
        yield scene
    finally:
        scene.storage.open()
        try:
            await scene.driver.stop()
        finally:
            await scene.upstream.close()
            for actor in actors:
                await actor.stop()


def run[T](scenario: Callable[[], Awaitable[T]], loop: Callable[[], asyncio.AbstractEventLoop] | None = None) -> T:
    """What comes of a scenario, which must not take long."""
    _compile_rules()

    async def bounded() -> T:
        async with asyncio.timeout(30):
            return await scenario()

    return asyncio.run(bounded(), loop_factory=loop)


@cache
def _compile_rules() -> None:
    """Show a Nexus one empty event of each kind, so that no scenario waits for a compiler."""
    nexus = Nexus(config_of(1))
    for kind in EVENTS:
        zeros: list[Any] = [0] * (len(kind._fields) - len(kind._field_defaults))
        nexus.handle(kind(*zeros))


async def read(answer: Answer) -> list[int]:
    """All of an answer."""
    return [drawn.token async for drawn in answer.tokens()]
