"""`lattice bench engine --table`: the engines at several sizes and the yardsticks, side by side in one run, as Markdown.

Each row is measured in a process of its own, so that its memory is its own. The processes begin without compiled code and share
what they compile: the first row compiles, the others load.
"""

import argparse
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from tempfile import TemporaryDirectory
from typing import Any

from lattice_cli.bench.engine import CHECKED, apart, check, measure
from lattice_cli.bench.marked import put
from lattice_cli.bench.yardsticks import EVENT_HEAP, YARDSTICKS

type Row = dict[str, Any]

SIZES = {100: 3_000_000, 1_000: 3_000_000, 10_000: 3_000_000}
"""Nodes, and how many requests the compiled engine serves there."""

MIDDLE = 1_000
"""Where it is compared with the yardsticks."""

REFERENCE = CHECKED + 1_000
"""What the reference serves: of so many expected, CHECKED come surely."""

WHOLE = (100_000, 100_000_000)

BEGIN, END = "<!-- measured by lattice bench engine --table -->", "<!-- end of what was measured -->"
"""Between these lines of a file the table has its place."""


def table(arguments: argparse.Namespace) -> int:
    """Measure, print, and write. BenchError if the compiled engine does not decide as the reference does."""
    if arguments.write:
        put(arguments.write, BEGIN, END, None)
    text = "\n".join(_measured(SIZES, WHOLE if arguments.whole else None))
    if arguments.write:
        put(arguments.write, BEGIN, END, text)
    print(text)
    return 0


def _measured(sizes: dict[int, int], whole: tuple[int, int] | None) -> Iterator[str]:
    with TemporaryDirectory() as folder, _environment("NUMBA_CACHE_DIR", folder):
        rows = list(_engines(sizes, whole))
        others = list(_yardsticks())
    yield from _markdown(rows, others)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _engines(sizes: dict[int, int], whole: tuple[int, int] | None) -> Iterator[Row]:
    for nodes, requests in sizes.items():
        compiled, reference = _row(nodes, requests, "compiled"), _row(nodes, REFERENCE, "reference")
        check(compiled, reference["digest_20000"])
        yield from (compiled, reference)
    if whole:
        yield _row(*whole, "compiled")


def _row(nodes: int, requests: int, engine: str) -> Row:
    _say(f"{engine}, {nodes:,} nodes, {requests:,} requests")
    return apart(measure, nodes, requests, engine)


def _yardsticks() -> Iterator[tuple[str, float | None]]:
    """What each is, and its customers/s; None where what it needs is not installed."""
    for name, (function, customers) in YARDSTICKS.items():
        _say(name)
        try:
            took_s, _ = apart(function, customers)
        except ImportError:
            yield name, None
        else:
            yield name, customers / took_s


def _say(what: str) -> None:
    """Progress, on a terminal."""
    if sys.stderr.isatty():
        print(f"measuring {what}", file=sys.stderr)


def _markdown(rows: Sequence[Row], others: Sequence[tuple[str, float | None]]) -> Iterator[str]:
    from lattice_sim.rundir import cpu

    packages = ", ".join(f"{name} {metadata.version(name)}" for name in ("numba", "numpy", "simpy"))
    yield f"{cpu()}, one core; Python {platform.python_version()}, {packages}."
    yield ""
    yield "| engine | nodes | requests | requests/s | ns each | ready, s | peak MiB |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for row in rows:
        per_s = row["requests_per_s"]
        yield (
            f"| {row['engine']} | {row['nodes']:,} | {row['requests']:,} | {per_s:,} | {1e9 / per_s:,.0f} "
            f"| {row['compile_s']:.1f} | {row['peak_mib']:,} |"
        )
    fast = {row["nodes"]: row["requests_per_s"] for row in rows if row["engine"] == "compiled"}
    slow = {row["nodes"]: row["requests_per_s"] for row in rows if row["engine"] == "reference"}
    least, *_, most = slow
    yield ""
    factors = ", ".join(f"{fast[nodes] / slow[nodes]:,.0f} at {nodes:,} nodes" for nodes in slow)
    yield f"* Compiled over reference, the same network: {factors}."
    yield f"* Time per request at {most:,} nodes over that at {least:,}: {fast[least] / fast[most]:.2f}."
    yield from _per_event(next(row for row in rows if row["nodes"] == MIDDLE and row["events"]), dict(others))
    yield f"* The digests over the first {CHECKED:,} requests are equal at {', '.join(f'{nodes:,}' for nodes in slow)} nodes."
    yield ""
    yield f"| yardstick | customers/s | the compiled engine at {MIDDLE:,} nodes has |"
    yield "|---|---:|---:|"
    for name, per_s in others:
        said = ("not installed", "") if per_s is None else (f"{per_s:,.0f}", f"{fast[MIDDLE] / per_s:,.2g} times that")
        yield f"| {name} | {said[0]} | {said[1]} |"


def _per_event(row: Row, others: dict[str, float | None]) -> Iterator[str]:
    """What the engine's events cost beside those of the bare loop, whose customers have two each."""
    bare_per_s = others[EVENT_HEAP]
    if bare_per_s is None:
        return
    each = row["events"] / row["requests"]
    yield (
        f"* A request at {row['nodes']:,} nodes is {each:.1f} events of {1e9 / row['requests_per_s'] / each:,.0f} ns. "
        f"An event of the bare numba loop takes {1e9 / bare_per_s / 2:,.0f} ns: were that all, there would be "
        f"{2 * bare_per_s / each:,.0f} requests/s."
    )
