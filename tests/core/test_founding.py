"""The founding of a network without a chain is what the chain tells of it."""

import pytest

from lattice_core import census
from lattice_core.chain.backends import chain_of
from lattice_core.chain.bridge import Bridge
from lattice_core.config import ConfigError, revise
from lattice_core.founding import founding
from lattice_sim.simulate import run
from tests.sim.hostile import hostile


def test_the_facts_are_those_of_the_chain_in_their_order() -> None:
    config = hostile()
    config = revise(config, {"nodes.server.bond": 0, "users.crowd.count": 250})
    assert list(founding(config, 5)) == Bridge(chain_of(config), config).open(config, 5)


def test_the_columns_of_users_are_those_of_their_entries() -> None:
    config = hostile()
    population_of, user_of = census.members(config)
    entries = census.users(config)
    assert [config.users[population] for population in population_of] == [entry.population for entry in entries]
    assert user_of.tolist() == [entry.ordinal for entry in entries]
    assert [entry.account for entry in entries] == list(range(len(entries)))


def test_each_node_of_a_private_cluster_belongs_to_a_user_of_that_cluster() -> None:
    config = hostile({"nodes.ward.count": 9})
    nurses_and_doctors = [entry.account for entry in census.users(config) if entry.cluster]
    owners = [entry.owner for entry in census.nodes(config) if entry.cluster]
    assert owners == [*nurses_and_doctors, census.NOBODY, census.NOBODY]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"chain.chunk_users": 1_001}, "chain.chunk_users: must be at most 1000, which one settlement can pay, not 1001"),
        (
            {"nodes.library.count": 990, "economics.registration.rise": 0},
            "nodes: must be at most 1000, which one settlement can pay, not 1001",
        ),
    ],
)
def test_what_no_settlement_can_pay_is_founded_without_a_chain_only(changes: dict[str, int], said: str) -> None:
    config = hostile(changes)
    assert len(list(founding(config))) > 0
    with pytest.raises(ConfigError, match=f"hostile: {said}"):
        run(config)
