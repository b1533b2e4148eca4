"""A Storage in one SQLite file: write-ahead log, full sync, one thread that commits whatever has been queued.

Where somebody waits, a commit begins as soon as the one before has ended, with all that has come meanwhile: under load they
grow. What nobody waits for goes with the next one, LINGER_S later at the latest.

The rows of a table go to SQLite as one JSON text in one statement, so that the thread needs the interpreter for
moments only. A snapshot goes in pieces, one with each commit, so that it delays none for long.
"""

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple

import orjson

from lattice_live.node.receipts import Progress, Signed
from lattice_live.storage import StorageError

FILE = "nexus.sqlite"
"""Its name in a network's folder."""

DRAFT = f"{FILE}.part"
"""Its name until it has its tables."""

APPLICATION = 0x4C415454
"""In the file's header, where SQLite keeps whose file it is."""

VERSION = 1
"""Of the tables; a file of another is refused."""

SNAPSHOTS = 2
"""How many are kept: one more than is needed, should the last be damaged."""

PIECE_BYTES = 1 << 17

LINGER_S = 0.004
"""A commit costs as much as the rest of a request; what happens between two of them is in both anyway."""

_TABLES = """
    CREATE TABLE events (number INTEGER PRIMARY KEY, line TEXT NOT NULL);
    CREATE TABLE decisions (number INTEGER PRIMARY KEY, line TEXT NOT NULL);
    CREATE TABLE receipts (leg INTEGER PRIMARY KEY, progress TEXT NOT NULL, signature TEXT NOT NULL);
    CREATE TABLE documents (space TEXT, key TEXT, value TEXT NOT NULL, PRIMARY KEY (space, key)) WITHOUT ROWID;
    CREATE TABLE pieces (events INTEGER, part TEXT, number INTEGER, bytes BLOB, PRIMARY KEY (events, part, number));
"""
"""`pieces` are those of snapshots; one without a name says that the snapshot is whole."""

_APPEND = "INSERT INTO {table} SELECT key + ?, value FROM json_each(?)"
_RECEIPTS = "INSERT OR REPLACE INTO receipts SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?)"
_PUT = "INSERT OR REPLACE INTO documents SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?)"
_DROP = "DELETE FROM documents WHERE (space, key) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?))"
_WHOLE = "SELECT events FROM pieces WHERE part = '' ORDER BY events DESC"
_FORGET = f"DELETE FROM pieces WHERE events NOT IN ({_WHOLE} LIMIT {SNAPSHOTS})"


class Reader:
    """What a file holds that is durable when it is asked for."""

    def __init__(self, path: Path) -> None:
        """Open the file of a live network, whether or not another process writes to it. Raises StorageError."""
        if not path.is_file():
            raise StorageError(f"{path}: must be the file of a live network")
        self.path = path
        self._connection = _connect(path)
        _check(self._connection, path)

    def count(self, table: str) -> int:
        """How many lines `events`, where the header is one, or `decisions` has."""
        ((count,),) = self._rows(f"SELECT coalesce(max(number) + 1, 0) FROM {table}")
        return int(count)

    def lines(self, table: str, first: int = 0) -> Iterator[str]:
        """The lines of `events` or `decisions`, from one on."""
        return (line for (line,) in self._rows(f"SELECT line FROM {table} WHERE number >= ? ORDER BY number", first))

    def receipts(self, leg: int | None = None) -> list[Signed]:
        """The last receipt of each leg, or of one, by leg."""
        rows = self._rows("SELECT progress, signature FROM receipts WHERE ? IS NULL OR leg = ? ORDER BY leg", leg, leg)
        return [Signed(Progress.from_json(orjson.loads(progress)), bytes.fromhex(signature)) for progress, signature in rows]

    def document(self, space: str, key: str) -> str | None:
        """A document's JSON."""
        return next(
            (value for (value,) in self._rows("SELECT value FROM documents WHERE space = ? AND key = ?", space, key)), None
        )

    def documents(self, space: str, prefix: str = "") -> dict[str, str]:
        """The JSON of those whose keys begin so, by key."""
        query = "SELECT key, value FROM documents WHERE space = ? AND key >= ? AND key < ? ORDER BY key"
        return dict(self._rows(query, space, prefix, f"{prefix}\U0010ffff"))

    def snapshots(self) -> list[int]:
        """After how many events there are snapshots, the latest first."""
        return [events for (events,) in self._rows(_WHOLE)]

    def parts(self, events: int) -> dict[str, bytes]:
        """A snapshot's parts."""
        found: dict[str, list[bytes]] = {}
        for part, blob in self._rows(
            "SELECT part, bytes FROM pieces WHERE events = ? AND part != '' ORDER BY part, number", events
        ):
            found.setdefault(part, []).append(blob)
        return {part: b"".join(blobs) for part, blobs in found.items()}

    def backup(self, to: Path) -> None:
        """Copy the file as it is now, while others write. Raises StorageError."""
        try:
            copy = sqlite3.connect(to)
            self._connection.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
            copy.close()
        except sqlite3.Error as error:
            raise StorageError(f"{to}: cannot be written: {error}") from error

    def close(self) -> None:
        self._connection.close()

    def _rows(self, query: str, *values: Any) -> Iterator[Any]:
        try:
            for row in self._connection.execute(query, values):  # noqa: UP028 (a cursor left behind must not be closed after us)
                yield row
        except sqlite3.Error as error:
            raise StorageError(f"{self.path}: cannot be read: {error}") from error


