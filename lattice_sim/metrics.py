"""A run's figures, computed from its tables; docs/metrics.md gives each one's symbol and definition."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lattice_core.records import IN_FLIGHT
from lattice_core.units import to_s

QUANTILES = (50, 95, 99)
CUTS = ("burned_nlai", "treasury_nlai", "auditors_nlai", "delegators_nlai", "operators_nlai")
"""Where fees go, in the order in which they are cut."""


def summary(
    epochs: pd.DataFrame, nodes: pd.DataFrame, requests: pd.DataFrame, transactions: pd.DataFrame, every: int = 1
) -> dict[str, Any]:
    """Every metric of a run whose `requests` hold each `every`-th request; None where there is nothing to measure."""
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
        "reasons": reasons(requests),
        **{f"ttft_p{percent}_s": _seconds(quantile(ttft_ns(requests), percent)) for percent in QUANTILES},
        **{f"latency_p{percent}_s": _seconds(quantile(latency_ns(requests), percent)) for percent in QUANTILES},
        "output_tok": int(epochs["output_tok"].sum()),
        "output_tok_per_s": _ratio(epochs["output_tok"].sum(), horizon_s),
        "utilisation": _ratio(epochs["busy_slot_ns"].sum(min_count=1), epochs["offered_slot_ns"].sum()),
        "uptime": _ratio(nodes["probes_ok"].sum(), nodes["probes"].sum()),
        "charged_nlai": int(epochs["gross_nlai"].sum()),
        "settled_nlai": settled_nlai,
        "revenue_gini": gini(revenue_nlai(nodes).to_numpy()),
        **{cut: int(epochs[cut].sum()) for cut in CUTS},
        "faucet_share": _ratio(epochs["faucet_nlai"].sum(), settled_nlai),
        "gas": int(transactions["gas"].sum()),
        "gas_per_user": _ratio(settles["gas"].sum(), settles["entries"].sum()),
        **littles_law(requests, epochs, every),
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


def reasons(requests: pd.DataFrame) -> dict[str, float]:
    """Share of the requests that failed or were rejected, by reason, the largest first."""
    ended = requests[requests["reason"] != ""].groupby("reason").size()
    counts = sorted(ended.items(), key=lambda item: (-item[1], item[0]))
    return {str(reason): count / len(requests) for reason, count in counts}


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


def littles_law(requests: pd.DataFrame, epochs: pd.DataFrame, every: int = 1) -> dict[str, float | int | None]:
    """L = λ·W, from both sides: `littles_law_gap_ns` is ∫ N dt less the time that requests spent, and must be 0.

    ∫ N dt starts each epoch from the requests in flight that the kernel counted at its start.
    """
    start_ns = int(epochs["start_ns"].min()) if len(epochs) else 0
    boundaries = epochs["end_ns"].to_numpy(np.int64) - start_ns
    length_ns = horizon_ns(epochs)
    ended = requests["outcome"].to_numpy() != IN_FLIGHT
    arrivals = requests["arrival_ns"].to_numpy(np.int64) - start_ns
    ends = requests["end_ns"].to_numpy(np.int64)[ended] - start_ns
    sojourns_ns = int(ends.sum()) + int((~ended).sum()) * length_ns - int(arrivals.sum())
    area_ns: int | None = None
    if every == 1:
        in_flight = np.concatenate([[0], epochs["in_flight"].to_numpy(np.int64)])[:-1]
        carried = int((in_flight * np.diff(boundaries, prepend=0)).sum())
        area_ns = carried + _left(arrivals, boundaries) - _left(ends, boundaries)
    return {
        "mean_in_flight": None if area_ns is None else _ratio(area_ns, length_ns),
        "arrivals_per_s": _ratio(epochs["arrived"].sum(), to_s(length_ns)),
        "mean_sojourn_s": to_s(sojourns_ns) / len(requests) if len(requests) else None,
        "littles_law_gap_ns": None if area_ns is None else area_ns - sojourns_ns,
    }


def _left(times_ns: NDArray[np.int64], boundaries_ns: NDArray[np.int64]) -> int:
    """Σ of what is left, at each time, of the epoch in which it lies."""
    epochs = np.searchsorted(boundaries_ns, times_ns, side="right")
    return int((boundaries_ns[epochs] - times_ns).sum())


def _ratio(part: Any, whole: Any) -> float | None:
    return None if not whole or pd.isna(part) else float(part) / float(whole)


def _seconds(ns: int | None) -> float | None:
    return None if ns is None else to_s(ns)
