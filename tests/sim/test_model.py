"""The model is an ordinary Mesa model whose randomness is its seed, and whose money moves on the chain."""

import multiprocessing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import mesa
import pytest

from lattice_core import invariants
from lattice_core.chain.genesis import role_key
from lattice_core.chain.port import Reverted
from lattice_core.records import TABLES
from lattice_core.streams import entity_key
from lattice_core.units import MINUTE_NS, to_nlai
from lattice_sim.agents import Action, Claim, TopUp, View
from lattice_sim.model import LatticeModel
from tests.chain.networks import chunk
from tests.sim.hostile import hostile
from tests.sim.served import plain

SMALL = {"people.count": 6, "chain.epoch": "2m", "chain.chunk_users": 2, "sim.epochs": 2}


def small(**changes: Any) -> LatticeModel:
    return LatticeModel(plain({**SMALL, **changes}))


def run(model: LatticeModel) -> LatticeModel:
    while model.running:
        model.step()
    return model


# Determinism


def test_two_runs_of_one_config_leave_the_same_digest_journal_decisions_and_records() -> None:
    """INV-5."""

    def outcome() -> tuple[bytes, list[str], list[str], dict[str, dict[str, list[Any]]]]:
        journal: list[str] = []
        decisions: list[str] = []
        model = run(LatticeModel(hostile({"sim.epochs": 2}), journal=journal.append, decisions=decisions.append))
        tables = {table: model.records.columns(table) for table in TABLES}
        rows = {table: {name: column.tolist() for name, column in columns.items()} for table, columns in tables.items()}
        return model.nexus.digest(), journal, decisions, rows

    first, second = outcome(), outcome()
    assert len(first[1]) > 3_000
    for one, other in zip(first, second, strict=True):
        assert one == other


def test_nothing_in_the_model_draws_from_mesas_generators() -> None:
    model = small()
    before = model.random.getstate(), model.rng.bit_generator.state
    run(model)
    assert (model.random.getstate(), model.rng.bit_generator.state) == before


def test_rng_replaces_the_seed_and_changes_replace_other_values() -> None:
    model = LatticeModel(plain(SMALL), rng=11, **{"routing.policy": "random", "users.people.count": 3})
    assert (model.config.seed, model.config.routing.policy, model.config.users[0].count) == (11, "random", 3)
    same = plain({**SMALL, "people.count": 3, "seed": 11, "routing.policy": "random"})
    assert run(model).nexus.digest() == run(LatticeModel(same)).nexus.digest()


# Mesa


@pytest.fixture
def start_method() -> Iterator[None]:
    """`mesa.batch_run` sets it for the whole process."""
    method = multiprocessing.get_start_method(allow_none=True)
    yield
    multiprocessing.set_start_method(method, force=True)


