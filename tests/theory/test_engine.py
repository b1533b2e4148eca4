"""Both engines with the whole kernel in them are the queue that theory solved, and the node that carries work by hand."""

import heapq
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice_core.service import RECEIPT_TOK
from lattice_core.units import NANO
from lattice_sim.compiled import CompiledEngine
from lattice_sim.reference import ReferenceEngine
from tests.sim.served import Planned, asked, legs, plain, serve, start
from tests.sim.served import requests as requests_of
from tests.theory.brute_node import DONE, BruteNode
from tests.theory.queues import exponential_tok, kiefer_wolfowitz, poisson_arrivals_ns
from tests.theory.stations import FIRST_COME, MEAN_TOK, TOKEN_NS, station

BOTH = pytest.mark.parametrize("kind", [ReferenceEngine, CompiledEngine])


# Kiefer and Wolfowitz


@pytest.mark.parametrize("load", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("servers", [1, 4, 64])
@pytest.mark.parametrize(("kind", "customers"), [(ReferenceEngine, 10_000), (CompiledEngine, 100_000)])
def test_waits_equal_the_kiefer_wolfowitz_recursion_customer_by_customer(
    kind: type[Any], customers: int, servers: int, load: float
) -> None:
    """To the nanosecond, as services are whole tokens of whole nanoseconds."""
    arrival_ns = poisson_arrivals_ns(servers, customers, MEAN_TOK * TOKEN_NS / servers / load)
    service_tok = exponential_tok(servers, customers, MEAN_TOK)
    wait_ns = kiefer_wolfowitz(arrival_ns, service_tok * TOKEN_NS, servers)
    done_ns = arrival_ns + wait_ns + service_tok * TOKEN_NS
    # The first token comes with the prompt, and prompts cost nothing.
    source = Planned(asked(arrival_ns, np.ones_like(service_tok), service_tok + 1))
    engine = station({**FIRST_COME, "node.slots": servers}, source, kind)
    engine.run_until(int(done_ns.max()) + 1)
    served = requests_of(engine)
    assert (served["outcome"] == "completed").all()
    np.testing.assert_array_equal(served["arrival_ns"], arrival_ns)
    np.testing.assert_array_equal(served["first_token_ns"] - arrival_ns, wait_ns)
    np.testing.assert_array_equal(served["end_ns"], done_ns)


# A node that carries every job's work by hand

ARRIVE, CUT, TRAVEL = 2, 0, 1
"""Ranks of what falls on one nanosecond, after what the node itself does then."""

nodes = st.fixed_dictionaries(
    {
        "a_ns": st.sampled_from([1_000, 3_333_333, 7_000_000, 20_000_000]),
        "b_ns": st.integers(0, 5_000_000),
        "prefill_ns": st.sampled_from([1_000, 200_000, 2_000_000]),
        "beside_ns": st.sampled_from([200_000, 4_000_000]),
        "chunk_tok": st.sampled_from([32, 128]),
        "slots": st.integers(1, 4),
        "queue_room": st.integers(0, 4),
    }
)
jobs = st.lists(st.tuples(st.integers(0, 2 * NANO), st.integers(1, 700), st.integers(1, 400)), min_size=1, max_size=12)
delays_ns = st.sampled_from([0, 1, 20_000_000, 300_000_000])
deadlines_ns = st.one_of(st.integers(1, NANO), *(st.integers(s * NANO, 3 * s * NANO) for s in (1, 2, 4, 8)))


class Expected:
    """What becomes of jobs that arrive at a Nexus with one brute node behind it, event by event."""

    def __init__(self, node: BruteNode, arrival_ns: list[int], sizes: list[tuple[int, int]], delay_ns: int, deadline_ns: int):
        self.node, self.sizes, self.delay_ns = node, sizes, delay_ns
        self.rows: dict[int, tuple[str, int, int, int]] = {}
        self.open: dict[int, int] = {}
        self._first_ns: dict[int, int] = {}
        agenda = [(t_ns, ARRIVE, leg) for leg, t_ns in enumerate(arrival_ns)]
        heapq.heapify(agenda)
        while agenda:
            t_ns, what, leg = heapq.heappop(agenda)
            self._hear(t_ns)
            if what == ARRIVE:
                if len(self.open) == node.slots + node.queue_room:
                    self.rows[leg] = ("busy", -1, t_ns, 0)
                    continue
                self.open[leg] = t_ns + deadline_ns
                heapq.heappush(agenda, (t_ns + delay_ns, TRAVEL, leg))
                heapq.heappush(agenda, (t_ns + deadline_ns, CUT, leg))
            elif what == TRAVEL and leg in self.open:
                assert node.submit(leg, *sizes[leg], t_ns)
            elif what == CUT and leg in self.open:
                self._cut(leg, t_ns)

    def _hear(self, t_ns: int) -> None:
        """The node's events until `t_ns`, as far as their news has come; what is cut at that time is not heard of then."""
        self.node.run_to(t_ns)
        for at_ns, what, leg in self.node.events:
            heard_ns = int(at_ns) + self.delay_ns
            if leg not in self.open or heard_ns > t_ns or heard_ns >= self.open[leg]:
                continue
            if what == DONE:
                del self.open[leg]
                self.rows[leg] = ("", self._first_ns[leg], heard_ns, self.sizes[leg][1])
            else:
                self._first_ns[leg] = heard_ns

    def _cut(self, leg: int, t_ns: int) -> None:
        del self.open[leg]
        output_tok = self.sizes[leg][1]
        delivered_tok = output_tok if any(event[1:] == (DONE, leg) for event in self.node.events) else 0
        if any(job.leg == leg for job in self.node.jobs):
            exact_tok = self.node.cancel(leg, t_ns)
            delivered_tok = output_tok if exact_tok >= output_tok else math.floor(exact_tok) // RECEIPT_TOK * RECEIPT_TOK
        first_ns = self._first_ns.get(leg, -1)
        self.rows[leg] = ("deadline", first_ns, t_ns, delivered_tok if first_ns >= 0 else 0)


@BOTH
@given(node=nodes, jobs=jobs, delay_ns=delays_ns, deadline_ns=deadlines_ns)
def test_what_becomes_of_requests_equals_a_node_that_carries_their_work_by_hand(
    kind: type[Any], node: dict[str, int], jobs: list[Any], delay_ns: int, deadline_ns: int
) -> None:
    arrival_ns = np.cumsum([1] + [gap_ns for gap_ns, _, _ in jobs[1:]])  # an end at 0 would read as never
    sizes = [(prompt_tok, output_tok) for _, prompt_tok, output_tok in jobs]
    expected = Expected(BruteNode(**node, whole_ns=True), arrival_ns.tolist(), sizes, delay_ns, deadline_ns)
    pace = {"a": f"{node['a_ns']}ns", "b": f"{node['b_ns']}ns", "prefill_tok_s": NANO / node["prefill_ns"]}
    pace |= {"prefill_beside_tok_s": NANO / node["beside_ns"], "chunk_tok": node["chunk_tok"]}
    config = plain(
        {
            "node.hardware": pace,
            "node.slots": node["slots"],
            "node.queue": node["queue_room"],
            "node.network_delay": f"{delay_ns}ns",
            "people.deadline": f"{deadline_ns}ns",
        }
    )
    engine, _ = start(config, kind)
    engine._workloads[0] = Planned(asked(arrival_ns, *np.array(sizes).T))
    engine.run_until(int(arrival_ns[-1]) + deadline_ns + 1)
    served = requests_of(engine)
    columns = (served[name].tolist() for name in ("reason", "first_token_ns", "end_ns", "output_tok"))
    assert list(zip(*columns, strict=True)) == [row for _, row in sorted(expected.rows.items())]


# Little's law

HOSTILE = {
    "nodes": [
        {
            "name": name, "count": count, "models": ["chat"], "hardware": {"a": "20ms", "b": "2ms", "prefill_tok_s": 1000},
            "slots": slots, "queue": 1, "price": {"input": 0.2, "output": 1}, "bond": 200, "network_delay": 0,
            "failures": {"mtbf": "5m", "mttr": "1m"}, "availability": availability,
        }
        for name, count, slots, availability in (("server", 2, 4, {}), ("home", 4, 1, {"on": "4m", "off": "2m"}))
    ],
    "users.people.workload.poisson.requests_per_day": 200_000,
    "users.people.patience": {"median": "3s", "sigma": 1.0},
    "users.people.deadline": "9s",
    "users.people.retries": 2,
    "users.people.tokens.output": {"median": 150, "sigma": 0.7},
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"people.workload.poisson.requests_per_day": 200_000},
        HOSTILE,
        {**HOSTILE, "routing.policy": "power_of_two", "seed": 8},
        {**HOSTILE, "routing.policy": "random", "routing.retries": 0, "seed": 9},
    ],
    ids=["one node", "hostile", "power of two", "random"],
)
def test_the_integral_of_what_is_there_is_the_sum_of_the_times_spent_there(changes: dict[str, Any]) -> None:
    """Little's law to the nanosecond, by the reference, at each node and at the Nexus: completed, failed and in flight."""
    until_ns = 900 * NANO
    engine, nexus, served = serve(plain(changes), until_ns)

    stays_ns = np.zeros(len(engine.nodes), np.int64)
    for leg in legs(nexus).values():
        stays_ns[leg.node] += (until_ns if leg.end_ns is None else leg.end_ns) - leg.sent_ns
    assert engine.system_ns().tolist() == stays_ns.tolist()
    assert (engine.busy_ns() <= engine.system_ns()).all()

    in_flight = served["outcome"] == "in_flight"
    end_ns = served["end_ns"].where(~in_flight, until_ns)
    area_ns = nexus.area_ns + nexus.count("in_flight") * (until_ns - nexus.count("now_ns"))
    assert area_ns == (end_ns - served["arrival_ns"]).sum()
    assert in_flight.any()
    assert len(served) > 1_000
    assert set(served["outcome"]) > {"completed"}
    assert _hostile(served) or "nodes" not in changes


