"""Where replications are made: in this process, in processes beside it, or on a Ray cluster. The rows are the same from each.

with executor("processes") as workers:
    for task, row in workers.run(plan, tasks):
        ...
"""

import multiprocessing
import os
import signal
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol, Self

from lattice_core.config import ConfigError
from lattice_sim.study.task import Plan, Row, Task, replicate

NAMES = ("inprocess", "processes", "ray")

MOST_TRIES = 3
"""How often a task is given out whose worker dies."""


class Executor(Protocol):
    """Workers, for as long as the `with` block lasts."""

    def run(self, plan: Plan, tasks: Sequence[Task]) -> Iterator[tuple[Task, Row]]:
        """Each task's row, as they end, in any order.

        Raises ConfigError for a task whose worker died MOST_TRIES times.
        """

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


def executor(name: str, workers: int | None = None, address: str | None = None) -> Executor:
    """The executor of that name, with as many `workers` as there are processors unless said otherwise. Raises ConfigError."""
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers: must be 1 or more, not {workers}")
    if address is not None and name != "ray":
        raise ConfigError(f"--address: goes with --executor ray, not {name}")
    match name:
        case "inprocess":
            return InProcess()
        case "processes":
            return Processes(workers or available_workers())
        case "ray":
            from lattice_sim.study.ray import RayWorkers

            return RayWorkers(workers, address)
    raise ConfigError(f"--executor: must be one of {', '.join(NAMES)}, not {name}")


def available_workers() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Tries:
    """How often each task has been given out in vain."""

    def __init__(self) -> None:
        self._lost: Counter[tuple[int, int]] = Counter()

    def lose(self, task: Task) -> None:
        """Its worker died. Raises ConfigError if that is once too often."""
        self._lost[task.point, task.replication] += 1
        if self._lost[task.point, task.replication] >= MOST_TRIES:
            where = f"replication {task.replication} of point {task.point}"
            raise ConfigError(f"{where}: the process that made it died {MOST_TRIES} times; is there memory enough?")


class InProcess:
    """One after the other, here."""

    def run(self, plan: Plan, tasks: Sequence[Task]) -> Iterator[tuple[Task, Row]]:
        for task in tasks:
            yield task, replicate(plan, task)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Processes:
    """Processes on this machine. One that is killed costs only what it was at."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def run(self, plan: Plan, tasks: Sequence[Task]) -> Iterator[tuple[Task, Row]]:
        waiting, tries = deque(tasks), Tries()
        flying: dict[Future[Row], Task] = {}
        while waiting or flying:
            try:
                while waiting and len(flying) < self._workers + 1:  # one is ready when another ends
                    flying[self._started().submit(replicate, plan, waiting[0])] = waiting[0]
                    waiting.popleft()
                ended, _ = wait(flying, return_when=FIRST_COMPLETED)
                for future in ended:
                    if not isinstance(future.exception(), BrokenProcessPool):
                        yield flying.pop(future), future.result()
                broken = bool(ended & flying.keys())
            except BrokenProcessPool:
                broken = True
            if broken:  # no future of a broken pool comes to anything more
                for task in flying.values():
                    tries.lose(task)
                waiting.extendleft(reversed(flying.values()))
                flying.clear()
                self._stop()

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # What all workers import is imported once, by a server that they are forked from. It has no threads, unlike this
            # process may have.
            method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
            context = multiprocessing.get_context(method)
            context.set_forkserver_preload(["lattice_sim.study.warm"])
            self._pool = ProcessPoolExecutor(self._workers, context, _ignore_interrupts)
        return self._pool

    def _stop(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()


def _ignore_interrupts() -> None:
    """Ctrl-C reaches the whole group of processes; the first of them says what follows from it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
