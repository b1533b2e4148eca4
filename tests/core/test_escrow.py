"""What leaves a user's escrow, by itself: never more than there is, than was signed for, or than a key may spend."""

from hypothesis import given
from hypothesis import strategies as st

from lattice_core.escrow import (
    SessionKey,
    covers,
    may_ask,
    may_become,
    payment,
    revoked,
    used,
    withdrawal_nlai,
)
from lattice_core.split import Parts

AMOUNTS = st.one_of(st.integers(0, 2**63 - 1), st.integers(0, 1000))
BALANCES = st.builds(Parts, AMOUNTS, AMOUNTS)
SMALL = st.integers(0, 60)
TIMES = st.integers(0, 100)
KEYS = st.builds(SessionKey, st.integers(0, 50), st.integers(0, 50), st.integers(0, 2), st.integers(0, 7), TIMES)


@given(BALANCES, AMOUNTS)
def test_a_voucher_takes_faucet_credit_first_and_at_most_what_there_is(balance: Parts, due: int) -> None:
    paid = payment(balance, due)
    assert sum(paid) == min(due, sum(balance))
    assert paid.purchased_nlai == 0 or paid.faucet_nlai == balance.faucet_nlai


@given(KEYS, st.lists(SMALL))
def test_a_key_that_covers_each_promise_in_turn_promises_no_more_than_its_cap(key: SessionKey, promises: list[int]) -> None:
    left = key.cap_nlai - key.used_nlai
    for nlai in promises:
        if covers(key, nlai, key.nexus, 0, key.expiry_s):
            key = used(key, nlai)
            left -= nlai
            assert left == key.cap_nlai - key.used_nlai >= 0


@given(KEYS, SMALL, st.integers(0, 2), st.integers(0, 2), st.integers(1, 100))
def test_what_a_key_covers_a_key_that_replaces_it_covers_too(
    key: SessionKey, nlai: int, nexus: int, kind: int, end: int
) -> None:
    wider = key._replace(cap_nlai=key.cap_nlai + 1, kinds=key.kinds | 1, expiry_s=key.expiry_s + 1)
    assert may_become(key, wider)
    assert not covers(key, nlai, nexus, kind, end) or covers(wider, nlai, nexus, kind, end)


@given(KEYS.filter(lambda key: key.expiry_s > 0))
def test_nothing_is_taken_from_a_key(key: SessionKey) -> None:
    narrower = [
        key._replace(cap_nlai=key.cap_nlai - 1),
        key._replace(expiry_s=key.expiry_s - 1),
        key._replace(nexus=key.nexus + 1),
        *(key._replace(kinds=key.kinds & ~(1 << kind)) for kind in range(3) if key.kinds >> kind & 1),
    ]
    assert may_become(key, key)
    assert not any(may_become(key, new) for new in narrower)


@given(KEYS, SMALL, TIMES, st.integers(1, 100))
def test_a_revoked_key_covers_the_epochs_until_then_and_no_later_one(
    key: SessionKey, nlai: int, now_end: int, end: int
) -> None:
    scope = (nlai, key.nexus, 0, end)
    assert covers(revoked(key, now_end), *scope) == (covers(key, *scope) and end <= now_end)


@given(AMOUNTS, AMOUNTS)
def test_nobody_asks_for_more_than_there_is(purchased: int, asked: int) -> None:
    assert may_ask(purchased, asked) == (withdrawal_nlai(purchased, asked, 0, 0) == asked)


@given(AMOUNTS, AMOUNTS, TIMES, TIMES)
def test_a_withdrawal_waits_until_its_epoch_is_closed_and_never_pays_more_than_is_left(
    purchased: int, asked: int, closed: int, now: int
) -> None:
    paid = withdrawal_nlai(purchased, asked, closed, now)
    assert paid <= min(purchased, asked)
    assert paid in ({purchased, asked} if now >= closed else {0})
