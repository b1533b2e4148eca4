"""The routing policies: whom each chooses, how a user's own is compiled and refused, and what the kernel makes of memories."""

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numba.core.event
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice_core.config.network import POLICIES
from lattice_core.directory import Rows
from lattice_core.events import Arrive, CancelRequest, Dispatch, NodeDown, NodeUp
from lattice_core.nexus import Nexus
from lattice_core.reputation import BLOCK, decay_at, observe_outcome, reliability_of
from lattice_core.routing import BUILTIN, PolicyError, load_policy, policy, power
from lattice_core.state import DECISIONS, OFFER_VIEW, PREFERENCES, REQUEST_VIEW, SAMPLINGS, WEIGHTS
from lattice_core.units import NANO
from tests.core import own_policy
from tests.invariants.town import Town, config, only

PAGE = (Path(__file__).parents[2] / "docs" / "policies.md").read_text()
QUIET = {"routing.newcomer_cap": 0, "routing.explore": 0}


def crowd(name: str, nodes: int = 8, **changes: Any) -> Town:
    """Nodes of different prices and one user, under this policy."""
    town = Town({**QUIET, "routing.policy": name, **changes})
    town.user(deposit=1000)
    for node in range(nodes):
        town.node(node, price=(0.1, 0.5 + 0.25 * ((3 * node) % nodes)), slots=2, queue=1000)
    return town


def chosen(town: Town, requests: int, **details: Any) -> list[int]:
    """The nodes of requests that leave at once."""
    nodes = []
    for _ in range(requests):
        nodes.append(town.sent(**details).node)
        town.handle(CancelRequest(town.t_ns, town.requests))
    return nodes


# --- whom each chooses ---


def test_the_config_knows_each_built_in_policy() -> None:
    assert set(POLICIES) == set(BUILTIN)


@pytest.mark.parametrize("name", POLICIES)
def test_each_policy_serves_everyone_while_there_is_room_and_then_says_busy(name: str) -> None:
    town = Town({**QUIET, "routing.policy": name})
    town.user()
    town.nodes(5, slots=1, queue=1)
    assert Counter(town.sent().node for _ in range(10)) == Counter(dict.fromkeys(range(5), 2))
    assert town.refused() == "busy"


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("argmax", lambda seen: seen["quality"] ** 2 * seen["reliability"] ** 4 * seen["latency"] * seen["price"]),
        ("cheapest", lambda seen: -seen["fee_nlai"]),
        ("least_in_flight", lambda seen: -seen["in_flight"]),
        ("price_weighted", lambda seen: math.log(seen["noise"]) * (1 + seen["fee_nlai"]) ** 2),
        ("power_of_two", lambda seen: -seen["load"]),
        ("peak_ewma", lambda seen: -(seen["ttft_s"] + 200 * seen["itl_s"]) * (seen["in_flight"] + 1)),
    ],
)
def test_a_policy_that_compares_takes_the_best_of_those_it_is_asked_about(name: str, key: Any) -> None:
    town = crowd(name)
    for _ in range(40):
        town.sent()
        factors = town.nexus.explain(town.requests)
        assert len(factors) == (8 if BUILTIN[name][1].get("sampling") == "all" else 2)
        (best,) = (factor for factor in factors if factor.chosen)
        assert key(best.seen) == pytest.approx(max(key(factor.seen) for factor in factors), rel=1e-9)


@pytest.mark.parametrize(
    ("prefer", "factor"),
    [
        ("balanced", lambda seen: 1),
        ("cheap", lambda seen: seen["price"] ** 2),
        ("fast", lambda seen: seen["latency"] ** 2),
        ("best", lambda seen: seen["quality"] ** 4),
    ],
)
def test_what_a_user_would_rather_have_is_one_more_factor_of_u(prefer: str, factor: Any) -> None:
    towns = [crowd(name) for name in ("score_sampled", "argmax", "score_all")]
    for town in towns:
        for _ in range(10):
            town.sent(prefer=PREFERENCES.index(prefer))
            for found in town.nexus.explain(town.requests):
                seen = found.seen
                u = seen["quality"] ** 2 * seen["reliability"] ** 4 * seen["latency"] * seen["price"] * seen["bond"] ** 0.25
                score = math.log(seen["noise"]) / found.score if town is towns[2] else found.score
                assert score == pytest.approx(u * factor(seen), rel=1e-9)


def test_who_wants_it_cheap_gets_the_cheap_node_and_who_wants_it_fast_the_fast_one() -> None:
    town = Town({**QUIET, "routing.policy": "argmax", "reputation.history": 1_000})
    town.user()
    town.node(0, price=(0.1, 0.6), slots=1, queue=100)
    town.node(1, price=(0.2, 1.0), slots=20)
    for _ in range(3):
        assert town.sent(max_fee_nlai=150_000).node == 0
    assert [chosen(town, 1, prefer=PREFERENCES.index(name)) for name in ("cheap", "fast")] == [[0], [1]]


