"""`lattice replay`: recompute each decision of a run from its journal; silent if nothing differs."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from lattice_core.config import ConfigError


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("replay", help="recompute each decision of a run from the events in its journal")
    parser.add_argument("run", metavar="RUN", help="directory of a live run, or of one simulated with --journal")
    parser.set_defaults(command=_replay)


def _replay(arguments: argparse.Namespace) -> int:
    from lattice_core.journal import JournalError
    from lattice_core.replay import replay

    run = Path(arguments.run)
    journal, decisions = run / "journal.jsonl", run / "decisions.jsonl"
    try:
        with (
            journal.open(encoding="utf-8", errors="replace") as events,
            decisions.open(encoding="utf-8", errors="replace") as commands,
        ):
            difference = replay(events, commands, _digest(run / "manifest.json"), str(journal))
    except OSError as error:
        raise ConfigError(f"{run}: must be a run with a journal: {error.filename}: {error.strerror}") from error
    except JournalError as error:
        raise ConfigError(str(error)) from error
    if difference is not None:
        print(f"{run}: {difference}", file=sys.stderr)
    return 0 if difference is None else 1


def _digest(manifest: Path) -> str | None:
    """The digest with which the run ended; None for a run that has not, which has no manifest."""
    if not manifest.exists():
        return None
    try:
        return json.loads(manifest.read_text(encoding="utf-8"))["digest"] or None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{manifest}: must be a run's manifest, with a digest") from error
