"""Decay on the chain, by itself: it falls, halves exactly, and is a straight line between halvings."""

import math

from hypothesis import given
from hypothesis import strategies as st

from lattice_core.decay import decayed

VALUES = st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 1000))
HALF_LIVES = st.one_of(st.integers(1, 2**32 - 1), st.integers(1, 10))


def times(half_life_s: int) -> st.SearchStrategy[int]:
    return st.one_of(st.integers(0, 70 * half_life_s), st.integers(0, 2 * half_life_s), st.integers(0, 2**40))


@given(VALUES, HALF_LIVES, st.data())
def test_what_decays_never_rises_and_is_gone_after_64_halvings(value: int, half_life: int, data: st.DataObject) -> None:
    earlier, later = sorted(data.draw(st.tuples(times(half_life), times(half_life))))
    assert value == decayed(value, 0, half_life) >= decayed(value, earlier, half_life) >= decayed(value, later, half_life) >= 0
    assert decayed(value, 64 * half_life, half_life) == 0


@given(VALUES, HALF_LIVES, st.integers(0, 70))
def test_each_half_life_halves_it_exactly(value: int, half_life: int, halvings: int) -> None:
    assert decayed(value, halvings * half_life, half_life) == value // 2**halvings


@given(VALUES, st.integers(1, 2**31), st.integers(0, 63))
def test_half_way_between_two_halvings_it_is_half_way_between_their_values(value: int, half: int, halvings: int) -> None:
    halved = value >> halvings
    assert decayed(value, (2 * halvings + 1) * half, 2 * half) == halved - halved // 4


@given(VALUES, HALF_LIVES, st.data())
def test_looking_at_it_on_the_way_does_not_speed_it_up_and_slows_it_to_a_root_of_e_at_most(
    value: int, half_life: int, data: st.DataObject
) -> None:
    steps = data.draw(st.lists(times(half_life), max_size=8))
    left = value
    for step in steps:
        left = decayed(left, step, half_life)
    assert left >= decayed(value, sum(steps), half_life) - len(steps)
    assert left <= value * math.exp(-sum(steps) / (2 * half_life)) * (1 + 1e-9) + len(steps)