def test_round_robin_takes_each_in_turn_and_passes_over_those_that_may_not_serve() -> None:
    town = crowd("round_robin", nodes=5)
    assert chosen(town, 12) == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    assert len(town.nexus.explain(town.requests)) == 1
    town.handle(NodeDown(town.t_ns, 3))
    assert set(chosen(town, 8)) == {0, 1, 2, 4}
    town.handle(NodeUp(town.t_ns, 3))
    assert Counter(chosen(town, 10)) == Counter(dict.fromkeys(range(5), 2))


def expected(weights: list[float], requests: int) -> list[float]:
    return [requests * weight / sum(weights) for weight in weights]


def test_price_weighted_chooses_in_proportion_to_one_over_the_fee_squared() -> None:
    town = crowd("price_weighted", nodes=4)
    counts = Counter(chosen(town, 1000))
    fees = {factor.node: factor.seen["fee_nlai"] for factor in town.nexus.explain(town.requests)}
    wanted = expected([fees[node] ** -2 for node in range(4)], 1000)
    assert sum((counts[node] - want) ** 2 / want for node, want in enumerate(wanted)) < 16.3, "χ², 3 degrees, p = 0.001"


def test_score_all_chooses_in_proportion_to_u() -> None:
    town = crowd("score_all", nodes=4, **{"routing.refresh": "1d", "reputation.probe_interval": "1d"})
    counts = Counter(chosen(town, 1000))
    weights = [0.0] * 4
    for factor in town.nexus.explain(town.requests):
        weights[factor.node] = math.log(factor.seen["noise"]) / factor.score
    wanted = expected(weights, 1000)
    assert sum((counts[node] - want) ** 2 / want for node, want in enumerate(wanted)) < 16.3, "χ², 3 degrees, p = 0.001"


def test_equal_prefixes_meet_equal_nodes_until_the_first_is_late() -> None:
    town = crowd("sticky", nodes=40)
    homes = {prefix: chosen(town, 1, prefix=prefix)[0] for prefix in range(1, 30)}
    assert len(set(homes.values())) > 10
    for prefix, home in homes.items():
        assert set(chosen(town, 3, prefix=prefix)) == {home}
    drawn = [{factor.node for factor in town.nexus.explain(request)} for request in (1, 30, 31)]
    assert drawn[0] == drawn[1] == drawn[2]
    served = [town.sent(prefix=1) for _ in range(30)]
    factors = town.nexus.explain(town.requests)
    assert [sent.node for sent in served[:3]] == [homes[1]] * 3
    assert {factor.node for factor in factors} == drawn[0]
    assert len({sent.node for sent in served}) == 4, "a home beyond the knee sends its prefix on"


def test_a_request_without_a_prefix_stays_with_its_session_and_without_either_goes_anywhere() -> None:
    town = crowd("sticky", nodes=40)
    town.user(1)
    assert len(set(chosen(town, 20, session=5))) == 1
    assert chosen(town, 8, session=5) != chosen(town, 8, session=5, account=1), "another account's session 5 is another"
    assert len(set(chosen(town, 20))) > 8


def test_one_more_node_leaves_most_prefixes_where_they_are() -> None:
    few, more = crowd("sticky", nodes=30), crowd("sticky", nodes=31)
    homes = [[chosen(town, 1, prefix=prefix)[0] for prefix in range(1, 201)] for town in (few, more)]
    moved = sum(before != after for before, after in zip(*homes, strict=True))
    assert 0 < moved < 3 * 200 / 31


def test_the_winner_of_a_pass_that_is_longer_than_what_is_kept_can_still_be_explained() -> None:
    town = Town({**QUIET, "routing.policy": "cheapest"})
    town.user()
    for node in range(DECISIONS + 20):
        town.node(node, price=(0.1, 0.5 if node == 3 else 1))
    assert town.sent().node == 3
    factors = town.nexus.explain(town.requests)
    assert len(factors) == DECISIONS
    assert [factor.node for factor in factors if factor.chosen] == [3]


# --- the formulas ---


@given(st.floats(1e-9, 1e9), st.integers(0, 64))
def test_a_power_of_quarters_is_that_of_the_exponential(x: float, quarters: int) -> None:
    assert power(x, quarters / 4) == pytest.approx(math.exp(quarters / 4 * math.log(x)), rel=1e-12)


@given(st.floats(1e-9, 1e9), st.floats(0, 16))
def test_a_power_is_the_same_in_python_and_compiled(x: float, weight: float) -> None:
    assert power(x, weight) == power.py_func(x, weight)  # type: ignore[attr-defined]


