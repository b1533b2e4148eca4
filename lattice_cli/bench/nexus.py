"""`lattice bench nexus`: what the Nexus adds to an answer, how much it can take, and how long it stays well.

The Nexus is `lattice up`'s own, with its storage and its chain, in a process of its own on one core; nodes' stubs and the
generator share another. What is called added is a quantile with the Nexus less the same one straight to a stub, both in turn
in the same run. `bare` is a proxy that only passes on, made of the same libraries, in the same place: no Nexus in Python can be
faster. Beside each figure stands how late generator and stubs were themselves, and what of their core they used. Times
are the system's, as an event loop's own clock may stand still for a millisecond.
"""

import argparse
import asyncio
import gc
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from lattice_core.config import Config, ConfigError

if TYPE_CHECKING:
    from lattice_cli.bench.stubs import Pace, Stubs

RATE_PER_S = 150.0
STREAMS = 1_000
CHUNK_S = 0.1
STREAM_TOK = 300
"""Tokens of one of the STREAMS' answers; the next one follows at once."""

STEPS_PER_S = (25, 50, 100, 200, 300, 450, 600, 750, 900, 1_050, 1_200, 1_350, 1_500, 1_650, 1_800, 2_000, 2_250, 2_500)
LIMIT_S = 0.05
"""A rate at which the 99th percentile of what is added is more than this is above capacity."""

FILL_PER_S = 900.0
"""Requests to fill a journal with."""

TRIES, LATE_S = 3, 0.01
"""A step that fails is tried again, so often in all, if the generator itself was so late at the 99th percentile."""

ANSWER_TOK = 8
DELAY_S = 0.02
"""A stub's, before its first token."""

SEED = 1
WARM_S = 1.0
READY_S = 180.0

LITELLM_KEY = "sk-bench"
"""It refuses to start without one."""

NETWORK = """
version: 1
name: bench-nexus
seed: 1
models:
  tiny:
    kind: llm
    context: 1024
    reference: {ttft: 50ms, itl: 5ms, prefill_tok_s: 2000, output_tok: 64, price_input: 0.1, price_output: 0.2}
    weights: {}
nodes:
  - {name: stub, count: 4, models: [tiny], hardware: {a: 4ms, b: 1ms, prefill_tok_s: 2000}, slots: 1024, queue: 1024,
     price: {input: 0.1, output: 0.2}, bond: 200, network_delay: 1ms}
users:
  - {name: client, count: 1, model: tiny, workload: {poisson: {requests_per_day: 86400}},
     tokens: {prompt: {median: 40}, output: {median: 8}, max_tokens: 512}, budget: {deposit: 1000}, deadline: 10m}
routing: {newcomer_cap: 0}
chain: {epoch: 10s}
sim: {epochs: 1}
live: {launch: {stub: 4}}
"""

_LETTERS = re.compile(rb'"content": ?"(a+)"')


def add(subparsers: Any) -> None:
    nexus = subparsers.add_parser(
        "nexus", help="what the Nexus adds to an answer, its capacity, a thousand streams; LiteLLM's beside"
    )
    nexus.add_argument("--seconds", type=float, default=60.0, metavar="S", help="half of the time that the streams last (60)")
    nexus.add_argument("--rate-seconds", type=float, default=20.0, metavar="S", help="time at the steady rate, each way (20)")
    nexus.add_argument("--step-seconds", type=float, default=3.0, metavar="S", help="time at each rate of the capacity's (3)")
    nexus.add_argument("--streams", type=int, default=STREAMS, metavar="N", help=f"streams at once ({STREAMS})")
    nexus.add_argument("--most", type=float, default=STEPS_PER_S[-1], metavar="R", help="highest rate to try, requests/s")
    nexus.add_argument(
        "--restart",
        type=int,
        metavar="EVENTS",
        help="instead: after so many, kill it with SIGKILL under load, and time its next start",
    )
    nexus.add_argument("--litellm", metavar="PYTHON", help="an interpreter that has LiteLLM's proxy, to measure it as well")
    nexus.add_argument("--json", action="store_true", help="print one JSON object")
    nexus.set_defaults(command=_nexus)


