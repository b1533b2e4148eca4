"""What one more node would earn: the node is added to the network, and money and power are counted as they should."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice_core.config import Config, ConfigError, revise
from lattice_sim import networks
from lattice_sim.estimate import NODE, Power, estimate, half_width, with_node
from lattice_sim.simulate import run

HARDWARE = {"a": "50ms", "b": "2ms", "prefill_tok_s": 600}


@pytest.fixture(scope="module")
def small() -> Config:
    return revise(
        networks.read("baseline.yaml"),
        {"nodes.datacentre.count": 2, "nodes.household.count": 4, "users.chat.count": 40, "sim.epochs": 2}
        | {"users.chat.workload.modulated.requests_per_day": 9_000, "chain.backend": "revm"},
    )


def test_the_node_is_one_more_like_the_others_except_for_what_is_said(small: Config) -> None:
    more = with_node(small, HARDWARE, slots=3)
    *others, mine = more.nodes
    assert (others, mine.name, mine.count, mine.slots) == (small.nodes, NODE, 1, 3)
    assert (mine.price, mine.bond_nlai) == (small.nodes[0].price, small.nodes[0].bond_nlai)
    assert (mine.failures, mine.profile("deepseek-r1-distill-70b").b_ns) == (None, 2_000_000)


def test_revenue_is_the_operators_part_of_what_the_node_was_settled_and_power_follows_its_slots(small: Config) -> None:
    more = with_node(small, HARDWARE)
    found = estimate(more, Power(idle_w=100.0, busy_w=500.0, lai_per_kwh=0.5), [7])
    (day,) = found.days
    done = run(revise(more, {"seed": 7}))
    rows = done.nodes[done.nodes["population"] == NODE]
    settled_nlai = int((rows["settled_nlai"] + rows["settled_faucet_nlai"]).sum())
    assert settled_nlai > 0
    of_a_day = 2 / 24
    assert day.revenue_lai == pytest.approx(settled_nlai * 0.99 * 0.96 * 0.98 / 1e9 / of_a_day, rel=1e-4)
    assert day.electricity_lai == pytest.approx((0.1 + 0.4 * day.utilisation) * 24 * 0.5)
    assert found.mean_lai == day.net_lai
    assert (found.low_lai, found.high_lai) == (None, None)


def test_a_cheaper_node_serves_more(small: Config) -> None:
    def answers(price: float) -> float:
        more = with_node(small, HARDWARE, price={"input": price, "output": price})
        return estimate(more, Power(0.0, 0.0, 0.0), [7]).days[0].answers

    assert answers(0.1) > answers(5.0)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12))
def test_the_interval_is_students(values: list[float]) -> None:
    from scipy import stats

    half = half_width(values)
    assert half is not None
    spread = stats.sem(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=sum(values) / len(values), scale=spread) if spread else (0.0, 0.0)
    assert half == pytest.approx((high - low) / 2, rel=1e-6, abs=1e-6)
    assert half_width(values[:1]) is None


@pytest.mark.parametrize(
    ("model", "said"), [("none", "--model: must be one of deepseek-r1-distill-70b, not none"), (None, "hardware")]
)
def test_what_cannot_be_estimated_is_refused(small: Config, model: str | None, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        with_node(small, "cpu-2-cores", model)


def test_no_power_costs_nothing(small: Config) -> None:
    day = estimate(with_node(small, HARDWARE), Power(0.0, 0.0, 1.0), [1]).days[0]
    assert day.electricity_lai == 0.0
    assert math.isclose(day.net_lai, day.revenue_lai)