@given(st.lists(st.tuples(st.integers(0, 40 * BLOCK * 60), st.booleans()), max_size=30), st.integers(0, 10**6))
def test_counts_kept_relative_to_landmarks_are_the_discounted_sums(told: list[tuple[int, bool]], wait_s: int) -> None:
    """Σ x·½^(age/half-life), whatever landmarks have passed."""
    town = Town()
    town.node(up=False)
    nexus, S = town.nexus, town.nexus.state.handle
    t_ns, seen = 0, []
    for after_s, ok in told:
        t_ns += after_s * NANO
        observe_outcome(S, 0, ok, t_ns)
        seen.append((t_ns, ok))
    t_ns += wait_s * NANO
    reputation, direct = nexus.config.reputation, 0.0
    for half_life_ns, weight in ((reputation.fast_half_life_ns, 0.8), (reputation.slow_half_life_ns, 0.2)):
        kept = [(0.5 ** ((t_ns - at_ns) / half_life_ns), ok) for at_ns, ok in seen]
        trials = sum(part for part, _ in kept)
        successes = sum(part for part, ok in kept if ok)
        direct += weight * (successes + 0.9 * 5.0) / (trials + 5.0)
    assert reliability_of(S, 0, decay_at(S, t_ns), t_ns) == pytest.approx(direct, rel=1e-9)


# --- a user's own ---


def test_a_policys_memory_is_its_own_and_lasts_from_decision_to_decision() -> None:
    town = crowd("tests.core.own_policy:alternating", nodes=4)
    prices = town.rows("offers")["price_out"][:4].tolist()
    dearest, cheapest = (prices.index(price) for price in (max(prices), min(prices)))
    assert chosen(town, 4) == [dearest, cheapest] * 2
    assert town.rows("memory")["number"][0] == 4
    assert town.rows("memory")["number"].shape == (2,)


def test_another_policy_compiles_nothing_but_itself() -> None:
    crowd("random").sent()
    compiled: list[str] = []

    class Listener(numba.core.event.Listener):
        def on_start(self, event: Any) -> None:
            compiled.append(event.data["dispatcher"].__name__)

        def on_end(self, event: Any) -> None:
            pass

    with numba.core.event.install_listener("numba:compile", Listener()):

        @policy(candidates=3)
        def new_here(o: Any, r: Any, w: Any) -> float:
            return o.results - o.load

        town = crowd("random")
        town.nexus._score = new_here.address
        town.sent()
    assert compiled == []
    (factor,) = town.nexus.explain(1)
    assert factor.score == factor.seen["results"] - factor.seen["load"]


BAD = {
    "def bad(o, r): return 1.0": r"takes 2 parameters; allowed: 3 \(offer, request, weights\), or with memory=N declared 4",
    "def bad(o, r, w, memory): return 1.0": "takes 4 parameters; allowed: 3",
    "def bad(o, r, w): return o.colour": "does not compile: .*colour",
    "def bad(o, r, w): return open('x')": "does not compile: .*open",
    "def bad(o, r, w): return None": "does not compile: .*none.* float64",
    "def bad(o, r, w): return (1.0, 2.0)": "does not compile: .*float64",
    "class bad: pass": "is a type, not a function",
}


@pytest.mark.parametrize("source", BAD)
def test_a_function_that_is_no_policy_is_refused_in_one_line(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    module = f"bad_policy_{list(BAD).index(source)}"
    (tmp_path / f"{module}.py").write_text(f"from lattice_core.routing import policy\n@policy()\n{source}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=f"routing policy '{module}:bad': {BAD[source]}") as refused:
        load_policy(f"{module}:bad")
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"sampling": "best"}, "sampling is 'best'; allowed: drawn, all, turn, sticky"),
        ({"candidates": 0}, "candidates is 0; allowed: 1 to 64"),
        ({"candidates": 65}, "candidates is 65; allowed: 1 to 64"),
        ({"memory": -1}, "memory is -1; allowed: 0 to 1000000"),
    ],
)
def test_a_policy_that_asks_for_what_there_is_not_is_refused(options: dict[str, Any], wrong: str) -> None:
    with pytest.raises(PolicyError, match=wrong):
        policy(**options)(lambda o, r, w: 1.0)


def test_a_policys_module_that_breaks_is_named_with_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_policy.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ValueError, match=r"'broken_policy:x' cannot be loaded \(ZeroDivisionError: division by zero\); allowed"
    ):
        load_policy("broken_policy:x")


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_rejects_with_its_reason(score: float) -> None:
    town = crowd("random", nodes=6)

    @policy()
    def odd(o: Any, r: Any, w: Any) -> float:
        return score

    town.nexus._score = odd.address
    assert town.refused() == "bad_score"
    assert {factor.dropped for factor in town.nexus.explain(1)} == {"bad_score"}