def _nexus(arguments: argparse.Namespace) -> int:
    import uvloop

    cores = sorted(os.sched_getaffinity(0))
    own, others = cores[0], cores[-1]
    os.sched_setaffinity(0, {others})
    gc.disable()  # a look through all modules would hold up generator and stubs for 50 ms
    try:
        with TemporaryDirectory(prefix="lattice-bench-") as folder:
            found = asyncio.run(_bench(arguments, own, Path(folder)), loop_factory=uvloop.new_event_loop)
    finally:
        gc.enable()
        os.sched_setaffinity(0, set(cores))
    found = {"cores": {"nexus": own, "stubs_and_generator": others}} | found
    if arguments.json:
        print(json.dumps(found))
    else:
        print("\n".join(_lines(found)))
    return 0


async def _bench(arguments: argparse.Namespace, core: int, folder: Path) -> dict[str, Any]:
    from lattice_cli.bench.stubs import Stubs
    from lattice_core.census import nodes
    from lattice_core.chain.keys import key_of
    from lattice_core.config import parse
    from lattice_live.models.random import build

    model = build(folder / "model")
    config = parse(NETWORK, "bench nexus", [f"models.tiny.weights={{folder: {json.dumps(str(model.path))}}}"])
    stubs = Stubs({"tiny": model.manifest.model_hash})
    urls = [await stubs.node(key_of(entry.key)) for entry in nodes(config)]
    openai = await stubs.openai()
    try:
        if arguments.restart is not None:
            return await _restarted(config, urls, folder / "run", core, stubs, arguments.restart)
        async with _started(config, urls, folder / "run", core) as nexus:
            found = await _delays(arguments, nexus, Target(urls[0], "/v1/submit", _order), stubs)
            # Before the rates that are too much for it, as what memory these once took is not given back.
            found["streams"] = await _streams(nexus, stubs, arguments.streams, arguments.seconds)
            found["capacity"] = await _capacity(nexus, stubs, arguments.step_seconds, arguments.most)
            found["rss_mib"] = _rss_mib(nexus.pid)
        async with _bare(openai, core) as proxy:
            found["bare"] = await _measured(arguments, proxy, Target(openai, "/v1/chat/completions", _chat), stubs)
        found["litellm"] = None
        if arguments.litellm:
            async with _litellm(arguments.litellm, openai, core) as proxy:
                found["litellm"] = await _measured(arguments, proxy, Target(openai, "/v1/chat/completions", _chat), stubs)
        return found
    finally:
        stubs.close()


async def _measured(arguments: argparse.Namespace, front: "Target", straight: "Target", stubs: "Stubs") -> dict[str, Any]:
    """Delays and capacity."""
    found = await _delays(arguments, front, straight, stubs)
    return found | {"capacity": await _capacity(front, stubs, arguments.step_seconds, arguments.most)}


async def _delays(arguments: argparse.Namespace, front: "Target", straight: "Target", stubs: "Stubs") -> dict[str, Any]:
    """What is added to whole answers and to the first pieces of streams."""
    await _added(front, straight, stubs, WARM_S, stream=True)  # what is compiled or opened at first is nobody's delay
    return {
        "rate_per_s": RATE_PER_S,
        "whole": await _added(front, straight, stubs, arguments.rate_seconds, stream=False),
        "stream": await _added(front, straight, stubs, arguments.rate_seconds, stream=True),
    }


# The generator


class Target(NamedTuple):
    """Something that answers: a path at a URL, what a request of some number and length says there, a key if it wants one."""

    url: str
    path: str
    body: Callable[[int, int, bool], dict[str, Any]]
    key: str = ""
    pid: int = 0


