"""ASGI applications behind a real socket on loopback, on a thread of their own."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import uvicorn

from lattice_core.chain.keys import Key, key_of
from lattice_live.heads import Bounded
from lattice_live.node.metrics import Metrics
from lattice_live.node.server import Node, application
from lattice_live.node.worker import Worker
from tests.live.abacus import Abacus

KEY = key_of(1)


@contextmanager
def served(make: Callable[[str], Any], context: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve what `make(url)` returns, an application or a node, at that URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"{'https' if context else 'http'}://127.0.0.1:{listener.getsockname()[1]}"
    made = make(url)
    config = uvicorn.Config(
        application(made) if isinstance(made, Node) else made,
        http=Bounded,
        lifespan="off",
        log_level="critical",
        timeout_graceful_shutdown=1,
        ssl_context_factory=(lambda *_: context) if context else None,
    )
    server, ready = uvicorn.Server(config), threading.Event()

    async def run() -> None:
        try:
            if isinstance(made, Node):
                await made.start()
            ready.set()
            await server.serve([listener])
        finally:
            if isinstance(made, Node):
                made.close()

    thread = threading.Thread(target=asyncio.run, args=[run()])
    thread.start()
    try:
        assert ready.wait(20)
        yield url
    finally:
        server.should_exit = True
        thread.join(20)


def node_of(engines: Mapping[str, Abacus], queue: int = 1, key: Key = KEY) -> Callable[[str], Node]:
    """A node of engines without models, once its URL is known."""

    def make(url: str) -> Node:
        metrics = Metrics()
        workers = [Worker(name, engine, metrics, queue=queue) for name, engine in engines.items()]  # type: ignore[arg-type]
        return Node(key, url, workers, {name: [1, 2, 3] for name in engines}, metrics)

    return make
