"""What joining costs, by itself: many identities at once are dear, and one after a while is not."""

from fractions import Fraction
from itertools import pairwise
from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from lattice_core.registration import FREE, Joins, Price, join, price_at, price_nlai
from lattice_core.units import NANO, PPM

TERMS = st.builds(Joins, st.integers(0, 100 * NANO), st.integers(0, PPM), st.integers(1, 10**6))
PRICES = st.builds(Price, st.integers(0, 2**64 - 1), st.integers(0, 10**6))
WAITS = st.integers(0, 10**7)


@given(TERMS, st.integers(1, 20))
def test_each_of_many_joins_at_once_costs_what_the_one_before_did_and_the_rise(terms: Joins, joins: int) -> None:
    price, paid = FREE, []
    for _ in range(joins):
        nlai, price = join(terms, price, 0)
        paid.append(nlai)
    assert paid[0] == terms.floor_nlai
    for earlier, later in pairwise(paid):
        assert later == ceil(Fraction(earlier * (PPM + terms.rise_ppm), PPM))


@given(TERMS, PRICES, WAITS, WAITS)
def test_waiting_never_makes_a_join_dearer_and_never_cheaper_than_the_floor(
    terms: Joins, price: Price, wait: int, longer: int
) -> None:
    soon, late = (price_nlai(terms, price, price.since_s + t) for t in sorted((wait, longer)))
    assert soon >= late >= terms.floor_nlai
    assert price_nlai(terms, price, price.since_s + 64 * terms.half_life_s) == terms.floor_nlai


@given(TERMS, PRICES, WAITS)
def test_a_price_that_64_bits_do_not_hold_stays_at_their_end(terms: Joins, price: Price, wait: int) -> None:
    paid, after = join(terms, price, price.since_s + wait)
    assert after.nlai == min(2**64 - 1, paid + -(-paid * terms.rise_ppm // PPM))
    assert after.since_s == price.since_s + wait


@given(TERMS, TERMS, PRICES, WAITS)
def test_other_terms_go_on_from_where_the_price_stands(old: Joins, new: Joins, price: Price, wait: int) -> None:
    now = price.since_s + wait
    assert price_nlai(new, price_at(old, price, now), now) == max(price_nlai(old, price, now), new.floor_nlai)
