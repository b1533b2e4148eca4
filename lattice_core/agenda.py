"""When each row of some table is due: int64 ns under a tree of minima, eight to a group, which is a cache line.

Entry 1 of an agenda is the first time of all; entry i is the first of its group, the entries 8i to 8i + 7; row r's own time,
NEVER_NS if it has none, is entry leaves + r, and entry 0 says what `leaves` is. Setting a time climbs only as far as a minimum
changes, and reads a group only where its minimum has become later. At equal times the lowest row is first.
"""

import numpy as np
from numpy.typing import NDArray

from lattice_core.directory import zeros
from lattice_core.jit import jit, load, prefetch, store
from lattice_core.units import NEVER_NS

type Agenda = NDArray[np.int64]

NONE = -1
"""No row."""


def new_agenda(capacity: int, old: Agenda | None = None) -> Agenda:
    """An agenda for at least `capacity` rows, with the times of an `old` one."""
    leaves = 8
    while leaves < capacity:
        leaves *= 8
    agenda: Agenda = zeros(leaves + -(-max(capacity, 1) // 8) * 8, np.int64)
    agenda[:] = NEVER_NS
    agenda[0] = leaves
    if old is not None:
        agenda[leaves : leaves + len(times(old))] = times(old)
        level = times(agenda)
        while leaves > 1:
            leaves //= 8
            level = np.pad(level, (0, -len(level) % 8), constant_values=NEVER_NS).reshape(-1, 8).min(axis=1)
            agenda[leaves : leaves + len(level)] = level
    return agenda


def times(agenda: Agenda) -> Agenda:
    """The time of each row, and of some more that are never due."""
    return agenda[agenda[0] :]


@jit
def set_time(D: int, table: int, row: int, t_ns: int) -> None:
    """The row is due at `t_ns`, and at no other time."""
    i = load(D, table, 0) + row
    old_ns = load(D, table, i)
    store(D, table, i, t_ns)
    while i > 1:
        i >>= 3
        first_ns = load(D, table, i)
        if t_ns >= first_ns:
            if old_ns != first_ns:
                break
            t_ns = _first_of(D, table, i)
            if t_ns == first_ns:
                break
        store(D, table, i, t_ns)
        old_ns = first_ns


@jit
def time_of(D: int, table: int, row: int) -> int:
    """When the row is due."""
    return load(D, table, load(D, table, 0) + row)


@jit
def prefetch_time(D: int, table: int, row: int) -> None:
    """The time of `row` is needed soon."""
    prefetch(D, table, load(D, table, 0) + row)


@jit
def first_time(D: int, table: int) -> int:
    """The first time that any row is due."""
    return load(D, table, 1)


@jit
def first_row(D: int, table: int) -> int:
    """The lowest row that is due then."""
    return _lowest(D, table, 1)


@jit
def next_row(D: int, table: int, row: int) -> int:
    """The lowest row above `row` that is due at the first time, or NONE."""
    i = load(D, table, 0) + row
    while i > 1:
        while i & 7 != 7:
            i += 1
            if load(D, table, i) == first_time(D, table):
                return _lowest(D, table, i)
        i >>= 3
    return NONE


@jit
def _first_of(D: int, table: int, i: int) -> int:
    """The first time in the group of entry `i`."""
    t_ns = load(D, table, 8 * i)
    for k in range(8 * i + 1, 8 * i + 8):
        t_ns = min(t_ns, load(D, table, k))
    return t_ns


@jit
def _lowest(D: int, table: int, i: int) -> int:
    """The lowest row under entry `i` with that entry's time."""
    leaves, t_ns = load(D, table, 0), load(D, table, i)
    while i < leaves:
        i *= 8
        while load(D, table, i) != t_ns:
            i += 1
    return i - leaves