@dataclass
class Seen:
    """Of requests to one target: delays to first token and end, of tokens from stub to generator, s; failures."""

    first_s: list[float] = field(default_factory=list)
    end_s: list[float] = field(default_factory=list)
    token_s: list[float] = field(default_factory=list)
    failures: int = 0


class Generator:
    """Asks numbered requests of one target over kept connections."""

    def __init__(self, target: Target, stubs: "Stubs") -> None:
        from lattice_live.channel import Channel

        class Way(Channel):
            def __init__(self) -> None:
                super().__init__(target.url, connect_s=10.0)
                if target.key:
                    self._headers += f"\r\nauthorization: Bearer {target.key}"

        self.seen = Seen()
        self._way, self._target, self._stubs = Way(), target, stubs

    async def ask(self, number: int, tokens: int, *, stream: bool, due_s: float, follow: bool = False) -> None:
        """One request that was due at `due_s`; with `follow`, the delay of each token is noted."""
        from lattice_live.channel import NotHTTPError, RefusedError

        seen, first_s, came, got = self.seen, 0.0, 0, bytearray()

        def take(data: bytes) -> bool:
            nonlocal first_s, came
            now_s = time.monotonic()
            first_s = first_s or now_s
            if not follow:
                got.extend(data)
                return False
            sent_s = self._stubs.sent_s[number]
            for letters in _LETTERS.findall(data):
                for _ in letters:
                    seen.token_s.append(now_s - sent_s[came])
                    came += 1
            got[:] = data
            return False

        body = json.dumps(self._target.body(number, tokens, stream)).encode()
        try:
            await self._way.exchange("POST", self._target.path, body, take)
        except (OSError, RefusedError, NotHTTPError, TimeoutError, KeyError, IndexError):
            seen.failures += 1
            return
        if b'"error"' in got or (follow and came != tokens) or not _is_whole(bytes(got)):
            seen.failures += 1
            return
        seen.first_s.append(first_s - due_s)
        seen.end_s.append(time.monotonic() - due_s)

    def close(self) -> None:
        self._way.close()


def _is_whole(answer: bytes) -> bool:
    """Whether it ends as answers do: a node's, a stream, one object."""
    end = answer.rstrip()
    return end.endswith((b"[DONE]", b"}"))


def _chat(number: int, tokens: int, stream: bool) -> dict[str, Any]:
    message = {"role": "user", "content": "Say a."}
    return {"model": "tiny", "messages": [message], "max_tokens": tokens, "seed": number, "stream": stream}


def _order(number: int, tokens: int, stream: bool) -> dict[str, Any]:
    """What a Nexus would ask; legs of its own have smaller numbers."""
    return {
        "leg": number + 2**40,
        "model": "tiny",
        "prompt": [97] * 32,
        "max_tokens": tokens,
        "sampling": {"seed": number, "temperature": 1.0, "logit_bias": {}},
        "session": None,
    }


async def _poisson(rate_per_s: float, seconds: float, seed: int) -> AsyncIterator[tuple[int, float]]:
    """Numbers and due times of requests, each as it is due."""
    chance = Random(seed)
    due_s = time.monotonic() + 0.1
    end_s, number = due_s + seconds, 0
    while (due_s := due_s + chance.expovariate(rate_per_s)) < end_s:
        if (wait_s := due_s - time.monotonic()) > 0:
            await asyncio.sleep(wait_s)
        yield number, due_s
        number += 1


async def _play(
    generators: Sequence[Generator], stubs: "Stubs", pace: "Pace", rate_per_s: float, seconds: float, *, stream: bool
) -> dict[str, Any]:
    """Requests at a rate, to one of the generators after another; how late everything here was."""
    stubs.pace = pace
    stubs.sent_s.clear()
    stubs.late_s.clear()
    late_s, tasks = [], set()
    began_s, spent_s = time.monotonic(), time.process_time()
    async for number, due_s in _poisson(rate_per_s * len(generators), seconds, SEED):
        late_s.append(time.monotonic() - due_s)
        asked = generators[number % len(generators)].ask(number, ANSWER_TOK, stream=stream, due_s=due_s)
        task = asyncio.create_task(asked)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    busy = (time.process_time() - spent_s) / (time.monotonic() - began_s)
    return {
        "generator_late_ms": _quantiles_ms(late_s),
        "stubs_late_ms": _quantiles_ms(stubs.late_s),
        "generator_busy": round(busy, 3),
    }


