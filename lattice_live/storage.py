"""What a live network remembers, whatever holds it: events, decisions, receipts, documents, snapshots.

Nothing here waits for a disk. What is written is queued in order and becomes durable in that order, all of it or a beginning
of it; `after` and `durable` tell when. An effect that others can see must wait for that.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from lattice_live.node.receipts import Signed


class StorageError(OSError):
    """Something that could not be made durable, or read: one line says why."""


class Storage(Protocol):
    """The port. All of it is called on the event loop, and `done` is too."""

    broken: asyncio.Future[None]
    """Gets a StorageError once something cannot be made durable. Nothing that was written after that ever is, and no `done` is
    called any more: who serves must stop."""

    def journal(self, line: str) -> None:
        """The journal's next line: the header, then each event. They are numbered from 0."""

    def decision(self, line: str) -> None:
        """The next line of the decisions."""

    def receipt(self, signed: Signed) -> None:
        """A receipt that has been checked; it takes the place of the leg's one before it."""

    def put(self, space: str, key: str, value: Mapping[str, Any]) -> None:
        """Keep a document, JSON's types only, under a key of its space; it takes the place of the one before it."""

    def drop(self, space: str, key: str) -> None:
        """Forget a document, if there is one."""

    def get(self, space: str, key: str) -> dict[str, Any] | None:
        """The document last put there, durable or not yet; None if there is none."""

    def items(self, space: str, prefix: str = "") -> dict[str, dict[str, Any]]:
        """The documents of a space whose keys begin so, as `get` gives them, in the order of their keys."""

    def after(self, done: Callable[[], object]) -> None:
        """Call `done` once all that has been written so far is durable: at once if it is already. In the order of the calls."""

    async def durable(self) -> None:
        """Wait until all that has been written so far is durable. Raises StorageError if it never will be."""

    def snapshot(self, events: int, parts: Mapping[str, bytes]) -> None:
        """The network as it was after so many events, by part. The last two are kept."""
