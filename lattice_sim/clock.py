"""SimPy's environment with the order that every engine keeps: (time, kind rank, entity, per-entity count).

SimPy breaks ties by the order in which events were made; here an event's key does, so that two engines agree whatever their
code looks like. Time is an integer number of nanoseconds.
"""

from collections.abc import Callable
from heapq import heappush
from typing import Any

import simpy
from simpy.events import NORMAL

# Ranks of events that fall on one nanosecond: what happened at a node comes before what the Nexus makes of it.
NODE_CHANGE, SERVICE, RECEIPT, TIMER, TRAVEL, REPLY, ARRIVAL, PATIENCE = range(8)
_STARTING = (-1, 0, 0)


class _Call:
    """What the queue needs of an event that nobody waits for."""

    __slots__ = ("callbacks",)
    _ok = True

    def __init__(self, action: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.callbacks: Any = (lambda _: action(*args),)


class Clock(simpy.Environment):
    """Simulated time. Every event but a process's start is placed with `at` or `call`."""

    @property
    def now(self) -> int:
        """Simulated time, ns."""
        return self._now  # type: ignore[return-value]

    def at(self, t_ns: int, rank: int, entity: int, count: int) -> simpy.Event:
        """An event that a process can wait for, at `t_ns` and in its place among the events of that time."""
        event = simpy.Event(self)
        event._ok, event._value = True, None
        heappush(self._queue, (t_ns, (rank, entity, count), next(self._eid), event))  # type: ignore[misc]
        return event

    def call(self, t_ns: int, rank: int, entity: int, count: int, action: Callable[..., object], *args: Any) -> None:
        """Do `action(*args)` at `t_ns`, in its place among the events of that time."""
        heappush(self._queue, (t_ns, (rank, entity, count), next(self._eid), _Call(action, args)))  # type: ignore[misc]

    def schedule(self, event: simpy.Event, priority: int = NORMAL, delay: float = 0) -> None:
        """What SimPy itself schedules, the starts and ends of processes, happens at once."""
        heappush(self._queue, (int(self._now + delay), _STARTING, next(self._eid), event))  # type: ignore[misc]

    def run_until(self, t_ns: int) -> None:
        """Everything before `t_ns`; then it is `t_ns`."""
        queue, step = self._queue, self.step
        while queue and queue[0][0] < t_ns:
            step()
        self._now = t_ns
