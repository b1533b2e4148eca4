"""The figures of a run, against their definitions by brute force, and the page that documents them against the code."""

import re
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lattice_core import records, request_log
from lattice_core.config import Config
from lattice_core.records import TABLES, Records
from lattice_core.request_log import BIN_ERROR, add, bin_of, bounds_ns, new_request_log
from lattice_core.units import NANO, NEVER_NS
from lattice_sim import metrics
from tests.sim.served import plain, start

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")

amounts = st.lists(st.integers(0, 10**15), min_size=1, max_size=40).map(lambda values: np.array(values, np.int64))


@given(amounts, st.sampled_from(metrics.QUANTILES))
def test_a_quantile_is_the_smallest_value_that_enough_values_do_not_exceed(values: np.ndarray, percent: int) -> None:
    enough = [int(value) for value in values if (values <= value).sum() * 100 >= percent * len(values)]
    assert metrics.quantile(values, percent) == min(enough)


@given(amounts)
def test_gini_is_half_the_mean_difference_over_the_mean(values: np.ndarray) -> None:
    found = metrics.gini(values)
    if values.sum() == 0:
        assert found is None
    else:
        exact = values.astype(float)
        assert found == pytest.approx(np.abs(exact[:, None] - exact).mean() / exact.mean() / 2, abs=1e-9)
        assert -1e-12 <= found <= 1 - 1 / len(values) + 1e-12


@given(amounts, st.sampled_from(metrics.QUANTILES))
def test_a_quantile_from_bins_is_within_the_error_that_a_summary_tells(values: np.ndarray, percent: int) -> None:
    bins, counts = np.unique([bin_of(value) for value in values.tolist()], return_counts=True)
    low_ns, high_ns = bounds_ns(bins)
    found = metrics.binned_quantile(pd.DataFrame({"low_ns": low_ns, "high_ns": high_ns, "count": counts}), percent)
    exact = metrics.quantile(values, percent)
    assert exact is not None
    assert found is not None
    assert abs(found - exact) <= BIN_ERROR * exact <= 0.01 * exact


def observed(config: Config, lengths_ns: list[int]) -> Records:
    """A network's records after epochs of these lengths, which end whenever they do."""
    engine, nexus = start(config)
    for epoch, end_ns in enumerate(np.cumsum(lengths_ns).tolist()):
        engine.run_until(end_ns)
        engine.records.observe(epoch, end_ns, nexus, [], [])
    return engine.records


epoch_lengths_ns = st.lists(st.integers(1, 60 * NANO), min_size=1, max_size=5)
busy = st.builds(
    plain, st.fixed_dictionaries({"seed": st.integers(0, 9), "people.workload.poisson.requests_per_day": st.just(200_000)})
)


@given(busy, epoch_lengths_ns, st.sampled_from([16, 10**6]))
@settings(max_examples=20)
def test_littles_law_holds_to_the_nanosecond_whatever_the_sample(config: Config, lengths_ns: list[int], capacity: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "new_request_log", partial(new_request_log, capacity=capacity))
        found = observed(config, lengths_ns)
    epochs, requests = (pd.DataFrame(found.columns(table)) for table in ("epochs", "requests"))
    law = metrics.littles_law(epochs)
    assert epochs["littles_law_gap_ns"].tolist() == [0] * len(epochs)
    assert law["littles_law_gap_ns"] == 0
    if epochs["arrived"].sum():
        assert law["mean_in_flight"] == pytest.approx(law["arrivals_per_s"] * law["mean_sojourn_s"])
    if found.log.every == 1:
        ends = requests["end_ns"].where(requests["outcome"] != "in_flight", NEVER_NS)
        for epoch in epochs.itertuples():
            spent = np.minimum(ends, epoch.end_ns) - np.maximum(requests["arrival_ns"], epoch.start_ns)
            assert epoch.mean_in_flight == pytest.approx(spent.clip(0).sum() / (epoch.end_ns - epoch.start_ns), abs=1e-12)


@pytest.mark.parametrize("times", [0, 2])
def test_littles_law_notices_a_request_that_is_not_written_down_or_twice(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    written: list[int] = []

    def faulty(*row: int) -> None:
        written.append(row[11] - row[8])
        for _ in range(times if len(written) == 5 else 1):
            add(*row)

    monkeypatch.setattr(request_log, "add", faulty)
    found = observed(plain({"people.workload.poisson.requests_per_day": 200_000}), [30 * NANO] * 2)
    assert metrics.littles_law(pd.DataFrame(found.columns("epochs")))["littles_law_gap_ns"] == (1 - times) * written[4] != 0


def test_the_page_names_every_metric_of_a_summary_in_order() -> None:
    frames = {table: pd.DataFrame({column: [] for column in columns}) for table, columns in TABLES.items()}
    tables = (frames[name] for name in ("epochs", "nodes", "requests", "latencies", "transactions"))
    summary = metrics.summary(*tables, ended_for={}, every=1)
    assert _names(PAGE.partition("## Files")[0]) == list(summary)


@pytest.mark.parametrize("table", TABLES)
def test_the_page_names_every_column_of_a_table_in_order(table: str) -> None:
    section = re.split(r"^##", PAGE.partition(f"### {table}.parquet")[2], maxsplit=1, flags=re.MULTILINE)[0]
    assert _names(section) == list(TABLES[table])


def _names(section: str) -> list[str]:
    return re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
