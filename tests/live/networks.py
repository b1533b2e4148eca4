"""A live network on a thread of its own: real node processes, a real chain, a real socket on loopback."""

import asyncio
import atexit
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import openai

from lattice_core.config import Config, parse, revise
from lattice_live.folder import Folder
from lattice_live.gateway.principals import first_key
from lattice_live.models import store
from lattice_live.models.folder import ModelFolder
from lattice_live.network import Network, running
from lattice_live.server import listen, serve
from lattice_live.sqlite import Reader

LOCAL = Path(__file__).with_name("tiny.yaml")

PULLED = store.cache()
"""The user's own cache of models."""

MODELS = tempfile.mkdtemp(prefix="lattice-models-")
"""The cache of models of these tests, and of the commands that they start."""
os.environ["LATTICE_MODELS"] = MODELS
atexit.register(shutil.rmtree, MODELS, ignore_errors=True)


@cache
def tiny() -> ModelFolder:
    """The model that the network serves."""
    return store.resolve_random(1)


def local(**changes: Any) -> Config:
    """The local network at a free port; `a__b=value` sets a.b."""
    config = parse(LOCAL.read_text(), LOCAL.name)
    return revise(config, {"live.listen": "127.0.0.1:0"} | {key.replace("__", "."): value for key, value in changes.items()})


class Live:
    """A network that serves, seen from another thread."""

    def __init__(self, network: Network, url: str, key: str, loop: asyncio.AbstractEventLoop) -> None:
        self.network = network
        self.url = url
        self.key = key
        self._loop = loop

    def client(self, key: str | None = None) -> openai.OpenAI:
        """The official client, which does not try again."""
        return openai.OpenAI(api_key=key or self.key, base_url=f"{self.url}/v1", max_retries=0, timeout=30)

    def ask[T](self, question: Callable[[Network], T]) -> T:
        """What `question` returns, asked on the network's own thread."""

        async def answer() -> T:
            return question(self.network)

        return asyncio.run_coroutine_threadsafe(answer(), self._loop).result(30)

    def on_chain[T](self, question: Callable[[Any], T]) -> T:
        """What `question` finds on the chain."""
        return asyncio.run_coroutine_threadsafe(self.network.settlement.read(question), self._loop).result(30)

    def account(self, account: int = 0) -> dict[str, int]:
        """The kernel's row of an account."""
        row = self.ask(lambda network: network.driver.nexus.table("accounts")[account])
        return {name: int(row[name]) for name in row.dtype.names}

    def lines(self, file: str) -> list[str]:
        """The lines of `journal` or `decisions` so far."""
        if self._loop.is_running():
            asyncio.run_coroutine_threadsafe(self.network.storage.durable(), self._loop).result(30)
        with closing(Reader(self.network.folder.storage)) as reader:
            return list(reader.lines({"journal": "events"}.get(file, file)))


@contextmanager
def live(config: Config, folder: Path, step_ms: int = 0, urls: Sequence[str] | None = None) -> Iterator[Live]:
    """A network that serves until the block ends, and is then drained, settled and stopped; over nodes at `urls`, if given."""
    ready = threading.Event()
    found: list[Live] = []
    errors: list[BaseException] = []
    stops: list[Callable[[], object]] = []

    async def run() -> None:
        held = Folder(folder, config)
        try:
            listener = listen(config.live.listen)
            port = listener.getsockname()[1]
            stop, loop = asyncio.Event(), asyncio.get_running_loop()
            async with running(config, held, step_ms, urls=urls) as network:
                key = await first_key(network.storage) or ""
                found.append(Live(network, f"http://127.0.0.1:{port}", key, loop))
                stops.append(lambda: loop.call_soon_threadsafe(stop.set))
                await serve(network, listener, ready.set, stop)
        finally:
            held.close()

    def thread() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            errors.append(error)
        finally:
            ready.set()

    worker = threading.Thread(target=thread)
    worker.start()
    ready.wait(300)  # rules may have to be compiled
    try:
        if errors:
            raise errors[0]
        yield found[0]
    finally:
        for stop in stops:
            stop()
        worker.join(60)
    if errors:
        raise errors[0]
