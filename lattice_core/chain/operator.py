"""A node's operator on a chain of its own accord: with its own key and money, whoever's the Nexus is."""

from collections.abc import Mapping
from typing import NamedTuple

from lattice_core.census import identity
from lattice_core.chain.contracts import Network
from lattice_core.chain.contracts.contract import to_wei
from lattice_core.chain.keys import Key
from lattice_core.chain.port import Chain
from lattice_core.streams import entity_key


class Offer(NamedTuple):
    """What a node asks, nanoLAI per million tokens."""

    price_in_nlai: int
    price_out_nlai: int


def model_id(model: str) -> bytes:
    """The 32 bytes by which the registry knows a model of that name."""
    return identity(entity_key(model, 0))


class Operator:
    """Registers, bonds and describes a node, and takes it out again. Every call raises Reverted where the chain refuses."""

    def __init__(self, chain: Chain, book: bytes, key: Key) -> None:
        """`book` is the address book's."""
        chain.add_key(key)
        self.network = Network(chain, book)
        self.address = key.address

    def missing_nlai(self, bond_nlai: int) -> int:
        """How much LAI the operator lacks to register one node with this bond."""
        needed_nlai = self.network.nodes.registration_price_nlai() + bond_nlai
        return max(0, needed_nlai - self.network.token.balance_nlai(self.address))

    def register(self, kind: int, bond_nlai: int, cluster: int = 0) -> int:
        """Register a node, of a cluster or public (0), and bond for it; its id."""
        token, nodes = self.network.token, self.network.nodes
        price_nlai = nodes.registration_price_nlai()
        token.approve(self.address, nodes.address, 2 * price_nlai + bond_nlai).raise_for_revert()  # others' joins raise it
        receipt = nodes.register(self.address, [self.address], [self.address], [kind], [cluster]).raise_for_revert()
        (registered,) = nodes.logged("NodeRegistered", receipt)
        node: int = registered["node"]
        self.bond(node, bond_nlai)
        return node

    def bond(self, node: int, nlai: int) -> None:
        """Add to a node's bond."""
        if nlai:
            token, nodes = self.network.token, self.network.nodes
            if token.allowance_wei(self.address, nodes.address) < to_wei(nlai):
                token.approve(self.address, nodes.address, nlai).raise_for_revert()
            nodes.bond(self.address, [node], [nlai]).raise_for_revert()

    def post_offers(self, node: int, offers: Mapping[str, Offer]) -> None:
        """Post, or replace, what the node asks for each model."""
        columns = [model_id(model) for model in offers], [0] * len(offers)
        prices = [offer.price_in_nlai for offer in offers.values()], [offer.price_out_nlai for offer in offers.values()]
        self.network.nodes.post_offers(self.address, [node] * len(offers), *columns, *prices).raise_for_revert()

    def leave(self, node: int) -> None:
        """Leave for good: the bond begins to thaw."""
        self.network.nodes.deregister(self.address, node).raise_for_revert()
