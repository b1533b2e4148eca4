"""Promises by voucher, by themselves: what waits, and for how long, and that nothing is due twice."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from lattice_core.promises import Promise, due_nlai, presented, ripened

GRACE = 2
STEPS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 100), st.floats(0.0, 1.0)), max_size=8)
"""How many epochs pass, by how much the voucher that is then presented is larger, and which part of what is due is paid."""
NOTHING = Promise()

type Step = tuple[int, int, float]


def at(now: int) -> Callable[[int], bool]:
    """What has lapsed in epoch `now`."""
    return lambda epoch: now > epoch + GRACE


def history(steps: list[Step], promise: Promise = NOTHING, now: int = 0) -> list[tuple[int, Promise]]:
    """The promise after each step, and the epoch that it was."""
    done = []
    for epochs, more, part in steps:
        now += epochs
        promise = presented(promise, promise.value_nlai + more, now, at(now))
        promise = promise._replace(paid_nlai=promise.paid_nlai + int(due_nlai(promise, at(now)) * part))
        done.append((now, promise))
    return done


@given(STEPS, st.integers(0, 10))
def test_what_is_due_was_presented_in_an_epoch_that_has_lapsed_and_was_not_paid(steps: list[Step], wait: int) -> None:
    done = history(steps)
    now, promise = done[-1] if done else (0, NOTHING)
    now += wait
    waited = max((p.value_nlai for epoch, p in done if at(now)(epoch)), default=0)
    assert promise.paid_nlai <= promise.paid_nlai + due_nlai(promise, at(now)) <= waited
    assert ripened(promise, at(now)).value_nlai == promise.value_nlai == sum(more for _, more, _ in steps)


@given(STEPS, st.integers(0, 10))
def test_whatever_is_presented_later_nothing_waits_for_more_than_twice_the_grace(steps: list[Step], wait: int) -> None:
    done = history(steps)
    now, promise = done[-1] if done else (0, NOTHING)
    now += wait
    for epoch, then in done:
        if now > epoch + 2 * GRACE:
            assert ripened(promise, at(now)).ripe_nlai >= then.value_nlai
    if at(now)(now - wait):
        assert ripened(promise, at(now)).ripe_nlai == promise.value_nlai


@given(STEPS, STEPS)
def test_a_larger_voucher_does_not_hold_up_what_waits_already(before: list[Step], after: list[Step]) -> None:
    now, waiting = (history(before) or [(0, NOTHING)])[-1]
    for epoch, promise in history(after, waiting, now):
        if at(epoch)(waiting.since):
            assert ripened(promise, at(epoch)).ripe_nlai >= waiting.first_nlai
