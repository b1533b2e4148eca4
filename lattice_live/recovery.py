"""A live network goes on where its storage ends: from the last snapshot that fits, every event behind it is executed again.

What the events lead to is compared with the decisions that are held, and what the chain says, once it is there again, with the
facts that the journal tells. So a network goes on only as what it was.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from itertools import chain
from typing import Any, NamedTuple

from lattice_core import plain
from lattice_core.batch import Chunk
from lattice_core.chain.artifacts import contracts_hash
from lattice_core.chain.bridge import Bridge
from lattice_core.config import Config
from lattice_core.events import BatchConfirmed, BatchFailed, BatchLapsed, Bonded, Event, NodeRegistered, Status, Submit
from lattice_core.journal import JournalError, decision_line, read
from lattice_core.nexus import Nexus
from lattice_core.records import Operation
from lattice_core.settlement import Settlement as Settled
from lattice_core.snapshot import SnapshotError
from lattice_core.standing import Standing, standing
from lattice_live.aside import aside
from lattice_live.folder import FolderError
from lattice_live.history import History
from lattice_live.membership import recall
from lattice_live.settlement import Opened, Saved, Settlement
from lattice_live.sqlite import Reader, Sqlite

EVERY_EVENTS = 20_000
"""So many events behind a snapshot another is taken,"""

EVERY_S = 5.0
"""but not sooner than so long after it."""

VERSION = 2
"""Of what a snapshot holds beside the kernel: history and chain, as they save themselves."""

SPACE = "batches"
"""Where it stands what the chain did with a batch, by the number of the event that tells of it."""

TOLD = BatchConfirmed | BatchFailed | BatchLapsed
"""Events that tell of a batch."""


class Start(NamedTuple):
    """Where to go on: the kernel after so many events, which led to so many decisions; what history and chain saved then.

    The chain is None if it remembers by itself.
    """

    nexus: Nexus
    events: int
    decisions: int
    history: Any
    chain: Saved | None


class Recorder:
    """The kernel's sinks in a storage, and how many lines each has had; the header is none."""

    def __init__(self, storage: Sqlite) -> None:
        self.events = max(storage.reader.count("events") - 1, 0)
        self.decisions = storage.reader.count("decisions")
        self._storage = storage

    def event(self, line: str) -> None:
        self.events += 1
        self._storage.journal(line)

    def decision(self, line: str) -> None:
        self.decisions += 1
        self._storage.decision(line)

    def begin(self, config: Config) -> Nexus:
        """A new kernel, whose header is the journal's first line."""
        self.events = -1
        return Nexus(config, self.event, self.decision)

    def attach(self, nexus: Nexus) -> None:
        """From here on keep what a kernel does that was restored or replayed."""
        nexus.record(self.event, self.decision)

    def keep(self, event: Event, settlement: Settlement) -> None:
        """What the chain has just done with a batch, beside the event that tells of it: `recover` need not ask again."""
        if isinstance(event, TOLD):
            _, settled, operations, _, closed = settlement.outcome
            rows = {"settled": settled and list(settled), "operations": [list(operation) for operation in operations]}
            self._storage.put(SPACE, str(self.events), {**rows, "closed": closed})


def find_start(config: Config, reader: Reader) -> Start | None:
    """The last snapshot that this code can go on from; None if there is none."""
    for events in reader.snapshots():
        parts = reader.parts(events)
        try:
            about = json.loads(parts["about"])
            if about | {"decisions": 0} == _about(0, about["listing"], parts):
                listing = about["listing"]
                chain = None if listing is None else Saved(listing, parts["chain"])
                history = plain.load(parts["history"])
                return Start(Nexus.restore(config, parts["kernel"]), events, about["decisions"], history, chain)
        except (KeyError, ValueError, SnapshotError, plain.PlainError):
            continue
    return None


class Recovered(NamedTuple):
    """Kernel and history as they were, and the batches that were sent and whose fate is not known.

    `fees_nlai` are those of requests that ended behind the snapshot: whoever waited for one may not have noted it.
    """

    nexus: Nexus
    history: History
    recorder: Recorder
    unsettled: list[Chunk]
    fees_nlai: dict[int, int]


