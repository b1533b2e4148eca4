"""A trace is read exactly or refused with one clear line."""

import csv
import os
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from lattice_core.units import MAX_TOKENS, NANO
from lattice_sim.trace import Trace, TraceError, header, read_trace, read_with_header, write_trace

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
GOOD = "2023-11-16 18:17:03.9799600,4808,10"
LATER = "2023-11-16 18:17:04.0319600,3180,8"
NOT_TOKENS = f"must be a whole number from 1 to {MAX_TOKENS}"
NOT_TIME = "must be a time from 1900 to 2099"


def write(folder: Path, *lines: str, end: str = "\n") -> str:
    path = folder / "trace.csv"
    path.write_bytes("".join(line + end for line in lines).encode())
    return str(path)


def azure_2023_code() -> Path:
    """The real trace; skips the calling test where it is not at hand, whatever else is required."""
    path = Path(os.environ.get("LATTICE_TRACES", "")) / "AzureLLMInferenceTrace2023_code.csv"
    if not path.is_file():
        pytest.skip(f"needs LATTICE_TRACES: the folder that holds {path.name}")
    return path


def exact_ns(text: str) -> int:
    """The time in whole nanoseconds since 1900, by Python's calendar and integers."""
    whole, _, fraction = text.partition(".")
    since = datetime.fromisoformat(whole) - datetime(1900, 1, 1)
    return (since.days * 86_400 + since.seconds) * NANO + int(fraction.ljust(9, "0"))


def test_the_azure_trace_is_read_to_the_nanosecond_and_to_the_token() -> None:
    path = azure_2023_code()
    trace = read_trace(str(path))
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(trace.t_ns) == 8_819
    start_ns = exact_ns(rows[0]["TIMESTAMP"])
    assert trace.t_ns.tolist() == [exact_ns(row["TIMESTAMP"]) - start_ns for row in rows]
    assert trace.prompt_tok.tolist() == [int(row["ContextTokens"]) for row in rows]
    assert trace.output_tok.tolist() == [int(row["GeneratedTokens"]) for row in rows]


@given(
    gaps_ns=st.lists(st.integers(0, 10**16), max_size=20),
    start_s=st.integers(0, 4 * 10**9),
    tokens=st.tuples(st.integers(1, MAX_TOKENS), st.integers(1, MAX_TOKENS)),
)
def test_what_is_written_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, gaps_ns: list[int], start_s: int, tokens: tuple[int, int]
) -> None:
    t_ns = np.cumsum([0, *gaps_ns], dtype=np.int64)
    times = np.datetime64(start_s, "s").astype("datetime64[ns]") + t_ns.astype("timedelta64[ns]")
    lines = [f"{time},{tokens[0]},{tokens[1]}" for time in times]
    trace = read_trace(write(tmp_path_factory.getbasetemp(), HEADER, *lines))
    assert trace.t_ns.tolist() == t_ns.tolist()
    assert set(trace.prompt_tok) == {tokens[0]}
    assert set(trace.output_tok) == {tokens[1]}
    assert {column.dtype for column in trace} == {np.dtype(np.int64)}
    assert {len(column) for column in trace} == {len(t_ns)}


def test_equal_times_other_columns_windows_line_ends_and_zones_are_allowed(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "Model,GeneratedTokens,ContextTokens,TIMESTAMP",
        "a,10,4808,2023-11-16 18:17:03",
        ",8,3180,2023-11-16T19:17:03+01:00",
        "b,8,3180,2023-11-16 18:17:03.000000001Z",
        end="\r\n",
    )
    trace = read_trace(path)
    assert trace.t_ns.tolist() == [0, 0, 1]
    assert trace.prompt_tok.tolist() == [4808, 3180, 3180]
    assert trace.output_tok.tolist() == [10, 8, 8]


@pytest.mark.parametrize("value", ["", "NaN", "null", "-1", "0", "10.0", "1e3", "ten", " 8", str(MAX_TOKENS + 1), "9" * 30])
@pytest.mark.parametrize("column", ["ContextTokens", "GeneratedTokens"])
def test_tokens_that_are_no_positive_whole_number_are_refused(tmp_path: Path, column: str, value: str) -> None:
    bad = f"2023-11-16 18:17:05,{value},10" if column == "ContextTokens" else f"2023-11-16 18:17:05,10,{value}"
    path = write(tmp_path, HEADER, GOOD, LATER, bad)
    with pytest.raises(TraceError) as refused:
        read_trace(path)
    assert str(refused.value) == f"{path}: line 4: {column} {NOT_TOKENS}, not {value!r}"


@pytest.mark.parametrize(
    "value",
    [
        "",
        "NaN",
        "yesterday",
        "2023-11-16",
        "1700158623.97",
        "2023-02-30 18:17:05",
        "2023-11-16 18:17:60",
        "2023-11-16 24:00:00",
        "2023-11-16 18:17:05.0000000001",
        "1500-11-16 18:17:05",
        "16/11/2023 18:17:05",
    ],
)
def test_a_time_that_is_none_is_refused(tmp_path: Path, value: str) -> None:
    path = write(tmp_path, HEADER, GOOD, LATER, f"{value},10,10")
    with pytest.raises(TraceError) as refused:
        read_trace(path)
    assert str(refused.value).startswith(f"{path}: line 4: TIMESTAMP {NOT_TIME}")
    assert str(refused.value).endswith(f", not {value!r}")


