"""`lattice up` in a process that can be killed at any moment, and what its folder then holds.

Processes are forked from one that has imported everything, so that each is there in a moment.
"""

import multiprocessing
import os
import re
import signal
import sys
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from lattice_core.config import parse
from lattice_core.events import Arrive, BatchConfirmed, Progress, Receipt, Status, Submit
from lattice_core.journal import read
from lattice_core.nexus import Nexus
from lattice_core.replay import replay
from lattice_live.node.receipts import Signed
from lattice_live.sqlite import FILE, Reader

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["tests.live.preloaded"])


class Up:
    """`lattice up CONFIG --out DIR`, with what it has printed so far."""

    def __init__(self, config: Path, folder: Path, *options: str, snapshots: tuple[int, float] | None = None) -> None:
        """`snapshots`: behind so many events, and seconds, another is taken."""
        ours, theirs = _PROCESSES.Pipe(duplex=False)
        arguments = ["up", str(config), "--set", "live.listen=127.0.0.1:0", "--out", str(folder), *options]
        self._process = _PROCESSES.Process(target=_up, args=(theirs, arguments, snapshots))
        self._process.start()
        theirs.close()
        self._said = os.fdopen(os.dup(ours.fileno()))
        ours.close()
        self.key: str | None = None

    def wait(self) -> str:
        """Its URL, once it listens."""
        for line in self._said:
            if found := re.search(r"sk-lattice-[\w-]+", line):
                self.key = found.group()
            if found := re.search(r"listening on (\S+)", line):
                return found[1]
        raise AssertionError(f"it ended with {self.end()}")

    def signal(self, number: int) -> int:
        """Its exit status, after this signal."""
        if self._process.pid is not None and self._process.is_alive():
            os.kill(self._process.pid, number)
        return self.end()

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def end(self) -> int:
        self._process.join(60)
        return self._process.exitcode if self._process.exitcode is not None else -1


def _up(said: Connection, arguments: list[str], snapshots: tuple[int, float] | None) -> None:
    from lattice_cli.main import main
    from lattice_live import recovery

    if snapshots is not None:
        recovery.EVERY_EVENTS, recovery.EVERY_S = snapshots
    os.dup2(said.fileno(), sys.stdout.fileno())
    sys.exit(main(arguments))


class Held(NamedTuple):
    """What a folder holds: how each request ended, what was paid for each leg, each leg's last receipt and Progress.

    Batches are by epoch and chunk.
    """

    statuses: dict[int, Status]
    paid: dict[int, Receipt]
    receipts: dict[int, Signed]
    progress: dict[int, int]
    arrived: dict[int, Arrive]
    sent: set[tuple[int, int]]
    settled: set[tuple[int, int]]
    nexus: Nexus


def held(folder: Path) -> Held:
    """Everything recomputed from the events, after comparing it with the decisions; nothing may be there twice."""
    with closing(Reader(folder / FILE)) as reader:
        assert replay(reader.lines("events"), reader.lines("decisions"), None, FILE) is None
        header, events = read(reader.lines("events"), FILE)
        receipts = {one.progress.leg: one for one in reader.receipts()}
        found = Held({}, {}, receipts, {}, {}, set(), set(), Nexus(parse(header.config, FILE)))
        for event in events:
            if isinstance(event, Progress):
                found.progress[event.leg] = event.upto_tok
            elif isinstance(event, Arrive):
                assert event.request not in found.arrived
                found.arrived[event.request] = event
            elif isinstance(event, BatchConfirmed):
                assert (event.epoch, event.chunk) in found.sent - found.settled
                found.settled.add((event.epoch, event.chunk))
            for command in found.nexus.handle(event):
                if isinstance(command, Status):
                    assert command.request not in found.statuses
                    found.statuses[command.request] = command
                elif isinstance(command, Receipt):
                    assert command.leg not in found.paid
                    found.paid[command.leg] = command
                elif isinstance(command, Submit):
                    found.sent.add((command.batch.epoch, command.batch.chunk))
    return found
