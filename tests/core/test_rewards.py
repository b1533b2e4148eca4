"""The bonus, by itself: no more than the pool, no more than a part of what was burned, and nothing to be had by tricks."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice_core.rewards import LARGEST_WEIGHT, Exponents, Reward, bonus, cap, pool, posted, sources, weight
from lattice_core.split import Rates, split
from lattice_core.units import MAX_SUPPLY_NLAI, NANO, PPM

AMOUNTS = st.one_of(st.integers(0, MAX_SUPPLY_NLAI), st.integers(0, 1000))
PPMS = st.one_of(st.integers(0, PPM), st.sampled_from([0, 1, PPM - 1, PPM]))
RETURNED = st.one_of(st.integers(0, PPM - 1), st.just(PPM - 1))
RATES = st.builds(Rates, PPMS, PPMS, PPMS, PPMS, AMOUNTS)
NODES = st.lists(st.tuples(st.integers(0, LARGEST_WEIGHT), AMOUNTS), min_size=1, max_size=6).filter(
    lambda nodes: any(weight for weight, _ in nodes)
)
FACTORS = st.floats(0.0, 1e9)
POWERS = st.sampled_from([0.0, 0.5, 1.0, 2.0])


def total(reward: Reward) -> int:
    return reward.operator_nlai + reward.delegators_nlai


@given(AMOUNTS, NODES, RETURNED, PPMS)
def test_inv_14_no_bonus_exceeds_the_returned_part_of_what_was_burned(
    pot: int, nodes: list[tuple[int, int]], returned: int, delegators: int
) -> None:
    weights, burned = zip(*nodes, strict=True)
    for reward, burnt in zip(bonus(pot, weights, burned, returned, delegators), burned, strict=True):
        assert 0 <= total(reward) <= Fraction(burnt * returned, PPM)
        assert total(reward) < burnt or burnt == 0


@given(AMOUNTS, NODES, RETURNED, PPMS)
def test_bonuses_add_up_to_the_pool_at_most_and_each_is_its_weights_part_unless_capped(
    pot: int, nodes: list[tuple[int, int]], returned: int, delegators: int
) -> None:
    weights, burned = zip(*nodes, strict=True)
    rewards = bonus(pot, weights, burned, returned, delegators)
    assert sum(map(total, rewards)) <= pot
    for reward, part, burnt in zip(rewards, weights, burned, strict=True):
        assert total(reward) == min(pot * part // sum(weights), cap(burnt, returned))
        assert reward.delegators_nlai == math.ceil(Fraction(total(reward) * delegators, PPM))


@given(AMOUNTS, st.integers(0, 2**53), NODES, RETURNED, RATES)
def test_inv_14_whoever_pays_only_himself_gets_back_less_than_he_paid(
    paid: int, own_weight: int, others: list[tuple[int, int]], returned: int, rates: Rates
) -> None:
    cuts = split(paid, rates)
    weights, burned = zip((own_weight, cuts.burned_nlai), *others, strict=True)
    back = total(bonus(MAX_SUPPLY_NLAI, weights, burned, returned, rates.delegators_ppm)[0])
    assert back < cuts.burned_nlai or back == 0
    assert cuts.operators_nlai + cuts.delegators_nlai + back <= paid


@given(
    pot=AMOUNTS,
    honest=st.integers(0, 10**15),
    own=st.integers(0, 10**15),
    others=st.integers(1, 10**15),
    returned=RETURNED,
    exponent=st.sampled_from([0.0, 0.5, 1.0]),
    burn=PPMS,
)
def test_inv_14_traffic_of_ones_own_on_top_of_others_gains_less_than_it_burns(
    pot: int, honest: int, own: int, others: int, returned: int, exponent: float, burn: int
) -> None:
    exponents = Exponents(tokens=exponent)
    rates = Rates(burn, 0, 0, 0, 0)

    def reward(tokens: int) -> int:
        weights = posted([weight(1.0, tokens, 1.0, 1.0, exponents), weight(1.0, others, 1.0, 1.0, exponents)])
        return total(bonus(pot, weights, [split(tokens, rates).burned_nlai, 0], returned, 0)[0])

    rounding = 2 + pot // 2**48
    assert reward(honest + own) - reward(honest) <= reward(own) + rounding
    assert reward(own) <= split(own, rates).burned_nlai


@given(
    pot=AMOUNTS,
    pieces=st.lists(st.tuples(st.floats(1.0, 1e6), st.integers(1, 10**12), AMOUNTS), min_size=1, max_size=6),
    other=st.tuples(st.floats(1.0, 1e6), st.integers(1, 10**12)),
    powers=st.tuples(POWERS, POWERS, POWERS).filter(lambda powers: powers[0] + powers[1] >= 1.0),
    quality=st.floats(0.01, 1.0),
    returned=RETURNED,
)
def test_a_node_that_poses_as_many_gains_rounding_at_most(
    pot: int,
    pieces: list[tuple[float, int, int]],
    other: tuple[float, int],
    powers: tuple[float, float, float],
    quality: float,
    returned: int,
) -> None:
    exponents = Exponents(*powers)

    def bonuses(nodes: list[tuple[float, int, int]]) -> int:
        floats = [weight(compute, tokens, 1.0, quality, exponents) for compute, tokens, _ in nodes]
        weights = posted([*floats, weight(*other, 1.0, 1.0, exponents)])
        return sum(map(total, bonus(pot, weights, [*(burned for _, _, burned in nodes), 0], returned, 0)[:-1]))

    compute, tokens, burned = (sum(column) for column in zip(*pieces, strict=True))
    assert bonuses(pieces) <= bonuses([(compute, tokens, burned)]) + len(pieces) * (1 + pot // 2**48)


def test_exponents_that_sum_to_less_than_one_would_pay_whoever_poses_as_many() -> None:
    exponents = Exponents(compute=0.0, tokens=0.5)
    assert 4 * weight(1.0, 25, 1.0, 1.0, exponents) == 2 * weight(1.0, 100, 1.0, 1.0, exponents)


@given(st.lists(st.floats(0.0, 1e300), max_size=8))
def test_posted_weights_keep_their_ratios_and_a_thousand_of_them_fit(weights: list[float]) -> None:
    whole = posted(weights)
    largest = max(weights, default=0.0)
    assert max(whole, default=0) in (0, LARGEST_WEIGHT)
    assert 1000 * LARGEST_WEIGHT < 2**63
    for given_weight, part in zip(weights, whole, strict=True):
        assert part == (int(given_weight / largest * LARGEST_WEIGHT) if largest else 0)
        if largest:
            assert abs(Fraction(part, LARGEST_WEIGHT) - Fraction(given_weight) / Fraction(largest)) < Fraction(
                2, LARGEST_WEIGHT
            )


@given(FACTORS, FACTORS, st.floats(0.0, 1.0), st.floats(0.0, 1.0), POWERS, POWERS, POWERS)
def test_a_weight_is_the_product_of_its_factors_powers(
    compute: float, tokens: float, uptime: float, quality: float, a: float, b: float, c: float
) -> None:
    exact = compute**a * tokens**b * uptime**c * quality**2
    assert weight(compute, tokens, uptime, quality, Exponents(a, b, c)) == pytest.approx(exact, rel=1e-12, abs=1e-300)


def test_other_exponents_and_weights_that_are_all_zero_are_refused() -> None:
    with pytest.raises(ValueError, match=r"exponent 1\.5 is not allowed, only 0, 0\.5, 1 and 2 are"):
        weight(1.0, 1.0, 1.0, 1.0, Exponents(tokens=1.5))
    with pytest.raises(ValueError, match="weights are 0"):
        bonus(NANO, [0, 0], [1, 1], 0, 0)


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**32), st.integers(0, 2**32), AMOUNTS, AMOUNTS)
def test_a_pool_grows_by_the_day_and_stops_where_there_is_no_money(
    per_day: int, paid_until: int, days: int, treasury: int, mintable: int
) -> None:
    grown = pool(per_day, paid_until, paid_until + 86_400 * days, treasury, mintable)
    assert grown == min(per_day * days, treasury + mintable)
    assert pool(per_day, paid_until, paid_until - days, treasury, mintable) == 0


@given(st.lists(st.builds(Reward, AMOUNTS, AMOUNTS), max_size=5), AMOUNTS)
def test_the_treasury_pays_first_and_only_the_rest_is_minted(rewards: list[Reward], treasury: int) -> None:
    paid = sources(rewards, treasury)
    assert sum(paid) == sum(map(total, rewards))
    assert paid.treasury_nlai <= treasury
    assert paid.minted_nlai == 0 or paid.treasury_nlai == treasury