def test_requests_out_of_order_are_refused_at_the_first_that_goes_back(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER, LATER, LATER, GOOD, LATER)
    with pytest.raises(TraceError) as refused:
        read_trace(path)
    time = "2023-11-16 18:17:03.9799600"
    assert str(refused.value) == f"{path}: line 4: TIMESTAMP must not be earlier than the line before, not {time!r}"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "must be a CSV file: Empty CSV file"),
        (["TIMESTAMP,ContextTokens", GOOD], "must be a CSV file: CSV parse error: Row #2: Expected 2 columns, got 3"),
        (["TIMESTAMP,ContextTokens,Tokens", GOOD], f"line 1: must name {HEADER.replace(',', ', ')} once each, not TIMESTAMP"),
        ([GOOD, LATER], "line 1: must name"),
        ([HEADER + ",TIMESTAMP", GOOD + ",1"], "line 1: must name"),
        ([HEADER], "line 2: must be a request; the file has none"),
        ([HEADER, GOOD, LATER + ",9"], "must be a CSV file: CSV parse error: Row #3: Expected 3 columns, got 4"),
        ([HEADER, GOOD, "", LATER], "line 3: TIMESTAMP must be a time"),
    ],
)
def test_a_file_of_another_shape_is_refused(tmp_path: Path, lines: list[str], message: str) -> None:
    path = write(tmp_path, *lines)
    with pytest.raises(TraceError) as refused:
        read_trace(path)
    assert str(refused.value).startswith(f"{path}: {message}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"\xff,b\n1,2\n", HEADER.encode() + b"\n\xff,1,1\n", b"\x00\x01\x02", b'"' + b"\n" * 9])
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(content)
    with pytest.raises(TraceError) as refused:
        read_trace(str(path))
    assert str(refused.value).startswith(f"{path}: ")
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_or_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"nothing\.csv: must be a file that can be read: No such file"):
        read_trace(str(tmp_path / "nothing.csv"))
    with pytest.raises(TraceError, match="must be a file that can be read: Is a directory"):
        read_trace(str(tmp_path))


# Parquet


ids = st.integers(0, 2**63 - 1)
tokens = st.integers(1, MAX_TOKENS)
rows = st.tuples(st.integers(0, 10**15), tokens, tokens, ids, ids, st.integers(0, MAX_TOKENS))


def trace_of(rows: list[tuple[int, ...]]) -> Trace:
    gaps_ns, *columns = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    return Trace(np.cumsum(gaps_ns) - gaps_ns[0], *columns)


ONE = trace_of([(0, 5, 7, 0, 0, 0)])


@given(rows=st.lists(rows, min_size=1, max_size=20), source=st.text(max_size=20), licence=st.text(max_size=20))
def test_a_trace_is_read_from_parquet_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, ...]], source: str, licence: str
) -> None:
    trace, path = trace_of(rows), str(tmp_path_factory.getbasetemp() / "trace.parquet")
    write_trace(path, trace, source, licence)
    read, about = read_with_header(path)
    assert all(np.array_equal(one, other) for one, other in zip(read, trace, strict=True))
    assert about == header(trace, source, licence)
    assert (about.source, about.licence) == (source, licence)
    assert (about.requests, about.span_ns) == (len(rows), trace.t_ns[-1])
    assert ("session" in about.columns) == trace.session.any()
    assert read_trace(path).t_ns.tolist() == trace.t_ns.tolist()


def test_equal_traces_are_equal_files(tmp_path: Path) -> None:
    for name in "ab":
        write_trace(str(tmp_path / name), ONE, "s", "l")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("t_ns", [0, 2, 1], "row 3: t_ns must not be earlier than the row before, not 1"),
        ("t_ns", [1, 2, 3], "row 1: t_ns must begin at 0, not 1"),
        ("t_ns", [0, 1, -1], "row 3: t_ns must be from 0 to"),
        ("prompt_tok", [1, 0, 1], f"row 2: prompt_tok must be from 1 to {MAX_TOKENS}, not 0"),
        ("output_tok", [1, 1, MAX_TOKENS + 1], "row 3: output_tok must be from 1 to"),
        ("session", [0, 0, -7], "row 3: session must be from 0 to"),
        ("reused_tok", [0, -1, 0], "row 2: reused_tok must be from 0 to"),
        ("prefix", [0, None, 0], "must have a column prefix of int64 without nulls"),
        ("prefix", ["a", "b", "c"], "must have a column prefix of int64 without nulls"),
        ("prefix", None, "must have a column prefix of int64 without nulls"),
    ],
)
def test_a_parquet_file_with_a_bad_value_is_refused_with_its_row(
    tmp_path: Path, column: str, values: list[int] | None, said: str
) -> None:
    path = str(tmp_path / "trace.parquet")
    write_trace(path, trace_of([(1, 1, 1, 0, 0, 0)] * 3), "s", "l")
    table = parquet.read_table(path)
    place = table.column_names.index(column)
    table = table.remove_column(place) if values is None else table.set_column(place, column, pa.array(values))
    parquet.write_table(table, path)
    with pytest.raises(TraceError) as refused:
        read_trace(path)
    assert str(refused.value).startswith(f"{path}: {said}")


def test_another_parquet_file_or_a_broken_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.parquet"
    parquet.write_table(pa.table({"t_ns": [1]}), path)
    with pytest.raises(TraceError, match="must be a trace of version 1 that lattice trace import wrote"):
        read_trace(str(path))
    write_trace(str(path), ONE, "s", "l")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TraceError, match="must be a whole Parquet file"):
        read_trace(str(path))
    empty = parquet.read_table(write_back(path, whole)).slice(0, 0)
    parquet.write_table(empty, path)
    with pytest.raises(TraceError, match="must have a request; the file has none"):
        read_trace(str(path))


def write_back(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_place_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="must be a place for a file: Is a directory"):
        write_trace(str(tmp_path), ONE, "s", "l")
