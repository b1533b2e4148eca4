"""The gateway behind a listening socket, from ready to drained."""

import asyncio
import gc
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import uvicorn

from lattice_live.gateway import Gateway, application
from lattice_live.heads import Bounded
from lattice_live.network import Network

DRAIN_S = 10
"""How long requests under way may take to end once the server stops; new ones are refused."""

KEEP_ALIVE_S = 75

SWITCH_S = 0.0005
"""How long other threads may keep the interpreter from the loop; ten times as long is usual."""

COLLECT = (10_000, 50, 100)
"""When the collector looks: seldom, as what requests leave behind has no circles, and it holds everybody up."""


class _Server(uvicorn.Server):
    """Uvicorn that leaves signals to its caller and says when it is ready."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], object]) -> None:
        super().__init__(config)
        self._ready = ready

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


def listen(address: str) -> socket.socket:
    """A socket that listens at HOST:PORT. Raises OSError."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    return socket.create_server((host, int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


async def serve(network: Network, listener: socket.socket, ready: Callable[[], object], stop: asyncio.Event) -> None:
    """Serve until `stop`, or until the driver breaks; then let requests under way end."""
    gateway = Gateway(network)
    config = uvicorn.Config(
        application(gateway),
        http=Bounded,
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=1,
    )
    server = _Server(config, ready)
    sys.setswitchinterval(SWITCH_S)
    gc.set_threshold(*COLLECT)
    gc.collect()
    gc.freeze()  # what is here stays: looking through it again and again would hold everybody up
    serving, stopping = asyncio.create_task(server.serve([listener])), asyncio.create_task(stop.wait())
    ends: list[asyncio.Future[Any]] = [serving, stopping, network.driver.broken]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    gateway.draining = True
    if not network.driver.broken.done():
        with suppress(TimeoutError):
            await asyncio.wait_for(gateway.idle.wait(), DRAIN_S)
    server.should_exit = True
    await serving
