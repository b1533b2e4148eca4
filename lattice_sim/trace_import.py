"""Traces as others publish them: four text formats, read exactly or refused with one clear line, never mended; and runs.

| format | is | is read as |
|---|---|---|
| azure | Azure's LLM inference traces 2023 and 2024, CSV (Splitwise, ISCA 2024; DynamoLLM, HPCA 2025) | times to the ns |
| mooncake | Mooncake's traces, JSON Lines (FAST 2025) | ms; equal times are spread over at most 3 s; prefixes by blocks |
| burstgpt | BurstGPT, CSV (KDD 2025) | seconds; equal times are spread over at most 1 s; sessions |
| chutes | metadata of Chutes' invocations, CSV | times to the ns; `ct` as tokens that were cached |

**Spread.** Mooncake's clock ticks every 3 s, BurstGPT's every second. Requests that share a time stamp lie between it and the
next one; they are laid there independently and uniformly, as a Poisson process would, by draws that depend on the row only.

**Failed requests** have no answer that could be replayed: rows of BurstGPT and Chutes with no prompt, no answer or no end, and
a run's that were not completed, are left out and counted. In the other formats every row must be a request.

**Prefixes.** A block of Mooncake's stands for its tokens and all before it. What a prompt reuses are its leading blocks that
came before. Its prefix is the first block that not all requests of the trace begin with, together with those before it.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv

from lattice_core.config import ConfigError, NodePopulation, parse
from lattice_core.jit import jit
from lattice_core.streams import ARRIVALS, entity_key, uniform
from lattice_core.units import MAX_TOKENS, NANO
from lattice_sim.rundir import load_run
from lattice_sim.trace import Integers, Trace, TraceError

MOONCAKE_BLOCK_TOK = 512
_MOONCAKE_GRID_NS = 3 * NANO
_BURSTGPT_GRID_NS = NANO
_MS_NS = 1_000_000

# Years are bounded so that the difference of any two times fits int64 ns.
_TIME = r"^(19|20)[0-9]{2}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}(:[0-9]{2})?)?$"
_TIME_ALLOWED = "must be a time from 1900 to 2099 such as 2023-11-16 18:17:03.9799600"
_SECONDS = r"^(?P<whole>[0-9]{1,9})(?:\.(?P<part>[0-9]{1,9}))?$"
_SECONDS_ALLOWED = "must be seconds such as 45 or 45.25"
_TOKENS = r"^[0-9]{1,7}$"
_TOKENS_ALLOWED = f"must be a whole number from 1 to {MAX_TOKENS}"
_MAYBE_TOKENS = r"^([0-9]{1,7}(\.0)?)?$"
_MAYBE_TOKENS_ALLOWED = f"must be a whole number from 0 to {MAX_TOKENS}, or nothing"
_ORDER = "must not be earlier than the line before"


class Imported(NamedTuple):
    """A trace, and what was left out of it."""

    trace: Trace
    failed: int
    """Rows of requests that failed, which are left out."""


class ImportedRun(NamedTuple):
    """A run's requests, and what a replay of them would have to have: resources of each population of nodes, by figures."""

    trace: Trace
    failed: int
    nodes: list[dict[str, Any]]
    source: str


def import_trace(path: str, format: str) -> Imported:
    """The trace in the text file at `path`, of one of `FORMATS`. A time without a zone is UTC. Raises TraceError."""
    return FORMATS[format].read(path)


def import_run(folder: str) -> ImportedRun:
    """The requests of a run directory that were completed, whoever left it. Raises TraceError."""
    try:
        run = load_run(folder)
        config = parse(json.dumps(run.manifest["config"]), folder)
    except ConfigError as error:
        raise TraceError(str(error)) from None
    if run.manifest["requests"]["every"] != 1:
        raise TraceError(f"{folder}: must hold all requests; requests.parquet is a sample, of a run of too many")
    whole = (run.requests["outcome"] == "completed").to_numpy() & (run.requests["output_tok"] > 0).to_numpy()
    if not whole.any():
        raise TraceError(f"{folder}: must have a request that was completed; has {len(whole)} that were not")
    rows = run.requests[whole].sort_values(["arrival_ns", "request"], kind="stable")
    columns = (rows[name].to_numpy(np.int64) for name in ("arrival_ns", "prompt_tok", "output_tok"))
    about = run.manifest
    source = f"run {about['name']}, seed {about['seed']}, engine {about['engine']}, config {about['config_sha256'][:12]}"
    return ImportedRun(_trace(*columns), int((~whole).sum()), [_resources(nodes) for nodes in config.nodes], source)


