"""Long runs of the compiled engine have the means that queueing theory gives: each is so long that an error of 2 % is 4 σ.

σ is the standard deviation of the estimate, from the asymptotic variance K of a mean over customers, σ² = K/customers · mean².
K is known for M/M/1 (Daley 1968; at load ρ the wait has K = (2 + 5ρ − 4ρ² + ρ³)/ρ/(1 − ρ)²) and was taken from 100 batch means
of a shorter run elsewhere. Waits and numbers are integrals over the whole run, exact to the nanosecond.
"""

from typing import Any

import numpy as np
import pytest

from lattice_core.invariants import check
from lattice_core.state import REASONS
from lattice_core.units import MINUTE_NS
from lattice_sim.compiled import CompiledEngine
from tests.sim.served import plain, start
from tests.theory.queues import erlang_c_wait
from tests.theory.stations import FIRST_COME, MEAN_TOK, SHARED, TOKEN_NS, Customers, Law, exponential, mean_tok, station
from tests.theory.test_engine import HOSTILE

SERVICE_NS = mean_tok() * TOKEN_NS

PARTS = 16
"""Areas are read so often that what each part adds fits int64, as the epochs of a run are; their sum over years may not."""


@pytest.mark.parametrize(
    ("servers", "load", "customers"),
    [
        (1, 0.5, 1_200_000),
        (2, 0.7, 3_300_000),
        (4, 0.8, 8_400_000),
        (1, 0.9, 17_700_000),
        pytest.param(4, 0.9, 24_000_000, marks=pytest.mark.thorough),
    ],
)
def test_the_mean_wait_is_erlangs(servers: int, load: float, customers: int) -> None:
    """Each row is 4 σ long: K = 29 and 443 for one server by the formula, 83 for two, 209 and 600 for four by batches."""
    error = _mean_wait(servers, load, customers) / erlang_c_wait(servers, load) - 1
    assert abs(error) < 0.02


@pytest.mark.thorough
def test_the_mean_wait_at_a_load_of_99_percent_is_erlangs() -> None:
    """K = 40,400: 10⁸ customers, two minutes, make σ 2 %; the 1.6·10⁹ of which 2 % are 4 σ would take half an hour."""
    assert abs(_mean_wait(1, 0.99, 100_000_000) / erlang_c_wait(1, 0.99) - 1) < 0.08


