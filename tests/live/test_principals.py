"""Organisations, members and keys: who may ask, how often, and for how much."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice_live.gateway.errors import Refusal
from lattice_live.gateway.principals import ADMIN, CHAT, MEMBER, OWNER, SCOPES, Bucket, Key, Principals


class Shelf:
    """Documents in memory."""

    def __init__(self) -> None:
        self.spaces: dict[str, dict[str, dict[str, Any]]] = {}

    def put(self, space: str, key: str, value: Mapping[str, Any]) -> None:
        self.spaces.setdefault(space, {})[key] = dict(value)

    def drop(self, space: str, key: str) -> None:
        self.spaces.get(space, {}).pop(key, None)

    def items(self, space: str, prefix: str = "") -> dict[str, dict[str, Any]]:
        return {key: value for key, value in self.spaces.get(space, {}).items() if key.startswith(prefix)}


def founded() -> tuple[Principals, str, Shelf]:
    shelf = Shelf()
    principals = Principals(shelf)  # type: ignore[arg-type]
    return principals, principals.found(0) or "", shelf


def terms(**changes: Any) -> Key:
    return Key("", "local", "owner", "another", (CHAT,), 0)._replace(**changes)


def refused(call: Any, *arguments: Any) -> tuple[int, str]:
    with pytest.raises(Refusal) as refusal:
        call(*arguments)
    return refusal.value.status_code, refusal.value.code


def test_the_first_key_opens_everything_and_is_given_out_once() -> None:
    principals, key, _ = founded()
    assert principals.found(0) is None
    principal = principals.authenticate(f"Bearer {key}", ADMIN, 0.0)
    assert (principal.account, principal.role, principal.key.scopes) == (0, OWNER, SCOPES)
    assert principals.authenticate(f"bearer  {key} ", None, 0.0) == principal


def test_other_accounts_are_other_organisations() -> None:
    principals, key, _ = founded()
    other = principals.authenticate(f"Bearer {principals.found(3)}", CHAT, 0.0)
    assert other.account == 3
    assert not other.owns(principals.authenticate(f"Bearer {key}", CHAT, 0.0))


def test_only_a_hash_of_a_key_is_kept_and_a_restart_knows_it() -> None:
    _, key, shelf = founded()
    assert key.removeprefix("sk-lattice-") not in repr(shelf.spaces)
    again = Principals(shelf)  # type: ignore[arg-type]
    assert again.authenticate(f"Bearer {key}", CHAT, 0.0).account == 0
    assert again.found(0) is None


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer x", "Basic {key}", "{key}", "Bearer {key}x", "Bearer \xff"])
def test_nothing_else_opens(header: str) -> None:
    principals, key, _ = founded()
    assert refused(principals.authenticate, header.format(key=key), CHAT, 0.0) == (401, "invalid_api_key")


def test_a_key_opens_its_scopes_until_it_expires() -> None:
    principals, _, _ = founded()
    secret, _ = principals.issue(terms(expires_s=100))
    assert principals.authenticate(f"Bearer {secret}", CHAT, 99.9)
    assert refused(principals.authenticate, f"Bearer {secret}", ADMIN, 99.9) == (403, "missing_scope")
    assert refused(principals.authenticate, f"Bearer {secret}", CHAT, 100.0) == (401, "expired_api_key")


def test_a_member_is_no_admin_and_goes_with_his_keys() -> None:
    principals, _, _ = founded()
    principals.add_member("local", "ada", MEMBER)
    assert refused(principals.add_member, "local", "ada", OWNER) == (409, "member_exists")
    assert refused(principals.issue, terms(member="ada", scopes=(ADMIN,))) == (403, "missing_role")
    assert refused(principals.issue, terms(member="bob")) == (404, "no_such_member")
    secret, _ = principals.issue(terms(member="ada"))
    assert principals.authenticate(f"Bearer {secret}", CHAT, 0.0).role == MEMBER
    principals.drop_member("local", "ada")
    assert refused(principals.authenticate, f"Bearer {secret}", CHAT, 0.0) == (401, "invalid_api_key")
    assert refused(principals.drop_member, "local", "ada") == (404, "no_such_member")


def test_the_last_key_of_an_admin_and_its_bearer_stay() -> None:
    principals, _, _ = founded()
    (first,) = principals.keys("local")
    principals.issue(terms(scopes=(ADMIN,), expires_s=100))
    assert refused(principals.drop_key, "local", first.id) == (409, "last_admin")
    assert refused(principals.drop_member, "local", "owner") == (409, "last_admin")
    principals.issue(terms(scopes=(ADMIN,)))
    principals.drop_key("local", first.id)
    assert refused(principals.drop_key, "local", first.id) == (404, "no_such_key")


def test_an_owner_owns_what_members_ask_and_members_their_own() -> None:
    principals, key, _ = founded()
    principals.add_member("local", "ada", MEMBER)
    owner = principals.authenticate(f"Bearer {key}", CHAT, 0.0)
    ada, again = (principals.authenticate(f"Bearer {principals.issue(terms(member='ada'))[0]}", CHAT, 0.0) for _ in range(2))
    assert owner.owns(ada)
    assert ada.owns(again)
    assert not ada.owns(owner)
    assert len({owner.number, ada.number, again.number}) == 3


@given(
    budget=st.integers(0, 1_000),
    calls=st.lists(st.tuples(st.integers(1, 400), st.integers(0, 100), st.booleans()), max_size=40),
    dies=st.integers(0, 40),
)
def test_what_is_spent_and_may_yet_be_spent_is_never_more_than_the_budget(
    budget: int, calls: list[tuple[int, int, bool]], dies: int
) -> None:
    principals, _, shelf = founded()
    secret, _ = principals.issue(terms(budget_nlai=budget))
    principal = principals.authenticate(f"Bearer {secret}", CHAT, 0.0)
    open_nlai: dict[int, int] = {}
    spent = lost = 0
    for request, (most, share, stays) in enumerate(calls, 1):
        if request == dies:  # what runs may have cost its cap
            principals, lost, open_nlai = Principals(shelf), sum(open_nlai.values()), {}  # type: ignore[arg-type]
        left = budget - spent - lost - sum(open_nlai.values())
        if left <= 0:
            assert refused(principals.reserve, principal, request, most) == (402, "budget_exhausted")
            continue
        open_nlai[request] = principals.reserve(principal, request, most)
        assert open_nlai[request] == min(most, left)
        if not stays:
            fee = open_nlai.pop(request) * share // 100
            principals.settle(principal, request, fee)
            principals.settle(principal, request, fee)  # once is enough
            spent += fee
        assert principals.spent_nlai(principal.key) == spent + lost <= budget


@given(per_min=st.integers(1, 600), pauses=st.lists(st.floats(0, 10), max_size=60))
def test_no_minute_has_more_than_twice_a_rates_requests_and_who_waits_as_told_is_let_in(
    per_min: int, pauses: list[float]
) -> None:
    bucket, now_s = Bucket(per_min, 0.0), 0.0
    taken: list[float] = []
    for pause in pauses:
        now_s += pause
        wait_s = bucket.take(now_s)
        if wait_s:
            now_s += wait_s + 1e-9
            assert bucket.take(now_s) == 0.0
        taken.append(now_s)
        assert sum(at > now_s - 60 for at in taken) <= 2 * per_min


def test_what_ran_when_the_nexus_was_killed_counts_with_its_fee_where_that_is_known() -> None:
    principals, _, shelf = founded()
    secret, key = principals.issue(terms(budget_nlai=100))
    principal = principals.authenticate(f"Bearer {secret}", CHAT, 0.0)
    for request in (1, 2):
        principals.reserve(principal, request, 30)
    assert Principals(shelf).spent_nlai(key) == 60  # type: ignore[arg-type]
    assert Principals(shelf, {1: 7, 9: 50}).spent_nlai(key) == 37  # type: ignore[arg-type]
    assert Principals(shelf).spent_nlai(key) == 37, "and it stays so"  # type: ignore[arg-type]
