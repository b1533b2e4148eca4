"""Replay: recompute every decision of a journal from its input events alone, and name the first that differs (INV-7)."""

import json
from collections.abc import Iterable
from typing import NamedTuple

from lattice_core.config import parse
from lattice_core.journal import JournalError, read
from lattice_core.nexus import Nexus, Sink


class Difference(NamedTuple):
    """Where recorded and recomputed part: the number of the event, counted from 1, and the two decisions ("" for none)."""

    event: int
    recorded: str
    recomputed: str

    def __str__(self) -> str:
        recorded, recomputed = (line.strip() or "nothing" for line in (self.recorded, self.recomputed))
        return f"event {self.event}: recorded {recorded}, recomputed {recomputed}"


def replay(journal: Iterable[str], decisions: Iterable[str], digest: str | None, source: str) -> Difference | None:
    """Feed the journal's events to a fresh Nexus of its header's config; the first difference to `decisions`, or None.

    `digest` is the one (in hex) with which the run ended, None if that is not known; it stands for all that no single decision
    shows, such as balances. `source` names the journal in errors. Raises JournalError.
    """
    header, events = read(journal, source)
    recomputed: list[str] = []
    nexus = _nexus(header.config, source, recomputed.append)
    recorded = (line for line in decisions if line.endswith("\n"))
    number = 0
    for number, event in enumerate(events, 1):  # noqa: B007 (the last number is used below)
        nexus.handle(event)
        for line in recomputed:
            found = next(recorded, "")
            if found != line:
                return _difference(found, line)
        recomputed.clear()
    found = next(recorded, "")
    if found:
        return _difference(found, "")
    if digest not in (None, nexus.digest().hex()):
        return Difference(number, f"the digest {digest}", f"the digest {nexus.digest().hex()}")
    return None


def _nexus(config: str, source: str, decisions: Sink) -> Nexus:
    try:
        return Nexus(parse(config, f"{source}: header: config"), decisions=decisions)
    except ValueError as error:
        raise JournalError(str(error).partition("\n")[0]) from error


def _difference(recorded: str, recomputed: str) -> Difference:
    """Of two lines for different events only the earlier one is a difference there: the other side has none."""
    numbers = [_number(line) for line in (recorded, recomputed) if line]
    event = min(numbers)
    return Difference(event, *(line if line and _number(line) == event else "" for line in (recorded, recomputed)))


def _number(line: str) -> int:
    try:
        number, *_ = json.loads(line)
        return int(number)
    except (ValueError, TypeError) as error:
        raise JournalError(
            f"decisions: {line.strip()[:80]!r} is not a decision; it must be [event, command, values …]"
        ) from error
