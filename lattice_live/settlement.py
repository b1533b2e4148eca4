"""The chain beside a live network: one thread that speaks to it, so that the event loop never waits for it.

A chain in this process is a function of what was sent to it, in order. After a restart it is made again when it is first
needed: its machine takes longer to load than a Nexus may take to serve again. One behind JSON-RPC remembers by itself, and may
be away: then it is asked again with growing pauses, and later batches queue up behind.
"""

import asyncio
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from lattice_core import plain
from lattice_core.batch import Chunk
from lattice_core.chain.backends import chain_of
from lattice_core.chain.bridge import Bridge, Operation
from lattice_core.chain.bridge import Saved as Known
from lattice_core.chain.contracts.clock import Epochs
from lattice_core.chain.deployment import Listing
from lattice_core.chain.genesis import genesis_of
from lattice_core.chain.port import Chain, Refused, Reverted
from lattice_core.config import Config, ConfigError
from lattice_core.events import Event
from lattice_core.founding import founding
from lattice_core.invariants import InvariantError
from lattice_core.settlement import Settlement as Settled
from lattice_core.standing import Standing
from lattice_live import aside

ANSWER_S = 10.0
"""How long a node of the chain may take for one answer."""

PAUSES_S = (1.0, 60.0)
"""Between two attempts at a batch: the first pause, which doubles up to the last."""

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Goes on while the machine sleeps, and does not jump when its time of day is set."""

HEAD_START_S = 1.0
"""So long what a restart need not have done waits after it, that it delays nobody who waits for the Nexus."""


class Opened(NamedTuple):
    """The facts of a network's start, all at time 0, and the transactions that made them."""

    facts: list[Event]
    operations: list[Operation]


class Outcome(NamedTuple):
    """What became of a batch: the fact, at time 0, what was settled, the transaction, and why it failed ("": it did not).

    The kernel had closed the epochs up to `closed` then, and the chain's time was behind their end.
    """

    fact: Event
    settled: Settled | None
    operations: list[Operation]
    failure: str
    closed: int = -1


class Saved(NamedTuple):
    """A chain in this process: where its contracts are, and all that it holds, as bytes."""

    listing: str
    chain: bytes


