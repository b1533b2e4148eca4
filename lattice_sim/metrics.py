"""A run's figures, computed from its tables; docs/metrics.md gives each one's symbol and definition."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lattice_core.request_log import BIN_ERROR
from lattice_core.units import NANO, to_s

QUANTILES = (50, 95, 99)
CUTS = ("burned_nlai", "treasury_nlai", "auditors_nlai", "delegators_nlai", "operators_nlai")
"""Where fees go, in the order in which they are cut."""

MOST_RUNWAY_S = 3_650 * 86_400.0
"""Ten years: no run of some days tells of more."""

CHARGED = tuple(f"{credit}{place}_nlai" for credit in ("", "faucet_") for place in ("debit", "unsettled", "overdue", "spent"))
"""Of a user's credit: where what was charged stands."""


def summary(
    epochs: pd.DataFrame,
    nodes: pd.DataFrame,
    requests: pd.DataFrame,
    latencies: pd.DataFrame,
    transactions: pd.DataFrame,
    ended_for: Mapping[str, int],
    every: int,
) -> dict[str, Any]:
    """Every metric of a run, from its tables; None where there is nothing to measure.

    `ended_for`: requests that failed or were rejected, by reason. `every`: `requests` holds one request in so many.
    """
    delays = {"ttft": ttft_ns(requests), "latency": latency_ns(requests)}
    horizon_s = to_s(horizon_ns(epochs))
    arrived = int(epochs["arrived"].sum())
    settled_nlai = int(epochs[["purchased_nlai", "faucet_nlai"]].to_numpy().sum())
    settles = transactions[transactions["operation"] == "settle"]
    return {
        "horizon_s": horizon_s,
        "arrived": arrived,
        **{end: int(epochs[end].sum()) for end in ("completed", "failed", "rejected")},
        "in_flight": int(epochs["in_flight"].iloc[-1]) if len(epochs) else 0,
        **{f"{end}_share": _ratio(epochs[end].sum(), arrived) for end in ("completed", "failed", "rejected")},
        "reasons": reasons(ended_for, arrived),
        **{
            f"{metric}_p{percent}_s": _seconds(
                quantile(values_ns, percent)
                if every == 1
                else binned_quantile(latencies[latencies["metric"] == metric], percent)
            )
            for metric, values_ns in delays.items()
            for percent in QUANTILES
        },
        "quantile_error": 0.0 if every == 1 else BIN_ERROR,
        "output_tok": int(epochs["output_tok"].sum()),
        "output_tok_per_s": _ratio(epochs["output_tok"].sum(), horizon_s),
        "utilisation": _ratio(epochs["busy_slot_ns"].sum(min_count=1), epochs["offered_slot_ns"].sum()),
        "uptime": _ratio(nodes["probes_ok"].sum(), nodes["probes"].sum()),
        "charged_nlai": int(epochs["gross_nlai"].sum()),
        "settled_nlai": settled_nlai,
        "revenue_gini": gini(revenue_nlai(nodes).to_numpy()),
        **{cut: int(epochs[cut].sum()) for cut in CUTS},
        "treasury_balance_nlai": _last(epochs["treasury_balance_nlai"]),
        "treasury_runway_s": treasury_runway_s(epochs),
        "faucet_share": _ratio(epochs["faucet_nlai"].sum(), settled_nlai),
        "gas": int(transactions["gas"].sum()),
        "gas_per_user": _ratio(settles["gas"].sum(), settles["entries"].sum()),
        **littles_law(epochs),
    }


def horizon_ns(epochs: pd.DataFrame) -> int:
    """Time from the start of the first epoch to the end of the last."""
    return int(epochs["end_ns"].max() - epochs["start_ns"].min()) if len(epochs) else 0


def ttft_ns(requests: pd.DataFrame) -> NDArray[np.int64]:
    """Time from arrival to first token of each request that saw one."""
    begun = requests[requests["first_token_ns"] >= 0]
    return (begun["first_token_ns"] - begun["arrival_ns"]).to_numpy(np.int64)


