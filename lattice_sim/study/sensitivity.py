"""Which factors matter, and how much: Morris' elementary effects for a first look, Sobol's shares of the variance.

A metric at a point is the mean over its replications. Both methods go along each factor's range from 0 to 1: an elementary
effect is in the metric's unit, as if the factor went through its whole range. The samples and indices are SALib's.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lattice_core.streams import entity_key
from lattice_sim.study.design import scaled
from lattice_sim.study.document import Sensitivity, Study
from lattice_sim.study.executors import Executor
from lattice_sim.study.statistics import LEVEL
from lattice_sim.study.store import Store
from lattice_sim.study.sweep import replicated

RESAMPLES = 1_000
"""Of the bootstrap that an index's interval is from."""

RANKED_BY = {"morris": "mu_star", "sobol": "total"}
"""The index that says whether a factor matters at all."""

COLUMNS = ("metric", "factor", "index", "samples", "value", "half_width")
"""Of indices.parquet: `samples` is the length of the prefix of the sample, `half_width` half of the index's interval."""

_AROUND = {"morris": 1, "sobol": 2}
"""Points of a sample beside one for each factor."""

type Method = Literal["morris", "sobol"]


def sensitivity(
    study: Study, store: Store, workers: Executor, told: Callable[[int, int], object] = lambda done, of: None
) -> None:
    """Make what is missing of a study's runs, and leave indices.parquet; `verdicts` and `noise` of each metric in the manifest.

    A metric that some run did not know has no indices, and a verdict that says so. Ctrl-C leaves what is done, from which the
    same call goes on. Raises ConfigError.
    """
    asked = study.asked
    assert isinstance(asked, Sensitivity)
    assert isinstance(asked.replications, int)
    seed, factors = study.base.seed, list(asked.factors)
    unit = sample(asked.method, len(factors), asked.samples, asked.levels, seed)
    points = scaled(asked.factors, unit)
    store.plan(points)
    replicated(study, store, workers, points, asked.replications, told)
    frame = store.frame()
    tables = {metric: frame.pivot(index="point", columns="replication", values=metric) for metric in asked.metrics}
    known = {metric: table.to_numpy(float) for metric, table in tables.items() if not table.isna().any(axis=None)}
    means = {metric: values.mean(axis=1) for metric, values in known.items()}
    found = converging(asked.method, factors, unit, means, asked.levels, seed)
    missing = "not known in every run, so that it has no indices"
    store.table("indices", found)
    store.note("verdicts", {m: verdict(found, m, asked.method) if m in known else f"{m}: {missing}" for m in asked.metrics})
    store.note("noise", {metric: noise_share(values, asked.seeds == "common") for metric, values in known.items()})
    store.finish()


def runs_of(asked: Sensitivity) -> int:
    """How many runs a study takes."""
    assert isinstance(asked.replications, int)
    return asked.samples * (len(asked.factors) + _AROUND[asked.method]) * asked.replications


def sample(method: Method, factors: int, samples: int, levels: int, seed: int) -> NDArray[np.float64]:
    """Points of the unit cube, one a row, in blocks that are one sample each; the first n blocks are a sample of n.

    Morris: a block is a trajectory of factors + 1 points on a grid of `levels` (Morris 1991). Sobol: factors + 2 points, from
    a scrambled Sobol sequence (Saltelli et al. 2010).
    """
    problem, key = _problem(factors), _key(method, "sample", seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of SALib's own use of scipy
        if method == "morris":
            from SALib.sample import morris

            return np.asarray(morris.sample(problem, samples, num_levels=levels, seed=key), np.float64)
        from SALib.sample import sobol

        return np.asarray(sobol.sample(problem, samples, calc_second_order=False, seed=key), np.float64)


def indices(
    method: Method, unit: NDArray[np.float64], values: NDArray[np.float64], levels: int, seed: int
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64] | None]]:
    """Each index of each factor, and half of its interval, from a metric's `values` at the points `unit` of `sample`.

    Sobol: `first` is the share of the variance that a factor explains alone, `total` that which is gone if it is known with
    all others. Morris: `mu` is the mean of a factor's effects, `mu_star` of their sizes, `sigma` their standard deviation,
    which is 0 if effects add up in a straight line. Values that are all equal have indices of 0.
    """
    factors = unit.shape[1]
    problem, key = _problem(factors), _key(method, "bootstrap", seed)
    if np.ptp(values) == 0.0:
        nothing = np.zeros(factors)
        names = ("mu", "mu_star", "sigma") if method == "morris" else ("first", "total")
        return {name: (nothing, None if name in ("mu", "sigma") else nothing) for name in names}
    if method == "morris":
        from SALib.analyze import morris

        found = morris.analyze(problem, unit, values, RESAMPLES, LEVEL, num_levels=levels, seed=key)
        stars = np.asarray(found["mu_star"], np.float64), np.asarray(found["mu_star_conf"], np.float64)
        return {"mu": (np.asarray(found["mu"]), None), "mu_star": stars, "sigma": (np.asarray(found["sigma"]), None)}
    from SALib.analyze import sobol

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a resample may be constant: its index counts as 0
        found = sobol.analyze(problem, values, False, RESAMPLES, LEVEL, seed=key)
    return {name: (np.asarray(found[of]), np.asarray(found[f"{of}_conf"])) for name, of in (("first", "S1"), ("total", "ST"))}


