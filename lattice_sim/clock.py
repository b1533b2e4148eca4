"""SimPy's environment with the order that every engine keeps: (time, kind rank, entity, per-entity count).

SimPy breaks ties by the order in which events were made; here an event's key does, so that two engines agree whatever their
code looks like. Time is an integer number of nanoseconds.
"""

import gc
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

import simpy
from simpy.events import NORMAL

from lattice_sim.engine import MOST_STEPS, standstill

_STARTING = (-1, 0, 0)


class Clock(simpy.Environment):
    """Simulated time. Every event but a process's start is placed with `at` or `call`."""

    now = 0
    """Simulated time, ns."""
    most_steps = MOST_STEPS
    """Events on one nanosecond after which it is taken to stand still."""
    _steps = 0

    def at(self, t_ns: int, rank: int, entity: int, count: int) -> simpy.Event:
        """An event that a process can wait for, at `t_ns` and in its place among the events of that time."""
        event = simpy.Event(self)
        event._ok, event._value = True, None
        heappush(self._queue, (t_ns, (rank, entity, count), 0, event))  # type: ignore[misc]
        return event

    def call(self, t_ns: int, rank: int, entity: int, count: int, action: Callable[..., object], *args: Any) -> None:
        """Do `action(*args)` at `t_ns`, in its place among the events of that time. Half the cost of an event."""
        heappush(self._queue, (t_ns, (rank, entity, count), 0, (action, args)))  # type: ignore[misc]

    def schedule(self, event: simpy.Event, priority: int = NORMAL, delay: float = 0) -> None:
        """What SimPy itself schedules, the starts and ends of processes, happens at once."""
        heappush(self._queue, (int(self._now + delay), _STARTING, next(self._eid), event))  # type: ignore[misc]

    def step(self) -> None:
        """The next event. Raises StuckError."""
        t_ns, key, _, event = self._queue[0]
        self._steps = 0 if t_ns > self.now else self._steps + 1
        if self._steps > self.most_steps:
            raise standstill(self.now, *key[:2])  # type: ignore[index]
        self.now = t_ns  # type: ignore[assignment]
        if type(event) is tuple:
            heappop(self._queue)
            self._now = self.now
            action, args = event
            action(*args)
        else:
            super().step()

    def run_until(self, t_ns: int) -> None:
        """Everything before `t_ns`; then it is `t_ns`."""
        queue, step, collecting = self._queue, self.step, gc.isenabled()
        gc.disable()  # events make no cycles, and the collector would look through all of them again and again
        try:
            while queue and queue[0][0] < t_ns:
                step()
        finally:
            if collecting:
                gc.enable()
        self.now = self._now = t_ns
