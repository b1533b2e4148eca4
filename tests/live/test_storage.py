"""What a Storage calls durable is there after any crash, in order; it never makes the loop wait, and says when it broke."""

import asyncio
import json
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from lattice_live.node.receipts import Progress, Signed
from lattice_live.sqlite import FILE, PIECE_BYTES, SNAPSHOTS, Reader, Sqlite
from lattice_live.storage import StorageError


def signed(leg: int, to_tok: int = 1) -> Signed:
    return Signed(Progress(0, 1, leg, bytes(32), 5, 0, to_tok, bytes([leg % 256] * 32), 12), bytes(range(65)))


def run(folder, work):
    """What `work(storage)` returns, on a loop of its own."""

    async def main():
        storage = Sqlite(folder / FILE)
        try:
            return await work(storage)
        finally:
            await storage.close()

    return asyncio.run(main())


def lines(path, table="events"):
    with closing(Reader(path)) as reader:
        return list(reader.lines(table))


class Filmed(Sqlite):
    """Copies its files after each commit and before anyone hears of it: what a kill leaves then."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.frames = [self._copy()]

    def _write(self, batch, first):
        super()._write(batch, first)
        self.frames.append(self._copy())

    def _copy(self):
        frame = Path(tempfile.mkdtemp(dir=self.path.parent))
        for file in self.path.parent.glob(f"{FILE}*"):
            shutil.copy(file, frame)
        return frame


SPACES = st.sampled_from(["keys", "chats"])
NAMES = st.sampled_from(["a", "ab", "b", "é", "a/1"])
VALUES = st.dictionaries(
    st.sampled_from(["text", "n"]), st.one_of(st.text(max_size=5), st.integers(-5, 5), st.none()), max_size=2
)


class Crashes(RuleBasedStateMachine):
    """Writes, waits, and crashes that leave the files as some commit did. `written` are operations, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.place = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.written: list[tuple] = []
        self.announced: list[tuple[int, int]] = []  # (operations, frames) when a `done` was called
        self.called: list[int] = []
        self.asked = 0
        self.storage = self.runner.run(self._open(Path(self.place.name)))

    async def _open(self, folder: Path) -> Filmed:
        return Filmed(folder / FILE)

    def teardown(self) -> None:
        self.runner.run(self.storage.close())
        self.runner.close()
        self.place.cleanup()

    def _write(self, *operations: tuple, wait: bool) -> None:
        async def write() -> None:
            for name, *arguments in operations:
                getattr(self.storage, name)(*arguments)
                self.written.append((name, *arguments))
            reached, number = len(self.written), self.asked
            self.asked += 1
            self.storage.after(lambda: (self.called.append(number), self.announced.append((reached, len(self.storage.frames)))))
            if wait:
                await self.storage.durable()
            else:
                await asyncio.sleep(0)  # the commit may begin

        self.runner.run(write())

    @rule(count=st.integers(1, 4), wait=st.booleans())
    def happen(self, count: int, wait: bool) -> None:
        """Events, each with a decision, as the kernel brings them."""
        first = sum(name == "journal" for name, *_ in self.written)
        pairs = [(("journal", f'["Tick",{n}]\n'), ("decision", f'[{n},"é"]\n')) for n in range(first, first + count)]
        self._write(*(operation for pair in pairs for operation in pair), wait=wait)

    @rule(leg=st.integers(1, 3), to_tok=st.integers(1, 9), wait=st.booleans())
    def receive(self, leg: int, to_tok: int, wait: bool) -> None:
        self._write(("receipt", signed(leg, to_tok)), wait=wait)

    @rule(space=SPACES, name=NAMES, value=VALUES, wait=st.booleans())
    def put(self, space: str, name: str, value: dict, wait: bool) -> None:
        self._write(("put", space, name, value), wait=wait)

    @rule(space=SPACES, name=NAMES, wait=st.booleans())
    def drop(self, space: str, name: str, wait: bool) -> None:
        self._write(("drop", space, name), wait=wait)

    @rule(size=st.integers(0, 3 * PIECE_BYTES))
    def take_snapshot(self, size: int) -> None:
        async def take() -> None:
            self.storage.snapshot(len(self.written), {"kernel": b"k" * size, "rest": b"r"})

        self.runner.run(take())

    @rule(choice=st.integers(0, 7))
    def crash(self, choice: int) -> None:
        """Go on from what a commit left: any that may have been the last, for all that anyone was told."""
        told = max((frames for _, frames in self.announced), default=1)
        frames = self.storage.frames[told - 1 :]
        frame = frames[choice % len(frames)]
        must = max((reached for reached, _ in self.announced), default=0)
        self.runner.run(self.storage.close())
        self.storage = self.runner.run(self._open(frame))
        self.announced.clear()
        held = self._held()
        fits = [n for n in range(must, len(self.written) + 1) if self._model(self.written[:n]) == held]
        assert fits, (must, self.written, held)
        self.written = self.written[: fits[0]]

    @invariant()
    def what_is_read_is_what_was_written_last(self) -> None:
        _, _, _, documents = self._model(self.written)
        for space in ("keys", "chats"):
            known = {key: value for (of, key), value in documents.items() if of == space}
            assert self.storage.items(space) == dict(sorted(known.items()))
            assert self.storage.items(space, "a") == {k: v for k, v in sorted(known.items()) if k.startswith("a")}
            assert all(self.storage.get(space, key) == known.get(key) for key in ("a", "é", "zz"))

    @invariant()
    def who_waits_is_called_in_order(self) -> None:
        assert self.called == sorted(self.called)

    @invariant()
    def a_snapshot_is_whole_or_not_there(self) -> None:
        found = self.storage.reader.snapshots()
        assert len(found) <= SNAPSHOTS
        for events in found:
            assert self.storage.reader.parts(events)["rest"] == b"r"

    def _held(self) -> tuple:
        reader = self.storage.reader
        receipts = {one.progress.leg: one for one in reader.receipts()}
        documents = {
            (space, key): json.loads(text) for space in ("keys", "chats") for key, text in reader.documents(space).items()
        }
        return list(reader.lines("events")), list(reader.lines("decisions")), receipts, documents

    @staticmethod
    def _model(operations: list[tuple]) -> tuple:
        events, decisions, receipts, documents = [], [], {}, {}
        for name, *arguments in operations:
            match name:
                case "journal":
                    events.append(arguments[0])
                case "decision":
                    decisions.append(arguments[0])
                case "receipt":
                    receipts[arguments[0].progress.leg] = arguments[0]
                case "put":
                    documents[arguments[0], arguments[1]] = arguments[2]
                case "drop":
                    documents.pop((arguments[0], arguments[1]), None)
        return events, decisions, receipts, documents