class Settlement:
    """The contracts of `config`, with its users and nodes. Batches are sent one after another, in the order of `settle`."""

    def __init__(self, config: Config, book: Path | None = None, saved: Saved | None = None, secret: bytes = b"") -> None:
        """`book` is the file of the address book, for a chain behind JSON-RPC; `saved` is what `save` gave, for one in here.

        Every key is derived from `secret`; without one everybody can, and only development chains are served.
        """
        self.remote = config.chain.backend == "rpc"
        self.listing: Listing
        """Where the contracts live; known once open."""
        self.closed: Callable[[], int] = lambda: -1
        """The last epoch that the kernel has closed, whose batches the chain need not wait for any more."""
        self.away = ""
        """Why the chain does not answer; "" while it does."""
        self.outcome: Outcome
        """The last one of `settle`."""
        self._config = config
        self._zero_s = time.time() - time.clock_gettime(_CLOCK)
        self._book = book
        self._saved = saved
        self._secret = secret
        self._bridge: Bridge | None = None
        self._past: list[Callable[[Bridge], object]] = []  # what an earlier process did, to be done again
        self._lost_past: Exception | None = None
        self._epochs: Epochs | None = None  # of a chain that keeps its own time
        self._thread = aside.thread("chain")
        self._leaving = threading.Event()  # ends the thread's own waits
        self._leave_s: float | None = None  # the loop's time when waiting is given up
        self._leave = asyncio.Event()
        self._turn = asyncio.Lock()
        self._trying: list[int] = []  # epochs of batches that may be settled now, or may have been, or soon will be
        self._sent = False  # it went out, and no answer came
        self._known = asyncio.Condition()
        self._lost: tuple[type[Exception], ...] = ()
        self._reported = -1

    async def open(self) -> Opened:
        """Deploy, register, fund and bond; or take up what was saved, or what the address book lists. Raises ConfigError."""
        return await self._run(self._open)

    async def settle(self, batch: Chunk, standing: Standing) -> Outcome:
        """Send a batch, once its epoch is over on the chain; the nodes that it pays claim.

        Waits while the chain is away. Raises InvariantError if the money on the chain does not add up, and CancelledError
        once it is given up: then nobody knows, and the same batch can be sent again.
        """
        if not self.remote:
            self._trying.append(batch.epoch)  # a chain in this process comes to it, however long its turn takes
        async with self._turn:
            outcome = await self._until_answered(lambda: self._attempt(batch))
            if outcome.settled is not None:
                await self._until_answered(lambda: self._run(lambda: self._pay_out(self._connected(), batch, standing)))
            operations = await self._run(self._connected().drain)
            await self._release(batch)  # and without a break the caller tells the kernel
            self.outcome = outcome._replace(operations=operations)
            return self.outcome

    def redo(self, work: Callable[[Bridge], object]) -> None:
        """What an earlier process did on the chain after it was saved: done again, in order, before anything else is asked of
        it. Nothing, for a chain that remembers by itself.
        """
        if not self.remote:
            self._past.append(work)

    def settle_again(self, bridge: Bridge, batch: Chunk, standing: Standing, closed: int) -> Outcome:
        """As `settle`, for `redo`; `closed` is that of its outcome then."""
        outcome = self._settle(bridge, batch, closed)
        if outcome.settled is not None:
            self._pay_out(bridge, batch, standing)
        return outcome._replace(operations=bridge.drain())

    async def catch_up(self) -> None:
        """Make a chain in this process again, with its past, soon, and before a batch is sent. Raises what `redo` was given."""
        async with self._turn:
            if not self.remote and (self._bridge is None or self._past):
                await asyncio.sleep(HEAD_START_S)
                await self._run(self._connected)

    async def read[T](self, question: Callable[[Bridge], T]) -> T:
        """What `question` finds on the chain. One that is away raises as its backend does, an OSError most often."""
        return await self._run(lambda: question(self._connected()))

    async def save(self) -> Saved | None:
        """A chain in this process, with all that was sent to it; None for one that remembers by itself."""
        return None if self.remote else await self._run(self._save)

    def until_end_s(self, epoch: int) -> float | None:
        """How long an epoch still lasts on a chain that keeps its own time; None where its time is ours."""
        return None if self._epochs is None else self._epochs.end_s(epoch) - self._zero_s - time.clock_gettime(_CLOCK)

    def holds(self, epoch: int) -> bool:
        """Whether `epoch` must not be closed yet: a batch may be settled unseen that the kernel would then give up."""
        return epoch - min(self._trying, default=epoch) > self._config.chain.grace_epochs

    async def closable(self, epoch: int) -> None:
        """Wait until `epoch` may be closed, see `holds`."""
        async with self._known:
            await self._known.wait_for(lambda: not self.holds(epoch))

    def give_up(self, after_s: float) -> None:
        """Batches not settled `after_s` from now are left to the next start; those that must wait for longer, at once."""
        loop = asyncio.get_running_loop()
        self._leave_s = loop.time() + after_s
        self._leave.set()
        loop.call_later(after_s, self._leaving.set)

    def close(self) -> None:
        """Let the thread end."""
        self._leave_s = 0.0
        self._leave.set()
        self._leaving.set()
        self._thread.shutdown(cancel_futures=True)

    async def _run[T](self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # On the event loop

    async def _attempt(self, batch: Chunk) -> Outcome:
        """Settle a batch once its epoch is over, also by the clock of a chain whose time cannot be set."""
        await self._run(self._connected)
        if (wait_s := self.until_end_s(batch.epoch)) is not None and wait_s > 0:
            await self._rest(wait_s)
        given_up = self.closed() - batch.epoch > self._config.chain.grace_epochs
        closed = max(batch.epoch, self.closed()) if self.remote or given_up else batch.epoch
        if self.remote:
            self._trying = [batch.epoch]
        try:
            return await self._run(lambda: self._settle(self._connected(), batch, closed))
        except self._lost:
            if not self._sent:
                await self._release(batch)
            raise

    async def _release(self, batch: Chunk) -> None:
        """Let epochs be closed."""
        async with self._known:
            self._trying.remove(batch.epoch)
            self._known.notify_all()

    async def _until_answered[T](self, ask: Callable[[], Awaitable[T]]) -> T:
        """What `ask` gives, once the chain answers."""
        pause_s, longest_s = PAUSES_S
        while True:
            try:
                answer = await ask()
            except self._lost as error:
                self._say(str(error))
                await self._rest(pause_s)
                pause_s = min(2 * pause_s, longest_s)
            else:
                self._say("")
                return answer

    async def _rest(self, s: float) -> None:
        """Raises CancelledError as soon as it is clear that waiting will be given up before."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + s
        with suppress(TimeoutError):
            await asyncio.wait_for(self._leave.wait(), s)
        if self._leave_s is not None:
            if end_s > self._leave_s:
                raise asyncio.CancelledError
            await asyncio.sleep(end_s - loop.time())

    def _say(self, away: str) -> None:
        if bool(away) != bool(self.away):
            print(f"lattice: the chain {f'is away: {away}' if away else 'is back'}", file=sys.stderr)
        self.away = away

    # On the chain's thread

    def _open(self) -> Opened:
        if self._saved is not None or (self.remote and self._book is not None and self._book.exists()):
            self._take_up()
            return Opened(list(founding(self._config)), [])
        try:
            bridge = self._meet(Bridge(self._chain(), self._config, secret=self._secret))
            facts = bridge.open(self._config, 0)
        except (OSError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"{self._config.name}: chain.url: {error}") from error
        self.listing = Listing.of(bridge.network, genesis_of(self._config, secret=self._secret).roles)
        if self._book is not None and self.remote:
            self._book.write_text(self.listing.text())
        return Opened(facts, bridge.drain())

    def _take_up(self) -> None:
        """The contracts that stand already; a chain that is away is asked later."""
        if self._saved is not None:
            self.listing = Listing.read(self._saved.listing, "the chain's address book")
            return
        assert self._book is not None
        try:
            self.listing = Listing.read(self._book.read_text(), str(self._book))
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self._chain_errors()
        with suppress(*self._lost):
            self._connected()

    def _connected(self) -> Bridge:
        """The bridge to a chain that has its past; opened now if it has not been yet, or was away when it was to be."""
        if self._lost_past is not None:
            raise self._lost_past
        bridge = self._bridge or self._take_up_chain()
        if self._past:
            try:
                for work in self._past:
                    work(bridge)
            except Exception as error:
                self._lost_past = error
                raise
            self._past.clear()
        return bridge

    def _take_up_chain(self) -> Bridge:
        chain = self._chain()
        if self._saved is not None:
            state, known, self._reported = plain.load(self._saved.chain)
            chain.load(state)
        else:
            known = Known(self.listing.book, None)
            if chain.chain_id != self.listing.chain_id or not chain.code(self.listing.book):
                raise ConfigError(f"{self._book}: must list contracts that stand on the chain at {self._config.chain.url}")
        return self._meet(Bridge(chain, self._config, secret=self._secret, saved=known))

    def _meet(self, bridge: Bridge) -> Bridge:
        self._bridge = bridge
        self._epochs = None if bridge.chain.capabilities.sets_time else bridge.epochs
        return bridge

    def _chain(self) -> Chain:
        if not self.remote:
            return chain_of(self._config, history=False)
        self._chain_errors()
        from lattice_core.chain.rpc import Rpc

        return Rpc(self._config.chain.url, timeout_s=ANSWER_S, wait=self._wait)

    def _wait(self, s: float) -> None:
        if self._leaving.wait(s):
            raise ConnectionAbortedError("the network stops")

    def _chain_errors(self) -> None:
        from lattice_core.chain.rpc import NodeError

        self._lost = (OSError, Refused, NodeError)

    def _save(self) -> Saved:
        bridge = self._connected()
        return Saved(self.listing.text(), plain.dump((bridge.chain.save(), bridge.save(), self._reported)))

    def _settle(self, bridge: Bridge, batch: Chunk, closed: int) -> Outcome:
        bridge.reach_end(closed)
        found = bridge.settled(batch, 0) if self.remote else None
        try:
            self._sent = True
            confirmed = found or bridge.settle(batch, 0)
            self._sent = False
            return Outcome(*confirmed, [], "", closed)
        except Refused:
            self._sent = False
            raise
        except Reverted as failure:
            self._sent = False
            if bridge.chain.block().timestamp_s < bridge.epochs.end_s(batch.epoch):
                raise TimeoutError(f"its time is before the end of epoch {batch.epoch}") from None
            return Outcome(bridge.failed(batch, 0), None, [], str(failure), closed)

    def _pay_out(self, bridge: Bridge, batch: Chunk, standing: Standing) -> None:
        for node in batch.nodes.tolist():
            bridge.claim(node)
        if batch.epoch > self._reported:
            try:
                bridge.report(batch.epoch, standing)
            except Reverted as failure:
                if not self.remote or "EpochOutOfOrder" not in str(failure):  # an earlier process has reported it
                    raise
            self._reported = batch.epoch
        self._check_money(bridge)

    def _check_money(self, bridge: Bridge) -> None:
        """Raises InvariantError, but not for what others have moved between two questions."""
        while True:
            before = bridge.chain.block().number
            try:
                bridge.check_money()
                return
            except InvariantError:
                if bridge.chain.block().number == before:
                    raise
