"""An engine at work: one thread that steps it, beside an event loop that asks and listens.

The loop puts jobs into the thread's inbox, the thread hands back each step's tokens; neither waits for the other, and only the
thread touches the engine. Jobs start in the order they came. A stream holds whatever its reader has not taken, which is at most
the answer it asked for, so that a reader who stops delays nobody.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import count
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from lattice_live.node.engine import Engine, Job, Token
from lattice_live.node.metrics import Metrics
from lattice_live.node.sampling import Sampling

TAKEN_TOK = 64
"""So many tokens are written without a look at anybody else."""


class QueueFullError(RuntimeError):
    """All slots and all places of the queue are taken."""


class UnavailableError(RuntimeError):
    """The worker takes no jobs: it drains, or its engine is beyond use."""


class EngineError(RuntimeError):
    """The engine failed under a job."""


class Stream:
    """The tokens of one job as they come. `reason` once it has ended: "stop", "length", "cancelled" or "failed"."""

    def __init__(self, worker: "Worker", job: int, prompt_tok: int) -> None:
        self._worker = worker
        self.job = job
        self.prompt_tok = prompt_tok
        self.output_tok = 0
        self.last_s = time.perf_counter()  # when it began, then when its last token came
        self.reason: str | None = None
        self._failure = ""
        self._held: list[Token] = []
        self._news = asyncio.Event()

    async def take(self) -> list[Token]:
        """The next tokens that have come, at least one, at most TAKEN_TOK; nothing once it has ended. Raises EngineError."""
        if not self._held and self.reason is None:
            self._news.clear()
            await self._news.wait()
        tokens, self._held = self._held[:TAKEN_TOK], self._held[TAKEN_TOK:]
        if not tokens and self._failure:
            raise EngineError(self._failure)
        return tokens

    def cancel(self) -> None:
        """Stop the job and give its place to the next; nothing happens if it has ended."""
        self._worker.cancel(self)

    def put(self, token: Token, now_s: float) -> None:
        """Called by the worker, as is `end`."""
        self.output_tok += 1
        self.last_s = now_s
        self._held.append(token)
        self._news.set()

    def end(self, reason: str, failure: str = "") -> None:
        self.reason, self._failure = reason, failure
        self._news.set()


class Worker:
    """An engine, its thread, and the queue before its slots. All methods are for the event loop's thread.

    `step_s` is a floor under the time of a step that gives tokens: with it a tiny model keeps the pace of a larger one, and a
    failure finds an answer to interrupt. 0 means as fast as it goes.
    """

    def __init__(self, name: str, engine: Engine, metrics: Metrics, *, queue: int, step_s: float = 0.0) -> None:
        self.name = name
        self.engine = engine
        self.queue = queue
        self._metrics = metrics
        self._step_s = step_s
        self._numbers = count(1)
        self._streams: dict[int, Stream] = {}  # of the jobs that hold a place, by job
        self._closed = ""  # why no more are taken
        self._empty = asyncio.Event()
        self._empty.set()
        self._inbox: SimpleQueue[Job | int | None] = SimpleQueue()  # a number is a job to cancel, None the end
        self._loop: asyncio.AbstractEventLoop
        self._thread = Thread(target=self._work, name=f"engine of {name}", daemon=True)
        self._thread.start()
        metrics.watch(self)

    @property
    def in_flight(self) -> int:
        """Jobs that have a slot."""
        return min(len(self._streams), self.engine.slots)

    @property
    def queued(self) -> int:
        """Jobs that wait for one."""
        return len(self._streams) - self.in_flight

    @property
    def free(self) -> int:
        """Jobs that would be taken now."""
        return 0 if self._closed else max(0, self.engine.slots + self.queue - len(self._streams))

    def open(self, prompt: Sequence[int], sampling: Sampling, max_tokens: int, session: str | None = None) -> Stream:
        """Take a job; cancel its stream when nobody reads it. Raises ValueError (see `Engine.check`) and the errors above."""
        job = Job(next(self._numbers), prompt, sampling, max_tokens, session)
        self.engine.check(job)
        if self._closed:
            raise UnavailableError(self._closed)
        if not self.free:
            self._metrics.refuse(self.name)
            places = f"{self.engine.slots} served and {self.queue} waiting"
            raise QueueFullError(f"queue full: {places}, which is all that this node allows for {self.name!r}")
        self._loop = asyncio.get_running_loop()
        stream = self._streams[job.id] = Stream(self, job.id, len(prompt))
        self._empty.clear()
        self._inbox.put(job)
        return stream

    def cancel(self, stream: Stream) -> None:
        """See `Stream.cancel`."""
        if stream.job in self._streams:
            self._inbox.put(stream.job)
            self._end(stream, "cancelled")

    def cancel_all(self) -> None:
        """Stop every job that holds a place."""
        for stream in list(self._streams.values()):
            self.cancel(stream)

    def drain(self) -> None:
        """Take no more jobs; those taken are served."""
        self._closed = self._closed or "this node drains and takes no more"

    async def drained(self) -> None:
        """Wait until no job is left."""
        await self._empty.wait()

    def close(self) -> None:
        """Cancel what is left and end the thread, after the step it is in."""
        self.drain()
        self.cancel_all()
        self._inbox.put(None)
        self._thread.join()

    # What the thread reports, on the loop

    def _deliver(self, tokens: Sequence[Token], now_s: float) -> None:
        for token in tokens:
            stream = self._streams.get(token.job)
            if stream is None:
                continue  # cancelled while the step ran
            self._metrics.token(self.name, stream, now_s)
            stream.put(token, now_s)
            if token.finish is not None:
                self._end(stream, token.finish)

    def _fail(self, jobs: Iterable[int], failure: str) -> None:
        for job in jobs:
            if job in self._streams:
                self._end(self._streams[job], "failed", failure)

    def _break(self, failure: str) -> None:
        self._closed = failure
        self._fail(list(self._streams), failure)

    def _end(self, stream: Stream, reason: str, failure: str = "") -> None:
        del self._streams[stream.job]
        self._metrics.end(self.name, reason)
        stream.end(reason, failure)
        if not self._streams:
            self._empty.set()

    # The thread

    def _work(self) -> None:
        waiting: deque[Job] = deque()
        running: set[int] = set()
        while True:
            try:
                message = self._inbox.get(block=not waiting and not running)
                while message is not None:
                    if isinstance(message, Job):
                        waiting.append(message)
                    elif message in running:
                        running.remove(message)
                        self.engine.cancel(message)
                    else:
                        waiting = deque(job for job in waiting if job.id != message)
                    message = self._inbox.get_nowait()
                return
            except Empty:
                pass
            try:
                while waiting and self.engine.free_slots:
                    job = waiting.popleft()
                    running.add(job.id)
                    self.engine.submit(job)
                if running:
                    self._step(running)
            except Exception as error:
                failure = f"the engine of {self.name!r} failed: {error!r}"
                self._report(self._fail, list(running), failure)
                if not self._recover(running):
                    self._report(self._break, failure)
                    return

    def _step(self, running: set[int]) -> None:
        began_s = time.perf_counter()
        tokens = self.engine.step()
        if tokens:
            time.sleep(max(0.0, began_s + self._step_s - time.perf_counter()))
            running.difference_update(token.job for token in tokens if token.finish is not None)
            self._report(self._deliver, tokens, time.perf_counter())

    def _recover(self, running: set[int]) -> bool:
        """Empty the engine after a failure; whether it is fit for the next job."""
        for job in running:
            with suppress(Exception):  # it is the slots that count, and one of the jobs may never have had one
                self.engine.cancel(job)
        running.clear()
        return bool(self.engine.free_slots == self.engine.slots)

    def _report(self, what: Callable[..., None], *arguments: Any) -> None:
        self._loop.call_soon_threadsafe(what, *arguments)