Crashes.TestCase.settings = settings(max_examples=20, stateful_step_count=20)
TestCrashes = Crashes.TestCase


def test_a_commit_is_synced_before_it_is_told_of(tmp_path):
    async def look(storage):
        return [storage._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]

    assert run(tmp_path, look) == ["wal", 2]


def test_nobody_waits_for_the_disk_and_nobody_is_told_too_early(tmp_path):
    async def work(storage):
        other = sqlite3.connect(storage.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")  # nothing can be written until it ends
        called = []
        storage.journal("first\n")
        storage.put("keys", "k", {"n": 1})
        storage.after(lambda: called.append("first"))
        await asyncio.sleep(0.05)
        storage.journal("second\n")
        storage.after(lambda: called.append("second"))
        await asyncio.sleep(0.05)
        assert called == []
        assert storage.get("keys", "k") == {"n": 1}
        assert storage.reader.document("keys", "k") is None
        other.execute("ROLLBACK")
        other.close()
        await storage.durable()
        assert called == ["first", "second"]
        storage.after(lambda: called.append("at once"))
        assert called == ["first", "second", "at once"]
        return list(storage.reader.lines("events"))

    assert run(tmp_path, work) == ["first\n", "second\n"]


def test_a_full_disk_breaks_it_for_good_and_what_was_durable_stays(tmp_path):
    async def work(storage):
        storage.journal("kept\n")
        await storage.durable()
        pages = storage._connection.execute("PRAGMA page_count").fetchone()[0]
        storage._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        told = []
        storage.put("chats", "c", {"text": "x" * 100_000})
        storage.after(lambda: told.append("never"))
        with pytest.raises(StorageError, match=r"nexus\.sqlite: cannot be written: database or disk is full"):
            await storage.durable()
        assert isinstance(storage.broken.exception(), StorageError)
        storage.journal("lost\n")
        storage.after(lambda: told.append("never"))
        with pytest.raises(StorageError):
            await storage.durable()
        assert told == []

    run(tmp_path, work)
    assert lines(tmp_path / FILE) == ["kept\n"]


def test_a_snapshot_delays_no_commit_by_more_than_a_piece_and_the_last_two_are_kept(tmp_path):
    async def work(storage):
        for events in (10, 20, 30):
            storage.snapshot(events, {"kernel": bytes([events]) * (8 * PIECE_BYTES + 1), "none": b""})
            storage.journal(f"{events}\n")
            await storage.durable()
            assert events not in storage.reader.snapshots()  # the event was durable long before
            while events not in storage.reader.snapshots():
                await asyncio.sleep(0.001)
        assert storage.reader.snapshots() == [30, 20]
        assert storage.reader.parts(30) == {"kernel": bytes([30]) * (8 * PIECE_BYTES + 1)}
        assert storage.reader.parts(10) == {}
        storage.snapshot(40, {"kernel": b"x" * 8 * PIECE_BYTES})  # closing does not lose it

    run(tmp_path, work)
    with closing(Reader(tmp_path / FILE)) as reader:
        assert reader.snapshots() == [40, 30]


def test_a_file_of_another_version_or_of_something_else_is_refused_and_left_as_it_was(tmp_path):
    run(tmp_path, lambda storage: storage.durable())
    for name, change, words in (
        ("newer", "PRAGMA user_version = 2", "version: must be 1, not 2"),
        ("other", "PRAGMA application_id = 7", "must be the file of a live network, and is none"),
    ):
        (tmp_path / name).mkdir()
        file = shutil.copy(tmp_path / FILE, tmp_path / name / FILE)
        with closing(sqlite3.connect(file)) as connection:
            connection.execute(change)
            connection.commit()
        _refused(file, words)
    for name, content, words in (("text", b"no database", "file is not a database"), ("empty", b"", "is none")):
        (tmp_path / name).mkdir()
        file = tmp_path / name / FILE
        file.write_bytes(content)
        _refused(file, words)
    with pytest.raises(StorageError, match="must be the file of a live network"):
        Reader(tmp_path / "nowhere" / FILE)


def _refused(file, words):
    before = file.read_bytes()
    with pytest.raises(StorageError, match=words) as refused:
        run(file.parent, lambda storage: storage.durable())
    assert "\n" not in str(refused.value)
    assert file.read_bytes() == before
