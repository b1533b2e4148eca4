"""The kernel's timers: a binary heap ordered by (time, kind, row, tag).

A request's timer is not removed when the request ends, but skipped: its tag no longer matches. Skipped ones leave the top at
once, so the top is always due for something.
"""

from lattice_core.jit import jit
from lattice_core.state import (
    FREE,
    OPEN,
    TIMER_BREAKER,
    TIMER_DEADLINE,
    TIMER_RESERVATION,
    Handle,
    clock,
    node_at,
    request_at,
    timer_at,
)
from lattice_core.units import NEVER_NS


@jit
def _before(S: Handle, a: int, b: int) -> bool:
    x, y = timer_at(S, a), timer_at(S, b)
    if x.t_ns != y.t_ns:
        return x.t_ns < y.t_ns
    if x.kind != y.kind:
        return x.kind < y.kind
    if x.row != y.row:
        return x.row < y.row
    return x.tag < y.tag


@jit
def _swap(S: Handle, a: int, b: int) -> None:
    x, y = timer_at(S, a), timer_at(S, b)
    x.t_ns, y.t_ns = y.t_ns, x.t_ns
    x.kind, y.kind = y.kind, x.kind
    x.row, y.row = y.row, x.row
    x.tag, y.tag = y.tag, x.tag


@jit
def set_timer(S: Handle, t_ns: int, kind: int, row: int, tag: int) -> None:
    """Fire at `t_ns` unless `tag` has stopped matching by then."""
    c = clock(S)
    i = c.timers
    c.timers += 1
    e = timer_at(S, i)
    e.t_ns, e.kind, e.row, e.tag = t_ns, kind, row, tag
    while i > 0 and _before(S, i, (i - 1) // 2):
        _swap(S, i, (i - 1) // 2)
        i = (i - 1) // 2


@jit
def drop_first(S: Handle) -> None:
    """Remove the earliest timer."""
    c = clock(S)
    c.timers -= 1
    _swap(S, 0, c.timers)
    i = 0
    while True:
        child = 2 * i + 1
        if child >= c.timers:
            return
        if child + 1 < c.timers and _before(S, child + 1, child):
            child += 1
        if not _before(S, child, i):
            return
        _swap(S, child, i)
        i = child


@jit
def _is_due(S: Handle, i: int) -> bool:
    e = timer_at(S, i)
    if e.kind == TIMER_DEADLINE or e.kind == TIMER_RESERVATION:
        return request_at(S, e.row).state != FREE and request_at(S, e.row).id == e.tag
    n = node_at(S, e.row)
    if e.kind == TIMER_BREAKER:
        return n.breaker == OPEN and n.breaker_until_ns == e.tag
    return n.probe_serial == e.tag


@jit
def drop_stale(S: Handle) -> None:
    """Bring a timer that still means something to the top."""
    while clock(S).timers > 0 and not _is_due(S, 0):
        drop_first(S)


@jit
def next_timer_ns(S: Handle) -> int:
    """Time of the earliest timer, NEVER_NS if there is none."""
    return timer_at(S, 0).t_ns if clock(S).timers > 0 else NEVER_NS
