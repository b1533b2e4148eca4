"""A trace's numbers are what they say, for the shortest trace too."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice_core.units import NANO
from lattice_sim.trace import Trace, header, read_trace
from lattice_sim.trace_description import describe, dispersion, gap_cv, lines, picture
from tests.sim.test_trace import azure_2023_code


def trace_at(*t_ns: int, **columns: list[int]) -> Trace:
    ones, none = np.ones(len(t_ns), np.int64), np.zeros(len(t_ns), np.int64)
    trace = Trace(np.array(t_ns, np.int64), ones, ones, none, none, none)
    return trace._replace(**{name: np.array(column, np.int64) for name, column in columns.items()})


SHORTEST = [trace_at(0), trace_at(0, 0), trace_at(0, 1), trace_at(0, NANO), trace_at(0, 5 * NANO, 10 * NANO, 200 * NANO)]


@given(gaps_ns=st.lists(st.integers(0, 3 * NANO), min_size=1, max_size=60), window_ns=st.integers(1, 4 * NANO))
def test_the_index_of_dispersion_is_the_variance_over_the_mean_of_counts_in_whole_windows(
    gaps_ns: list[int], window_ns: int
) -> None:
    times = np.cumsum([0, *gaps_ns])
    span_ns = int(times[-1])
    window_ns = max(window_ns, span_ns // 1000)
    windows = [sum(start <= t < start + window_ns for t in times.tolist())
               for start in range(0, span_ns - window_ns + 1, max(1, window_ns))]  # fmt: skip
    value = dispersion(times, window_ns, span_ns)
    if len(windows) < 2 or not any(windows):
        assert value is None
    else:
        assert value == pytest.approx(np.var(windows) / np.mean(windows))


def test_even_arrivals_do_not_vary_and_a_clump_does() -> None:
    even = np.arange(1000) * NANO // 10
    assert gap_cv(even) == 0
    assert dispersion(even, NANO, 100 * NANO) == 0
    clump = np.concatenate([np.zeros(999, np.int64), [100 * NANO]])
    assert dispersion(clump, NANO, 100 * NANO) == pytest.approx(989.01)


def test_turns_prefixes_and_reuse_are_counted() -> None:
    trace = trace_at(
        0, 1, 2, 3, session=[1, 0, 1, 2], prefix=[7, 7, 0, 8], prompt_tok=[10, 10, 10, 10], reused_tok=[0, 10, 0, 5]
    )
    numbers = describe(trace)
    assert (numbers.sessions, numbers.turns, numbers.prefixes, numbers.reused) == (2, 1.5, 2, 15 / 40)
    told = dict(lines(header(trace, "s", "l"), numbers))
    assert told["prefix reuse"] == "37.5% of prompt tokens"
    assert told["sessions"] == "2, of 1.50 turns in the mean"


@pytest.mark.parametrize("trace", SHORTEST, ids=lambda trace: f"{trace.t_ns[-1]} ns")
def test_the_shortest_trace_is_described_and_drawn(trace: Trace) -> None:
    told = dict(lines(header(trace, "s", "l"), describe(trace)))
    assert told["requests"] == str(len(trace.t_ns))
    assert "nan" not in "".join(told.values())
    assert picture(trace, header(trace, "s", "l"), "png").startswith(b"\x89PNG")


def test_the_azure_trace_bursts() -> None:
    numbers = describe(read_trace(str(azure_2023_code())))
    assert numbers.gap_cv == pytest.approx(13.15, abs=0.01)
    assert list(numbers.dispersion.values()) == pytest.approx([13.19, 71.64, 163.96], abs=0.01)
    assert numbers.prompt_tok[50] == 1469
    assert numbers.output_tok[50] == 13