def latency_ns(requests: pd.DataFrame) -> NDArray[np.int64]:
    """Time from arrival to last token of each completed request."""
    completed = requests[requests["outcome"] == "completed"]
    return (completed["end_ns"] - completed["arrival_ns"]).to_numpy(np.int64)


def quantile(values: NDArray[np.int64], percent: int) -> int | None:
    """The smallest value that at least `percent` % of the values do not exceed; None of none."""
    if not len(values):
        return None
    rank = max(1, -(-len(values) * percent // 100))
    return int(np.partition(values, rank - 1)[rank - 1])


def binned_quantile(bins: pd.DataFrame, percent: int) -> int | None:
    """The middle of the bin in which the quantile lies, at most BIN_ERROR from it; None of no values."""
    counts = np.cumsum(bins["count"].to_numpy(np.int64))
    if not len(counts):
        return None
    rank = max(1, -(-int(counts[-1]) * percent // 100))
    low_ns, high_ns = (int(ns) for ns in bins[["low_ns", "high_ns"]].iloc[int(np.searchsorted(counts, rank))])
    return low_ns + (high_ns - low_ns) // 2


def reasons(ended_for: Mapping[str, int], arrived: int) -> dict[str, float]:
    """Share of the `arrived` requests that failed or were rejected, by reason, the largest first."""
    return {reason: count / arrived for reason, count in sorted(ended_for.items(), key=lambda item: (-item[1], item[0]))}


def revenue_nlai(nodes: pd.DataFrame) -> pd.Series:
    """What the chain settled for each node, by node, before the split."""
    return (nodes["settled_nlai"] + nodes["settled_faucet_nlai"]).groupby(nodes["node"]).sum()


def gini(values: NDArray[np.int64]) -> float | None:
    """Inequality: 0 if all are equal, (n − 1)/n if one has everything; None of nothing."""
    total, n = int(values.sum()), len(values)
    if not total:
        return None
    ranks = np.arange(1, n + 1)
    return float(((2 * ranks - n - 1) * np.sort(values).astype(float)).sum() / (n * float(total)))


def treasury_runway_s(epochs: pd.DataFrame) -> float | None:
    """How long the treasury's last balance would bear what bonuses cost beyond what fees brought it; at most MOST_RUNWAY_S.

    Minted bonuses count: they are what an empty treasury could not pay. None where nobody knows the balance.
    """
    balance_nlai = _last(epochs["treasury_balance_nlai"])
    if balance_nlai is None:
        return None
    loss_nlai = int(epochs["bonus_nlai"].sum()) - int(epochs["treasury_nlai"].sum())
    if loss_nlai <= 0:
        return MOST_RUNWAY_S
    return min(MOST_RUNWAY_S, balance_nlai / loss_nlai * to_s(horizon_ns(epochs)))


def littles_law(epochs: pd.DataFrame) -> dict[str, float | int | None]:
    """L = λ·W, from both sides: `littles_law_gap_ns` is ∫ N dt less the time that requests spent, and must be 0."""
    length_ns = horizon_ns(epochs)
    area_ns = float((epochs["mean_in_flight"] * (epochs["end_ns"] - epochs["start_ns"])).sum())
    arrived, gap_ns = int(epochs["arrived"].sum()), int(epochs["littles_law_gap_ns"].sum())
    return {
        "mean_in_flight": _ratio(area_ns, length_ns),
        "arrivals_per_s": _ratio(arrived, to_s(length_ns)),
        "mean_sojourn_s": _ratio((area_ns - gap_ns) / NANO, arrived),
        "littles_law_gap_ns": gap_ns,
    }


def _last(column: pd.Series) -> int | None:
    return None if not len(column) or pd.isna(column.iloc[-1]) else int(column.iloc[-1])


def _ratio(part: Any, whole: Any) -> float | None:
    return None if not whole or pd.isna(part) else float(part) / float(whole)


def _seconds(ns: int | None) -> float | None:
    return None if ns is None else to_s(ns)
