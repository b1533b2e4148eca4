"""The invariants hold inside a run in which everything goes wrong that can."""

import json
from collections import Counter
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from lattice_core import census, invariants
from lattice_core.events import Arrive, Dispatch, Receipt
from lattice_core.state import PRIVACY
from lattice_sim.model import LatticeModel
from tests.invariants import checks
from tests.sim.hostile import hostile
from tests.sim.served import Witness, after_each_step, legs


class Run(NamedTuple):
    """A run of the hostile network under watch, and what it left."""

    model: LatticeModel
    nexus: Witness
    requests: pd.DataFrame
    journal: list[str]


def watch(model: LatticeModel) -> None:
    """Look at the run after everything that happens in it."""
    server = model.engine.service.server

    def look() -> None:
        """INV-2 and INV-15: every request is somewhere, and no node with a free slot keeps one waiting."""
        clock = model.nexus.table("clock")[0]
        assert clock["arrived"] == clock["completed"] + clock["failed"] + clock["rejected"] + clock["in_flight"]
        assert len(list(model.engine.under_way())) == clock["in_flight"]
        assert ((server["waiting"] == 0) | (server["prefilling"] + server["decoding"] == server["slots"])).all()

    after_each_step(model.engine, look)


@pytest.fixture(scope="module", params=["random", "score_sampled"])
def run(request: pytest.FixtureRequest) -> Run:
    journal: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lattice_sim.model.Nexus", Witness)
        model = LatticeModel(hostile({"routing.policy": request.param}), journal=journal.append)
    watch(model)
    while model.running:
        model.step()
        invariants.check(model.nexus)
        checks.everything(model.nexus)
    return Run(model, model.nexus, pd.DataFrame(model.records.columns("requests")), journal)


def test_everything_goes_wrong(run: Run) -> None:
    """Else the other tests would see little."""
    went = set(run.requests["reason"])
    assert {"no_funds", "busy", "boundary", "node_lost", "deadline", "reservation_expired", "client_left"} <= went
    assert set(run.requests["outcome"]) == {"completed", "failed", "rejected", "in_flight"}
    assert (run.requests["outcome"] == "completed").mean() > 0.2
    partly = (run.requests["outcome"] == "failed") & (run.requests["fee_nlai"] > 0)
    assert partly.any(), "someone paid for half an answer"


def test_every_request_that_arrived_has_one_row(run: Run) -> None:
    """INV-2: its end, or that it was in flight when the run ended."""
    arrived = [event for event, _ in run.nexus.told if isinstance(event, Arrive)]
    assert run.requests["request"].tolist() == [event.request for event in arrived] == list(range(1, len(arrived) + 1))
    assert run.requests["arrival_ns"].tolist() == [event.t_ns for event in arrived]
    assert run.requests["prompt_tok"].tolist() == [event.prompt_tok for event in arrived]
    counts = run.requests["outcome"].value_counts()
    assert all(run.nexus.count(outcome) == counts[outcome] for outcome in ("completed", "failed", "rejected", "in_flight"))
    users = pd.DataFrame(run.model.records.columns("users"))
    by_user = run.requests.groupby(["population", "user", "outcome"]).size()
    for row in users.itertuples():
        assert row.arrived == row.completed + row.failed + row.rejected + row.in_flight
        assert row.completed == by_user.get((row.population, row.user, "completed"), 0)
        assert row.rejected == by_user.get((row.population, row.user, "rejected"), 0)


def test_time_never_runs_backwards(run: Run) -> None:
    """INV-3, in the events as the engine tells them and as the journal has them."""
    told_ns = [event.t_ns for event, _ in run.nexus.told]
    assert told_ns == sorted(told_ns)
    assert [json.loads(line)[1] for line in run.journal[1:]] == told_ns


def test_a_request_arrives_is_sent_begins_and_ends_in_this_order(run: Run) -> None:
    """INV-3."""
    rows = run.requests
    sent, begun, ended = rows["node"] >= 0, rows["first_token_ns"] >= 0, rows["outcome"] != "in_flight"
    assert (rows["arrival_ns"] <= rows["dispatch_ns"])[sent].all()
    assert (rows["dispatch_ns"] <= rows["first_token_ns"])[begun].all()
    assert (rows["first_token_ns"] <= rows["end_ns"])[begun & ended].all()
    assert (rows["arrival_ns"] <= rows["end_ns"])[ended].all()
    assert sent[begun].all()
    assert begun[rows["output_tok"] > 0].all()
    assert begun[rows["outcome"] == "completed"].all()
    assert ((rows["outcome"] == "rejected") == (ended & ~sent)).all(), "rejected is what was never sent"