async def recover(
    start: Start | None, config: Config, live: Config, opened: Opened, settlement: Settlement, storage: Sqlite
) -> Recovered:  # fmt: skip
    """What the storage holds, executed again from `start` on; a new network if it is empty.

    `live` is the config with the launched nodes only. Raises FolderError if storage and kernel do not agree; a chain in this
    process that does not agree raises it when it has caught up.
    """
    reader, recorder = storage.reader, Recorder(storage)
    done, decided = (0, 0) if start is None else (start.events, start.decisions)
    held = recorder.events
    if start is not None:
        nexus = start.nexus
    else:
        nexus = Nexus(config) if reader.count("events") else recorder.begin(config)
    history = History(live, nexus, opened.operations)
    if start is not None:
        history.load(start.history)
    decisions = reader.lines("decisions", decided)
    batches: dict[tuple[int, int], tuple[Chunk, Standing]] = {}
    fees_nlai: dict[int, int] = {}
    for number, event in _events(reader, done):
        at = f"{reader.path}: event {number}"
        if number <= len(opened.facts):
            _agree(at, opened.facts[number - 1], event)
        elif isinstance(event, TOLD):
            sent = batches.pop((event.epoch, event.chunk), None)
            if sent is None:
                raise FolderError(f"{at}: must be of a batch that was sent, not {event}")
            settled, operations, closed = _kept(at, storage, number)
            settlement.redo(_settling(at, settlement, event, settled, closed, *sent))
            history.settle(settled, operations)
        elif isinstance(event, NodeRegistered | Bonded):
            recall(event, settlement, storage)
        commands = nexus.handle(event)
        history.see(event, commands)
        for command in commands:
            _agree(f"{at}: its decision", decision_line(number, command), next(decisions, "nothing"))
            if isinstance(command, Submit):
                said = standing(nexus, nexus.count("now_ns"))
                batches[command.batch.epoch, command.batch.chunk] = command.batch, said
            elif isinstance(command, Status):
                fees_nlai[command.request] = command.fee_nlai
    _agree(f"{reader.path}: behind the last event", "nothing", next(decisions, "nothing"))
    recorder.attach(nexus)
    if start is None:
        for fact in opened.facts[held:]:  # all of them in a new network, some if it was killed while it was founded
            history.see(fact, nexus.handle(fact))
    return Recovered(nexus, history, recorder, [batch for batch, _ in batches.values()], fees_nlai)


def _kept(at: str, storage: Sqlite, number: int) -> tuple[Settled | None, list[Operation], int]:
    """What the chain did with a batch, of which this event tells, and the last epoch closed then. Raises FolderError."""
    kept = storage.get(SPACE, str(number))
    if kept is None:
        raise FolderError(f"{at}: must have what the chain did with the batch, in documents, and has nothing")
    settled = None if kept["settled"] is None else Settled(*kept["settled"])
    return settled, [Operation(*operation) for operation in kept["operations"]], kept["closed"]


def _settling(
    at: str, settlement: Settlement, told: TOLD, settled: Settled | None, closed: int, batch: Chunk, said: Standing
) -> Callable[[Bridge], object]:
    """The work of settling a batch again. Raises FolderError if something else comes of it."""

    def settle(bridge: Bridge) -> None:
        outcome = settlement.settle_again(bridge, batch, said, closed)
        _agree(at, outcome.fact._replace(t_ns=told.t_ns), told)
        _agree(f"{at}: what was settled", outcome.settled, settled)

    return settle


def _events(reader: Reader, done: int) -> Iterator[tuple[int, Event]]:
    """The events behind the first `done`, with their numbers. Raises FolderError."""
    header = next(reader.lines("events"), None)
    if header is None:
        return
    source = f"{reader.path}: events, {done} left out"
    try:
        yield from enumerate(read(chain([header], reader.lines("events", done + 1)), source)[1], done + 1)
    except JournalError as error:
        raise FolderError(str(error)) from error


def _agree(where: str, must: object, held: object) -> None:
    if must != held:
        raise FolderError(f"{where}: must be {str(must).strip()[:200]}, not {str(held).strip()[:200]}")


class Snapshots:
    """Takes one when there is much to be replayed, and at the end."""

    def __init__(self, nexus: Nexus, history: History, settlement: Settlement, storage: Sqlite, recorder: Recorder) -> None:
        self._nexus = nexus
        self._history = history
        self._settlement = settlement
        self._storage = storage
        self._recorder = recorder
        self._last_events = max(storage.reader.snapshots(), default=0)

    async def keep(self) -> None:
        """Take one after another, until it is cancelled."""
        last_s = time.monotonic()
        while True:
            await asyncio.sleep(min(EVERY_S, 1.0))
            if self._recorder.events - self._last_events >= EVERY_EVENTS and time.monotonic() - last_s >= EVERY_S:
                await self.take()
                last_s = time.monotonic()

    async def take(self) -> bool:
        """Take one, if the chain is what the kernel knows of it; whether it was."""
        epoch = self._nexus.count("epoch")
        if not self._history.is_settled:
            return False
        saved = await self._settlement.save()
        if not self._history.is_settled or self._nexus.count("epoch") != epoch:
            return False  # a batch may be settled in what the chain saved
        events, decisions, kernel = self._recorder.events, self._recorder.decisions, self._nexus.snapshot()
        history = await aside(plain.dump, self._history.save())
        listing, chain = (None, b"") if saved is None else saved
        parts = {"kernel": kernel, "history": history, "chain": chain}
        about = await aside(_about, decisions, listing, parts)
        self._storage.snapshot(events, parts | {"about": json.dumps(about).encode()})
        self._last_events = events
        return True


def _about(decisions: int, listing: str | None, parts: Mapping[str, bytes]) -> dict[str, Any]:
    """What must be as it was for a snapshot to fit; the kernel's own part says more. `listing` is the chain's."""
    return {
        "version": VERSION,
        "sources": plain.sources_hash("lattice_core"),
        "contracts": contracts_hash(),
        "history": sha256(parts["history"]).hexdigest(),
        "chain": sha256(parts.get("chain", b"")).hexdigest(),
        "listing": listing,
        "decisions": decisions,
    }