# The phases


async def _added(front: Target, straight: Target, stubs: "Stubs", seconds: float, *, stream: bool) -> dict[str, Any]:
    """At RATE_PER_S each: what `front` adds to an answer, or to a stream's first piece."""
    from lattice_cli.bench.stubs import Pace

    ways = [Generator(target, stubs) for target in (front, straight)]
    late = await _play(ways, stubs, Pace(DELAY_S, 0.005), RATE_PER_S, seconds, stream=stream)
    for way in ways:
        way.close()
    with_it, without = (_quantiles_ms(way.seen.first_s if stream else way.seen.end_s) for way in ways)
    return {
        "requests": len(ways[0].seen.end_s),
        "failures": sum(way.seen.failures for way in ways),
        "added_ms": {name: _minus(with_it[name], without[name]) for name in ("p50", "p99")},
        "with_ms": with_it,
        "straight_ms": without,
        **late,
    }


async def _capacity(front: Target, stubs: "Stubs", seconds: float, most: float) -> dict[str, Any]:
    """Whole answers at rising rates, until one is too much."""
    from lattice_cli.bench.stubs import Pace

    best, steps = 0.0, []
    for rate_per_s in STEPS_PER_S:
        if rate_per_s > most:
            break
        for _ in range(TRIES):
            way = Generator(front, stubs)
            late = await _play([way], stubs, Pace(DELAY_S, 0.0), rate_per_s, seconds, stream=False)
            way.close()
            added_ms = _quantiles_ms([spent_s - DELAY_S for spent_s in way.seen.end_s])
            good = not way.seen.failures and added_ms["p99"] is not None and added_ms["p99"] <= LIMIT_S * 1e3
            done = {"requests": len(way.seen.end_s), "failures": way.seen.failures}
            steps.append({"rate_per_s": rate_per_s, **done, "added_ms": added_ms, **late})
            if good or late["generator_late_ms"]["p99"] <= LATE_S * 1e3:
                break
        if not good:
            break
        best = rate_per_s
    return {"requests_per_s": best, "steps": steps}


async def _streams(front: Target, stubs: "Stubs", streams: int, seconds: float) -> dict[str, Any]:
    """So many streams at once, one answer after another in each, for twice `seconds`; memory after each half."""
    from lattice_cli.bench.stubs import Pace

    stubs.pace = Pace(CHUNK_S, CHUNK_S)
    stubs.sent_s.clear()
    stubs.late_s.clear()
    way, began_s = Generator(front, stubs), time.monotonic()
    end_s = began_s + 2 * seconds
    late_s: list[float] = []
    spent_s = time.process_time()

    async def client(place: int) -> None:
        due_s = began_s + place / streams  # each in a tenth of a second of its own
        await asyncio.sleep(due_s - time.monotonic())
        number = place
        while (left := round((end_s - time.monotonic()) / CHUNK_S)) > 0:
            late_s.append(time.monotonic() - due_s)
            await way.ask(number, min(left, STREAM_TOK), stream=True, due_s=time.monotonic(), follow=True)
            stubs.sent_s.pop(number, None)
            number, due_s = number + streams, time.monotonic()

    rss_mib: list[float] = []

    async def memory() -> None:
        for half in (1, 2):
            await asyncio.sleep(began_s + half * seconds - 0.5 - time.monotonic())
            rss_mib.append(_rss_mib(front.pid))

    await asyncio.gather(memory(), *(client(place) for place in range(streams)))
    way.close()
    return {
        "streams": streams,
        "answers": len(way.seen.end_s),
        "tokens": len(way.seen.token_s),
        "failures": way.seen.failures,
        "token_delay_ms": _quantiles_ms(way.seen.token_s),
        "rss_mib": rss_mib,
        "rss_ratio": round(rss_mib[1] / rss_mib[0], 4),
        "generator_late_ms": _quantiles_ms(late_s),
        "stubs_late_ms": _quantiles_ms(stubs.late_s),
        "generator_busy": round((time.process_time() - spent_s) / (time.monotonic() - began_s), 3),
    }


