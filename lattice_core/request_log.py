"""What became of each request, in memory that does not grow with them: a seeded systematic sample of rows, and exact totals.

Rows are kept whole until they are full. Then every second one goes, and so on: kept are the requests whose
(request + offset) is a multiple of `every`, a power of two. So the sample depends on the seed and on the requests' ids, not on
the order in which they end. Of all requests, kept or not, the log counts reasons and delays, and sums up the time they took.

Delays are counted in bins: of one nanosecond each below 256 ns, then 128 equal ones to each doubling, so that a bin is at most
1/128 of its values wide.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lattice_core import wide
from lattice_core.directory import Directory, Handle, zeros
from lattice_core.jit import jit, load, row_of, store
from lattice_core.state import COMPLETED, REASONS
from lattice_core.streams import SAMPLES, bits

CAPACITY = 1_000_000
"""Requests that are kept whole; of more, a sample is."""

ROW = np.dtype(
    [(name, np.int64) for name in ("request", "arrival_ns", "dispatch_ns", "first_token_ns", "end_ns", "fee_nlai")]
    + [(name, np.int32) for name in ("population", "user", "node", "model", "prompt_tok", "output_tok", "outcome", "reason")]
)
"""The columns of `requests.parquet`: `population` and `model` are indices of the config's, `outcome` and `reason` codes of
`state`, and times as `Status` tells them, 0 for none."""

TALLY = np.dtype(
    [
        (name, np.int64)
        for name in (
            "capacity",
            "offset",
            "every",
            "kept",  # rows in use
            "even_mark",  # of these, rows until the last mark of an even number,
            "odd_mark",  # and of an odd one
            "sojourn_high",  # Σ end − arrival, in the words of `wide`
            "sojourn_low",
        )
    ]
)

DELAYS = ("ttft", "latency")
"""What is counted in bins: time to first token of requests that saw one, time to the last token of completed ones."""
_TTFT, _LATENCY = range(len(DELAYS))

_SUB_BITS = 7
BINS = (64 - _SUB_BITS) << _SUB_BITS
"""Bins of a delay, so many that each int64 ≥ 0 has one."""

BIN_ERROR = 0.5 / (1 << _SUB_BITS)
"""How far a value may lie from the middle of its bin, as a share of the value."""

_WORDS = ROW.itemsize // 8
_ROWS, _TALLY, _REASONS, _DELAYS = range(4)
_row_at, _tally_at = row_of(ROW, _ROWS), row_of(TALLY, _TALLY)


class RequestLog(Directory):
    """The requests that have ended. `handle` is what `add` takes; a pickle holds the rows in use only.

    `rows` (ROW, `kept` of them in use, in the order of their ends), `tally` (TALLY, one row), `reasons` (requests by code of
    `state.REASONS`; completed ones have code 0) and `delays` (requests by bin: BINS for each of DELAYS, one after another).
    """

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"rows": self.rows[: self.tally[0]["kept"]]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.extend("rows", int(self.tally[0]["capacity"]))

    @property
    def every(self) -> int:
        """The sample is one request in so many; 1 while all are kept."""
        return int(self.tally[0]["every"])

    @property
    def offset(self) -> int:
        """Kept is each request for which (request + offset) % every is 0; less than `every`."""
        return int(self.tally[0]["offset"]) % self.every

    @property
    def sojourn_ns(self) -> int:
        """Σ end − arrival over all requests that have ended."""
        return wide.total(self.tally[0]["sojourn_high"], self.tally[0]["sojourn_low"])

    def mark(self, number: int) -> None:
        """Remember which rows there are now as mark `number`; the mark before it stays, those before that are forgotten."""
        self.tally[0][_mark(number)] = self.tally[0]["kept"]

    def marked(self, number: int) -> NDArray[Any]:
        """The rows of the sample that were there at that mark."""
        marked: NDArray[Any] = self.rows[: self.tally[0][_mark(number)]]
        return marked

    def keeps(self, requests: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the sample, as it is now, has a place for each of these requests."""
        return np.array([keeps(self.handle, request) for request in requests.tolist()], np.bool_)