def _mean_wait(servers: int, load: float, customers: int) -> float:
    """In services, of so many customers."""
    gap_ns = SERVICE_NS / servers / load
    source = Customers(exponential, gap_ns, seed=servers)
    engine = station({**FIRST_COME, "node.slots": servers}, source)
    waited_ns, before_ns = 0, np.int64(0)
    for part in range(1, PARTS + 1):
        engine.run_until(int(gap_ns * customers) * part // PARTS)
        area_ns = engine.system_ns()[0] - engine.busy_ns()[0]
        waited_ns += int(area_ns - before_ns)
        before_ns = area_ns
    assert engine.records.log.reasons[1:].sum() == 0
    return waited_ns / source.count / SERVICE_NS


def _all_alike(rng: np.random.Generator, count: int) -> Any:
    return np.full(count, int(MEAN_TOK))


def _one_in_ten_long(rng: np.random.Generator, count: int) -> Any:
    return np.where(rng.random(count) < 0.1, 2_100, 100)


@pytest.mark.parametrize(
    ("law", "mean", "customers"),
    [(_all_alike, MEAN_TOK, 410_000), (exponential, mean_tok(), 830_000), (_one_in_ten_long, MEAN_TOK, 1_900_000)],
    ids=["all alike", "exponential", "one in ten long"],
)
def test_a_shared_processors_mean_number_depends_on_the_mean_service_only(law: Law, mean: float, customers: int) -> None:
    """ρ/(1 − ρ) jobs at ρ = 0.6, whatever the law. Each row is 4 σ long: K = 10, 21 and 46 by batches."""
    load = 0.6
    gap_ns = mean * TOKEN_NS / load
    engine = station(SHARED, Customers(law, gap_ns, seed=4))
    until_ns = int(gap_ns * customers)
    engine.run_until(until_ns)
    assert engine.system_ns()[0] / until_ns == pytest.approx(load / (1 - load), rel=0.02)
    assert engine.records.log.reasons[1:].sum() == 0


def test_the_less_loaded_of_two_among_a_thousand_nodes_has_the_queues_of_the_mean_field() -> None:
    """Σ ρ^(2^i − 1) requests a node at ρ = 0.9 (Mitzenmacher 2001); a thousand nodes have 0.2 % more (Gast & Van Houdt 2017).

    The run begins empty, so its first 100 services do not count; σ of the next 2,000 is 0.47 % by 24 batches.
    """
    load, nodes = 0.9, 1_000
    source = Customers(exponential, SERVICE_NS / load / nodes, seed=5)
    changes = {"node.count": nodes, "node.slots": 1, "node.queue": 60, "economics.registration.rise": 0}
    engine = station({**FIRST_COME, **changes, "routing.policy": "power_of_two"}, source)
    areas_ns = []
    for services in (100, 2_100):
        engine.run_until(int(services * SERVICE_NS))
        areas_ns.append(engine.system_ns().sum() / nodes)
    number = (areas_ns[1] - areas_ns[0]) / (2_000 * SERVICE_NS)
    assert number == pytest.approx(sum(load ** (2**i - 1) for i in range(1, 8)), rel=0.02)


def test_a_station_that_breaks_down_has_the_flows_of_its_markov_chain() -> None:
    """Up and idle, up and busy, or down: what arrives is served, refused while busy, lost while down or broken off.

    In services: an arrival in each, 20 to a breakdown, 5 to a repair. Of 3·10⁶ arrivals, 6·10⁴ are broken off and 1.2·10⁵ times
    the node goes down: σ is 0.4 % of what is broken off, 0.33 % of what is lost, less of the rest.
    """
    mtbf, mttr, customers = 20.0, 5.0, 3_000_000
    source = Customers(exponential, SERVICE_NS, seed=6)
    engine = station(
        {
            **FIRST_COME,
            "node.slots": 1,
            "node.queue": 0,
            "node.failures": {"mtbf": f"{mtbf * SERVICE_NS:.0f}ns", "mttr": f"{mttr * SERVICE_NS:.0f}ns"},
            "routing.retries": 0,
            "routing.breaker.failures": 1_000_000,
        },
        source,
    )
    until_ns = int(SERVICE_NS * customers)
    engine.run_until(until_ns)
    up = mtbf / (mtbf + mttr)
    busy = up / (1 + 1 + 1 / mtbf)
    rows = engine.records.log.rows[: engine.records.log.tally[0]["kept"]]
    broken_off = (rows["reason"] == REASONS.index("node_lost")) & (rows["end_ns"] > rows["dispatch_ns"])
    node_lost, refused = (engine.records.log.reasons[REASONS.index(reason)] for reason in ("node_lost", "busy"))
    shares = {
        "served": (engine.records.log.reasons[0] / source.count, busy),
        "refused": (refused / source.count, busy),
        "lost": (node_lost / source.count - broken_off.mean(), 1 - up),
        "broken off": (broken_off.mean(), busy / mtbf),
        "busy": (engine.busy_ns()[0] / until_ns, busy),
    }
    assert {name: abs(found / expected - 1) < 0.02 for name, (found, expected) in shares.items()} == dict.fromkeys(shares, True)


def test_what_flows_into_each_failing_node_flows_out_of_it() -> None:
    """As counts, at any time: what went in and has not come out is on the node. So the rates are equal in the long run."""
    engine, nexus = start(plain({**HOSTILE, "seed": 11}), CompiledEngine)
    for minutes in (7, 60, 300):
        engine.run_until(minutes * MINUTE_NS)
        check(nexus)
        nodes, server = nexus.table("nodes")[: len(engine.nodes)], engine.service.server
        out = nodes["legs_done"] + nodes["legs_lost"] + nodes["legs_cancelled"]
        on_node = server["waiting"] + server["prefilling"] + server["decoding"]
        assert (nodes["legs"] - out).tolist() == on_node.tolist()  # no time passes on the way
    assert (nodes["legs_lost"] > 100).all()
    assert (out / nodes["legs"] > 0.998).all()
    assert nexus.count("arrived") == sum(nexus.count(name) for name in ("completed", "failed", "rejected", "in_flight"))
