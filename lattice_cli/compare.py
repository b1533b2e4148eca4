"""`lattice compare`: runs side by side, simulated, live or seen by a client, with intervals where runs can be paired."""

import argparse
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lattice_core.config import ConfigError
from lattice_sim.study.statistics import LEVEL, paired

if TYPE_CHECKING:
    import pandas as pd

    from lattice_sim.rundir import Run

MOST_NODES = 16
"""Nodes that have a row each; of more, populations have."""

_SUMMARY = (
    "horizon_s",
    "arrived",
    "arrivals_per_s",
    "completed_share",
    "failed_share",
    "rejected_share",
    "output_tok_per_s",
    "mean_in_flight",
    *(f"{delay}_p{percent}_s" for delay in ("ttft", "latency") for percent in (50, 95, 99)),
)
_CHAIN = ("settled_nlai", "burned_nlai", "treasury_nlai", "auditors_nlai", "delegators_nlai", "operators_nlai", "revenue_gini")
"""What only those know who see the chain."""


class Row(NamedTuple):
    """A metric: its mean over each side's runs, None where a run has none.

    `change` is the mean of the paired differences b − a, or the difference of the means where nothing is paired; `half` is half
    the width of its confidence interval.
    """

    metric: str
    a: float | None
    b: float | None
    change: float | None
    half: float | None


class Comparison(NamedTuple):
    """Two sides; `pairs` runs of each were paired by their seeds, 0 for none, and `note` says so."""

    a: list[str]
    b: list[str]
    pairs: int
    note: str
    rows: list[Row]


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("compare", help="set runs side by side, with intervals where several can be paired")
    parser.add_argument("runs", metavar="RUN", nargs="*", help="two run directories, or folders of several")
    parser.add_argument("--a", metavar="RUN", nargs="+", default=[], help="runs of the one side, in place of RUN RUN")
    parser.add_argument("--b", metavar="RUN", nargs="+", default=[], help="runs of the other")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--out", metavar="FILE.html", type=Path, help="write the table as a page, too")
    parser.set_defaults(command=_compare, refuse=parser.error)


def _compare(arguments: argparse.Namespace) -> int:
    sides = [arguments.a, arguments.b] if arguments.a or arguments.b else [[run] for run in arguments.runs]
    if len(sides) != 2 or not all(sides) or (arguments.runs and (arguments.a or arguments.b)):
        arguments.refuse("needs RUN RUN, or --a RUN... --b RUN...")
    a, b = ({str(path): _load(path) for name in side for path in _runs(Path(name))} for side in sides)
    found = compare(a, b)
    if arguments.out is not None:
        arguments.out.write_text(page(found), encoding="utf-8")
    if arguments.json:
        print(json.dumps(found._asdict() | {"level": LEVEL, "rows": [row._asdict() for row in found.rows]}))
    else:
        print("\n".join(lines(found)))
    return 0


def _runs(folder: Path) -> list[Path]:
    """The folder, or the run directories in it if it is none."""
    if (folder / "manifest.json").exists() or not folder.is_dir():
        return [folder]
    inside = sorted(manifest.parent for manifest in folder.glob("*/manifest.json"))
    if not inside:
        raise ConfigError(f"{folder}: must be a run directory, or hold some")
    return inside


def _load(path: Path) -> "Run":
    from lattice_sim.rundir import load_run

    return load_run(path)


def compare(a: Mapping[str, "Run"], b: Mapping[str, "Run"]) -> Comparison:
    """The runs of two sides, by name."""
    left, right, note = _paired(list(a.values()), list(b.values()))
    runs = [*left, *right]
    reasons = sorted({reason for run in runs for reason in run.manifest["requests"]["reasons"]})
    receivers = _receivers(runs)
    measured = [[_measure(run, reasons, receivers) for run in side] for side in (left, right)]
    names = list(dict.fromkeys(name for side in measured for found in side for name in found))
    pairs = 0 if note else len(left)
    rows = [_row(name, [of.get(name) for of in measured[0]], [of.get(name) for of in measured[1]], pairs) for name in names]
    told = note or f"{pairs} pairs of runs of equal seeds; {LEVEL:.0%} intervals of the mean difference, Student's t"
    return Comparison(list(a), list(b), pairs, told, rows)


def _paired(a: "list[Run]", b: "list[Run]") -> "tuple[list[Run], list[Run], str]":
    """Both sides in the order of their pairs; or as they are, and why there are no pairs."""
    if len(a) == len(b) == 1:
        return a, b, "one run a side: differences have no interval"
    ordered = [sorted(side, key=_seed) for side in (a, b)]
    if [_seed(run) for run in ordered[0]] != [_seed(run) for run in ordered[1]]:
        return a, b, "the sides' runs are not of equal seeds: nothing is paired, and differences have no interval"
    return ordered[0], ordered[1], ""


def _seed(run: "Run") -> int:
    return int(run.manifest["seed"])