class _Piece(NamedTuple):
    """A row of `pieces`."""

    events: int
    part: str
    number: int
    bytes: bytes


class _Batch:
    """What one commit writes, and who waits for it."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.decisions: list[str] = []
        self.receipts: dict[int, Signed] = {}
        self.documents: dict[tuple[str, str], str | None] = {}
        self.piece: _Piece | None = None
        self.done: list[Callable[[], object]] = []

    def __bool__(self) -> bool:
        return bool(self.events or self.decisions or self.receipts or self.documents or self.piece)


class Sqlite:
    """A Storage. Made and used on one event loop; `reader` sees what is durable."""

    def __init__(self, path: Path) -> None:
        """Open the file, and make it if it is missing. Raises StorageError."""
        self.path = path
        self._loop = asyncio.get_running_loop()
        self.broken: asyncio.Future[None] = self._loop.create_future()
        self._connection = _open(path)
        self.reader = Reader(path)
        self._counts = {table: self.reader.count(table) for table in ("events", "decisions")}
        self._queued = _Batch()
        self._written: _Batch | None = None
        self._pieces: deque[_Piece] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._hurried = False
        self._closing: asyncio.Future[None] | None = None
        self._batches: SimpleQueue[tuple[_Batch, dict[str, int]] | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name="storage", daemon=True)  # a process that fails need not wait for it
        self._thread.start()

    # Writing

    def journal(self, line: str) -> None:
        self._queue().events.append(line)

    def decision(self, line: str) -> None:
        self._queue().decisions.append(line)

    def receipt(self, signed: Signed) -> None:
        self._queue().receipts[signed.progress.leg] = signed

    def put(self, space: str, key: str, value: Mapping[str, Any]) -> None:
        self._queue().documents[space, key] = _json(value)

    def drop(self, space: str, key: str) -> None:
        self._queue().documents[space, key] = None

    def snapshot(self, events: int, parts: Mapping[str, bytes]) -> None:
        if events in self.reader.snapshots():
            return
        for part, blob in parts.items():
            for number, first in enumerate(range(0, len(blob), PIECE_BYTES)):
                self._pieces.append(_Piece(events, part, number, blob[first : first + PIECE_BYTES]))
        self._pieces.append(_Piece(events, "", 0, b""))
        self._queue()

    def _queue(self) -> _Batch:
        """What the next commit will write."""
        if self._timer is None:
            self._timer = self._loop.call_later(LINGER_S, self._begin)
        return self._queued

    def _hurry(self) -> None:
        """Let it begin at once: when the loop's present callback is through, or the commit under way is."""
        if self._written is None and not self._hurried:
            self._hurried = True
            self._loop.call_soon(self._begin)

    # Reading

    def get(self, space: str, key: str) -> dict[str, Any] | None:
        for fresh in reversed(self._fresh()):
            if (space, key) in fresh:
                return _parsed(fresh[space, key])
        return _parsed(self.reader.document(space, key))

    def items(self, space: str, prefix: str = "") -> dict[str, dict[str, Any]]:
        found: dict[str, str | None] = dict(self.reader.documents(space, prefix))
        for fresh in self._fresh():
            found |= {key: text for (of, key), text in fresh.items() if of == space and key.startswith(prefix)}
        return {key: value for key in sorted(found) if (value := _parsed(found[key])) is not None}

    def _fresh(self) -> list[dict[tuple[str, str], str | None]]:
        """Documents that may not be durable yet, the newest last."""
        return [batch.documents for batch in (self._written, self._queued) if batch is not None]

    # Durability

    def after(self, done: Callable[[], object]) -> None:
        if self._queued:
            self._queued.done.append(done)
            self._hurry()
        elif self._written is not None:
            self._written.done.append(done)
        elif not self.broken.done():
            done()

    async def durable(self) -> None:
        reached = self._loop.create_future()
        self.after(lambda: None if reached.done() else reached.set_result(None))
        await asyncio.wait((reached, self.broken), return_when=asyncio.FIRST_COMPLETED)
        if not reached.done():
            self.broken.result()

    async def close(self) -> None:
        """Make all of it durable, unless nothing can be any more, and let go of the file."""
        self._closing = self._loop.create_future()
        self._hurry()
        await asyncio.wait((self._closing, self.broken), return_when=asyncio.FIRST_COMPLETED)
        self._batches.put(None)
        self._thread.join()
        self.reader.close()
        self._connection.close()

    def _begin(self) -> None:
        """Let the thread write what is queued, if it writes nothing else."""
        self._hurried = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._written is not None:
            return
        if self._pieces:
            self._queued.piece = self._pieces.popleft()
        if self._queued:
            batch = self._written = self._queued
            self._queued = _Batch()
            self._batches.put((batch, dict(self._counts)))
            self._counts["events"] += len(batch.events)
            self._counts["decisions"] += len(batch.decisions)
        elif self._closing is not None and not self._closing.done():
            self._closing.set_result(None)

    def _end(self, batch: _Batch, error: Exception | None) -> None:
        """A commit has ended. After one that failed `_written` stays, so that no other begins."""
        if error is not None:
            self.broken.set_exception(StorageError(f"{self.path}: cannot be written: {error}"))
            return
        self._written = None
        if self._queued.done or self._closing is not None:
            self._begin()
        elif self._queued or self._pieces:
            self._queue()
        for done in batch.done:
            done()

    # On the thread

    def _work(self) -> None:
        while (work := self._batches.get()) is not None:
            error: Exception | None = None
            try:
                self._write(*work)
            except Exception as failure:
                error = failure
            self._loop.call_soon_threadsafe(self._end, work[0], error)

    def _write(self, batch: _Batch, first: Mapping[str, int]) -> None:
        """One transaction; `first` are the numbers of its first lines."""
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        for table, lines in (("events", batch.events), ("decisions", batch.decisions)):
            if lines:
                execute(_APPEND.format(table=table), (first[table], _json(lines)))
        if batch.receipts:
            execute(_RECEIPTS, (_json([_row(signed) for signed in batch.receipts.values()]),))
        if puts := [[space, key, text] for (space, key), text in batch.documents.items() if text is not None]:
            execute(_PUT, (_json(puts),))
        if drops := [[space, key] for (space, key), text in batch.documents.items() if text is None]:
            execute(_DROP, (_json(drops),))
        if batch.piece is not None:
            execute("INSERT OR REPLACE INTO pieces VALUES (?, ?, ?, ?)", batch.piece)
            if not batch.piece.part:
                execute(_FORGET)
        execute("COMMIT")


