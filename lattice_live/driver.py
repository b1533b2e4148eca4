"""Between the kernel and the world: what happens becomes events stamped by the wall clock, commands become what is done.

Everything here runs on one event loop, so that the kernel takes one event at a time. The driver decides nothing.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, NamedTuple

from lattice_core.batch import Chunk
from lattice_core.events import (
    Arrive,
    Audit,
    Cancel,
    CancelRequest,
    CloseEpoch,
    Complete,
    Dispatch,
    Event,
    Fail,
    FirstToken,
    NodeDown,
    NodeUp,
    Probe,
    Probed,
    Progress,
    Receipt,
    Status,
    Submit,
    Tick,
)
from lattice_core.nexus import Nexus
from lattice_core.standing import standing
from lattice_core.state import UP
from lattice_core.units import NANO
from lattice_live.history import History
from lattice_live.node.receipts import Signed
from lattice_live.node.sampling import Drawn, Sampling
from lattice_live.settlement import Settlement
from lattice_live.upstream import NodeFailure, Order, Upstream


class Ask(NamedTuple):
    """A request and what a node needs to answer it, which the kernel does not."""

    arrive: Arrive
    model: str
    prompt: list[int]
    sampling: Sampling


class Answer:
    """A request's tokens as they come, whichever nodes they come from; `status` once it has ended."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.request = ask.arrive.request
        self.begun = asyncio.Event()
        """Set with the first token, or with the end of a request that has none."""
        self.over = asyncio.Event()
        self.status: Status | None = None
        self.enough = False
        """Set by the reader who needs no more tokens: the answer is then complete as it stands."""
        self._tokens: asyncio.Queue[Drawn | None] = asyncio.Queue()

    async def tokens(self) -> AsyncIterator[Drawn]:
        """Tokens; they stop when the request has ended."""
        while (token := await self._tokens.get()) is not None:
            yield token

    def put(self, token: Drawn) -> None:
        self._tokens.put_nowait(token)
        self.begun.set()

    def end(self, status: Status) -> None:
        self.status = status
        self._tokens.put_nowait(None)
        self.begun.set()
        self.over.set()

    def ended(self) -> Status:
        """How it ended, once it has."""
        assert self.status is not None
        return self.status