def _row(name: str, a: Sequence[float | None], b: Sequence[float | None], pairs: int) -> Row:
    left, right = _known(a), _known(b)
    if not left or not right:
        return Row(name, _mean(left), _mean(right), None, None)
    if not pairs:
        return Row(name, _mean(left), _mean(right), sum(right) / len(right) - sum(left) / len(left), None)
    change = paired(left, right).interval
    return Row(name, _mean(left), _mean(right), change.mean, change.half_width)


def _known(values: Sequence[float | None]) -> list[float]:
    """A side's values; none unless all of its runs have one."""
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _measure(run: "Run", reasons: Sequence[str], receivers: Sequence[str]) -> dict[str, float | None]:
    """A run's metrics, as docs/metrics.md defines them; what it does not know is left out."""
    from lattice_core.units import to_s
    from lattice_sim.metrics import quantile

    summary = run.summary()
    found: dict[str, float | None] = {name: summary[name] for name in _SUMMARY}
    horizon_s = summary["horizon_s"]
    found["completed_per_s"] = summary["completed"] / horizon_s if horizon_s else None
    for percent in (50, 95, 99):
        ns = quantile(itl_ns(run.requests), percent)
        found[f"itl_p{percent}_s"] = None if ns is None else to_s(ns)
    found |= {f"{reason}_share": summary["reasons"].get(reason, 0.0) for reason in reasons}
    found["charged_nlai"] = summary["charged_nlai"]
    if len(run.transactions):
        found |= {name: summary[name] for name in _CHAIN}
    return found | _charged(run, receivers)


def itl_ns(requests: "pd.DataFrame") -> Any:
    """Mean time between two tokens of each completed request of two at least: (e_r − f_r) ÷ (tokens − 1)."""
    import numpy as np

    whole = requests[(requests["outcome"] == "completed") & (requests["first_token_ns"] >= 0) & (requests["output_tok"] > 1)]
    spent_ns = (whole["end_ns"] - whole["first_token_ns"]).to_numpy(np.int64)
    return spent_ns // (whole["output_tok"].to_numpy(np.int64) - 1)


def _receivers(runs: "Sequence[Run]") -> list[str]:
    """Of each node, what stands in the table for it: itself, or its population; nothing if that differs between runs."""
    from lattice_core.census import nodes
    from lattice_core.config import parse

    censuses = [
        [entry.population.name for entry in nodes(parse(json.dumps(run.manifest["config"]), run.manifest["name"]))]
        for run in runs
    ]
    last = max((int(run.requests["node"].max()) for run in runs if len(run.requests)), default=-1)
    count = max(last + 1, *map(len, censuses))
    if count <= MOST_NODES:
        return [f"node {node}" for node in range(count)]
    same = last < len(censuses[0]) and all(census == censuses[0] for census in censuses)
    return censuses[0] if same else []


def _charged(run: "Run", receivers: Sequence[str]) -> dict[str, float | None]:
    """Fees by the node that served last; nothing for who does not know it. Where a sample is kept, they are scaled up."""
    served = run.requests[(run.requests["node"] >= 0) & (run.requests["fee_nlai"] >= 0)]
    if served.empty or not receivers:
        return {}
    charged: dict[str, float | None] = dict.fromkeys((f"charged_nlai, {name}" for name in receivers), 0.0)
    fees = served.groupby("node")["fee_nlai"].sum() * run.manifest["requests"]["every"]
    for node, fee in fees.to_dict().items():
        name = f"charged_nlai, {receivers[node]}"
        charged[name] = (charged[name] or 0.0) + fee
    return charged


# As text


HEADS = ("metric", "a", "b", "b - a", "+/-", "b / a")


def lines(found: Comparison) -> list[str]:
    """The table, with what it compares above and what can be said of its differences below."""
    cells = [HEADS, *(_cells(row) for row in found.rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEADS))]
    table = [
        "  ".join([row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    ]
    return [f"a  {', '.join(found.a)}", f"b  {', '.join(found.b)}", "", *table, "", found.note]


def page(found: Comparison) -> str:
    """The same as an HTML page."""
    heads = "".join(f"<th>{html.escape(head)}</th>" for head in HEADS)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in _cells(row))}</tr>\n" for row in found.rows)
    sides = "".join(f"<p>{side}: {html.escape(', '.join(runs))}</p>\n" for side, runs in (("a", found.a), ("b", found.b)))
    style = "body{font:16px sans-serif;margin:2em}td,th{padding:.2em 1em;text-align:right}td:first-child{text-align:left}"
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Runs compared</title>\n'
        f"<style>{style}</style>\n<h1>Runs compared</h1>\n{sides}<table>\n<tr>{heads}</tr>\n{body}</table>\n"
        f"<p>{html.escape(found.note)}</p>\n</html>\n"
    )


def _cells(row: Row) -> tuple[str, ...]:
    ratio = row.b / row.a if row.a and row.b is not None else None
    return row.metric, *(_number(value) for value in (row.a, row.b, row.change, row.half, ratio))


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1_000 or value == int(value) else f"{value:.4g}"
