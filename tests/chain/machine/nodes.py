"""Nodes, their offers and their bonds as they should be."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from lattice_core.decay import decayed
from lattice_core.units import PPM
from tests.chain.machine.shadow import NOBODY, Refused, Shadow, Tx, only_contract, only_owner, same_length
from tests.chain.machine.wire import Event, View

if TYPE_CHECKING:
    from tests.chain.machine.model import Model

LONGEST_ENDPOINT = 256
LONGEST_THAW_S = 90 * 86_400
LARGEST = 2**64 - 1


@dataclass(slots=True)
class Node:
    """As in NodeRegistry.sol."""

    operator: bytes
    signer: bytes
    kind: int
    cluster: int
    left: bool = False
    bond: int = 0
    thawing: int = 0
    thawed_at: int = 0
    proposals: int = 0

    @property
    def stake(self) -> int:
        return self.bond + self.thawing


class Terms(NamedTuple):
    """As in NodeRegistry.sol."""

    floor: int
    rise_ppm: int
    half_life: int
    thaw: int


class Nodes(Shadow):
    """Amounts are nanoLAI."""

    NAME = "NodeRegistry"

    def __init__(self, model: "Model") -> None:
        super().__init__(model)
        self.nodes: list[Node] = []
        self.terms = Terms(0, 0, 1, 0)
        self.price_at = (0, 0)
        self.joined = 0
        self.offers: dict[tuple[int, bytes], tuple[int, int, int, bool]] = {}
        self.retired: dict[tuple[int, bytes], int] = {}

    def apply(self, event: Event) -> None:
        e = event.args
        node = self.nodes[e["node"]] if "node" in e and e["node"] < len(self.nodes) else None
        match event.name, node:
            case "TermsSet", _:
                self.price_at = (self.price(event.time_s), event.time_s)
                self.terms = Terms(*e["terms"])
            case "NodeRegistered", None:
                assert e["node"] == len(self.nodes)
                self.nodes.append(Node(e["operator"], e["signer"], e["kind"], e["cluster"]))
                self.joined += e["burned"]
                self.price_at = (self._raised(e["burned"]), event.time_s)
            case "NodeDeregistered", Node():
                node.left = True
            case "OperatorSet", Node():
                node.operator = e["operator"]
            case "SignerSet", Node():
                self.retired[e["node"], node.signer] = event.time_s + self.terms.thaw
                node.signer = e["signer"]
            case "OfferPosted", Node():
                self.offers[e["node"], e["modelHash"]] = (e["priceIn"], e["priceOut"], e["variant"], True)
            case "OfferWithdrawn", Node():
                del self.offers[e["node"], e["modelHash"]]
            case "Bonded", Node():
                node.bond += e["nanoLai"]
            case "Unbonded", Node():
                node.bond -= e["nanoLai"]
                node.thawing += e["nanoLai"]
                node.thawed_at = e["thawedAt"]
            case "Rebonded", Node():
                node.thawing -= e["nanoLai"]
                node.bond += e["nanoLai"]
            case "BondWithdrawn", Node():
                node.thawing -= e["nanoLai"]
            case "ProposalsChanged", Node():
                node.proposals = e["proposals"]
            case "Slashed", Node():
                from_bond = min(e["taken"], node.bond)
                node.bond -= from_bond
                node.thawing -= e["taken"] - from_bond
            case "EndpointSet", Node():
                pass
            case _:
                raise AssertionError(f"{event} makes no sense")

    def price(self, now_s: int) -> int:
        """Of the next join."""
        price, since_s = self.price_at
        return max(decayed(price, now_s - since_s, self.terms.half_life), self.terms.floor)

    def total(self) -> int:
        return sum(node.stake for node in self.nodes)

    def answers_for(self, node: int, key: bytes, now_s: int) -> bool:
        return key == self._known(node).signer or now_s < self.retired.get((node, key), 0)

    def views(self, now_s: int) -> Iterator[View]:
        yield self.view("count", (), len(self.nodes))
        yield self.view("totalBonded", (), self.total())
        yield self.view("totalBurned", (), self.joined)
        yield self.view("terms", (), *self.terms)
        yield self.view("registrationPrice", (), self.price(now_s))
        for i, n in enumerate(self.nodes):
            fixed = (n.operator, n.bond, n.cluster, n.kind, n.left, n.signer, n.thawing, n.thawed_at, n.proposals)
            yield self.view("node", (i,), *fixed)
            yield self.view("stakeOf", (i,), n.stake)
        for (i, key), until_s in self.retired.items():
            yield self.view("answersFor", (i, key), key == self.nodes[i].signer or now_s < until_s)
        for (i, model_hash), offer in self.offers.items():
            if not self.nodes[i].left:
                yield self.view("offer", (i, model_hash), *offer)

    # Rules

    def set_terms(self, tx: Tx, terms: tuple[int, ...]) -> None:
        only_owner(self.model, tx)
        new = Terms(*terms)
        if new.half_life == 0:
            raise Refused("HalfLifeZero")
        if new.rise_ppm > PPM:
            raise Refused("RiseTooLarge", ppm=new.rise_ppm, largest=PPM)
        if not 0 < new.thaw <= LONGEST_THAW_S:
            raise Refused("ThawOutOfRange", thaw=new.thaw, longest=LONGEST_THAW_S)
        self.emit(tx, "TermsSet", terms=tuple(new))

    def register(
        self, tx: Tx, operators: Sequence[bytes], signers: Sequence[bytes], kinds: Sequence[int], clusters: Sequence[int]
    ) -> None:  # fmt: skip
        same_length(operators, signers, kinds, clusters)
        if not operators:
            raise Refused("NothingToRegister")
        price, burned = self.price(tx.now_s), 0
        for row, (operator, signer, kind, cluster) in enumerate(zip(operators, signers, kinds, clusters, strict=True)):
            node = len(self.nodes) + row
            if operator == NOBODY:
                raise Refused("OperatorMissing", node=node)
            if signer == NOBODY:
                raise Refused("SignerMissing", node=node)
            if kind > 2:
                raise Refused("KindUnknown", kind=kind)
            fields = {"operator": operator, "signer": signer, "kind": kind, "cluster": cluster}
            self.emit(tx, "NodeRegistered", node=node, **fields, burned=price)
            burned += price
            price = self._raised(price)
        if burned:
            self.model.token.pull(tx, self.NAME, NOBODY, burned)

    def deregister(self, tx: Tx, node: int) -> None:
        bond = self._active(tx, node).bond
        self.emit(tx, "NodeDeregistered", node=node)
        if bond:
            self._thaw(tx, node, bond)

    def set_operator(self, tx: Tx, node: int, operator: bytes) -> None:
        own = self._own(tx, node)
        if operator == NOBODY:
            raise Refused("OperatorMissing", node=node)
        self._check_not_frozen(node, own)
        self.emit(tx, "OperatorSet", node=node, operator=operator)

    def set_signer(self, tx: Tx, node: int, signer: bytes) -> None:
        self._own(tx, node)
        if signer == NOBODY:
            raise Refused("SignerMissing", node=node)
        self.emit(tx, "SignerSet", node=node, signer=signer)

    def set_endpoint(self, tx: Tx, node: int, endpoint: str) -> None:
        self._active(tx, node)
        if len(endpoint.encode()) > LONGEST_ENDPOINT:
            raise Refused("EndpointTooLong", length=len(endpoint.encode()), longest=LONGEST_ENDPOINT)
        self.emit(tx, "EndpointSet", node=node, endpoint=endpoint)

    def post_offers(
        self,
        tx: Tx,
        nodes: Sequence[int],
        model_hashes: Sequence[bytes],
        variants: Sequence[int],
        prices_in: Sequence[int],
        prices_out: Sequence[int],
    ) -> None:
        same_length(nodes, model_hashes, variants, prices_in, prices_out)
        for node, *row in zip(nodes, model_hashes, variants, prices_in, prices_out, strict=True):
            self._active(tx, node)
            fields = dict(zip(("modelHash", "variant", "priceIn", "priceOut"), row, strict=True))
            self.emit(tx, "OfferPosted", node=node, **fields)

    def withdraw_offer(self, tx: Tx, node: int, model_hash: bytes) -> None:
        self._own(tx, node)
        if (node, model_hash) not in self.offers:
            raise Refused("UnknownOffer", node=node, modelHash=model_hash)
        self.emit(tx, "OfferWithdrawn", node=node, modelHash=model_hash)

    def bond(self, tx: Tx, nodes: Sequence[int], nlai: Sequence[int]) -> None:
        same_length(nodes, nlai)
        for node, amount in zip(nodes, nlai, strict=True):
            if self._known(node).left:
                raise Refused("NodeLeft", node=node)
            if amount == 0:
                raise Refused("AmountZero", node=node)
            self.emit(tx, "Bonded", node=node, payer=tx.sender, nanoLai=amount)
        self.model.token.pull(tx, self.NAME, self.model.addresses[self.NAME], sum(nlai))

    def unbond(self, tx: Tx, node: int, nlai: int) -> None:
        bonded = self._own(tx, node).bond
        if nlai == 0:
            raise Refused("AmountZero", node=node)
        if nlai > bonded:
            raise Refused("BondTooSmall", node=node, bonded=bonded, asked=nlai)
        self._thaw(tx, node, nlai)

    def rebond(self, tx: Tx, node: int) -> None:
        self.emit(tx, "Rebonded", node=node, nanoLai=self._thawing(self._active(tx, node), node))

    def withdraw_bond(self, tx: Tx, node: int) -> None:
        own = self._own(tx, node)
        amount = self._thawing(own, node)
        if tx.now_s < own.thawed_at:
            raise Refused("StillThawing", node=node, until=own.thawed_at)
        self._check_not_frozen(node, own)
        self.emit(tx, "BondWithdrawn", node=node, operator=tx.sender, nanoLai=amount)
        self.model.token.move(tx, self.NAME, tx.sender, amount)

    def slash(self, tx: Tx, *args: object) -> None:
        only_contract(self.model, tx, "Slashing")
        raise AssertionError("Slashing slashes with `take`")

    def freeze(self, tx: Tx, node: int) -> None:
        only_contract(self.model, tx, "Slashing")
        raise AssertionError("Slashing freezes with `freeze_for`")

    def unfreeze(self, tx: Tx, node: int) -> None:
        only_contract(self.model, tx, "Slashing")
        raise AssertionError("Slashing unfreezes with `freeze_for`")

    # For Slashing

    def take(self, tx: Tx, node: int, nlai: int, reporter: bytes, reporter_ppm: int) -> int:
        taken = min(nlai, self._known(node).stake)
        reward = taken * reporter_ppm // PPM
        self.emit(tx, "Slashed", node=node, reporter=reporter, taken=taken, reward=reward)
        self.model.token.move(tx, self.NAME, NOBODY, taken - reward)
        self.model.token.move(tx, self.NAME, reporter, reward)
        return taken

    def freeze_for(self, tx: Tx, node: int, change: int) -> None:
        self.emit(tx, "ProposalsChanged", node=node, proposals=self._known(node).proposals + change)

    def operator_of(self, node: int) -> bytes:
        return self._known(node).operator

    def stake_of(self, node: int) -> int:
        return self._known(node).stake

    def _raised(self, price: int) -> int:
        return min(price + -(-price * self.terms.rise_ppm // PPM), LARGEST)

    def _thaw(self, tx: Tx, node: int, nlai: int) -> None:
        self.emit(tx, "Unbonded", node=node, nanoLai=nlai, thawedAt=tx.now_s + self.terms.thaw)

    def _thawing(self, it: Node, node: int) -> int:
        if it.thawing == 0:
            raise Refused("NothingThawed", node=node)
        return it.thawing

    def _known(self, node: int) -> Node:
        if node >= len(self.nodes):
            raise Refused("UnknownNode", node=node)
        return self.nodes[node]

    def _own(self, tx: Tx, node: int) -> Node:
        it = self._known(node)
        if tx.sender != it.operator:
            raise Refused("NotOperator", node=node, caller=tx.sender)
        return it

    def _active(self, tx: Tx, node: int) -> Node:
        it = self._own(tx, node)
        if it.left:
            raise Refused("NodeLeft", node=node)
        return it

    def _check_not_frozen(self, node: int, it: Node) -> None:
        if it.proposals:
            raise Refused("Frozen", node=node, proposals=it.proposals)
