"""Users who take back what they do not need: locked until their epoch is closed, then paid, and never spent twice."""

from lattice_core.config import revise
from lattice_sim import networks
from lattice_sim.simulate import run


def test_what_is_above_the_limit_comes_back_when_its_epoch_is_closed() -> None:
    changes = {
        "users.0.budget": {"deposit": 1, "withdraw_above": 0.25},
        "chain.grace_epochs": 1,
        "chain.collection_epochs": 1,
        "sim.epochs": 7,
    }
    done = run(revise(networks.read("local.yaml"), changes))
    operations = done.transactions.groupby(["operation", "epoch"]).size()
    users = len(done.users)
    assert operations["request_withdrawal"].to_dict() == {0: users}
    assert operations["withdraw"].to_dict() == {5: users}
    assert (done.transactions["status"] == "ok").all()
    assert (done.users["withdrawn_nlai"] == 750_000_000).all()
    kept = done.users[["free_nlai", "held_nlai", "debit_nlai", "unsettled_nlai", "spent_nlai"]].sum(axis=1)
    assert (kept == 250_000_000).all()
    assert done.users["spent_nlai"].sum() > 0