def converging(
    method: Method,
    factors: Sequence[str],
    unit: NDArray[np.float64],
    metrics: Mapping[str, NDArray[np.float64]],
    levels: int,
    seed: int,
) -> pd.DataFrame:
    """The table of indices, with `COLUMNS`, of a quarter, half and all of the sample; of `metrics` by name, a value a point."""
    block = len(factors) + _AROUND[method]
    samples = len(unit) // block
    rows: list[tuple[Any, ...]] = []
    for metric, values in metrics.items():
        for count in (samples // 4, samples // 2, samples):
            part = slice(count * block)
            for index, (found, half) in indices(method, unit[part], values[part], levels, seed).items():
                halves = [None] * len(factors) if half is None else half.tolist()
                rows += [
                    (metric, factor, index, count, *of) for factor, *of in zip(factors, found.tolist(), halves, strict=True)
                ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(
        {"samples": np.int64, "value": np.float64, "half_width": np.float64}
    )


def verdict(table: pd.DataFrame, metric: str, method: Method) -> str:
    """Whether the ranking of the factors has settled: whether the last doubling of the sample left their order as it was.

    The order of two factors whose intervals overlap counts for nothing. A group (≈) has those that overlap with its first.
    """
    mine = table[(table["metric"] == metric) & (table["index"] == RANKED_BY[method])]
    counts = sorted(mine["samples"].unique())
    before, now = (mine[mine["samples"] == count].set_index("factor") for count in counts[-2:])
    if not now["value"].any():
        return f"{metric}: no factor changes it"
    ranked = list(now.sort_values("value", ascending=False, kind="stable").index)
    for a, b in combinations(ranked, 2):
        if not _overlap(now, a, b) and before["value"][a] < before["value"][b]:
            return f"{metric}: the ranking has not settled: from {counts[-2]} to {counts[-1]} samples {a} passed {b}; take more"
    groups: list[list[str]] = []
    for factor in ranked:
        if groups and _overlap(now, groups[-1][0], factor):
            groups[-1].append(factor)
        else:
            groups.append([factor])
    if len(groups) == 1 and len(ranked) > 1:
        return f"{metric}: the ranking has not settled: the intervals of all factors overlap; take more samples"
    return f"{metric}: the ranking has settled: {' > '.join(' ≈ '.join(group) for group in groups)}"


def noise_share(values: NDArray[np.float64], common: bool) -> float | None:
    """The part of the variance between points' means that is chance, of `values`, a row a point and a column a replication.

    With common seeds, what a replication adds to all points alike is no noise: only how it treats points differently is, the
    residual of points and replications. At most 1; None for one replication, of which nothing is known.
    """
    points, replications = values.shape
    if replications < 2 or points < 2:
        return None
    means = values.mean(axis=1)
    between = float(means.var(ddof=1))
    if between == 0.0:
        return 0.0
    away = values - means[:, None]
    freedom = points * (replications - 1)
    if common:
        away = away - away.mean(axis=0)
        freedom = (points - 1) * (replications - 1)
    return min(1.0, float((away**2).sum()) / freedom / replications / between)


def _overlap(ranked: pd.DataFrame, a: str, b: str) -> bool:
    """Whether the intervals of a factor and of a lesser one overlap."""
    return bool(ranked["value"][a] - ranked["half_width"][a] <= ranked["value"][b] + ranked["half_width"][b])


def _problem(factors: int) -> dict[str, Any]:
    return {"num_vars": factors, "names": [str(i) for i in range(factors)], "bounds": [[0.0, 1.0]] * factors}


def _key(method: str, what: str, seed: int) -> int:
    """A seed for SALib, of 32 bits and never 0, with which it draws from the global generator."""
    return 1 + entity_key(f"{method}/{what}", seed) % (2**32 - 1)
