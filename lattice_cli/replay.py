"""`lattice replay`: recompute each decision of a run from its journal; silent if nothing differs."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from lattice_core.config import ConfigError

MANIFEST, JOURNAL, DECISIONS = "manifest.json", "journal.jsonl", "decisions.jsonl"
"""A run directory's files that a replay reads."""


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("replay", help="recompute each decision of a run from the events in its journal")
    parser.add_argument("run", metavar="RUN", help="directory of a live run, or of one simulated with --journal")
    parser.set_defaults(command=_replay)


def _replay(arguments: argparse.Namespace) -> int:
    from lattice_core.journal import JournalError
    from lattice_core.replay import replay

    run = Path(arguments.run)
    try:
        with lines(run, "journal") as (events, source), lines(run, "decisions") as (commands, _):
            difference = replay(events, commands, _digest(run / MANIFEST), source)
    except JournalError as error:
        raise ConfigError(str(error)) from error
    if difference is not None:
        print(f"{run}: {difference}", file=sys.stderr)
    return 0 if difference is None else 1


@contextmanager
def lines(run: Path, what: str) -> Iterator[tuple[Iterable[str], str]]:
    """The lines of a run's `journal` or `decisions`, and where they stand: for a live network that has not ended, its storage.

    Raises ConfigError, also while they are read.
    """
    from lattice_live.sqlite import FILE, Reader
    from lattice_live.storage import StorageError

    file = run / {"journal": JOURNAL, "decisions": DECISIONS}[what]
    if not file.exists() and (run / FILE).exists():
        try:
            with closing(Reader(run / FILE)) as reader:
                yield reader.lines("events" if what == "journal" else what), str(run / FILE)
        except StorageError as error:
            raise ConfigError(str(error)) from error
        return
    try:
        with file.open(encoding="utf-8", errors="replace") as held:
            yield held, str(file)
    except OSError as error:
        raise ConfigError(f"{run}: must be a run with a journal: {error.filename}: {error.strerror}") from error


def _digest(manifest: Path) -> str | None:
    """The digest with which the run ended; None for a run that has not, which has no manifest."""
    if not manifest.exists():
        return None
    try:
        return json.loads(manifest.read_text(encoding="utf-8"))["digest"] or None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{manifest}: must be a run's manifest, with a digest") from error