@BOTH
@pytest.mark.parametrize("policy", ["score_sampled", "round_robin"])
def test_littles_law_holds_of_every_epoch_and_node_to_the_nanosecond(kind: type[Any], policy: str) -> None:
    """By the record of each epoch; and at each node by the log, as no time passes on the way and each request has one leg."""
    config = plain({**HOSTILE, "routing.policy": policy, "routing.retries": 0})
    engine, nexus = start(config, kind)
    for epoch in range(5):
        engine.run_until((epoch + 1) * 180 * NANO)
        engine.records.observe(epoch, engine.now_ns, nexus, [], [], engine.busy_ns())
    epochs, requests = (engine.records.columns(table) for table in ("epochs", "requests"))
    assert list(epochs["littles_law_gap_ns"]) == [0] * 5
    assert min(epochs["mean_in_flight"]) > 1
    served = pd.DataFrame(requests)
    served = served[served["dispatch_ns"] >= 0]
    end_ns = served["end_ns"].where(served["outcome"] != "in_flight", engine.now_ns)
    stays_ns = (end_ns - served["dispatch_ns"]).groupby(served["node"]).sum()
    assert stays_ns.to_dict() == dict(enumerate(engine.system_ns().tolist()))


def _hostile(served: pd.DataFrame) -> bool:
    return {"client_left", "deadline", "node_lost", "busy"} <= set(served["reason"])
