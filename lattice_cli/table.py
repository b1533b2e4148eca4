"""The table that `lattice up` keeps on a terminal: each node, what it has under way, how fast it is, what is settled."""

import asyncio
import io
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stderr
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from lattice_core.events import BatchConfirmed, Command, Event
from lattice_core.state import ABSENT, DRAINING, UP

if TYPE_CHECKING:
    from lattice_live.network import Network

EVERY_S = 1.0
MOST_NODES = 20
"""Rows; of more nodes only the busiest are shown."""

_STATES = {ABSENT: "absent", UP: "up", DRAINING: "draining"}


class Node(NamedTuple):
    """A node as it is now; `tokens` are all that it ever brought."""

    node: int
    state: str
    in_flight: int
    answers: int
    tokens: int


class Seen(NamedTuple):
    """A network as it is now; `settled` is the last epoch that the chain has settled, −1 if there is none."""

    name: str
    time_s: float
    epoch: int
    settled: int
    away: bool
    nodes: list[Node]


def lines(seen: Seen, before: Seen | None) -> list[str]:
    """The table, line by line; speeds are since `before`."""
    passed_s = seen.time_s - before.time_s if before is not None else 0.0
    had = {node.node: node.tokens for node in before.nodes} if before is not None else {}

    def speed(nodes: Sequence[Node]) -> str:
        tokens = sum(node.tokens - had.get(node.node, node.tokens) for node in nodes)
        return f"{tokens / passed_s:,.1f}" if passed_s > 0 else "–"

    settled = f"epoch {seen.settled} is settled" if seen.settled >= 0 else "nothing is settled yet"
    chain = f"{settled}; the chain is away" if seen.away else settled
    open_now = sum(node.in_flight for node in seen.nodes)
    head = f"{seen.name}: epoch {seen.epoch}, {open_now} in flight, {speed(seen.nodes)} tokens/s; {chain}"
    shown = sorted(sorted(seen.nodes, key=lambda node: -node.in_flight)[:MOST_NODES])
    rows = [
        f"{node.node:>6} {node.state:<9} {node.in_flight:>9} {speed([node]):>9} {node.answers:>9}" for node in shown
    ]  # fmt: skip
    more = [f"       and {len(seen.nodes) - len(shown)} more"] if len(seen.nodes) > len(shown) else []
    return [head, f"{'node':>6} {'state':<9} {'in flight':>9} {'tokens/s':>9} {'answers':>9}", *rows, *more]


class Screen(io.TextIOBase):
    """A terminal with a table at its end; what is written to `self` comes above it."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._height = 0

    def draw(self, table: Sequence[str]) -> None:
        """Put a table in the place of the one before."""
        self._erase()
        self._out.write("".join(f"{line}\n" for line in table))
        self._out.flush()
        self._height = len(table)

    def write(self, text: str) -> int:
        self._erase()
        return self._out.write(text)

    def flush(self) -> None:
        self._out.flush()

    def _erase(self) -> None:
        if self._height:
            self._out.write(f"\x1b[{self._height}F\x1b[J")
            self._height = 0


async def keep(network: "Network", out: TextIO) -> None:
    """Keep the table at the end of a terminal until cancelled; stderr, if it is one too, comes above it."""
    screen, settled = Screen(out), -1

    def see(event: Event, commands: Sequence[Command]) -> None:
        nonlocal settled
        if isinstance(event, BatchConfirmed):
            settled = max(settled, event.epoch)

    network.driver.observers.append(see)
    before: Seen | None = None
    above = redirect_stderr(screen) if sys.stderr.isatty() else nullcontext()
    try:
        with above:
            while True:
                seen = _look(network, settled)
                screen.draw(lines(seen, before))
                before = seen
                await asyncio.sleep(EVERY_S)
    finally:
        network.driver.observers.remove(see)


def _look(network: "Network", settled: int) -> Seen:
    nexus = network.driver.nexus
    rows: Any = nexus.table("nodes")
    nodes = [
        Node(i, _STATES[int(row["status"])], int(row["in_flight"]), int(row["legs_done"]), int(row["output_tok"]))
        for i, row in enumerate(rows)
        if row["key"] != 0
    ]
    away = bool(network.settlement.away)
    return Seen(network.config.name, time.monotonic(), nexus.count("epoch"), settled, away, nodes)
