"""The split, by itself: it loses nothing, and compiled it equals Python's integers up to the largest amounts."""

from fractions import Fraction
from math import ceil

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lattice_core.split import Parts, Rates, below_ceiling, credit, debit, scale, share, split
from lattice_core.units import PPM

AMOUNTS = st.one_of(st.integers(0, 2**63 - 1), st.integers(0, 1000), st.just(2**63 - 1))
PPMS = st.one_of(st.integers(0, PPM), st.sampled_from([0, 1, PPM - 1, PPM]))
RATES = st.builds(Rates, PPMS, PPMS, PPMS, PPMS, AMOUNTS)


@given(AMOUNTS, PPMS)
def test_a_share_is_the_exact_product_rounded_up(rest: int, ppm: int) -> None:
    assert share(rest, ppm) == share.py_func(rest, ppm) == ceil(Fraction(rest * ppm, PPM))


@given(AMOUNTS, RATES)
def test_each_cut_is_taken_of_what_the_earlier_cuts_left_and_nothing_is_lost(gross: int, rates: Rates) -> None:
    cuts = split(gross, rates)
    assert cuts == split.py_func(gross, rates)
    rest = gross
    for cut, ppm in zip(cuts, rates[:4], strict=False):
        assert cut == ceil(Fraction(rest * ppm, PPM))
        rest -= cut
    assert cuts.operators_nlai == rest
    assert sum(map(int, cuts)) == gross


@given(RATES, AMOUNTS)
def test_the_treasury_takes_nothing_from_its_ceiling_on(rates: Rates, treasury: int) -> None:
    in_force = below_ceiling(rates, treasury)
    assert in_force == below_ceiling.py_func(rates, treasury)
    assert in_force.treasury_ppm == (rates.treasury_ppm if treasury < rates.treasury_ceiling_nlai else 0)


@given(st.data())
def test_scaling_is_exact_for_products_beyond_64_bits(data: st.DataObject) -> None:
    claimed = data.draw(st.integers(1, 2**63 - 1))
    applied, gross = data.draw(st.integers(0, claimed)), data.draw(st.integers(0, claimed))
    assert scale(gross, applied, claimed) == scale.py_func(gross, applied, claimed) == gross * applied // claimed


@given(st.data())
def test_debiting_and_crediting_a_chunk_is_the_same_compiled_and_in_python(data: st.DataObject) -> None:
    users, nodes, limit = 5, 4, 2**63 // 16
    amounts = st.integers(0, limit)
    balances = np.array(data.draw(st.lists(st.tuples(amounts, amounts), min_size=users, max_size=users)), np.int64)
    debits = np.array(data.draw(st.lists(st.tuples(st.integers(0, users), amounts, amounts), max_size=8)), np.int64).reshape(
        -1, 3
    )
    grosses = np.array(data.draw(st.lists(st.tuples(st.integers(0, nodes), amounts, amounts), max_size=8)), np.int64).reshape(
        -1, 3
    )
    rates = data.draw(RATES)

    def run(debit_rule: object, credit_rule: object) -> tuple[object, ...]:
        purchased, faucet = balances[:, 0].copy(), balances[:, 1].copy()
        skipped = np.zeros(len(debits), np.bool_)
        claimed, applied = debit_rule(*(debits[:, i].copy() for i in range(3)), purchased, faucet, skipped)  # type: ignore[operator]
        operators, delegators = np.zeros(nodes, np.int64), np.zeros(nodes, np.int64)
        total = Parts(int(grosses[:, 1].sum()), int(grosses[:, 2].sum()))
        part = Parts(min(total.purchased_nlai, applied.purchased_nlai), min(total.faucet_nlai, applied.faucet_nlai))
        columns = (grosses[:, i].copy() for i in range(3))
        cuts = credit_rule(*columns, total, part, rates, operators, delegators)  # type: ignore[operator]
        assert sum(map(int, cuts)) == sum(part)
        arrays = (purchased, faucet, skipped, operators, delegators)
        return (tuple(claimed), tuple(applied), tuple(cuts), *(array.tolist() for array in arrays))

    assert run(debit, credit) == run(debit.py_func, credit.py_func)
