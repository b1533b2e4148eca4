"""A trace of requests: when they came, how long they were, and which belong together; and the one Parquet format it is kept in.

    t_ns         int64   arrival, nanoseconds since the first request
    prompt_tok   int64   tokens of the prompt
    output_tok   int64   tokens of the answer
    session      int64   what the request is a turn of; 0 for none
    prefix       int64   what its prompt begins with, as a hash; 0 where nothing is known of it
    reused_tok   int64   leading tokens of the prompt that an earlier prompt began with too

The file's metadata holds a header under `lattice.trace`: a JSON object of version, source, licence, units, requests, span_ns
and the columns that the source told of; the others are all 0. A trace of a run has `nodes` there, too, that served it.
"""

import json
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from lattice_core.units import MAX_TOKENS

VERSION = 1
_KEY = b"lattice.trace"
_UNITS = {"t_ns": "ns", "prompt_tok": "tokens", "output_tok": "tokens", "session": "id", "prefix": "id", "reused_tok": "tokens"}
_MOST = {"t_ns": 2**62, "prompt_tok": MAX_TOKENS, "output_tok": MAX_TOKENS, "reused_tok": MAX_TOKENS}
_LEAST = {"prompt_tok": 1, "output_tok": 1}
_ALWAYS = ("t_ns", "prompt_tok", "output_tok")

type Integers = NDArray[np.int64]


class TraceError(ValueError):
    """A bad trace: one line with file, line of the file, column, value and what is allowed."""


class Trace(NamedTuple):
    """Requests in time order, the first at 0: int64 arrays of equal length, at least 1."""

    t_ns: Integers
    prompt_tok: Integers
    output_tok: Integers
    session: Integers
    prefix: Integers
    reused_tok: Integers


class Header(NamedTuple):
    """Where a trace comes from, and what is in it."""

    source: str
    licence: str
    columns: tuple[str, ...]
    """Columns that the source told of."""
    requests: int
    span_ns: int
    """From the first arrival to the last."""


def header(trace: Trace, source: str, licence: str) -> Header:
    """The header of `trace`."""
    columns = tuple(name for name, column in trace._asdict().items() if name in _ALWAYS or column.any())
    return Header(source, licence, columns, len(trace.t_ns), int(trace.t_ns[-1]))


def write_trace(path: str, trace: Trace, source: str, licence: str, **more: Any) -> None:
    """Write a Parquet file, with `more` in its header. Equal traces give equal bytes. Raises TraceError for a place that
    cannot be written to."""
    about = header(trace, source, licence)
    told = {"version": VERSION, "units": _UNITS} | about._asdict() | more
    table = pa.table(trace._asdict()).replace_schema_metadata({_KEY: json.dumps(told, sort_keys=True).encode()})
    whole = BytesIO()
    parquet.write_table(table, whole, compression="zstd")
    write(path, whole.getvalue())


def write(path: str, content: bytes) -> None:
    """Write a file. Raises TraceError for a place that cannot be written to."""
    try:
        Path(path).write_bytes(content)
    except OSError as error:
        raise TraceError(f"{path}: must be a place for a file: {error.strerror}") from None


def read_trace(path: str) -> Trace:
    """The trace in a Parquet file that `lattice trace import` wrote, or in a CSV file in Azure's format. Raises TraceError."""
    if _is_parquet(path):
        return _read(path)[0]
    from lattice_sim.trace_import import import_trace

    return import_trace(path, "azure").trace


def read_with_header(path: str) -> tuple[Trace, Header]:
    """As `read_trace`, with the header; a CSV file names no source. Raises TraceError."""
    if _is_parquet(path):
        return _read(path)
    trace = read_trace(path)
    return trace, header(trace, "unknown", "unknown")


def _is_parquet(path: str) -> bool:
    try:
        with Path(path).open("rb") as file:
            return file.read(4) == b"PAR1"
    except OSError as error:
        raise TraceError(f"{path}: must be a file that can be read: {error.strerror}") from None


def _read(path: str) -> tuple[Trace, Header]:
    try:
        table = parquet.read_table(path)
        about: dict[str, Any] = json.loads((table.schema.metadata or {}).get(_KEY, b"null")) or {}
    except (OSError, ValueError) as error:
        raise TraceError(f"{path}: must be a whole Parquet file: {str(error).splitlines()[0]}") from None
    if about.get("version") != VERSION:
        raise TraceError(f"{path}: must be a trace of version {VERSION} that lattice trace import wrote, with its header")
    columns = []
    for name in Trace._fields:
        if name not in table.column_names or table.schema.field(name).type != pa.int64() or table[name].null_count:
            raise TraceError(f"{path}: must have a column {name} of int64 without nulls")
        column = table[name].to_numpy()
        low, high = _LEAST.get(name, 0), _MOST.get(name, 2**63 - 1)
        _refuse_first(path, name, column, (column < low) | (column > high), f"must be from {low} to {high}")
        columns.append(column)
    trace = Trace(*columns)
    if not len(trace.t_ns):
        raise TraceError(f"{path}: must have a request; the file has none")
    _refuse_first(path, "t_ns", trace.t_ns, np.diff(trace.t_ns, prepend=0) < 0, "must not be earlier than the row before")
    _refuse_first(path, "t_ns", trace.t_ns[:1], trace.t_ns[:1] != 0, "must begin at 0")
    return trace, header(trace, str(about.get("source")), str(about.get("licence")))


def _refuse_first(path: str, column: str, values: Integers, bad: NDArray[np.bool_], allowed: str) -> None:
    if bad.any():
        row = int(bad.argmax())
        raise TraceError(f"{path}: row {row + 1}: {column} {allowed}, not {values[row]}")
