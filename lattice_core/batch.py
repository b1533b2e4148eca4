"""A chunk of an epoch's settlement: what users owe and what nodes earned, as the kernel emits it and the contract takes it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lattice_core.split import Parts

type Ints = NDArray[np.int64]

MAX_ENTRIES = 1_000
"""Most users, and most nodes, in one chunk: what fits a transaction of 16.78 M gas, once the nodes' books are open."""

_AMOUNT_LIMIT = 2**63
_ID_LIMIT = 2**32


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """One settlement transaction, keyed (nexus, epoch, chunk). Ids are dense on-chain ids, each at most once; money is nanoLAI.

    Raises ValueError for a column of the wrong shape or type, a repeated id, or a number outside its range.
    """

    nexus: int
    epoch: int
    chunk: int
    users: Ints
    debit_purchased_nlai: Ints
    debit_faucet_nlai: Ints
    nodes: Ints
    gross_purchased_nlai: Ints
    gross_faucet_nlai: Ints

    def __post_init__(self) -> None:
        for name, limit in (("nexus", 2**16), ("epoch", 2**32 - 1), ("chunk", 2**16)):
            if not 0 <= getattr(self, name) < limit:
                raise ValueError(f"chunk: {name} is {getattr(self, name)}, allowed are 0 to {limit - 1}")
        for ids, *amounts in (
            ("users", "debit_purchased_nlai", "debit_faucet_nlai"),
            ("nodes", "gross_purchased_nlai", "gross_faucet_nlai"),
        ):
            rows = len(_column(self, ids, _ID_LIMIT))
            if rows > MAX_ENTRIES:
                raise ValueError(f"chunk: {ids} has {rows} rows, at most {MAX_ENTRIES} are allowed")
            if len(np.unique(getattr(self, ids))) != rows:
                raise ValueError(f"chunk: {ids} names an id twice")
            for name in amounts:
                if len(_column(self, name, _AMOUNT_LIMIT)) != rows:
                    raise ValueError(f"chunk: {name} has {len(getattr(self, name))} rows where {ids} has {rows}")

    def totals(self) -> tuple[Parts, Parts]:
        """(Σ debits, Σ grosses); the contract refuses a chunk in which they differ."""
        return (
            Parts(sum(self.debit_purchased_nlai.tolist()), sum(self.debit_faucet_nlai.tolist())),
            Parts(sum(self.gross_purchased_nlai.tolist()), sum(self.gross_faucet_nlai.tolist())),
        )


def _column(chunk: Chunk, name: str, limit: int) -> NDArray[Any]:
    """The named column, checked to be int64 numbers in [0, limit)."""
    column: NDArray[Any] = getattr(chunk, name)
    if column.ndim != 1 or column.dtype != np.int64:
        raise ValueError(f"chunk: {name} is {column.ndim}-dimensional {column.dtype}, allowed is one dimension of int64")
    if len(column) and not (column.min() >= 0 and column.max() < limit):
        raise ValueError(f"chunk: {name} has a value outside 0 to {limit - 1}")
    return column
