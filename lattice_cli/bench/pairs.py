"""`lattice bench pairs`: what common random numbers save, by contrast and metric.

Two networks that differ in one thing are simulated with the same seeds, pair by pair. The ratio says how many times as many
runs the same precision of their difference would take with seeds of their own: (Var a + Var b) ÷ Var(b − a).
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from lattice_cli.bench.marked import put

PAIRS = 32

BASE = {"chain.backend": "revm", "sim.epochs": 6, "sim.start_hour": 16}
"""Six hours of the baseline network, into its evening."""

METRICS = ("ttft_p95_s", "completed_share", "charged_nlai", "revenue_gini")

BEGIN, END = "<!-- measured by lattice bench pairs -->", "<!-- end of what was measured -->"


class Contrast(NamedTuple):
    """What is changed of the baseline."""

    kind: str
    said: str
    changes: dict[str, Any]


_RATE = "users.chat.workload.modulated.requests_per_day"

CONTRASTS = (
    Contrast("parameter", "load + 5 %", {_RATE: 105_000}),
    Contrast("parameter", "load + 20 %", {_RATE: 120_000}),
    Contrast("parameter", "weight of the price 1 → 0.5", {"routing.weights.price": 0.5}),
    Contrast("parameter", "weight of the price 1 → 2", {"routing.weights.price": 2}),
    Contrast("parameter", "slots of a household's node 2 → 3", {"nodes.household.slots": 3}),
    Contrast("parameter", "slots of a datacentre's node 12 → 14", {"nodes.datacentre.slots": 14}),
    Contrast("policy", "score_sampled → random", {"routing.policy": "random"}),
    Contrast("policy", "score_sampled → least_in_flight", {"routing.policy": "least_in_flight"}),
    Contrast("policy", "score_sampled → power_of_two", {"routing.policy": "power_of_two"}),
    Contrast("policy", "score_sampled → cheapest", {"routing.policy": "cheapest"}),
)


def add(subparsers: Any) -> None:
    pairs = subparsers.add_parser("pairs", help="what common random numbers save, by contrast and metric")
    pairs.add_argument("--pairs", type=int, default=PAIRS, metavar="N", help=f"of each contrast, at least 3 ({PAIRS})")
    pairs.add_argument("--json", action="store_true", help="print one JSON object")
    pairs.add_argument("--write", type=Path, metavar="FILE", help="put the table in its place in FILE")
    pairs.set_defaults(command=_pairs, refuse=pairs.error)


def _pairs(arguments: argparse.Namespace) -> int:
    if arguments.pairs < 3:
        arguments.refuse(f"--pairs: must be 3 or more, not {arguments.pairs}")
    if arguments.write:
        put(arguments.write, BEGIN, END, None)
    found = measured(arguments.pairs)
    if arguments.json:
        print(json.dumps(found))
        return 0
    text = "\n".join(markdown(found))
    if arguments.write:
        put(arguments.write, BEGIN, END, text)
    print(text)
    return 0


def measured(pairs: int, base: str = "baseline.yaml", contrasts: Sequence[Contrast] = CONTRASTS) -> dict[str, Any]:
    """The ratio of each contrast and metric, with its interval at 95 %; null where nothing varies."""
    from tqdm import tqdm

    from lattice_core.config import revise
    from lattice_sim import networks
    from lattice_sim.study.executors import available_workers, executor
    from lattice_sim.study.statistics import correlation_gain
    from lattice_sim.study.task import Plan, Task, seed_of

    config = revise(networks.read(base), BASE if base == "baseline.yaml" else {})
    points: list[dict[str, Any]] = [{}, *(contrast.changes for contrast in contrasts)]
    tasks = [Task(p, r, seed_of(config.seed, r), point) for r in range(pairs) for p, point in enumerate(points)]
    rows: dict[tuple[int, int], Any] = {}
    with executor("processes", available_workers()) as workers, tqdm(total=len(tasks), unit="run", disable=None) as bar:
        for task, row in workers.run(Plan(config, METRICS), tasks):
            rows[task[:2]] = row
            bar.update()
    table = []
    for point, contrast in enumerate(contrasts, 1):
        for metric in METRICS:
            sides = [(rows[0, r][metric], rows[point, r][metric]) for r in range(pairs)]
            known = [(a, b) for a, b in sides if a is not None and b is not None]
            gain = correlation_gain([a for a, _ in known], [b for _, b in known]) if known else None
            figures = {} if gain is None else {"ratio": gain.ratio, "low": gain.low, "high": gain.high, "n": gain.n}
            table.append({"kind": contrast.kind, "contrast": contrast.said, "metric": metric, **figures})
    return {"network": config.name, "pairs": pairs, "table": table}


def markdown(found: dict[str, Any]) -> Iterator[str]:
    """The ratios as a table, contrasts down and metrics across, with what follows from them."""
    table = found["table"]
    yield f"| contrast | {' | '.join(METRICS)} |"
    yield f"|---|{'---:|' * len(METRICS)}"
    for contrast in dict.fromkeys(row["contrast"] for row in table):
        yield f"| {contrast} | {' | '.join(_cell(row) for row in table if row['contrast'] == contrast)} |"
    yield ""
    for kind, said in (("parameter", "Changes of a parameter"), ("policy", "Policy against policy")):
        ratios = [row["ratio"] for row in table if row["kind"] == kind and row.get("ratio") is not None]
        if ratios:
            yield f"{said}: {median(ratios):.1f} times in the median, from {min(ratios):.1f} to {max(ratios):.1f}."
    below = [row for row in table if row.get("high") is not None and row["high"] < 1.0]
    yield f"Of {len(table)} ratios, {len(below) or 'none'} {'is' if len(below) == 1 else 'are'} below 1 at 95 %."
    yield f"n = {found['pairs']} pairs each."


def _cell(row: dict[str, Any]) -> str:
    if row.get("ratio") is None:
        return "–"
    ratio = _short(row["ratio"])
    return ratio if row["low"] is None else f"{ratio} ({_short(row['low'])} to {_short(row['high'])})"


def _short(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}"