def _resources(nodes: NodePopulation) -> dict[str, Any]:
    """What a population of nodes is, with its speed at each model as figures."""
    speeds = {}
    for model in nodes.models:
        figures = asdict(nodes.profile(model))
        del figures["source"]
        speeds[model] = {name: value for name, value in figures.items() if value is not None}
    same = {name: getattr(nodes, name) for name in ("name", "count", "slots", "queue", "network_delay_ns", "bond_nlai")}
    return {**same, "models": speeds}


def detect(path: str) -> str:
    """The format that the first line of a file shows. Raises TraceError."""
    try:
        with open(path, "rb") as file:
            line = file.readline(65_536).decode(errors="replace").strip()
    except OSError as error:
        raise TraceError(f"{path}: must be a file that can be read: {error.strerror}") from None
    words = _keys(line) if line.startswith("{") else {word.strip(' "\ufeff') for word in line.split(",")}
    for name, format in FORMATS.items():
        if words >= set(format.needs):
            return name
    known = "; ".join(f"{name}: {', '.join(format.needs)}" for name, format in FORMATS.items())
    raise TraceError(f"{path}: line 1: must show one of the formats {known}; not {line[:80]!r}")


def _keys(line: str) -> set[str]:
    try:
        return set(json.loads(line))
    except ValueError:
        return set()


# Formats


def _azure(path: str) -> Imported:
    table = _table(path, FORMATS["azure"].needs)
    time, prompt, output = FORMATS["azure"].needs
    t_ns = _calendar_ns(path, table, time)
    return Imported(_trace(t_ns, _tokens(path, table, prompt), _tokens(path, table, output)), 0)


def _burstgpt(path: str) -> Imported:
    table = _table(path, FORMATS["burstgpt"].needs, ("Session ID",))
    time, prompt, output, _ = FORMATS["burstgpt"].needs
    t_ns = _seconds_ns(path, table, time)
    prompt_tok, output_tok = _maybe_tokens(path, table, prompt), _maybe_tokens(path, table, output)
    session = _numbered(table["Session ID"]) if "Session ID" in table.column_names else None
    served = (prompt_tok > 0) & (output_tok > 0)
    return _served(path, served, _spread(t_ns, _BURSTGPT_GRID_NS), prompt_tok, output_tok, session)


def _chutes(path: str) -> Imported:
    time, end, prompt, output = "started_at", "completed_at", "it", "ot"
    table = _table(path, FORMATS["chutes"].needs, ("ct",))
    t_ns = _calendar_ns(path, table, time)
    prompt_tok, output_tok = _maybe_tokens(path, table, prompt), _maybe_tokens(path, table, output)
    reused_tok = np.minimum(_maybe_tokens(path, table, "ct"), prompt_tok) if "ct" in table.column_names else None
    served = (prompt_tok > 0) & (output_tok > 0) & ~_match(table[end], "^$")
    return _served(path, served, t_ns, prompt_tok, output_tok, reused_tok=reused_tok)