async def _restarted(
    config: Config, urls: Sequence[str], folder: Path, core: int, stubs: "Stubs", events: int
) -> dict[str, Any]:
    """How long a Nexus that was killed behind so many events takes from its process's start to its first answer."""
    from lattice_cli.bench.stubs import Pace
    from lattice_live.sqlite import FILE, Reader

    done, behind = 0, 0
    async with _started(config, urls, folder, core) as nexus:
        key, reader = nexus.key, Reader(folder / FILE)
        while (behind := reader.count("events") - 1) < events:
            way = Generator(nexus, stubs)
            seconds = min(5.0, 0.2 + (events - behind) / 4 / FILL_PER_S)  # a request is four events
            await _play([way], stubs, Pace(0.0, 0.0), FILL_PER_S, seconds, stream=False)
            way.close()
            done += len(way.seen.end_s)
        reader.close()
        stubs.pace = Pace(DELAY_S, 0.005)
        stubs.sent_s.clear()
        way = Generator(nexus, stubs)
        asking = [asyncio.create_task(way.ask(n, ANSWER_TOK, stream=True, due_s=0.0)) for n in range(50)]
        await asyncio.sleep(DELAY_S + 0.02)  # in the middle of their answers
        os.kill(nexus.pid, signal.SIGKILL)
        await asyncio.gather(*asking)
        way.close()
    began_s = time.monotonic()
    async with _started(config, urls, folder, core) as again:
        ready_s = time.monotonic() - began_s
        stubs.sent_s.clear()
        way = Generator(again._replace(key=key), stubs)
        await way.ask(0, ANSWER_TOK, stream=False, due_s=began_s)
        way.close()
    return {"requests": done, "events": behind, "ready_s": round(ready_s, 2), "first_answer_s": round(way.seen.end_s[0], 2)}