def _open(path: Path) -> sqlite3.Connection:
    """The file to be written to, made whole or not at all if it is missing. Raises StorageError."""
    if not path.exists():
        draft = path.with_name(DRAFT)
        draft.unlink(missing_ok=True)
        connection = _connect(draft)
        try:
            marks = f"PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION};"
            connection.executescript(f"BEGIN; {_TABLES} {marks} COMMIT;")
        except sqlite3.Error as error:
            raise StorageError(f"{path}: cannot be written: {error}") from error
        finally:
            connection.close()
        draft.replace(path)
    connection = _connect(path)
    _check(connection, path)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    except sqlite3.Error as error:
        raise StorageError(f"{path}: cannot be written: {error}") from error
    return connection


def _connect(path: Path) -> sqlite3.Connection:
    try:
        return sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise StorageError(f"{path}: cannot be opened: {error}") from error


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """Raises StorageError, and closes the connection, unless the file has our tables."""
    try:
        ((application,),) = connection.execute("PRAGMA application_id")
        ((version,),) = connection.execute("PRAGMA user_version")
        if application != APPLICATION:
            raise StorageError(f"{path}: must be the file of a live network, and is none")
        if version != VERSION:
            raise StorageError(f"{path}: version: must be {VERSION}, not {version}")
    except sqlite3.Error as error:
        connection.close()
        raise StorageError(f"{path}: cannot be read: {error}") from error
    except StorageError:
        connection.close()
        raise


def _row(signed: Signed) -> list[Any]:
    return [signed.progress.leg, _json(signed.progress.to_json()), signed.signature.hex()]


def _json(content: Any) -> str:
    return orjson.dumps(content).decode()


def _parsed(text: str | None) -> dict[str, Any] | None:
    found: dict[str, Any] | None = None if text is None else orjson.loads(text)
    return found
