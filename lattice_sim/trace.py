"""A trace of arrivals read from a file in the format of Azure's 2023 LLM inference traces (Splitwise, ISCA 2024).

    TIMESTAMP,ContextTokens,GeneratedTokens
    2023-11-16 18:17:03.9799600,4808,10

Times are exact to the nanosecond. Further columns are allowed and ignored. A row that cannot be replayed is refused, never
mended.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv

from lattice_core.units import MAX_TOKENS

TIME, PROMPT, OUTPUT = "TIMESTAMP", "ContextTokens", "GeneratedTokens"

# Years are bounded so that the difference of any two times fits int64 ns.
_TIME = r"^(19|20)[0-9]{2}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})?$"
_TIME_ALLOWED = "must be a time from 1900 to 2099 such as 2023-11-16 18:17:03.9799600"
_TOKENS = r"^[0-9]{1,7}$"
_TOKENS_ALLOWED = f"must be a whole number from 1 to {MAX_TOKENS}"


class TraceError(ValueError):
    """A bad trace: one line with file, line of the file, column, value and what is allowed."""


class Trace(NamedTuple):
    """Requests in time order, the first at 0: int64 arrays of equal length."""

    t_ns: NDArray[np.int64]
    prompt_tok: NDArray[np.int64]
    output_tok: NDArray[np.int64]


def read_trace(path: str) -> Trace:
    """The trace in the CSV file at `path`. A time without a zone is UTC. Raises TraceError."""
    table = _table(path)
    t_ns = _times_ns(path, table[TIME])
    return Trace(t_ns - t_ns[0], _tokens(path, table, PROMPT), _tokens(path, table, OUTPUT))


def _table(path: str) -> pa.Table:
    """The rows as text, one for each line after the first."""
    columns = (TIME, PROMPT, OUTPUT)
    try:
        with open(path, "rb") as file:
            table = csv.read_csv(
                file,
                csv.ReadOptions(use_threads=False),  # only so do errors tell the row
                csv.ParseOptions(ignore_empty_lines=False),
                csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string())),
            )
        names = table.column_names
    except OSError as error:
        raise TraceError(f"{path}: must be a file that can be read: {error.strerror}") from None
    except ValueError as error:
        raise TraceError(f"{path}: must be a CSV file: {str(error).splitlines()[0]}") from None
    if any(names.count(column) != 1 for column in columns):
        raise TraceError(f"{path}: line 1: must name {', '.join(columns)} once each, not {', '.join(names)[:200]}")
    if len(table) == 0:
        raise TraceError(f"{path}: line 2: must be a request; the file has none")
    return table


def _times_ns(path: str, texts: pa.ChunkedArray) -> NDArray[np.int64]:
    times = pd.to_datetime(texts.to_pandas(), format="ISO8601", utc=True, errors="coerce")
    _refuse_first(path, TIME, texts, ~_match(texts, _TIME) | times.isna().to_numpy(), _TIME_ALLOWED)
    t_ns = times.dt.as_unit("ns").astype("int64").to_numpy()
    _refuse_first(path, TIME, texts, np.diff(t_ns, prepend=t_ns[0]) < 0, "must not be earlier than the line before")
    return t_ns


def _tokens(path: str, table: pa.Table, column: str) -> NDArray[np.int64]:
    texts = table[column]
    tokens = pc.if_else(_match(texts, _TOKENS), texts, "0").cast(pa.int64()).to_numpy()
    _refuse_first(path, column, texts, (tokens < 1) | (tokens > MAX_TOKENS), _TOKENS_ALLOWED)
    return tokens


def _match(texts: pa.ChunkedArray, pattern: str) -> NDArray[np.bool_]:
    return pc.match_substring_regex(texts, pattern).to_numpy()


def _refuse_first(path: str, column: str, texts: pa.ChunkedArray, bad: NDArray[np.bool_], allowed: str) -> None:
    if bad.any():
        row = int(bad.argmax())
        raise TraceError(f"{path}: line {row + 2}: {column} {allowed}, not {texts[row].as_py()[:80]!r}")
