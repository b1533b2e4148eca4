"""The figures of a run, against their definitions by brute force, and the page that documents them against the code."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice_core.records import TABLES
from lattice_sim import metrics

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


def times(rows: list[tuple[int, int]], lengths: list[int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Requests that arrive and stay, and the epochs as a kernel would count them."""
    ends = np.cumsum(lengths)
    requests = pd.DataFrame(rows, columns=["arrival_ns", "end_ns"]).query("arrival_ns < @ends[-1]")
    requests["end_ns"] += requests["arrival_ns"]
    in_flight = [((requests["arrival_ns"] < t) & (requests["end_ns"] >= t)).sum() for t in ends]
    requests["outcome"] = np.where(requests["end_ns"] < ends[-1], "completed", "in_flight")
    epochs = pd.DataFrame({"start_ns": ends - lengths, "end_ns": ends, "in_flight": in_flight, "arrived": 0})
    epochs.loc[0, "arrived"] = len(requests)
    return requests, epochs


some_times = st.builds(
    times,
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 300)), min_size=1, max_size=30),
    st.lists(st.integers(1, 200), min_size=1, max_size=5),
)


@given(some_times)
def test_littles_law_holds_to_the_nanosecond(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    found = metrics.littles_law(*tables)
    assert found["littles_law_gap_ns"] == 0
    if len(tables[0]):
        assert found["mean_in_flight"] == pytest.approx(found["arrivals_per_s"] * found["mean_sojourn_s"])


@given(some_times, st.data())
def test_littles_law_notices_a_request_that_the_kernel_counts_and_no_row_tells_of(
    tables: tuple[pd.DataFrame, pd.DataFrame], data: st.DataObject
) -> None:
    requests, epochs = tables
    if len(epochs) > 1:
        epochs.loc[data.draw(st.integers(0, len(epochs) - 2)), "in_flight"] += 1
        assert metrics.littles_law(requests, epochs)["littles_law_gap_ns"] != 0


def test_the_page_names_every_metric_of_a_summary_in_order() -> None:
    frames = {table: pd.DataFrame({column: [] for column in columns}) for table, columns in TABLES.items()}
    summary = metrics.summary(*(frames[name] for name in ("epochs", "nodes", "requests", "transactions")))
    assert _names(PAGE.partition("## Files")[0]) == list(summary)


@pytest.mark.parametrize("table", TABLES)
def test_the_page_names_every_column_of_a_table_in_order(table: str) -> None:
    section = PAGE.partition(f"### {table}.parquet")[2].partition("###")[0]
    assert _names(section) == list(TABLES[table])


def _names(section: str) -> list[str]:
    return re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