def test_a_user_pays_the_nodes_price_of_what_was_receipted_and_no_more_than_was_reserved(run: Run) -> None:
    """INV-11: each leg of an answer, and the prompt once."""
    nodes, rows = run.model.engine.nodes, run.requests
    quotes = {sent.leg: sent.quote_nlai for _, sent in run.nexus.commands(Dispatch)}
    fees_nlai, prompt_tok, output_tok = Counter[int](), Counter[int](), Counter[int]()
    for _, paid in run.nexus.commands(Receipt):
        price = nodes[paid.node].population.price
        fee_nlai = -(-(price.input_nlai * paid.prompt_tok + price.output_nlai * paid.output_tok) // 10**6)
        assert paid.nlai + paid.faucet_nlai == fee_nlai <= quotes[paid.leg]
        fees_nlai[paid.request] += fee_nlai
        prompt_tok[paid.request] += paid.prompt_tok
        output_tok[paid.request] += paid.output_tok
    assert len({sent.request for _, sent in run.nexus.commands(Dispatch) if sent.from_tok}) > 5, "answers went on elsewhere"
    for row in rows.itertuples():
        assert (row.fee_nlai, row.output_tok) == (fees_nlai[row.request], output_tok[row.request])
        assert prompt_tok[row.request] == (row.prompt_tok if row.output_tok else 0)
    charged = rows.groupby(["population", "user"])["fee_nlai"].sum()
    users = pd.DataFrame(run.model.records.columns("users")).set_index(["population", "user"])
    paid = sum(users[f"{credit}{place}_nlai"] for credit in ("", "faucet_") for place in ("debit", "unsettled", "spent"))
    assert (paid.loc[charged.index] == charged).all()


def test_requests_stay_where_their_privacy_keeps_them(run: Run) -> None:
    """INV-13: a cluster's at its nodes, a local one at its user's own, and no public one in a cluster."""
    nodes, config = run.model.engine.nodes, run.model.config
    users = {(user.population.name, user.ordinal): user for user in census.users(config)}
    asker = {row.request: users[row.population, row.user] for row in run.requests.itertuples()}
    places = set()
    for leg in legs(run.nexus).values():
        user, node = asker[leg.request], nodes[leg.node]
        privacy = user.population.privacy
        assert node.cluster == (0 if privacy == "public" else user.cluster)
        assert privacy != "local" or node.owner == user.account
        places.add((privacy, node.cluster))
    assert places == {("public", 0), ("cluster", 1), ("local", 1)}
    assert {privacy for privacy, _ in places} == set(PRIVACY)
    homeless = run.requests[(run.requests["population"] == "nurses") & (run.requests["user"] == 2)]
    assert set(homeless["reason"]) == {"boundary"}, "two nodes cannot be three nurses' own"


def test_who_has_no_money_left_is_turned_away_for_that(run: Run) -> None:
    users = pd.DataFrame(run.model.records.columns("users")).set_index(["population", "user"])
    poor = run.requests[run.requests["reason"] == "no_funds"]
    assert ((poor["outcome"] == "rejected") == (poor["node"] < 0)).all(), "it failed if it lost a node that it could pay"
    assert set(poor["population"]) == {"crowd"}
    budget = run.model.config.users[0].budget
    spent = sum(users[f"{credit}{place}_nlai"] for credit in ("", "faucet_") for place in ("debit", "spent"))
    assert (spent.loc["crowd"] <= budget.total_nlai).all()
    given = users["deposited_nlai"] + users["granted_nlai"]
    assert (given.loc["crowd"] > budget.deposit_nlai + budget.faucet_nlai).any(), "someone topped up"
    assert (given.loc["crowd"] <= budget.total_nlai).all()


def test_the_chain_has_settled_what_the_kernel_charged(run: Run) -> None:
    """INV-1 across the two: what users have spent is what was debited on the chain and split among those who earn."""
    epochs = {name: column.sum() for name, column in run.model.records.columns("epochs").items()}
    accounts = run.nexus.table("accounts")
    assert epochs["purchased_nlai"] == accounts["spent_nlai"].sum()
    assert epochs["faucet_nlai"] == accounts["faucet_spent_nlai"].sum()
    cuts = [epochs[f"{who}_nlai"] for who in ("burned", "treasury", "auditors", "delegators", "operators")]
    assert sum(cuts) == epochs["purchased_nlai"] + epochs["faucet_nlai"] > 0
    registry = run.model.bridge.network.users
    for user in census.users(run.model.config):
        account = run.nexus.table("accounts")[user.account]
        on_chain = registry.account(user.account)
        owed = account["debit_nlai"] + account["unsettled_nlai"] + account["held_nlai"]
        assert on_chain.purchased_nlai == account["free_nlai"] + owed


def test_no_node_holds_more_than_its_slots_and_its_queue(run: Run) -> None:
    nodes = run.nexus.table("nodes")
    load = np.zeros(len(nodes), np.int64)
    changes: list[tuple[int, int, int]] = []
    for leg in legs(run.nexus).values():
        changes.append((leg.sent_ns, 1, leg.node))
        if leg.end_ns is not None:
            changes.append((leg.end_ns, 0, leg.node))
    for _, came, node in sorted(changes):
        load[node] += 1 if came else -1
        assert 0 <= load[node] <= nodes["slots"][node] + nodes["queue_room"][node]
    assert (load == nodes["in_flight"]).all()
