"""When each row of some table is due: int64 ns under a binary tree of minima.

An agenda is a table of 2·capacity times: entry i is the earlier of entries 2i and 2i + 1, entry capacity + row is the row's
own time, NEVER_NS if it has none, and entry 1 is the first of all. Setting a time climbs only as far as the minimum changes,
two levels on average. At equal times the lowest row is first.
"""

import numpy as np
from numpy.typing import NDArray

from lattice_core.directory import zeros
from lattice_core.jit import jit, load, rows, store
from lattice_core.units import NEVER_NS

NONE = -1
"""No row."""


def new_agenda(capacity: int, old: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """An agenda for at least `capacity` rows, with the times of an `old` one."""
    leaves = 1 << max(0, capacity - 1).bit_length()
    agenda: NDArray[np.int64] = zeros(2 * leaves, np.int64)
    agenda[:] = NEVER_NS
    if old is not None:
        agenda[leaves : leaves + len(old) // 2] = old[len(old) // 2 :]
        width = leaves
        while width > 1:
            level = agenda[width : 2 * width]
            width //= 2
            agenda[width : 2 * width] = np.minimum(level[::2], level[1::2])
    return agenda


@jit
def set_time(D: int, table: int, row: int, t_ns: int) -> None:
    """The row is due at `t_ns`, and at no other time."""
    i = (rows(D, table) >> 1) + row
    store(D, table, i, t_ns)
    while i > 1:
        first_ns = min(load(D, table, i), load(D, table, i ^ 1))
        i >>= 1
        if load(D, table, i) == first_ns:
            break
        store(D, table, i, first_ns)


@jit
def time_of(D: int, table: int, row: int) -> int:
    """When the row is due."""
    return load(D, table, (rows(D, table) >> 1) + row)


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
    i = (rows(D, table) >> 1) + row
    while i > 1:
        if i & 1 == 0 and load(D, table, i + 1) == first_time(D, table):
            return _lowest(D, table, i + 1)
        i >>= 1
    return NONE


@jit
def _lowest(D: int, table: int, i: int) -> int:
    """The lowest row under entry `i` with that entry's time."""
    capacity = rows(D, table) >> 1
    t_ns = load(D, table, i)
    while i < capacity:
        i *= 2
        if load(D, table, i) != t_ns:
            i += 1
    return i - capacity