# --- snapshot and restore ---


def tables(nexus: Nexus) -> dict[str, Rows]:
    return {name: nexus.table(name) for name in nexus.state.tables()}


@pytest.mark.parametrize("name", [*POLICIES, "tests.core.own_policy:alternating"])
def test_a_restored_kernel_goes_on_as_if_nothing_had_happened(name: str) -> None:
    town = crowd(name)
    town.user(1, faucet=3)
    answered = [town.sent(prefix=1 + i % 3, session=i % 2).leg for i in range(12)]
    for leg in answered[::2]:
        town.answer(leg, 20)
    town.ask(held=True, max_fee_nlai=NANO)
    blob = town.nexus.snapshot()
    again = Nexus.restore(town.nexus.config, blob)
    assert again.snapshot() == blob
    kernels = town.nexus, again
    events = [Arrive(town.t_ns + i, 100 + i, i % 2, 0, 100, 200, 0, prefix=i % 5) for i in range(30)]
    for event in events:
        assert kernels[0].handle(event) == kernels[1].handle(event)
    assert kernels[0].handle(CancelRequest(town.t_ns + 40, 110)) == kernels[1].handle(CancelRequest(town.t_ns + 40, 110)) != []
    assert kernels[0].digest() == kernels[1].digest()
    for table, rows in tables(kernels[0]).items():
        assert rows.tobytes() == tables(kernels[1])[table].tobytes(), table
    assert kernels[0].snapshot() == kernels[1].snapshot()


def test_a_snapshot_of_something_else_is_refused_in_one_line() -> None:
    town = crowd("random")
    town.sent()
    blob, same = town.nexus.snapshot(), town.nexus.config
    line, _, rows = blob.partition(b"\n")
    for other, wrong in (
        (b"", "must begin with a lattice-snapshot header"),
        (b"{}\n" + rows, "must begin with a lattice-snapshot header"),
        (line.replace(b'"version": 1', b'"version": 2') + b"\n" + rows, "version: must be 1, not 2"),
        (line.replace(b'"rules": "', b'"rules": "0') + b"\n" + rows, "rules: must be "),
        (blob[:-1], "are not those of its header's sha256"),
        (blob[:-1] + b"\x07", "are not those of its header's sha256"),
    ):
        with pytest.raises(ValueError, match=rf"^snapshot: .*{wrong}"):
            Nexus.restore(same, other)
    with pytest.raises(ValueError, match=r"^snapshot: config: must be "):
        Nexus.restore(config({**QUIET, "seed": 8}), blob)


def test_a_snapshot_of_a_policy_with_another_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    nexus = crowd("tests.core.own_policy:alternating").nexus
    blob, smaller = nexus.snapshot(), own_policy.alternating._replace(memory=1)
    monkeypatch.setattr(own_policy, "alternating", smaller)
    with pytest.raises(ValueError, match=r"^snapshot: memory: must have 1 numbers, as alternating declares, not 2$"):
        Nexus.restore(nexus.config, blob)


def test_there_is_room_for_the_configs_own_nodes_and_users_from_the_start() -> None:
    nexus = Nexus(config({"nodes.lab.count": 500, "users.people.count": 3000}))
    assert len(nexus.table("nodes")) == 500
    assert len(nexus.table("accounts")) == 3000
    assert nexus.table("groups")["capacity"].tolist() == [500, 0, 0, 0]
    assert len(nexus.table("gross")) == 3 * 500


def test_a_request_for_which_nobody_has_room_is_never_left_waiting() -> None:
    town = Town({**QUIET, "routing.policy": "sticky"})
    town.user()
    town.nodes(3, slots=1, queue=0)
    first = [only(Dispatch, town.ask(prefix=9)) for _ in range(3)]
    assert len({sent.node for sent in first}) == 3
    assert town.refused(prefix=9) == "busy"


# --- the page ---


def test_the_policies_page_names_each_policy_each_sampling_and_each_column() -> None:
    named = set(re.findall(r"`(\w+)`", PAGE))
    assert {*POLICIES, *SAMPLINGS} <= named
    assert {*(OFFER_VIEW.names or ()), *(REQUEST_VIEW.names or ()), *(WEIGHTS.names or ())} <= named


def test_the_policies_pages_examples_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "page_policies.py").write_text("".join(sources))
    monkeypatch.syspath_prepend(tmp_path)
    assert load_policy("page_policies:frugal").candidates == 8
    assert load_policy("page_policies:now_and_then_the_cheapest").memory == 1
