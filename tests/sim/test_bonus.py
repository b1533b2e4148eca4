"""The bonus in a simulated network: proposed and paid each epoch, by work and quality, never more than what burned allows."""

from typing import Any

import pytest

from lattice_core.config import revise
from lattice_core.units import NANO
from lattice_sim import Run, networks, run
from lattice_sim.metrics import MOST_RUNWAY_S
from lattice_sim.model import LatticeModel

ESTABLISHED = {"reputation.history": 50, "reputation.probe_interval": "2s"}
"""Nodes whose quality is known well enough for a weight."""


def with_bonus(changes: dict[str, Any]) -> Run:
    """Four epochs of the local network, which burns much so that its bonus is large."""
    bonus = {
        "economics.bonus": {"per_day": 10_000, "window": "5s"},
        "economics.split.burn": 0.4,
        "users.0.budget": {"deposit": 1},
    }
    return run("local.yaml", {**ESTABLISHED, **bonus, "sim.epochs": 4, "chain.backend": "revm", **changes})


def test_the_pool_is_shared_by_verified_work_up_to_what_was_burned() -> None:
    changes = {"economics.bonus": {"per_day": 1, "window": "5s"}, "sim.epochs": 4, "users.0.budget": {"deposit": 1}}
    model = LatticeModel(revise(networks.read("local.yaml"), {**ESTABLISHED, **changes}))
    while model.running:
        model.step()
    epochs = model.records.columns("epochs")
    paid, burned = epochs["bonus_nlai"].tolist(), epochs["burned_nlai"].tolist()
    assert paid[0] == 0, "the first weights wait for their window"
    assert sum(paid[1:]) > 0
    for epoch in range(1, len(paid)):
        assert sum(paid[: epoch + 1]) <= 0.9 * sum(burned[: epoch + 1])
    operations = model.records.columns("transactions")["operation"].tolist()
    assert (operations.count("propose_bonus"), operations.count("pay_bonus")) == (4, 3)


def test_without_a_bonus_nothing_is_proposed() -> None:
    model = LatticeModel(revise(networks.read("local.yaml"), {"sim.epochs": 1}))
    model.step()
    assert model.records.columns("epochs")["bonus_nlai"].tolist() == [0]
    assert "propose_bonus" not in model.records.columns("transactions")["operation"]


@pytest.mark.parametrize("given_lai", [0.0, 0.5])
def test_the_treasury_has_what_it_had_and_took_in_less_what_it_paid(given_lai: float) -> None:
    faucet = {"economics.faucet.budget": given_lai} if given_lai else {}
    epochs = with_bonus({"economics.split.treasury": 0.01, **faucet}).epochs
    paid_nlai = epochs["bonus_nlai"] - epochs["bonus_minted_nlai"]
    had_nlai = int(epochs["treasury_balance_nlai"].iloc[0] - epochs["treasury_nlai"].iloc[0] + paid_nlai.iloc[0])
    assert had_nlai == given_lai * NANO
    assert (epochs["treasury_balance_nlai"] == had_nlai + (epochs["treasury_nlai"] - paid_nlai).cumsum()).all()
    assert (epochs["bonus_minted_nlai"].sum() > 0) == (given_lai == 0.0), "what the treasury cannot pay is minted"


def test_a_treasury_lasts_as_long_as_its_balance_bears_its_losses_and_one_that_gains_for_ten_years() -> None:
    lasting = with_bonus({"economics.split.treasury": 0.9}).summary()
    assert lasting["treasury_runway_s"] == MOST_RUNWAY_S
    losing = with_bonus({"economics.split.treasury": 0.01, "economics.faucet.budget": 0.5})
    loss_nlai = losing.epochs["bonus_nlai"].sum() - losing.epochs["treasury_nlai"].sum()
    left = losing.summary()
    assert loss_nlai > 0
    assert left["treasury_runway_s"] == pytest.approx(left["treasury_balance_nlai"] / (loss_nlai / left["horizon_s"]))
    assert with_bonus({"economics.split.treasury": 0.0}).summary()["treasury_runway_s"] == 0.0, "it has nothing to lose"
