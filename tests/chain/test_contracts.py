"""The typed calls: what is written to a contract is read back from it."""

import numpy as np

from lattice_core.chain.contracts.nodes import Offer
from tests.chain.networks import EPOCH_S, NEXUS, address, end, go_to, start


def test_what_an_operator_says_of_its_node_is_read_back() -> None:
    network, who = start(users=1, nodes=1)
    operator, nodes = address("operator 0"), network.nodes
    nodes.set_endpoint(operator, 0, "https://node.example:8443").raise_for_revert()
    nodes.post_offers(operator, [0], [bytes(32)], [2], [10], [20]).raise_for_revert()
    assert nodes.endpoint_of(0) == "https://node.example:8443"
    assert nodes.offer(0, bytes(32)) == Offer(10, 20, 2, True)
    assert nodes.node(0).signer == operator
    assert network.users.owner_of(0) == address("owner 0")
    assert network.book.oracle_of(NEXUS) == who.oracle


def test_a_report_is_read_back_and_final_once_its_window_has_passed() -> None:
    network, who = start(nodes=9)
    end(network, 0)
    healthy = np.arange(9) % 2 == 0
    network.status.post(who.oracle, NEXUS, 0, healthy, np.linspace(0, 1, 9)).raise_for_revert()
    assert [network.status.healthy(NEXUS, 0, node) for node in range(9)] == healthy.tolist()
    assert [network.status.reputation(NEXUS, node).value for node in (0, 4, 8)] == [0, 32_768, 65_535]
    assert network.status.history_root(NEXUS) != bytes(32)
    assert not network.status.is_final(NEXUS, 0)
    go_to(network, network.clock.epochs().end_s(0) + EPOCH_S)
    assert network.status.is_final(NEXUS, 0)
    assert network.status.reputation(NEXUS, 8).final
