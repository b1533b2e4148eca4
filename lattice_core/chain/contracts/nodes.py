"""The node registry: who operates a node, what it offers and where, and the bond behind it."""

from collections.abc import Sequence
from typing import NamedTuple

from lattice_core.chain.contracts.contract import Contract
from lattice_core.chain.port import Receipt


class NodeTerms(NamedTuple):
    """What a join burns and how long a bond thaws."""

    floor_nlai: int
    rise_ppm: int
    half_life_s: int
    thaw_s: int


class Node(NamedTuple):
    """A registered node: `operator` owns the bond and is paid, `signer` signs answers."""

    operator: bytes
    bond_nlai: int
    cluster: int
    kind: int
    left: bool
    signer: bytes
    thawing_nlai: int
    thawed_s: int
    proposals: int


class Offer(NamedTuple):
    """What a node asks for a model, in nanoLAI per million tokens."""

    price_in_nlai: int
    price_out_nlai: int
    variant: int
    live: bool


class Nodes(Contract):
    """Nodes by dense id."""

    NAME = "NodeRegistry"

    def register(
        self, sender: bytes, operators: Sequence[bytes], signers: Sequence[bytes], kinds: Sequence[int], clusters: Sequence[int]
    ) -> Receipt:  # fmt: skip
        """Give the next ids to these nodes, in order; the sender's LAI, which it has approved, is burned for each."""
        return self._send(sender, "register", operators, signers, kinds, clusters)

    def bond(self, sender: bytes, ids: Sequence[int], amounts_nlai: Sequence[int]) -> Receipt:
        """Add the sender's LAI, which it has approved, to the nodes' bonds."""
        return self._send(sender, "bond", ids, amounts_nlai)

    def unbond(self, operator: bytes, node: int, amount_nlai: int) -> Receipt:
        return self._send(operator, "unbond", node, amount_nlai)

    def rebond(self, operator: bytes, node: int) -> Receipt:
        return self._send(operator, "rebond", node)

    def withdraw_bond(self, operator: bytes, node: int) -> Receipt:
        return self._send(operator, "withdrawBond", node)

    def deregister(self, operator: bytes, node: int) -> Receipt:
        return self._send(operator, "deregister", node)

    def post_offers(
        self,
        operator: bytes,
        ids: Sequence[int],
        model_hashes: Sequence[bytes],
        variants: Sequence[int],
        prices_in_nlai: Sequence[int],
        prices_out_nlai: Sequence[int],
    ) -> Receipt:
        return self._send(operator, "postOffers", ids, model_hashes, variants, prices_in_nlai, prices_out_nlai)

    def withdraw_offer(self, operator: bytes, node: int, model_hash: bytes) -> Receipt:
        return self._send(operator, "withdrawOffer", node, model_hash)

    def set_endpoint(self, operator: bytes, node: int, endpoint: str) -> Receipt:
        return self._send(operator, "setEndpoint", node, endpoint)

    def set_signer(self, operator: bytes, node: int, signer: bytes) -> Receipt:
        return self._send(operator, "setSigner", node, signer)

    def set_operator(self, operator: bytes, node: int, new: bytes) -> Receipt:
        return self._send(operator, "setOperator", node, new)

    def set_terms(self, owner: bytes, terms: NodeTerms) -> Receipt:
        return self._send(owner, "setTerms", tuple(terms))

    def node(self, node: int) -> Node:
        return Node(*self._read("node", node))

    def offer(self, node: int, model_hash: bytes) -> Offer:
        return Offer(*self._read("offer", node, model_hash))

    def operator_of(self, node: int) -> bytes:
        operator: bytes = self._read("operatorOf", node)
        return operator

    def endpoint_of(self, node: int) -> str:
        return str(self._read("endpointOf", node))

    def registration_price_nlai(self) -> int:
        """What the next join burns."""
        return int(self._read("registrationPrice"))

    def terms(self) -> NodeTerms:
        return NodeTerms(*self._read("terms"))

    def count(self) -> int:
        return int(self._read("count"))

    def total_bonded_nlai(self) -> int:
        return int(self._read("totalBonded"))

    def total_burned_nlai(self) -> int:
        return int(self._read("totalBurned"))
