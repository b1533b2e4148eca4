"""The bonus in a simulated network: proposed and paid each epoch, by work and quality, never more than what burned allows."""

from lattice_core.config import revise
from lattice_sim import networks
from lattice_sim.model import LatticeModel


def test_the_pool_is_shared_by_verified_work_up_to_what_was_burned() -> None:
    changes = {"economics.bonus": {"per_day": 1, "window": "5s"}, "sim.epochs": 4, "users.0.budget": {"deposit": 1}}
    established = {"reputation.history": 50, "reputation.probe_interval": "2s"}
    model = LatticeModel(revise(networks.read("local.yaml"), {**established, **changes}))
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
