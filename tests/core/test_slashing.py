"""What misconduct costs, by itself: the bond pays before what thaws, and nobody gains by reporting himself."""

from fractions import Fraction
from math import floor

from hypothesis import given
from hypothesis import strategies as st

from lattice_core.slashing import Stake, equivocation_nlai, largest_proposal_nlai, slash
from lattice_core.units import PPM

AMOUNTS = st.one_of(st.integers(0, 2**62 - 1), st.integers(0, 1000))
STAKES = st.builds(Stake, AMOUNTS, AMOUNTS)
PPMS = st.one_of(st.integers(0, PPM), st.sampled_from([0, 1, PPM - 1, PPM]))


@given(STAKES, AMOUNTS, PPMS)
def test_what_is_taken_goes_to_the_reporter_or_burns_and_the_rest_stays(stake: Stake, nlai: int, reporter: int) -> None:
    slashed = slash(stake, nlai, reporter)
    taken = slashed.reporter_nlai + slashed.burned_nlai
    assert taken == min(nlai, sum(stake)) == sum(stake) - sum(slashed.left)
    assert slashed.reporter_nlai == floor(Fraction(taken * reporter, PPM))
    assert min(slashed.left) >= 0


@given(STAKES, AMOUNTS, PPMS)
def test_what_thaws_is_touched_only_when_the_bond_is_gone(stake: Stake, nlai: int, reporter: int) -> None:
    left = slash(stake, nlai, reporter).left
    assert left.thawing_nlai == stake.thawing_nlai or left.bond_nlai == 0


@given(STAKES, PPMS, st.integers(0, PPM // 2))
def test_who_proves_two_answers_of_his_own_burns_half_of_what_they_cost_at_least(
    stake: Stake, equivocation: int, reporter: int
) -> None:
    cost = equivocation_nlai(stake, equivocation)
    slashed = slash(stake, cost, reporter)
    assert cost == floor(Fraction(sum(stake) * equivocation, PPM)) <= sum(stake)
    assert 2 * slashed.burned_nlai >= cost


@given(STAKES, st.lists(AMOUNTS, max_size=5), PPMS)
def test_proposals_together_never_ask_for_more_than_their_part_of_the_stake(
    stake: Stake, asked: list[int], ppm: int
) -> None:  # fmt: skip
    proposed = 0
    for nlai in asked:
        proposed += min(nlai, largest_proposal_nlai(stake, proposed, ppm))
    assert proposed <= Fraction(sum(stake) * ppm, PPM)
    assert largest_proposal_nlai(stake, sum(stake) + 1, ppm) == 0
