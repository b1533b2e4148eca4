"""A kernel's state as bytes: a header line of JSON, then each table's rows as they lie in memory. Plain data, no code.

What a header does not match is refused: another format, other rules, another config, rows that are missing or altered.
"""

import json
import sys
from hashlib import sha256
from typing import Any

import numpy as np

from lattice_core.directory import Rows
from lattice_core.journal import rules_hash

FORMAT = "lattice-snapshot"
VERSION = 1


class SnapshotError(ValueError):
    """A snapshot that cannot be restored: one line that says what it holds and what is allowed."""


def dump(tables: dict[str, Rows], events: int, config: str) -> bytes:
    """The tables, and the number of events that led to them, of a kernel with the config of this hash."""
    rows = b"".join(table.tobytes() for table in tables.values())
    header = {
        **_expected(config),
        "events": events,
        "tables": {name: len(table) for name, table in tables.items()},
        "sha256": sha256(rows).hexdigest(),
    }
    return json.dumps(header).encode() + b"\n" + rows


def load(blob: bytes, dtypes: dict[str, np.dtype[Any]], config: str) -> tuple[dict[str, Rows], int]:
    """What `dump` was given: the tables, of these dtypes, and the number of events. SnapshotError."""
    line, _, rows = blob.partition(b"\n")
    try:
        header = json.loads(line)
        for key, allowed in _expected(config).items():
            if header[key] != allowed:
                raise SnapshotError(f"snapshot: {key}: must be {allowed}, not {header[key]}")
        lengths = {name: int(header["tables"][name]) for name in dtypes}
        if sha256(rows).hexdigest() != header["sha256"]:
            raise SnapshotError(f"snapshot: its {len(rows)} bytes of rows are not those of its header's sha256")
        events = int(header["events"])
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SnapshotError(f"snapshot: must begin with a {FORMAT} header") from error
    tables, first = {}, 0
    for name, dtype in dtypes.items():
        tables[name] = np.frombuffer(rows, dtype, lengths[name], first)
        first += lengths[name] * dtype.itemsize
    return tables, events


def _expected(config: str) -> dict[str, Any]:
    return {"format": FORMAT, "version": VERSION, "byteorder": sys.byteorder, "rules": rules_hash(), "config": config}