def _mooncake(path: str) -> Imported:
    lengths: dict[str, list[int]] = {"timestamp": [], "input_length": [], "output_length": []}
    blocks: list[list[int]] = []
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                row = _row(path, number, line)
                for column, values in lengths.items():
                    low, high = (0, 10**12) if column == "timestamp" else (1, MAX_TOKENS)
                    value = row.get(column)
                    if type(value) is not int or not low <= value <= high:
                        allowed = f"must be a whole number from {low} to {high}"
                        raise TraceError(f"{path}: line {number}: {column} {allowed}, not {str(value)[:80]!r}")
                    if column == "timestamp" and values and value < values[-1]:
                        raise TraceError(f"{path}: line {number}: {column} {_ORDER}, not {value!r}")
                    values.append(value)
                ids = row.get("hash_ids", [])
                if not isinstance(ids, list) or not all(type(block) is int for block in ids):
                    raise TraceError(f"{path}: line {number}: hash_ids must be a list of whole numbers, not {str(ids)[:80]!r}")
                blocks.append(ids)
    except OSError as error:
        raise TraceError(f"{path}: must be a file that can be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise TraceError(f"{path}: must be UTF-8 text") from None
    if not blocks:
        raise TraceError(f"{path}: line 1: must be a request; the file has none")
    t_ms, prompt_tok, output_tok = (np.array(values, np.int64) for values in lengths.values())
    trace = _trace(_spread(t_ms * _MS_NS, _MOONCAKE_GRID_NS), prompt_tok, output_tok)
    reused_tok = np.minimum(_seen(blocks) * MOONCAKE_BLOCK_TOK, prompt_tok)
    return Imported(trace._replace(prefix=_prefixes(blocks), reused_tok=reused_tok), 0)


class _Format(NamedTuple):
    """How a format is told from others, and read."""

    needs: tuple[str, ...]
    """Names that its first line must have."""
    read: Callable[[str], Imported]


FORMATS = {
    "azure": _Format(("TIMESTAMP", "ContextTokens", "GeneratedTokens"), _azure),
    "mooncake": _Format(("timestamp", "input_length", "output_length"), _mooncake),
    "burstgpt": _Format(("Timestamp", "Request tokens", "Response tokens", "Log Type"), _burstgpt),
    "chutes": _Format(("invocation_id", "started_at", "completed_at", "it", "ot"), _chutes),
}
"""Formats by name."""


# Traces


def _trace(t_ns: Integers, prompt_tok: Integers, output_tok: Integers) -> Trace:
    none = np.zeros_like(t_ns)
    return Trace(t_ns - t_ns[0], prompt_tok, output_tok, none, none, none)


def _served(
    path: str,
    served: NDArray[np.bool_],
    t_ns: Integers,
    prompt_tok: Integers,
    output_tok: Integers,
    session: Integers | None = None,
    reused_tok: Integers | None = None,
) -> Imported:
    """The rows of requests that were served."""
    if not served.any():
        raise TraceError(f"{path}: must have a request that was served; all {len(served)} failed")
    trace = _trace(t_ns[served], prompt_tok[served], output_tok[served])
    if session is not None:
        trace = trace._replace(session=session[served])
    if reused_tok is not None:
        trace = trace._replace(reused_tok=reused_tok[served])
    return Imported(trace, int((~served).sum()))


def _spread(t_ns: Integers, grid_ns: int) -> Integers:
    """Times, in order, with those that are equal laid between them and the next time, at most `grid_ns` later."""
    stamps_ns, of, counts = np.unique(t_ns, return_inverse=True, return_counts=True)
    room_ns = np.minimum(np.diff(stamps_ns, append=stamps_ns[-1] + grid_ns), grid_ns)
    room_ns[counts == 1] = 0
    draws = np.empty(len(t_ns))
    fill_uniform(entity_key("trace", 0), draws)
    return np.sort(t_ns + (draws * room_ns[of]).astype(np.int64))


@jit
def fill_uniform(key: int, out: NDArray[np.float64]) -> None:
    for row in range(len(out)):
        out[row] = uniform(0, ARRIVALS, key, row)


def _seen(blocks: list[list[int]]) -> Integers:
    """How many leading blocks of each request came before."""
    seen: set[int] = set()
    counts = np.empty(len(blocks), np.int64)
    for row, ids in enumerate(blocks):
        counts[row] = next((place for place, block in enumerate(ids) if block not in seen), len(ids))
        seen.update(ids)
    return counts


def _prefixes(blocks: list[list[int]]) -> Integers:
    """A hash of each request's leading blocks up to the first that not all requests have in common; 0 without blocks."""
    common = 0
    while len({tuple(ids[common : common + 1]) for ids in blocks}) == 1 and len(blocks) > 1 and len(blocks[0]) > common:
        common += 1
    return np.array([_hash(ids[: common + 1]) if ids else 0 for ids in blocks], np.int64)


def _hash(ids: list[int]) -> int:
    return int.from_bytes(blake2b(json.dumps(ids).encode(), digest_size=8).digest(), "little") >> 1 | 1


# Columns of text


def _row(path: str, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise TraceError(f"{path}: line {number}: must be a JSON object, not {line.strip()[:80]!r}")
    return row


def _table(path: str, needed: tuple[str, ...], welcome: tuple[str, ...] = ()) -> pa.Table:
    """The rows as text, one for each line after the first."""
    try:
        with open(path, "rb") as file:
            table = csv.read_csv(
                file,
                csv.ReadOptions(use_threads=False),  # only so do errors tell the row
                csv.ParseOptions(ignore_empty_lines=False),
                csv.ConvertOptions(column_types=dict.fromkeys((*needed, *welcome), pa.string())),
            )
        names = table.column_names
    except OSError as error:
        raise TraceError(f"{path}: must be a file that can be read: {error.strerror}") from None
    except ValueError as error:
        raise TraceError(f"{path}: must be a CSV file: {str(error).splitlines()[0]}") from None
    if any(names.count(column) != 1 for column in needed) or any(names.count(column) > 1 for column in welcome):
        raise TraceError(f"{path}: line 1: must name {', '.join(needed)} once each, not {', '.join(names)[:200]}")
    if len(table) == 0:
        raise TraceError(f"{path}: line 2: must be a request; the file has none")
    return table


def _calendar_ns(path: str, table: pa.Table, column: str) -> Integers:
    """Times of the calendar, ns since 1970."""
    texts = table[column]
    times = pd.to_datetime(texts.to_pandas(), format="ISO8601", utc=True, errors="coerce")
    _refuse_first(path, column, texts, ~_match(texts, _TIME) | times.isna().to_numpy(), _TIME_ALLOWED)
    return _in_order(path, column, texts, times.dt.as_unit("ns").astype("int64").to_numpy())


def _seconds_ns(path: str, table: pa.Table, column: str) -> Integers:
    texts = table[column]
    _refuse_first(path, column, texts, ~_match(texts, _SECONDS), _SECONDS_ALLOWED)
    fields = pc.extract_regex(texts, _SECONDS)
    whole, part = (pc.struct_field(fields, name) for name in ("whole", "part"))
    part_ns = pc.utf8_rpad(pc.fill_null(part, ""), 9, "0").cast(pa.int64()).to_numpy()
    return _in_order(path, column, texts, whole.cast(pa.int64()).to_numpy() * NANO + part_ns)


def _in_order(path: str, column: str, texts: pa.ChunkedArray, t_ns: Integers) -> Integers:
    _refuse_first(path, column, texts, np.diff(t_ns, prepend=t_ns[0]) < 0, _ORDER)
    return t_ns


def _tokens(path: str, table: pa.Table, column: str) -> Integers:
    texts = table[column]
    tokens = pc.if_else(_match(texts, _TOKENS), texts, "0").cast(pa.int64()).to_numpy()
    _refuse_first(path, column, texts, (tokens < 1) | (tokens > MAX_TOKENS), _TOKENS_ALLOWED)
    return tokens


def _maybe_tokens(path: str, table: pa.Table, column: str) -> Integers:
    """Tokens, 0 where there is nothing."""
    texts = table[column]
    good = _match(texts, _MAYBE_TOKENS)
    plain = pc.replace_substring_regex(texts, r"\.0$", "")
    tokens = pc.if_else(good & ~_match(texts, "^$"), plain, "0").cast(pa.int64()).to_numpy()
    _refuse_first(path, column, texts, ~good | (tokens > MAX_TOKENS), _MAYBE_TOKENS_ALLOWED)
    return tokens


def _numbered(texts: pa.ChunkedArray) -> Integers:
    """1, 2, 3 … for each text in the order in which they first appear, 0 for none."""
    filled = texts.to_pandas()
    filled = filled.where(filled != "")
    return pd.factorize(filled)[0].astype(np.int64) + 1


def _match(texts: pa.ChunkedArray, pattern: str) -> NDArray[np.bool_]:
    return pc.match_substring_regex(texts, pattern).to_numpy()


def _refuse_first(path: str, column: str, texts: pa.ChunkedArray, bad: NDArray[np.bool_], allowed: str) -> None:
    if bad.any():
        row = int(bad.argmax())
        raise TraceError(f"{path}: line {row + 2}: {column} {allowed}, not {texts[row].as_py()[:80]!r}")
