"""The faucet's budget, by itself: it melts, and grants together never exceed it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice_core.faucet import UNSET, Budget, grant, grantable_nlai, left_nlai

AMOUNTS = st.one_of(st.integers(0, 2**63 - 1), st.integers(0, 1000))
BUDGETS = st.builds(Budget, AMOUNTS, st.integers(0, 10**6), st.integers(1, 10**6))


@given(BUDGETS, st.lists(st.tuples(st.integers(0, 10**6), st.floats(0.0, 1.0)), max_size=8))
def test_all_grants_together_never_exceed_the_budget(budget: Budget, steps: list[tuple[int, float]]) -> None:
    whole, granted = budget.left_nlai, 0
    for wait, part in steps:
        now = budget.since_s + wait
        left = left_nlai(budget, now)
        nlai = min(left, int(left * part))
        granted += nlai
        budget = grant(budget, nlai, now)
        assert budget.left_nlai == left_nlai(budget, now) == left - nlai
        assert granted + budget.left_nlai <= whole


@given(BUDGETS, AMOUNTS, st.integers(0, 10**6))
def test_a_grant_is_backed_by_the_treasury_and_within_what_is_left(budget: Budget, treasury: int, wait: int) -> None:
    now = budget.since_s + wait
    assert grantable_nlai(budget, treasury, now) == min(treasury, left_nlai(budget, now)) <= budget.left_nlai
    with pytest.raises(ValueError, match="exceeds the"):
        grant(budget, left_nlai(budget, now) + 1, now)


def test_nothing_may_be_granted_before_a_budget_is_set() -> None:
    assert left_nlai(UNSET, 10**9) == 0