def new_request_log(seed: int, capacity: int = CAPACITY) -> RequestLog:
    """An empty log whose sample is drawn by `seed`. It has room for `capacity` ≥ 2 rows, and uses memory as they come."""
    tally = zeros(1, TALLY)
    tally["capacity"], tally["every"] = capacity, 1
    tally["offset"] = int(bits(seed, SAMPLES, 0, 0)) >> 2  # the sum with an id stays below 2⁶³
    return RequestLog(
        {
            "rows": zeros(capacity, ROW),
            "tally": tally,
            "reasons": zeros(len(REASONS), np.int64),
            "delays": zeros(len(DELAYS) * BINS, np.int64),
        }
    )


@jit
def add(
    log: Handle,
    request: int,
    population: int,
    user: int,
    node: int,
    model: int,
    prompt_tok: int,
    output_tok: int,
    arrival_ns: int,
    sent_ns: int,
    first_token_ns: int,
    end_ns: int,
    outcome: int,
    reason: int,
    fee_nlai: int,
) -> None:
    """A request has ended; the arguments are a row's values."""
    tally = _tally_at(log, 0)
    spent_ns = end_ns - arrival_ns
    tally.sojourn_high, tally.sojourn_low = wide.plus(tally.sojourn_high, tally.sojourn_low, 1, spent_ns)
    _count(log, _REASONS, reason)
    if first_token_ns > 0:
        _count(log, _DELAYS, _TTFT * BINS + bin_of(first_token_ns - arrival_ns))
    if outcome == COMPLETED:
        _count(log, _DELAYS, _LATENCY * BINS + bin_of(spent_ns))
    while keeps(log, request):
        if tally.kept < tally.capacity:
            row = _row_at(log, tally.kept)
            row.request, row.population, row.user, row.node, row.model = request, population, user, node, model
            row.prompt_tok, row.output_tok, row.arrival_ns, row.dispatch_ns = prompt_tok, output_tok, arrival_ns, sent_ns
            row.first_token_ns, row.end_ns, row.outcome, row.reason = first_token_ns, end_ns, outcome, reason
            row.fee_nlai = fee_nlai
            tally.kept += 1
            return
        _halve(log)


@jit
def keeps(log: Handle, request: int) -> bool:
    """Whether the sample has a place for this request."""
    tally = _tally_at(log, 0)
    return (request + tally.offset) & (tally.every - 1) == 0


@jit
def bin_of(ns: int) -> int:
    """The bin of a delay; one below 0 is counted as 0."""
    ns = max(ns, 0)
    shift = 0
    for step in (32, 16, 8, 4, 2, 1):
        if ns >> (shift + step) >> _SUB_BITS > 0:
            shift += step
    return (shift << _SUB_BITS) + (ns >> shift)


def bounds_ns(bins: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The least and the greatest delay of each bin, ns."""
    shift = np.maximum((bins >> _SUB_BITS) - 1, 0)
    low = (bins - (shift << _SUB_BITS)) << shift
    return low, low + ((1 << shift) - 1)


@jit
def _count(log: Handle, table: int, entry: int) -> None:
    store(log, table, entry, load(log, table, entry) + 1)


@jit
def _halve(log: Handle) -> None:
    """Keep every second request of the sample."""
    tally = _tally_at(log, 0)
    tally.every *= 2
    kept, even, odd = 0, 0, 0
    for row in range(tally.kept):
        if keeps(log, _row_at(log, row).request):
            _move(log, row, kept)
            kept += 1
            even += row < tally.even_mark
            odd += row < tally.odd_mark
    tally.kept, tally.even_mark, tally.odd_mark = kept, even, odd


@jit
def _move(log: Handle, row: int, to: int) -> None:
    for word in range(_WORDS):
        store(log, _ROWS, to * _WORDS + word, load(log, _ROWS, row * _WORDS + word))


def _mark(number: int) -> str:
    return "odd_mark" if number % 2 else "even_mark"