def _rss_mib(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return round(int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024, 1)


def _quantiles_ms(values_s: Sequence[float]) -> dict[str, float | None]:
    if not values_s:
        return {"p50": None, "p99": None}
    ordered = sorted(values_s)
    return {f"p{percent}": round(ordered[-(-len(ordered) * percent // 100) - 1] * 1e3, 3) for percent in (50, 99)}


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else round(a - b, 3)


# What is measured, in processes of their own


@asynccontextmanager
async def _started(config: Config, urls: Sequence[str], folder: Path, core: int) -> AsyncIterator[Target]:
    """A Nexus before the nodes at `urls`."""
    async with _process(serve, config, list(urls), folder, core) as (process, pipe):
        try:
            said = await _received(pipe)
        except EOFError:
            raise ConfigError("bench nexus: the Nexus did not start; its error stands above") from None
        yield Target(said["url"], "/v1/chat/completions", _chat, said["key"], process.pid or 0)


async def _received(pipe: Connection) -> Any:
    """What comes through a pipe, without holding up the stubs. Raises EOFError, also after READY_S."""
    if not await asyncio.to_thread(pipe.poll, READY_S):
        raise EOFError
    return pipe.recv()


def serve(config: Config, urls: Sequence[str], folder: Path, core: int, pipe: Connection) -> None:
    """The Nexus's process: say URL and key, serve until told to stop."""
    import uvloop

    os.sched_setaffinity(0, {core})
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this ends it
    asyncio.run(_serve(config, urls, folder, pipe), loop_factory=uvloop.new_event_loop)


async def _serve(config: Config, urls: Sequence[str], folder: Path, pipe: Connection) -> None:
    from lattice_live.folder import Folder
    from lattice_live.gateway.principals import first_key
    from lattice_live.network import running
    from lattice_live.server import listen, serve

    held, stop = Folder(folder, config), asyncio.Event()
    listener = listen("127.0.0.1:0")
    asyncio.get_running_loop().add_reader(pipe.fileno(), stop.set)
    async with running(config, held, urls=urls) as network:
        key = await first_key(network.storage)
        ready = {"url": f"http://127.0.0.1:{listener.getsockname()[1]}", "key": key}
        await serve(network, listener, lambda: pipe.send(ready), stop)
    held.close()


@asynccontextmanager
async def _bare(openai: str, core: int) -> AsyncIterator[Target]:
    """A proxy that only passes on, before an OpenAI-shaped server."""
    from lattice_cli.bench.bare import serve as pass_on

    async with _process(pass_on, openai, core) as (process, pipe):
        yield Target(await _received(pipe), "/v1/chat/completions", _chat, "", process.pid or 0)


@asynccontextmanager
async def _process(target: Callable[..., None], *arguments: object) -> AsyncIterator[tuple[SpawnProcess, Connection]]:
    """A process of its own, told to stop through the pipe that it gets as its last argument."""
    spawn = get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=target, args=(*arguments, theirs))
    process.start()
    theirs.close()
    try:
        yield process, ours
        with suppress(BrokenPipeError):  # it may have been killed
            ours.send("stop")
        await asyncio.to_thread(process.join, 60)
    finally:
        process.kill()
        process.join()
        ours.close()


@asynccontextmanager
async def _litellm(python: str, openai: str, core: int) -> AsyncIterator[Target]:
    """LiteLLM's proxy before an OpenAI-shaped server, on the Nexus's core."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    served = {"model": "openai/tiny", "api_base": f"{openai}/v1", "api_key": "none"}
    with TemporaryDirectory(prefix="lattice-bench-") as folder:
        config = Path(folder) / "config.yaml"
        models = [{"model_name": "tiny", "litellm_params": served}]
        settings = {"master_key": LITELLM_KEY}
        config.write_text(json.dumps({"model_list": models, "general_settings": settings}), encoding="utf-8")
        command = [python, "-c", "from litellm import run_server; run_server()", f"--config={config}", "--host=127.0.0.1"]
        process = subprocess.Popen(
            [*command, f"--port={port}", "--num_workers=1"],
            cwd=folder,
            stdout=sys.stderr,
            env=_own_environment(),
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        try:
            target = Target(f"http://127.0.0.1:{port}", "/v1/chat/completions", _chat, LITELLM_KEY, process.pid)
            await _answering(target, process)
            yield target
        finally:
            process.terminate()
            try:
                await asyncio.to_thread(process.wait, 20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _own_environment() -> Mapping[str, str]:
    """Without what would lead it to other packages, or to others' servers."""
    return {**{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}, "LITELLM_LOG": "ERROR"}


async def _answering(target: Target, process: "subprocess.Popen[bytes]") -> None:
    """Wait until it takes connections. Raises ConfigError."""
    end_s = time.monotonic() + READY_S
    while time.monotonic() < end_s and process.poll() is None:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", int(target.url.rpartition(":")[2]))
        except OSError:
            await asyncio.sleep(0.5)
        else:
            writer.close()
            return
    raise ConfigError("--litellm: must be an interpreter with litellm[proxy]; it did not start, its error stands above")


# As text


def _lines(found: Mapping[str, Any], under: str = "") -> list[str]:
    """One line a figure."""
    lines = []
    for name, value in found.items():
        if isinstance(value, dict):
            lines += _lines(value, f"{under}{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            lines += [line for row in value for line in _lines(row, f"{under}{name}.")]
        else:
            lines.append(f"{under + name:<48}{value}")
    return lines
