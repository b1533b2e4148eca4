"""Between the kernel and the world: what happens becomes events stamped by the wall clock, commands become what is done.

Everything here runs on one event loop, so that the kernel takes one event at a time. The driver decides nothing.
"""

import asyncio
import sys
import time
from array import array
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, NamedTuple

from lattice_core.batch import Chunk
from lattice_core.events import (
    Arrive,
    Audit,
    Cancel,
    CancelRequest,
    CloseEpoch,
    Command,
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
from lattice_core.streams import JITTER, uniform
from lattice_core.units import NANO
from lattice_live.history import History
from lattice_live.node.receipts import Signed
from lattice_live.node.sampling import Drawn, Sampling
from lattice_live.settlement import Settlement
from lattice_live.storage import Storage
from lattice_live.upstream import NodeFailure, Order, Upstream

STALLED_S = 60.0
"""A reader who has taken none of the tokens that wait for him for so long has left."""

DRAIN_S = 2.0
"""How long a node that is told to stop may take to send its last receipt."""

RETRY_S = 0.025
"""The longest pause before a request's second leg; it doubles with each further one. The pause is drawn evenly, so that the
requests of a node that fails do not all come to the next one at once."""


class Ask(NamedTuple):
    """A request and what a node needs to answer it, which the kernel does not.

    `enough` is called with each token as it comes, and says whether the answer ends with it; `session` names the chat.
    """

    arrive: Arrive
    model: str
    prompt: list[int]
    sampling: Sampling
    session: str | None = None
    enough: Callable[[Drawn], bool] | None = None


class Leg:
    """One node's part of an answer: tokens `from_tok` to `to_tok`, with its latest receipt of `receipted_tok` of them."""

    def __init__(self, node: int, id: int, from_tok: int) -> None:
        self.node = node
        self.id = id
        self.from_tok = from_tok
        self.to_tok = from_tok
        self.receipted_tok = 0
        self.receipt: Signed | None = None
        self.stopped = False
        """Its node has been told to stop; what still comes is not delivered."""
        self.left = False
        """Nobody waits for the rest."""
        self.task: asyncio.Task[None]


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
        """No more tokens are needed: the answer is complete as it stands."""
        self.legs: list[Leg] = []
        """Those that have brought tokens, in order."""
        self.ids = array("I")
        """All tokens so far."""
        self.sent = 0
        """How often it went to a node."""
        self._waiting: deque[Drawn] = deque()  # those that the reader has not taken
        self._taken_s = 0.0  # when he last took one, or last had them all
        self._loop = asyncio.get_running_loop()
        self._reader: asyncio.Future[None] | None = None  # he waits for it

    async def tokens(self) -> AsyncIterator[Drawn]:
        """Tokens; they stop when the request has ended."""
        while True:
            while self._waiting:
                self._taken_s = self._loop.time()
                yield self._waiting.popleft()
            if self.status is not None:
                return
            self._reader = self._loop.create_future()
            await self._reader

    def ended(self) -> Status:
        """How it ended, once it has."""
        assert self.status is not None
        return self.status

    def stalled(self) -> bool:
        """Whether the reader has let tokens wait for STALLED_S."""
        return bool(self._waiting) and self._loop.time() - self._taken_s > STALLED_S

    def put(self, drawn: Drawn) -> None:
        """Called by the driver, as is `end`."""
        if not self._waiting:
            self._taken_s = self._loop.time()
        self._waiting.append(drawn)
        self.ids.append(drawn.token)
        if self.ask.enough is not None and self.ask.enough(drawn):
            self.enough = True
        self._wake()

    def end(self, status: Status) -> None:
        self.status = status
        self.over.set()
        self._wake()

    def _wake(self) -> None:
        if not self.begun.is_set():
            self.begun.set()
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class Driver:
    """Drives one Nexus. `broken` gets the exception if a task of the driver's own ends with one."""

    def __init__(self, nexus: Nexus, upstream: Upstream, settlement: Settlement, history: History, storage: Storage) -> None:
        self.nexus = nexus
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._upstream = upstream
        self._settlement = settlement
        self._history = history
        self.observers: list[Callable[[Event, Sequence[Command]], object]] = [history.see]
        """Called with each event and what the kernel makes of it, before that is done."""
        self._storage = storage
        # Time is that of the network's life: it stands still while the network is down, and never goes back.
        self._zero_ns = time.monotonic_ns() - nexus.count("now_ns")
        self._answers: dict[int, Answer] = {}  # of the requests that the kernel has open
        self._legs: dict[int, Leg] = {}  # that are under way, by id
        self._tasks: set[asyncio.Task[None]] = set()
        self._settling: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = 0
        storage.broken.add_done_callback(self._notice)

    def now_ns(self) -> int:
        """Time since the network first started, ns."""
        return time.monotonic_ns() - self._zero_ns

    # What users do

    def ask(self, ask: Ask) -> Answer:
        """Let a request arrive. Call `leave` when nobody waits for its answer any more."""
        answer = self._answers[ask.arrive.request] = Answer(ask)
        self.tell(ask.arrive)
        return answer

    def leave(self, answer: Answer) -> None:
        """The user has gone; nothing happens if the answer has ended. What has no receipt yet may still get one."""
        if answer.request not in self._answers:
            return
        leg = answer.legs[-1] if answer.legs else None
        if leg is None or leg.id not in self._legs or leg.receipted_tok == leg.to_tok - leg.from_tok:
            self.tell(CancelRequest(self.now_ns(), answer.request))
        elif not leg.stopped:
            leg.left = True
            self._stop(leg)

    # From start to end

    def start(self, nodes: int, unsettled: list[Chunk]) -> None:
        """Announce the nodes and begin to keep time. What an earlier process left open ends, what it left unsettled is sent."""
        requests = self.nexus.table("requests")
        for request in requests["id"][requests["id"] > 0].tolist():
            self.tell(CancelRequest(self.now_ns(), request))
        self._take_down()
        for node in range(nodes):
            self.tell(NodeUp(self.now_ns(), node))
        for batch in unsettled:
            self._submit(Submit(batch))
        self._spawn(self._tasks, self._keep_epochs())
        self._spawn(self._tasks, self._watch_readers())

    async def stop(self) -> None:
        """End what is under way, close the epoch and wait until it is settled. Raises what broke the driver, if it broke."""
        for answer in list(self._answers.values()):
            self.leave(answer)
        await asyncio.gather(*[leg.task for leg in self._legs.values()], return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        if not self._settlement.holds(self.nexus.count("epoch")):
            self._close_epoch()
        while self._settling:
            await asyncio.gather(*self._settling, return_exceptions=True)
        self._take_down()
        if self._timer is not None:
            self._timer.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.broken.done():
            self.broken.result()
        await self._storage.durable()

    def _take_down(self) -> None:
        for node, status in enumerate(self.nexus.table("nodes")["status"].tolist()):
            if status == UP:
                self.tell(NodeDown(self.now_ns(), node))

    async def _keep_epochs(self) -> None:
        epoch_ns = self.nexus.config.chain.epoch_ns
        end_ns = self.now_ns()
        while True:
            end_ns += epoch_ns
            own_s = self._settlement.until_end_s(self.nexus.count("epoch"))
            await asyncio.sleep((end_ns - self.now_ns()) / NANO if own_s is None else own_s)
            await self._settlement.closable(self.nexus.count("epoch"))
            self._close_epoch()

    def _close_epoch(self) -> None:
        self.tell(CloseEpoch(self.now_ns(), self.nexus.count("epoch")))

    async def _watch_readers(self) -> None:
        while True:
            await asyncio.sleep(STALLED_S / 10)
            for answer in list(self._answers.values()):
                if answer.stalled():
                    self.leave(answer)

    # Events in, commands out, and the kernel's timer

    def tell(self, event: Event) -> None:
        """Bring the kernel an event of `now_ns`, and do what it asks for."""
        commands = self.nexus.handle(event)
        for observe in self.observers:
            observe(event, commands)
        for command in commands:
            _DO[type(command)](self, command)
        self._set_timer()

    def _set_timer(self) -> None:
        """Have `_tick` called when the kernel's next timer is due, or before: a call that comes too early costs less than one
        taken back."""
        t_ns = self.nexus.next_timer_ns()
        if t_ns is None or (self._timer is not None and self._timer_ns <= t_ns):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ns = t_ns
        self._timer = asyncio.get_running_loop().call_later(max(0, t_ns - self.now_ns()) / NANO, self._tick)

    def _tick(self) -> None:
        self._timer = None
        t_ns = self.nexus.next_timer_ns()
        now_ns = self.now_ns()
        if t_ns is not None and t_ns <= now_ns:
            self.tell(Tick(now_ns))
        else:
            self._set_timer()

    # A leg

    def _dispatch(self, command: Dispatch) -> None:
        leg = self._legs[command.leg] = Leg(command.node, command.leg, command.from_tok)
        leg.task = asyncio.create_task(self._serve(leg, self._answers[command.request]))
        leg.task.add_done_callback(lambda task: self._end_leg(task, leg))

    async def _serve(self, leg: Leg, answer: Answer) -> None:
        """One leg: its tokens to the user, the node's receipts to the kernel; it goes on where the one before it broke off."""
        ask = answer.ask
        if answer.ids and answer.ids[-1] in self._upstream.models[ask.model].end:
            self.tell(Complete(self.now_ns(), leg.id, leg.from_tok))  # only its last receipt was missing
            return
        if answer.sent:
            longest_s = RETRY_S * 2.0 ** (answer.sent - 1)
            await asyncio.sleep(longest_s * uniform(self.nexus.config.seed, JITTER, leg.id, 0))
        answer.sent += 1
        prompt = [*ask.prompt, *answer.ids[: leg.from_tok]]
        order = Order(leg.id, ask.model, prompt, ask.arrive.max_tok - leg.from_tok, ask.sampling, ask.session)

        def take(drawn: Drawn) -> None:
            if leg.stopped:
                return
            if leg.to_tok == leg.from_tok:
                answer.legs.append(leg)
                self.tell(FirstToken(self.now_ns(), leg.id))
            leg.to_tok += 1
            answer.put(drawn)
            if answer.enough:
                self._stop(leg)

        def receipted(signed: Signed) -> None:
            if answer.request not in self._answers:
                return
            leg.receipt = signed
            leg.receipted_tok = min(signed.progress.to_tok, leg.to_tok - leg.from_tok)
            self._storage.receipt(signed)
            self.tell(Progress(self.now_ns(), leg.id, leg.from_tok + leg.receipted_tok))

        failure: NodeFailure | None = None
        try:
            await self._upstream.answer(leg.node, order, take, receipted)
        except NodeFailure as error:
            print(f"lattice: node {leg.node}: {error}", file=sys.stderr)
            failure = error
        except asyncio.CancelledError:
            if not leg.stopped:
                raise
        if answer.request not in self._answers:
            return  # the kernel has ended it
        if leg.left:
            end: Event = CancelRequest(self.now_ns(), answer.request)
        elif leg.stopped:
            end = Complete(self.now_ns(), leg.id, leg.from_tok + leg.receipted_tok)
        elif failure is not None:
            end = Fail(self.now_ns(), leg.id, failure.why, leg.to_tok)
        else:
            end = Complete(self.now_ns(), leg.id, leg.to_tok)
        self.tell(end)

    def _stop(self, leg: Leg) -> None:
        """Have a node end its answer where it stands, with a last receipt."""
        leg.stopped = True
        self._spawn(self._tasks, self._upstream.cancel(leg.node, leg.id))
        drained = asyncio.get_running_loop().call_later(DRAIN_S, leg.task.cancel)
        leg.task.add_done_callback(lambda task: drained.cancel())

    def _end_leg(self, task: asyncio.Task[None], leg: Leg) -> None:
        del self._legs[leg.id]
        self._notice(task)

    # What else the kernel asks for

    def _cancel(self, command: Cancel) -> None:
        if (leg := self._legs.get(command.leg)) is not None:
            leg.stopped = True
            leg.task.cancel()

    def _probe(self, command: Probe) -> None:
        async def probe() -> None:
            ok = await self._upstream.probe(command.node)
            self.tell(Probed(self.now_ns(), command.node, command.serial, ok))

        self._spawn(self._tasks, probe())

    def _audit(self, command: Audit) -> None:
        """No auditor lives beside the network yet: the command stands in the decisions, and the kernel waits for no answer."""

    def _status(self, command: Status) -> None:
        answer = self._answers.pop(command.request, None)
        if answer is not None:
            self._storage.after(lambda: answer.end(command))

    def _submit(self, command: Submit) -> None:
        said = standing(self.nexus, self.nexus.count("now_ns"))

        async def settle() -> None:
            await self._storage.durable()
            outcome = await self._settlement.settle(command.batch, said)
            if outcome.failure:
                print(f"lattice: epoch {command.batch.epoch} was not settled: {outcome.failure}", file=sys.stderr)
            self._history.settle(outcome.settled, outcome.operations)
            self.tell(outcome.fact._replace(t_ns=self.now_ns()))

        self._spawn(self._settling, settle())

    # Tasks

    def _spawn(self, tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(self._notice)

    def _notice(self, work: asyncio.Future[None]) -> None:
        if not work.cancelled() and (error := work.exception()) is not None and not self.broken.done():
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