@pytest.mark.usefixtures("start_method")
def test_mesas_batch_run_runs_policies_by_seeds(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(plain(SMALL).canonical(), encoding="utf-8")  # JSON is YAML
    policies, seeds = ["random", "power_of_two"], [1, 2]
    design = {"config": str(path), "routing.policy": policies}
    results = mesa.batch_run(LatticeModel, design, rng=seeds, data_collection_period=1, display_progress=False)
    assert [(r["rng"], r["routing.policy"], r["epoch"]) for r in results] == [
        (seed, policy, epoch) for seed in seeds for policy in policies for epoch in (0, 1)
    ]
    alone = run(LatticeModel(str(path), rng=2, **{"routing.policy": "power_of_two"})).records.columns("epochs")
    for row in (0, 1):
        assert {name: results[6 + row][name] for name in alone} == {name: column[row] for name, column in alone.items()}


def test_a_model_steps_through_its_epochs_and_stops() -> None:
    model = small()
    assert isinstance(model, mesa.Model)
    assert (model.t_ns, model.epoch, model.running) == (0, 0, True)
    model.step()
    assert (model.t_ns, model.epoch, model.steps, model.running) == (2 * MINUTE_NS, 1, 1, True)
    model.step()
    assert (model.t_ns, model.epoch, model.steps, model.running) == (4 * MINUTE_NS, 2, 2, False)
    frame = model.datacollector.get_model_vars_dataframe()
    assert frame["arrived"].sum() == model.nexus.count("arrived") > 0


class Patron(mesa.Agent):
    """Someone's own agent: gives an account some LAI in each epoch, and remembers what it saw."""

    def __init__(self, model: mesa.Model, account: int) -> None:
        super().__init__(model)
        self.key = entity_key("patron", account)
        self.account = account
        self.seen: list[View] = []

    def propose(self, view: View) -> Iterable[Action]:
        self.seen.append(view)
        yield TopUp(self.account, 5)


def test_an_agent_of_ones_own_sees_the_view_and_acts_on_the_chain() -> None:
    model = small()
    patron = Patron(model, 3)
    run(model)
    assert [(view.epoch, view.t_ns) for view in patron.seen] == [(0, 0), (1, 2 * MINUTE_NS)]
    given_nlai = [to_nlai(1_000)] * 6
    given_nlai[3] += 5
    assert patron.seen[1].accounts["deposited_nlai"].tolist() == given_nlai
    assert len(patron.seen[1].nodes) == 1
    given_nlai[3] += 5
    assert model.nexus.table("accounts")["deposited_nlai"][:6].tolist() == given_nlai
    assert model.records.columns("transactions")["operation"].tolist().count("fund_users") == 3


def test_what_an_agent_does_to_its_view_changes_nothing() -> None:
    class Vandal(Patron):
        def propose(self, view: View) -> Iterable[Action]:
            view.accounts["free_nlai"] = 0
            view.nodes["bond_nlai"] = 0
            return ()

    model = small()
    Vandal(model, 0)
    assert run(model).nexus.digest() == run(small()).nexus.digest()


class Collector(Patron):
    def propose(self, view: View) -> Iterable[Action]:
        yield Claim(0)


def test_a_claim_pays_the_operator_what_the_node_has_earned_and_one_without_earnings_changes_nothing() -> None:
    model = small()
    Collector(model, 0)
    run(model)
    transactions = model.records.columns("transactions")
    claims = transactions["status"][transactions["operation"] == "claim"].tolist()
    assert claims == ["reverted", "ok"]
    model.bridge.check_money()


def test_wallets_keep_the_escrow_filled_until_they_are_empty() -> None:
    budget = {"deposit": 0.001, "wallet": 0.0025, "top_up": 0.001}
    model = run(small(**{"people.budget": budget, "people.workload.poisson.requests_per_day": 50_000, "sim.epochs": 6}))
    assert model.nexus.table("accounts")["deposited_nlai"][:6].tolist() == [to_nlai(0.0035)] * 6
    assert "no_funds" in model.records.columns("requests")["reason"]


# A settlement that reverts


@pytest.fixture
def forestalled(monkeypatch: pytest.MonkeyPatch) -> LatticeModel:
    """A model of which the oracle settles the second chunk of the second epoch first, as soon as that epoch is over."""
    model = small(**{"sim.epochs": 3})
    early = chunk({2: (1, 0)}, {0: (1, 0)}, nexus=0, epoch=1, number=1)
    reach_end = model.bridge.reach_end

    def reach_end_and_forestall(epoch: int) -> None:
        reach_end(epoch)
        if epoch == early.epoch:
            model.bridge.network.tokenomics.settle(role_key("oracle").address, early).raise_for_revert()

    monkeypatch.setattr(model.bridge, "reach_end", reach_end_and_forestall)
    return model


def test_a_settlement_that_reverts_stops_the_run_with_the_decoded_reason(forestalled: LatticeModel) -> None:
    forestalled.step()
    with pytest.raises(Reverted, match=r"^AlreadySettled\(nexus=0, epoch=1, chunk=1\)$"):
        forestalled.step()
    assert not forestalled.running


def test_the_epoch_whose_settlement_reverts_is_on_record_and_nothing_is_lost(forestalled: LatticeModel) -> None:
    with pytest.raises(Reverted):
        run(forestalled)
    records, nexus = forestalled.records, forestalled.nexus
    assert records.epochs == 2
    assert len(records.columns("requests")["request"]) == nexus.count("arrived")
    invariants.check(nexus)
    forestalled.bridge.check_money()
    transactions = records.columns("transactions")
    settles = transactions["operation"] == "settle"
    last = settles & (transactions["epoch"] == 1)
    assert transactions["status"][settles & (transactions["epoch"] == 0)].tolist() == ["ok"] * 3
    assert transactions["status"][last].tolist() == ["ok", "reverted"], "the third was never sent"
    accounts, batches = nexus.table("accounts"), nexus.table("batches").reshape(-1, int(nexus.table("params")[0]["ring"]))
    assert batches["pending"][:3, 1].tolist() == [0, 1, 1]
    assert batches["failed"][:3, 1].tolist() == [0, 1, 1]
    assert accounts["unsettled_nlai"][:2].sum() == 0
    assert accounts["unsettled_nlai"][2:].sum() > 0
    assert sum(records.columns("epochs")["purchased_nlai"]) == accounts["spent_nlai"].sum()
