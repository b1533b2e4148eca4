"""A network that was founded once: each run on it leaves what it would have left on one of its own."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lattice_core.config import Config, revise
from lattice_core.records import TABLES
from lattice_sim.founding import UNREAD, UNREAD_OF_NODES, UNREAD_OF_USERS, Founding, Foundings, key
from lattice_sim.rundir import Run
from lattice_sim.simulate import run
from tests.sim.served import plain

SMALL = plain(
    {
        "people.count": 12,
        "people.budget": {"deposit": 1, "wallet": 2, "top_up": 1, "faucet": 0.0001},
        "node.count": 3,
        "chain.epoch": "10m",
        "chain.chunk_users": 5,
        "economics.bonus.per_day": 100,
        "sim.epochs": 2,
    }
)
"""Its users top up, are settled in three chunks, and its nodes share a bonus."""

AFTERWARDS: dict[str, st.SearchStrategy[Any]] = {
    "seed": st.integers(0, 2**63 - 1),
    "sim.start_hour": st.sampled_from([0, 9.5]),
    "routing.policy": st.sampled_from(["random", "score_sampled", "cheapest"]),
    "reputation.audit_rate": st.sampled_from([0, 0.5]),
    "users.people.workload.poisson.requests_per_day": st.sampled_from([5_000, 60_000]),
    "users.people.deadline": st.sampled_from(["2s", "10m"]),
    "users.people.patience": st.sampled_from([None, "1s"]),
    "users.people.retries": st.integers(0, 2),
    "nodes.node.slots": st.integers(1, 4),
    "nodes.node.queue": st.integers(0, 3),
    "nodes.node.failures": st.sampled_from([None, {"mtbf": "5m", "mttr": "30s"}]),
}
"""What the chain does not learn at the start."""

AT_THE_START: dict[str, Any] = {
    "economics.supply.genesis": 1_000_000,
    "economics.split.burn": 0.1,
    "chain.epoch": "11m",
    "chain.backend": "revm",
    "chain.chunk_users": 6,
    "users.people.count": 13,
    "users.people.name": "folk",
    "users.people.budget.deposit": 2,
    "nodes.node.count": 4,
    "nodes.node.bond": 300,
    "nodes.node.price.output": 2,
}
"""What it does."""


def assert_equal(one: Run, other: Run) -> None:
    assert one.manifest == other.manifest
    for table in TABLES:
        assert getattr(one, table).equals(getattr(other, table)), table


@pytest.mark.parametrize("backend", ["py-evm", "revm"])
def test_runs_on_one_founding_are_runs_founded_anew(backend: str) -> None:
    config = revise(SMALL, {"chain.backend": backend})
    founding = Founding(config)
    examples = settings(max_examples=3 if backend == "py-evm" else 12)

    @examples
    @given(st.fixed_dictionaries({}, optional=AFTERWARDS))
    def holds(changes: dict[str, Any]) -> None:
        changed = revise(config, changes)
        assert key(changed) == key(config)
        assert_equal(run(changed, founding=founding), run(changed))

    holds()


def test_a_run_that_fails_leaves_its_founding_whole() -> None:
    founding = Founding(SMALL)

    def stop(model: Any) -> None:
        raise KeyboardInterrupt

    assert run(SMALL, founding=founding, on_epoch=stop).status == "interrupted"
    assert_equal(run(SMALL, founding=founding), run(SMALL))


@pytest.mark.parametrize("path", AT_THE_START)
def test_what_the_chain_learns_at_the_start_takes_another_founding(path: str) -> None:
    assert key(revise(SMALL, {path: AT_THE_START[path]})) != key(SMALL)


def test_what_is_left_out_of_a_key_are_keys_of_a_config() -> None:
    document = SMALL.document()
    assert set(UNREAD) < set(document)
    assert set(UNREAD_OF_USERS) < set(document["users"][0])
    assert set(UNREAD_OF_NODES) < set(document["nodes"][0])


def test_only_the_last_foundings_are_held() -> None:
    def network(bond: int) -> Config:
        return revise(SMALL, {"chain.backend": "revm", "nodes.node.bond": bond, "users.people.count": 1})

    foundings = Foundings(most=2)
    first, second = foundings.of(network(200)), foundings.of(network(300))
    assert foundings.of(network(200)) is first
    foundings.of(network(400))
    assert foundings.of(network(200)) is first
    assert foundings.of(network(300)) is not second
