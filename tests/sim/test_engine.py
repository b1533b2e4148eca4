"""Who is there, who fails and what arrives: the same for everyone else, whoever joins and whatever routes."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lattice_core import census
from lattice_core.config import Config, revise
from lattice_core.events import Dispatch, NodeDown, NodeUp
from lattice_core.invariants import check
from lattice_core.service import RECEIPT_TOK
from lattice_core.state import CLOSED, HALF_OPEN, OPEN
from lattice_core.units import DAY_NS, HOUR_NS, MINUTE_NS, NANO, NEVER_NS
from lattice_sim import networks
from lattice_sim.compiled import CompiledEngine
from lattice_sim.model import LatticeModel
from lattice_sim.reference import ReferenceEngine
from lattice_sim.trace import read_trace
from lattice_sim.workload import Requests
from tests.sim.served import Planned, after_each_step, legs, plain, requests, serve, start, write_trace
from tests.sim.test_trace import azure_2023_code

NODE = plain({}).document()["nodes"][0]
USERS = plain({}).document()["users"][0]

BUSY = {
    "people.workload.poisson.requests_per_day": 100_000,
    "nodes": [
        NODE | {"name": "server", "count": 2, "failures": {"mtbf": "3m", "mttr": "30s"}},
        NODE | {"name": "home", "count": 3, "slots": 1, "availability": {"on": "4m", "off": "2m"}, "network_delay": "30ms"},
    ],
}


def node(name: str, **keys: Any) -> dict[str, Any]:
    return NODE | {"name": name} | keys


# Determinism


def test_two_runs_of_one_config_are_the_same_event_for_event() -> None:
    """INV-5."""
    (_, first, served), (_, second, again) = (serve(plain(BUSY), 10 * MINUTE_NS) for _ in range(2))
    assert first.told == second.told
    assert first.digest() == second.digest()
    pd.testing.assert_frame_equal(served, again)


def test_where_a_run_is_cut_into_epochs_makes_no_difference() -> None:
    _, whole, served = serve(plain(BUSY), 10 * MINUTE_NS)
    engine, cut = start(plain(BUSY))
    for t_ns in (1, MINUTE_NS, MINUTE_NS + 1, 7 * MINUTE_NS, 10 * MINUTE_NS):
        engine.run_until(t_ns)
        assert engine.clock.now == t_ns
    assert cut.told == whole.told
    pd.testing.assert_frame_equal(requests(engine), served)


def test_another_seed_is_another_run() -> None:
    digests = {serve(plain({**BUSY, "seed": seed}), MINUTE_NS)[1].digest() for seed in range(5)}
    assert len(digests) == 5


# Common random numbers


def comings_and_goings(config: Config, until_ns: int) -> dict[tuple[str, int], list[tuple[int, str]]]:
    """When each node came, went, broke and was repaired, by population and ordinal."""
    engine, nexus = start(config)
    names = [(entry.population.name, entry.ordinal) for entry in census.nodes(config)]
    found: dict[tuple[str, int], list[tuple[int, str]]] = {name: [] for name in names}
    broken = list(engine.broken)

    def look() -> None:
        for i, now in enumerate(engine.broken):
            if now != broken[i]:
                broken[i] = now
                found[names[i]].append((engine.clock.now, "breaks" if now else "is repaired"))

    after_each_step(engine, look)
    engine.run_until(until_ns)
    for event, _ in nexus.told:
        if isinstance(event, NodeUp | NodeDown):
            found[names[event.node]].append((event.t_ns, "comes" if isinstance(event, NodeUp) else "goes"))
    return {name: sorted(times) for name, times in found.items()}


CALM = {"people.workload.poisson.requests_per_day": 1, "reputation.probe_interval": "1d"}
LIVELY = {"people.workload.poisson.requests_per_day": 2_000, "reputation.probe_interval": "10m"}
FICKLE = {"failures": {"mtbf": "20m", "mttr": "5m"}, "availability": {"on": "15m", "off": "10m"}}
DIURNAL = {"failures": {"mtbf": "3h", "mttr": "1h"}, "availability": {"diurnal": {"start": "6h", "up": "12h", "jitter": "6h"}}}


@pytest.mark.parametrize("habits", [FICKLE, DIURNAL], ids=["on and off", "diurnal"])
def test_another_node_leaves_each_nodes_failures_and_hours_as_they_were(habits: dict[str, Any]) -> None:
    """INV-8: whether the new node is one more of a population or of a new one before it, or answers many requests."""
    old = node("old", count=3, **habits)
    few = comings_and_goings(plain({**CALM, "nodes": [old]}), DAY_NS)
    more = comings_and_goings(plain({**CALM, "nodes": [old | {"count": 4}]}), DAY_NS)
    mixed = comings_and_goings(plain({**LIVELY, "nodes": [node("new", count=2, **habits), old]}), DAY_NS)
    assert all(len(times) >= 4 for times in few.values())
    for name, times in few.items():
        assert more[name] == mixed[name] == times
    assert len({tuple(times) for times in mixed.values()}) == 5


ASKED = ["arrival_ns", "user", "model", "prompt_tok"]


def asked(served: pd.DataFrame, population: str = "people") -> pd.DataFrame:
    """What a population asked, and when."""
    return served.loc[served["population"] == population, ASKED].reset_index(drop=True)


def test_another_population_changes_no_request_of_this_one() -> None:
    """INV-8, in a network so busy that the newcomers change how requests end."""
    _, _, alone = serve(plain(BUSY), 10 * MINUTE_NS)
    people = plain(BUSY).document()["users"][0]
    both = [people | {"name": "newcomers"}, people]
    _, _, crowded = serve(plain({**BUSY, "users": both}), 10 * MINUTE_NS)
    pd.testing.assert_frame_equal(asked(alone), asked(crowded))
    mine = crowded[crowded["population"] == "people"].reset_index(drop=True)
    assert (alone["outcome"] != mine["outcome"]).any()


def test_the_same_requests_arrive_whatever_the_policy() -> None:
    """INV-8: common random numbers; an answer that both complete has the same length."""
    policies = ("random", "score_sampled")
    random, sampled = (serve(plain({**BUSY, "routing.policy": policy}), 10 * MINUTE_NS)[2] for policy in policies)
    pd.testing.assert_frame_equal(asked(random), asked(sampled))
    both = (random["outcome"] == "completed") & (sampled["outcome"] == "completed")
    assert both.mean() > 0.5
    assert (random["output_tok"] == sampled["output_tok"])[both].all()
    assert (random["node"] != sampled["node"]).any()


# Nodes that fail, come and go


def test_a_node_that_breaks_drops_out_of_routing_and_returns_when_it_is_repaired() -> None:
    """No dispatch while its breaker is open, one at a time while it is half open, and it closes at a whole node only."""
    flaky = node("flaky", failures={"mtbf": "10m", "mttr": "3m"}, slots=4, queue=4)
    steady = node("steady", count=3, slots=4, queue=4)
    load = {"people.workload.poisson.requests_per_day": 50_000, "routing.policy": "random"}
    engine, nexus = start(plain({**load, "nodes": [flaky, steady]}))
    breaker, history, dispatched = CLOSED, [(0, CLOSED)], []
    seen = len(nexus.told)

    def look() -> None:
        nonlocal breaker, seen
        now = nexus.table("nodes")[0]
        for event, commands in nexus.told[seen:]:
            for command in commands:
                if isinstance(command, Dispatch) and command.node == 0:
                    assert now["breaker"] != OPEN
                    assert now["breaker"] == CLOSED or now["in_flight"] == 1
                    dispatched.append((event.t_ns, int(now["breaker"])))
        seen = len(nexus.told)
        if now["breaker"] != breaker:
            breaker = int(now["breaker"])
            history.append((engine.clock.now, breaker))
            assert breaker != CLOSED or not engine.broken[0]

    after_each_step(engine, look)
    engine.run_until(2 * HOUR_NS)
    changes = {(before, after) for (_, before), (_, after) in pairwise(history)}
    assert changes == {(CLOSED, OPEN), (OPEN, HALF_OPEN), (HALF_OPEN, OPEN), (HALF_OPEN, CLOSED)}
    closed = [(t_ns, end_ns) for (t_ns, state), (end_ns, _) in pairwise(history) if state == CLOSED]
    assert len(closed) >= 4
    for t_ns, end_ns in closed:
        assert any(t_ns < at_ns < end_ns and state == CLOSED for at_ns, state in dispatched), "it is used again"
    assert {entry.sent_ns for entry in legs(nexus).values() if entry.node == 0} == {t_ns for t_ns, _ in dispatched}


def test_the_nexus_hears_that_a_node_is_broken_after_the_way_there_and_back(tmp_path: Path) -> None:
    trace = write_trace(tmp_path, np.array([0, MINUTE_NS]), [100, 100], [10, 10])
    failing = {"node.failures": {"mtbf": "1s", "mttr": "100d"}, "node.network_delay": "2s", "routing.retries": 0}
    _, _, served = serve(plain({**failing, "people.workload": {"trace": trace}}), 2 * MINUTE_NS)
    row = served.iloc[1]
    assert (row["outcome"], row["reason"], row["fee_nlai"]) == ("failed", "node_lost", 0)
    assert (row["dispatch_ns"], row["end_ns"]) == (MINUTE_NS, MINUTE_NS + 4 * NANO)


@pytest.mark.parametrize(
    ("availability", "until_ns"),
    [({"on": "10m", "off": "10m"}, 4 * HOUR_NS), ({"diurnal": {"start": "8h", "up": "10h", "jitter": "3h"}}, 2 * DAY_NS)],
    ids=["on and off", "diurnal"],
)
def test_households_come_and_go_and_finish_what_they_have(availability: dict[str, Any], until_ns: int) -> None:
    config = plain(
        {
            "people.workload.poisson.requests_per_day": 30_000 * DAY_NS // (12 * until_ns),
            "nodes": [node("home", count=4, availability=availability, slots=2), node("server")],
        }
    )
    _, nexus, served = serve(config, until_ns)
    at_home = {leg.request for leg in legs(nexus).values() if leg.node < 4}
    there = dict.fromkeys(range(5), False)
    visits = dict.fromkeys(range(5), 0)
    used = {i: set[int]() for i in range(5)}
    for event, commands in nexus.told:
        if isinstance(event, NodeUp):
            there[event.node], visits[event.node] = True, visits[event.node] + 1
        elif isinstance(event, NodeDown):
            there[event.node] = False
        for command in commands:
            if isinstance(command, Dispatch):
                assert there[command.node]
                used[command.node].add(visits[command.node])
    assert all(len(used[i]) >= 2 for i in range(4)), "after each has come back it is used again"
    ended = served[served["request"].isin(at_home) & (served["outcome"] != "in_flight")]
    assert set(ended["outcome"]) == {"completed"}


def test_diurnal_households_keep_their_hours() -> None:
    """Up from `start` shifted by at most `jitter`, for `up`, on the clock that begins at `start_hour`."""
    habits = {"diurnal": {"start": "14h", "up": "12h", "jitter": "4h"}}
    config = plain({**CALM, "nodes": [node("home", count=20, availability=habits)], "sim.start_hour": 7.5})
    for times in comings_and_goings(config, 3 * DAY_NS).values():
        came_ns = [t_ns for t_ns, what in times if what == "comes" and t_ns > 0]
        assert set(np.diff(came_ns)) == {DAY_NS}
        assert abs((came_ns[0] + int(7.5 * HOUR_NS)) % DAY_NS - 14 * HOUR_NS) <= 4 * HOUR_NS
        went_ns = [t_ns for t_ns, what in times if what == "goes"]
        assert all((t_ns - came_ns[0]) % DAY_NS == 12 * HOUR_NS for t_ns in went_ns)
    starts = {times[-1] for times in comings_and_goings(config, DAY_NS).values()}
    assert len(starts) == 20


# What is paid when things go wrong


def test_who_leaves_before_the_first_token_has_come_pays_nothing(tmp_path: Path) -> None:
    """However much the node has written by then."""
    trace = write_trace(tmp_path, np.zeros(1, np.int64), [100], [5_000])
    far = {"node.network_delay": "2s", "people.patience": "3s", "people.workload": {"trace": trace}}
    _, _, served = serve(plain(far), 10 * NANO)
    (row,) = served.to_dict("records")
    assert (row["reason"], row["end_ns"]) == ("client_left", 3 * NANO)
    assert (row["first_token_ns"], row["output_tok"], row["fee_nlai"]) == (-1, 0, 0)


def test_a_deadline_before_the_news_of_a_breakdown_pays_what_was_receipted_till_then(tmp_path: Path) -> None:
    trace = write_trace(tmp_path, np.zeros(1, np.int64), [100], [5_000])
    far = {"people.workload": {"trace": trace}, "node.network_delay": "2s", "node.failures": {"mtbf": "20s", "mttr": "1m"}}
    ((broken_ns, _), *_) = comings_and_goings(plain(far), MINUTE_NS)["node", 0][1:]
    first_ns, step_ns = 2 * NANO + 100_000_000, 8_000_000  # a way, a prompt of 100 tokens at 1,000/s; then 7 ms + 1 ms a token
    assert first_ns + 4 * NANO < broken_ns < 40 * NANO
    _, _, served = serve(plain({**far, "people.deadline": f"{broken_ns + NANO}ns"}), MINUTE_NS)
    (row,) = served.to_dict("records")
    assert (row["reason"], row["end_ns"], row["first_token_ns"]) == ("deadline", broken_ns + NANO, first_ns + 2 * NANO)
    assert row["output_tok"] == (1 + (broken_ns - first_ns) // step_ns) // RECEIPT_TOK * RECEIPT_TOK > 0
    assert row["fee_nlai"] > 0


RELAY = {
    "nodes": [
        node("frail", failures={"mtbf": "20s", "mttr": "1h"}, network_delay="10ms"),
        node("spare", price={"input": 0.4, "output": 2}, network_delay="10ms"),
    ],
    "routing.policy": "round_robin",
    "reputation.probe_interval": "1d",
}


def relay(kind: type[Any], changes: dict[str, Any], into_ms: int, most: int = 500) -> tuple[int, dict[str, Any]]:
    """When a node breaks, and the row of a request of 100 and 500 tokens that it got `into_ms` ms before.

    Each way takes 10 ms, a token of a prompt 1 ms and one of an answer 8 ms.
    """
    config = plain({**RELAY, **changes})
    broken_ns = next(t_ns for t_ns, what in comings_and_goings(config, MINUTE_NS)["frail", 0] if what == "breaks")
    engine, _ = start(config, kind)
    one = (broken_ns - (10 + into_ms) * 10**6, 0, 0, 100, 500, most, NEVER_NS, 0, 0)
    engine._workloads[0] = Planned(Requests(*(np.array([value], np.int64) for value in one)))
    engine.run_until(2 * MINUTE_NS)
    (row,) = requests(engine).to_dict("records")
    return broken_ns, row


@pytest.mark.parametrize("kind", [ReferenceEngine, CompiledEngine])
def test_another_node_reads_the_prompt_with_what_was_receipted_and_writes_and_is_paid_for_the_rest(kind: type[Any]) -> None:
    broken_ns, row = relay(kind, {}, into_ms=1_000)
    kept_tok = (1 + 900 // 8) // RECEIPT_TOK * RECEIPT_TOK
    assert kept_tok == 112
    assert (row["outcome"], row["node"], row["output_tok"]) == ("completed", 1, 500)
    assert row["first_token_ns"] == broken_ns + (-1_000 + 100 + 10) * 10**6, "the user has waited once"
    assert row["dispatch_ns"] == row["arrival_ns"]
    assert row["end_ns"] == broken_ns + (10 + 10 + 100 + kept_tok + 8 * (500 - kept_tok - 1) + 10) * 10**6
    assert row["fee_nlai"] == 100 * 200 + kept_tok * 1_000 + (500 - kept_tok) * 2_000


@pytest.mark.parametrize("kind", [ReferenceEngine, CompiledEngine])
def test_without_resume_a_node_that_breaks_takes_the_rest_of_its_answers_with_it(kind: type[Any]) -> None:
    broken_ns, row = relay(kind, {"routing.resume": False}, into_ms=1_000)
    assert (row["outcome"], row["reason"], row["node"], row["output_tok"]) == ("failed", "node_lost", 0, 112)
    assert (row["end_ns"], row["fee_nlai"]) == (broken_ns + 10 * 10**6, 100 * 200 + 112 * 1_000)


@pytest.mark.parametrize("kind", [ReferenceEngine, CompiledEngine])
def test_the_end_of_an_answer_that_was_lost_alone_costs_time_and_no_money(kind: type[Any]) -> None:
    """The node breaks in the very nanosecond in which the last token is out: the Nexus has them all, and does not know it.

    Unless no more were allowed.
    """
    last = {"into_ms": 100 + 8 * 499}
    broken_ns, row = relay(kind, {}, **last, most=501)
    assert (row["outcome"], row["node"], row["output_tok"]) == ("completed", 1, 500)
    assert (row["end_ns"], row["fee_nlai"]) == (broken_ns + (10 + 10 + 600 + 10) * 10**6, 100 * 200 + 500 * 1_000)
    broken_ns, row = relay(kind, {}, **last, most=500)
    assert (row["outcome"], row["node"], row["output_tok"]) == ("completed", 0, 500)
    assert (row["end_ns"], row["fee_nlai"]) == (broken_ns + 10 * 10**6, 100 * 200 + 500 * 1_000)


# The real trace


def test_the_azure_trace_is_replayed_whole_through_the_baselines_nodes() -> None:
    path = azure_2023_code()
    config = revise(
        networks.read("baseline.yaml"),
        {"users.chat.workload": {"trace": str(path)}, "users.chat.retries": 0, "sim.epochs": 2},
    )
    trace = read_trace(str(path))
    model = LatticeModel(config)
    while model.running:
        model.step()
    check(model.nexus)
    assert model.engine.beyond_horizon() == 0
    served = pd.DataFrame(model.records.columns("requests"))
    assert len(served) == model.nexus.count("arrived") == len(trace.t_ns) == 8_819
    np.testing.assert_array_equal(served["arrival_ns"], trace.t_ns)
    np.testing.assert_array_equal(served["prompt_tok"], trace.prompt_tok)
    completed = served["outcome"] == "completed"
    np.testing.assert_array_equal(served["output_tok"][completed], trace.output_tok[completed])
    assert (served["outcome"] != "in_flight").all()
    assert completed.mean() > 0.5
