"""Structured arrays behind one address: what a compiled function takes in place of them.

A directory lists each table's (address, rows) as int64. Passing its address costs nothing, where passing the arrays would cost
each call 4 µs and each function seconds of compilation. Tables begin at a cache line.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

type Rows = NDArray[Any]

type Handle = int
"""Address of a directory."""

_LINE = 64
"""Bytes in a cache line."""


class Directory:
    """Named tables, each an attribute, in the order in which compiled code numbers them. Picklable.

    `handle` is what compiled functions take; it stays the same while tables are replaced by longer ones.
    """

    handle: Handle

    def __init__(self, tables: Mapping[str, Rows]) -> None:
        self._names = list(tables)
        self._directory = np.zeros(2 * len(tables), np.int64)
        self.handle = int(self._directory.ctypes.data)
        for name, table in tables.items():
            self.put(name, table)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def tables(self) -> dict[str, Rows]:
        """Every table by name: the arrays themselves."""
        return {name: getattr(self, name) for name in self._names}

    def put(self, name: str, table: Rows) -> None:
        """Put a contiguous table in the place of the one of that name."""
        entry = 2 * self._names.index(name)
        self._directory[entry : entry + 2] = table.ctypes.data, len(table)
        setattr(self, name, table)

    def extend(self, name: str, length: int) -> Rows:
        """Make a table `length` rows long, the new ones zero."""
        old = getattr(self, name)
        longer = zeros(length, old.dtype)
        longer[: len(old)] = old
        self.put(name, longer)
        return longer

    def __getstate__(self) -> dict[str, Any]:
        own = ("_names", "_directory", "handle")
        return {name: value for name, value in self.__dict__.items() if name not in own} | {"_names": self._names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        Directory.__init__(self, {name: aligned(state[name]) for name in state["_names"]})

    def copy(self) -> Self:
        """Another with equal tables."""
        other = object.__new__(type(self))
        other.__setstate__(self.__getstate__())
        return other


def in_lines(columns: Sequence[tuple[str, Any]]) -> np.dtype[Any]:
    """A dtype of these columns whose rows are whole cache lines: columns that are used together lie together."""
    plain = np.dtype(list(columns), align=True)
    fields: Mapping[str, Any] = plain.fields or {}
    return np.dtype(
        {
            "names": list(fields),
            "formats": [field[0] for field in fields.values()],
            "offsets": [field[1] for field in fields.values()],
            "itemsize": -(-plain.itemsize // _LINE) * _LINE,
        },
        align=True,
    )


def zeros(rows: int, dtype: Any) -> Rows:
    """A table of zeros that begins at a cache line; its memory is used when it is written."""
    kind = np.dtype(dtype)
    raw = np.zeros(rows * kind.itemsize + _LINE, np.uint8)
    first = -raw.ctypes.data % _LINE
    return raw[first : first + rows * kind.itemsize].view(kind)


def aligned(table: Rows) -> Rows:
    """A copy that begins at a cache line."""
    copy = zeros(len(table), table.dtype)
    copy[:] = table
    return copy
