"""The kernel's timers: one time at most for each node's breaker, each request, and each node's probe.

They stand in three agendas. At equal times breakers come before requests and requests before probes, each by row.
"""

from lattice_core.agenda import first_row, first_time
from lattice_core.directory import Handle
from lattice_core.jit import jit
from lattice_core.state import BREAKER_TIMERS, PROBE_TIMERS, REQUEST_TIMERS


@jit
def next_timer_ns(S: Handle) -> int:
    """Time of the earliest timer, NEVER_NS if there is none."""
    return min(first_time(S, BREAKER_TIMERS), first_time(S, REQUEST_TIMERS), first_time(S, PROBE_TIMERS))


@jit
def next_timer(S: Handle) -> tuple[int, int]:
    """The agenda and the row of the earliest timer; there is one."""
    t_ns = next_timer_ns(S)
    timers = PROBE_TIMERS
    if first_time(S, BREAKER_TIMERS) == t_ns:
        timers = BREAKER_TIMERS
    elif first_time(S, REQUEST_TIMERS) == t_ns:
        timers = REQUEST_TIMERS
    return timers, first_row(S, timers)
