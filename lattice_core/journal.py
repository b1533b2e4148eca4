"""The journal's format: one header, then every input event in order, a line of JSON each.

The header names the format, the hash of the event schema and the hash of the rules; what it does not know it refuses. The
kernel writes lines to whatever sink it is given: files belong to drivers. A last line without its end was never written.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import fields
from functools import cache
from hashlib import sha256
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
import orjson

from lattice_core.batch import Chunk
from lattice_core.events import EVENTS, Command, Event

FORMAT = "lattice-journal"
VERSION = 1
RULES = (
    *("agenda", "batch", "batches", "directory", "facts", "jit", "ledger", "nexus", "nodes", "pricing", "reputation"),
    *("requests", "routing", "split", "state", "streams", "timers", "transition", "units"),
)
"""The modules whose source decides what the kernel does with an event."""

_BY_NAME = {kind.__name__: kind for kind in EVENTS}
_TAKES: dict[Any, Any] = {int: int, bool: int, float: (int, float)}
"""What a field of an event takes; one of any other type takes a list."""


class JournalError(ValueError):
    """A journal that cannot be read: says which line, what it holds and what is allowed."""


class Header(NamedTuple):
    """What a journal says of itself: the whole config, and the hashes of what wrote it."""

    format: str
    version: int
    schema: str
    rules: str
    config: str


@cache
def rules_hash() -> str:
    """SHA-256 over the sources of RULES."""
    digest = sha256()
    for module in RULES:
        digest.update(resources.files("lattice_core").joinpath(f"{module}.py").read_bytes())
    return digest.hexdigest()


@cache
def schema_hash() -> str:
    """SHA-256 over the names and fields of every event."""
    return sha256(orjson.dumps([[kind.__name__, *kind._fields] for kind in EVENTS])).hexdigest()


def header_line(config: str) -> str:
    """The first line of a journal for a network with this canonical config."""
    return _line(Header(FORMAT, VERSION, schema_hash(), rules_hash(), config)._asdict())


def event_line(event: Event) -> str:
    """One event as a line."""
    return _line((type(event).__name__, *event))


def decision_line(number: int, command: Command) -> str:
    """One command as a line, after the number of the event that caused it: what a replay compares."""
    return _line((number, type(command).__name__, *map(_plain, command)))


def read(lines: Iterable[str], source: str) -> tuple[Header, Iterator[Event]]:
    """The header and the events of a journal. JournalError for a format, schema or line that is not known."""
    numbered = enumerate(lines, 1)
    _, first = next(numbered, (0, ""))
    header = _header(first, source)
    return header, (_event(line, source, number) for number, line in numbered if line.endswith("\n"))


def _line(content: Any) -> str:
    line = orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE).decode()
    if "null" in line:  # perhaps a NaN or an infinity, which json knows how to write
        line = json.dumps(content, separators=(",", ":"), ensure_ascii=False) + "\n"
    return line


def _plain(value: Any) -> Any:
    """A value of a command as JSON takes it: a chunk is a list of its fields, a column a list of numbers."""
    if isinstance(value, Chunk):
        return [_plain(getattr(value, field.name)) for field in fields(value)]
    return value.tolist() if isinstance(value, np.ndarray) else value


def _header(line: str, source: str) -> Header:
    try:
        header = Header(**json.loads(line))
    except (ValueError, TypeError) as error:
        raise JournalError(f"{source}: line 1: must be a {FORMAT} header with {', '.join(Header._fields)}") from error
    for field, allowed in (("format", FORMAT), ("version", VERSION), ("schema", schema_hash()), ("rules", rules_hash())):
        if getattr(header, field) != allowed:
            raise JournalError(f"{source}: header: {field}: must be {allowed}, not {getattr(header, field)}")
    return header


def _event(line: str, source: str, number: int) -> Event:
    try:
        name, *values = json.loads(line)
        kind = _BY_NAME[name]
        event = kind(*(_value(value) for value in values))
        if not all(
            isinstance(value, _TAKES.get(kind.__annotations__[field], tuple)) for field, value in event._asdict().items()
        ):
            raise TypeError("a value is of another type")
        return event
    except (ValueError, TypeError, KeyError) as error:
        allowed = ", ".join(_BY_NAME)
        raise JournalError(f"{source}: line {number}: {line.strip()[:80]!r} is not an event; allowed: {allowed}") from error


def _value(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_value(item) for item in value)
    if not isinstance(value, float) and not (isinstance(value, int) and -(2**63) <= value < 2**63):
        raise ValueError("must be a number that fits 64 bits")
    return value
