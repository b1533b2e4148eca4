"""The chain beside a live network: one thread that runs an in-process EVM, so that the event loop never waits for it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from lattice_core.batch import Chunk
from lattice_core.chain.backends import chain_of
from lattice_core.chain.bridge import Bridge, Operation
from lattice_core.chain.port import Reverted
from lattice_core.config import Config
from lattice_core.events import Event
from lattice_core.settlement import Settlement as Settled
from lattice_core.standing import Standing


class Opened(NamedTuple):
    """The facts of a network's start, all at time 0, and the transactions that made them."""

    facts: list[Event]
    operations: list[Operation]


class Outcome(NamedTuple):
    """What became of a batch: the fact, at time 0, what was settled, the transaction, and why it failed ("": it did not)."""

    fact: Event
    settled: Settled | None
    operations: list[Operation]
    failure: str


class Settlement:
    """The contracts of `config`, with its users and nodes. The chain is a function of the batches settled, in order."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._thread = ThreadPoolExecutor(1, "chain")
        self._bridge: Bridge
        self._reported = -1

    async def open(self) -> Opened:
        """Deploy, register, fund and bond."""
        return await self._run(self._open)

    async def settle(self, batch: Chunk, standing: Standing) -> Outcome:
        """Send a batch, once its epoch is over on the chain; the nodes that it pays claim.

        Raises InvariantError if the money on the chain does not add up.
        """
        return await self._run(lambda: self._settle(batch, standing))

    async def read[T](self, question: Callable[[Bridge], T]) -> T:
        """What `question` finds on the chain."""
        return await self._run(lambda: question(self._bridge))

    def close(self) -> None:
        """Let the thread end."""
        self._thread.shutdown()

    async def _run[T](self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _open(self) -> Opened:
        self._bridge = Bridge(chain_of(self._config, history=False), self._config)
        return Opened(self._bridge.open(self._config, 0), self._bridge.drain())

    def _settle(self, batch: Chunk, standing: Standing) -> Outcome:
        self._bridge.reach_end(batch.epoch)
        try:
            fact, settled = self._bridge.settle(batch, 0)
        except Reverted as failure:
            return Outcome(self._bridge.failed(batch, 0), None, self._bridge.drain(), str(failure))
        for node in batch.nodes.tolist():
            self._bridge.claim(node)
        if batch.epoch > self._reported:
            self._bridge.report(batch.epoch, standing)
            self._reported = batch.epoch
        self._bridge.check_money()
        return Outcome(fact, settled, self._bridge.drain(), "")