class Driver:
    """Drives one Nexus. `broken` gets the exception if a task of the driver's own ends with one."""

    def __init__(self, nexus: Nexus, upstream: Upstream, settlement: Settlement, history: History) -> None:
        self.nexus = nexus
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._upstream = upstream
        self._settlement = settlement
        self._history = history
        # Time is that of the network's life: it stands still while the network is down, and never goes back.
        self._zero_ns = time.monotonic_ns() - nexus.count("now_ns")
        self._answers: dict[int, Answer] = {}
        self._legs: dict[int, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._settling: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def now_ns(self) -> int:
        """Time since the network first started, ns."""
        return time.monotonic_ns() - self._zero_ns

    # What users do

    def ask(self, ask: Ask) -> Answer:
        """Let a request arrive. Call `leave` when nobody waits for its answer any more."""
        answer = self._answers[ask.arrive.request] = Answer(ask)
        self._tell(ask.arrive)
        return answer

    def leave(self, answer: Answer) -> None:
        """The user has gone; nothing happens if the answer has ended."""
        if answer.status is None:
            self._tell(CancelRequest(self.now_ns(), answer.request))

    # From start to end

    def start(self, nodes: int, unsettled: list[Chunk]) -> None:
        """Announce the nodes and begin to keep time. What an earlier process left open ends, what it left unsettled is sent."""
        requests = self.nexus.table("requests")
        for request in requests["id"][requests["id"] > 0].tolist():
            self._tell(CancelRequest(self.now_ns(), request))
        self._take_down()
        for node in range(nodes):
            self._tell(NodeUp(self.now_ns(), node))
        for batch in unsettled:
            self._submit(Submit(batch))
        self._spawn(self._tasks, self._keep_epochs())

    async def stop(self) -> None:
        """End what is under way, close the epoch and wait until it is settled. Raises what broke the driver, if it broke."""
        for answer in list(self._answers.values()):
            self.leave(answer)
        for task in self._tasks:
            task.cancel()
        self._close_epoch()
        while self._settling:
            await asyncio.gather(*self._settling, return_exceptions=True)
        self._take_down()
        if self._timer is not None:
            self._timer.cancel()
        await asyncio.gather(*self._tasks, *self._legs.values(), return_exceptions=True)
        if self.broken.done():
            self.broken.result()

    def _take_down(self) -> None:
        for node, status in enumerate(self.nexus.table("nodes")["status"].tolist()):
            if status == UP:
                self._tell(NodeDown(self.now_ns(), node))

    async def _keep_epochs(self) -> None:
        epoch_ns = self.nexus.config.chain.epoch_ns
        end_ns = self.now_ns()
        while True:
            end_ns += epoch_ns
            await asyncio.sleep((end_ns - self.now_ns()) / NANO)
            self._close_epoch()

    def _close_epoch(self) -> None:
        self._tell(CloseEpoch(self.now_ns(), self.nexus.count("epoch")))

    # Events in, commands out, and the kernel's timer

    def _tell(self, event: Event) -> None:
        commands = self.nexus.handle(event)
        self._history.see(event, commands)
        for command in commands:
            _DO[type(command)](self, command)
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        t_ns = self.nexus.next_timer_ns()
        if t_ns is not None:
            wait_s = max(0, t_ns - self.now_ns()) / NANO
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._tick)

    def _tick(self) -> None:
        t_ns = self.nexus.next_timer_ns()
        now_ns = self.now_ns()
        if t_ns is not None and t_ns <= now_ns:
            self._tell(Tick(now_ns))
        else:
            self._set_timer()

    # What the kernel asks for

    def _dispatch(self, command: Dispatch) -> None:
        task = self._legs[command.leg] = asyncio.create_task(self._serve(command))
        task.add_done_callback(lambda done: self._end_task(done, command.leg))

    async def _serve(self, command: Dispatch) -> None:
        """One leg: its tokens to the user, the node's receipts to the kernel."""
        answer, leg = self._answers[command.request], command.leg
        ask = answer.ask
        order = Order(leg, ask.model, ask.prompt, ask.arrive.max_tok, ask.sampling)
        delivered = 0

        def receipted(signed: Signed) -> None:
            self._tell(Progress(self.now_ns(), leg, signed.progress.to_tok))

        try:
            async with aclosing(self._upstream.answer(command.node, order, receipted)) as tokens:
                async for token in tokens:
                    delivered += 1
                    if delivered == 1:
                        self._tell(FirstToken(self.now_ns(), leg))
                    answer.put(token)
                    if answer.enough:
                        break
        except NodeFailure as failure:
            print(f"lattice: node {command.node}: {failure}", file=sys.stderr)
            end: Event = Fail(self.now_ns(), leg, failure.why)
        else:
            end = Complete(self.now_ns(), leg, delivered)
        self._tell(end)

    def _end_task(self, task: asyncio.Task[None], leg: int) -> None:
        self._legs.pop(leg, None)
        self._notice(task)

    def _cancel(self, command: Cancel) -> None:
        if command.leg in self._legs:
            self._legs[command.leg].cancel()

    def _probe(self, command: Probe) -> None:
        async def probe() -> None:
            ok = await self._upstream.probe(command.node)
            self._tell(Probed(self.now_ns(), command.node, command.serial, ok))

        self._spawn(self._tasks, probe())

    def _audit(self, command: Audit) -> None:
        """No auditor lives beside the network yet: the command stands in the decisions, and the kernel waits for no answer."""

    def _status(self, command: Status) -> None:
        answer = self._answers.pop(command.request, None)
        if answer is not None:
            answer.end(command)

    def _submit(self, command: Submit) -> None:
        said = standing(self.nexus, self.nexus.count("now_ns"))

        async def settle() -> None:
            outcome = await self._settlement.settle(command.batch, said)
            if outcome.failure:
                print(f"lattice: epoch {command.batch.epoch} was not settled: {outcome.failure}", file=sys.stderr)
            self._history.settle(outcome.settled, outcome.operations)
            self._tell(outcome.fact._replace(t_ns=self.now_ns()))

        self._spawn(self._settling, settle())

    # Tasks

    def _spawn(self, tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(self._notice)

    def _notice(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None and not self.broken.done():
            self.broken.set_exception(error)


_DO: dict[type, Callable[[Driver, Any], None]] = {
    Dispatch: Driver._dispatch,
    Cancel: Driver._cancel,
    Probe: Driver._probe,
    Audit: Driver._audit,
    Status: Driver._status,
    Submit: Driver._submit,
    Receipt: lambda driver, command: None,
}
