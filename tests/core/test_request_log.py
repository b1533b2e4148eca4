"""The log of requests: its sample depends on ids and seed alone, its totals on every request, its memory on neither."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice_core import wide
from lattice_core.request_log import BIN_ERROR, BINS, DELAYS, ROW, RequestLog, add, bin_of, bounds_ns, new_request_log
from lattice_core.state import COMPLETED, FAILED, NODE_LOST, REJECTED

CAPACITY = 64

seeds = st.integers(0, 2**32)
ids = st.lists(st.integers(1, 5_000), unique=True, max_size=400)
delays_ns = st.one_of(st.integers(0, 600), st.integers(0, 2**40), st.integers(0, 2**62))


def end(log: RequestLog, request: int) -> None:
    """A request ends in a way that its id tells."""
    outcome = (COMPLETED, FAILED, REJECTED)[request % 3]
    first_ns = 0 if outcome == REJECTED else request + 7 * request * request
    reason = 0 if outcome == COMPLETED else NODE_LOST + request % 2
    add(
        log.handle, request, request % 2, request % 5, request % 11, 0, request % 100, request % 200,
        request, request + 1, first_ns, first_ns + 10**9 * request, outcome, reason, 3 * request,
    )  # fmt: skip


def filled(requests: list[int], seed: int = 7, capacity: int = CAPACITY) -> RequestLog:
    log = new_request_log(seed, capacity)
    for request in requests:
        end(log, request)
    return log


def kept(log: RequestLog) -> np.ndarray:
    rows: np.ndarray = log.rows[: log.tally[0]["kept"]]
    return rows


@given(ids, st.randoms(use_true_random=False), seeds)
def test_the_sample_does_not_depend_on_the_order_in_which_requests_end(requests: list[int], random: object, seed: int) -> None:
    shuffled = sorted(requests, key=lambda _: random.random())  # type: ignore[attr-defined]
    one, other = (filled(order, seed) for order in (requests, shuffled))
    assert (one.every, one.offset) == (other.every, other.offset)
    assert sorted(kept(one)["request"]) == sorted(kept(other)["request"])


@given(ids, seeds)
def test_the_sample_is_the_whole_table_with_every_kth_id_and_no_thinner_than_it_must_be(requests: list[int], seed: int) -> None:
    log, whole = filled(requests, seed), kept(filled(requests, seed, capacity=10**6))
    assert len(whole) == len(requests)
    assert 0 <= log.offset < log.every
    assert log.every & (log.every - 1) == 0
    sample = whole[(whole["request"] + log.offset) % log.every == 0]
    assert kept(log).tolist() == sample.tolist()
    assert log.keeps(whole["request"]).sum() == len(sample)
    if log.every > 1:
        denser = (whole["request"] + new_offset(seed, log.every // 2)) % (log.every // 2) == 0
        assert denser.sum() > CAPACITY


def new_offset(seed: int, every: int) -> int:
    return int(new_request_log(seed, CAPACITY).tally[0]["offset"]) % every


def test_another_seed_draws_another_sample() -> None:
    assert len({filled(list(range(1, 1_000)), seed).offset for seed in range(20)}) > 5


@given(ids)
def test_reasons_delays_and_times_are_counted_of_every_request_kept_or_not(requests: list[int]) -> None:
    log, whole = filled(requests), kept(filled(requests, capacity=10**6))
    assert log.sojourn_ns == int((whole["end_ns"] - whole["arrival_ns"]).sum())
    assert log.reasons.tolist() == np.bincount(whole["reason"], minlength=len(log.reasons)).tolist()
    begun, completed = whole[whole["first_token_ns"] > 0], whole[whole["outcome"] == COMPLETED]
    for delay, rows, column in zip(DELAYS, (begun, completed), ("first_token_ns", "end_ns"), strict=True):
        counts = log.delays.reshape(-1, BINS)[DELAYS.index(delay)]
        bins = [bin_of(ns) for ns in (rows[column] - rows["arrival_ns"]).tolist()]
        assert counts.tolist() == np.bincount(bins, minlength=BINS).tolist()


@given(st.lists(ids, min_size=1, max_size=6), st.integers(0, 5))
def test_a_mark_and_the_one_before_it_survive_whatever_ends_later(epochs: list[list[int]], last: int) -> None:
    requests = [request * len(epochs) + epoch for epoch, ended in enumerate(epochs) for request in ended]
    log, last, ended = new_request_log(7, CAPACITY), min(last, len(epochs) - 1), 0
    for number, epoch in enumerate(epochs):
        for request in requests[ended : ended + len(epoch)]:
            end(log, request)
        ended += len(epoch)
        if number <= last:
            log.mark(number)
    for number in range(max(0, last - 1), last + 1):
        then = np.array(requests[: sum(map(len, epochs[: number + 1]))], np.int64)
        assert log.marked(number)["request"].tolist() == then[log.keeps(then)].tolist()


@given(ids, ids)
def test_a_log_read_back_goes_on_as_if_nothing_had_happened(before: list[int], after: list[int]) -> None:
    log = filled(before)
    again = pickle.loads(pickle.dumps(log))
    for request in after:
        end(log, request + 5_000)
        end(again, request + 5_000)
    assert all((log.tables()[name] == again.tables()[name]).all() for name in log.tables())
    assert len(again.rows) == CAPACITY


def test_a_pickle_holds_the_rows_in_use_only() -> None:
    unused, used = (len(pickle.dumps(filled(list(range(count)), capacity=10**6))) for count in (0, 1_000))
    assert unused < 200_000
    assert used - unused < 1.1 * 1_000 * ROW.itemsize


@given(delays_ns)
def test_a_delay_lies_in_its_bin_and_the_middle_is_within_a_percent_of_it(ns: int) -> None:
    found = bin_of(ns)
    assert found == bin_of.py_func(ns)  # type: ignore[attr-defined]
    low, high = (int(bound[0]) for bound in bounds_ns(np.array([found])))
    assert low <= ns <= high
    assert abs(low + (high - low) // 2 - ns) <= BIN_ERROR * ns
    assert high - low <= 0.01 * low


def test_bins_follow_each_other_without_a_gap_from_nought_to_the_longest_time() -> None:
    low, high = bounds_ns(np.arange(BINS))
    assert low[0] == 0
    assert (low[1:] == high[:-1] + 1).all()
    assert high[-1] == 2**63 - 1
    assert bin_of(2**63 - 1) == BINS - 1


@given(st.lists(st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**62)), max_size=50))
def test_a_wide_sum_is_exact_far_beyond_an_int64(products: list[tuple[int, int]]) -> None:
    high = low = 0
    for count, ns in products:
        high, low = wide.plus(high, low, count, ns)
        assert 0 <= low < 2**30
        assert high < 2**63
    assert wide.total(high, low) == sum(count * ns for count, ns in products)


@pytest.mark.parametrize("capacity", [2, 3])
def test_the_smallest_logs_thin_out_too(capacity: int) -> None:
    log = filled(list(range(1, 2_000)), capacity=capacity)
    assert len(kept(log)) <= capacity
    assert log.every >= 512
