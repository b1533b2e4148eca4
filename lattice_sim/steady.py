"""A run in its steady state: its warm-up is left out, and the batches of what is left say how sure its means are.

For `sim.horizon: steady`, where a run stands for one without end. Of a terminating run, such as a day from midnight to
midnight, the beginning is part of the question: nothing is left out, and only other runs can say how sure it is.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from lattice_sim import metrics
from lattice_sim.rundir import Run
from lattice_sim.study.statistics import BATCHES, Interval, mean_interval, mser5

OF_ALL = (
    "horizon_s", "arrived", "completed", "failed", "rejected", "in_flight", "littles_law_gap_ns", "quantile_error",
    "treasury_balance_nlai", "treasury_runway_s",
)  # fmt: skip
"""Metrics that are a count or a property of the whole, and no mean of its parts."""


def is_steady(run: Run) -> bool:
    """Whether the run's config asks for its steady state."""
    return bool(run.manifest["config"]["sim"].get("horizon") == "steady")


def warm_up_epochs(epochs: pd.DataFrame) -> int:
    """How many epochs MSER-5 leaves out, looking at the mean number of requests in flight."""
    return mser5(epochs["mean_in_flight"].to_numpy())


def summary(run: Run) -> dict[str, Any]:
    """Every metric of docs/metrics.md, of the epochs behind the warm-up."""
    epochs = len(run.epochs)
    return _summary(run, warm_up_epochs(run.epochs), epochs)


def intervals(run: Run) -> dict[str, Interval]:
    """Of each metric that is a mean, the interval of its mean over BATCHES batches of epochs behind the warm-up.

    Empty if there are not so many epochs. Batches must be much longer than what happens in the network lasts; if they are too
    short, the interval is too narrow, and nothing shows it.
    """
    first, last = warm_up_epochs(run.epochs), len(run.epochs)
    length = (last - first) // BATCHES
    if length == 0:
        return {}
    begin = last - length * BATCHES
    rows = [_summary(run, begin + n * length, begin + (n + 1) * length) for n in range(BATCHES)]
    found = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if name not in OF_ALL and all(isinstance(value, int | float) for value in values):
            found[name] = mean_interval(values)
    return found


def _summary(run: Run, first: int, last: int) -> dict[str, Any]:
    """The metrics of the epochs from `first` to before `last`; of requests that arrived in them."""
    part, about = _part(run, first, last), run.manifest["requests"]
    ended = part.requests.loc[part.requests["outcome"].isin(["failed", "rejected"]), "reason"]
    reasons: Mapping[str, int] = {str(reason): int(n) * about["every"] for reason, n in ended.value_counts().items()}
    found = metrics.summary(part.epochs, part.nodes, part.requests, part.latencies, part.transactions, reasons, 1)
    return found | ({} if about["every"] == 1 else {"quantile_error": None})  # quantiles are the sample's


def _part(run: Run, first: int, last: int) -> Run:
    within = {name: getattr(run, name)["epoch"].between(first, last - 1) for name in ("epochs", "nodes", "transactions")}
    tables = {name: getattr(run, name)[rows] for name, rows in within.items()}
    start_ns, end_ns = tables["epochs"]["start_ns"].min(), tables["epochs"]["end_ns"].max()
    arrived_ns = run.requests["arrival_ns"]
    return replace(run, **tables, requests=run.requests[(arrived_ns >= start_ns) & (arrived_ns < end_ns)])
