"""The chain beside a live network: one thread that runs an in-process EVM, so that the event loop never waits for it."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from lattice_core.batch import Chunk
from lattice_core.census import NodeEntry, users
from lattice_core.chain.bridge import Bridge
from lattice_core.chain.port import Reverted
from lattice_core.chain.pyevm import PyEvm
from lattice_core.config import Config
from lattice_core.events import Event
from lattice_core.units import NANO


class Settlement:
    """The contracts of `config`, with its users and these nodes. The chain is a function of the batches settled since."""

    def __init__(self, config: Config, nodes: Sequence[NodeEntry]) -> None:
        self._config = config
        self._nodes = nodes
        self._thread = ThreadPoolExecutor(1, "chain")
        self._bridge: Bridge

    async def open(self) -> list[Event]:
        """Deploy, register, fund and bond; the facts, all at time 0."""
        return await self._run(self._open)

    async def settle(self, batch: Chunk) -> tuple[Event, str]:
        """Send a batch in a block of its own; the fact, at time 0, and why it failed ("": it did not)."""
        return await self._run(lambda: self._settle(batch))

    async def read[T](self, question: Callable[[Bridge], T]) -> T:
        """What `question` finds on the chain."""
        return await self._run(lambda: question(self._bridge))

    def close(self) -> None:
        """Let the thread end."""
        self._thread.shutdown()

    async def _run[T](self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _open(self) -> list[Event]:
        self._bridge = Bridge(PyEvm(), self._config)
        return [*self._bridge.open_accounts(users(self._config), 0), *self._bridge.register_nodes(self._nodes, 0)]

    def _settle(self, batch: Chunk) -> tuple[Event, str]:
        self._bridge.chain.advance_block(max(1, self._config.chain.epoch_ns // NANO))
        try:
            fact, _ = self._bridge.settle(batch, 0)
        except Reverted as failure:
            return self._bridge.failed(batch, 0), str(failure)
        self._bridge.check_money()
        self._bridge.drain()
        return fact, ""
