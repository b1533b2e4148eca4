"""NodeRegistry, Slashing and NetworkStatus: joins and offers, bonds that no nanoLAI leaves wrongly, evidence, and reports."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from eth_abi.abi import encode
from eth_utils.address import to_canonical_address
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lattice_core.chain.abi import abi, keccak, reason
from lattice_core.chain.artifacts import artifact
from lattice_core.chain.keys import Key
from lattice_core.chain.port import Log, Receipt, Reverted, Transaction
from lattice_core.chain.pyevm import PyEvm
from lattice_core.chain.typed_data import digest, domain
from lattice_core.units import MAX_SUPPLY_NLAI, NANO, PPM

NEXUS = 1
DAY = 86_400
EPOCH_S = 3_600
WINDOW_S = 3 * DAY
THAW_S = 14 * DAY
JOIN = (5 * NANO, 100_000, 7 * DAY, THAW_S)  # floor, rise ppm, half-life, thaw
PENALTIES = (500_000, 100_000, 250_000, WINDOW_S)  # equivocation, proposal, reporter ppm; appeal window
MODEL = keccak(b"a model")
ANSWER = "Answer(uint64 request,uint32 node,bytes32 contentHash)"
CURVE = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141


@dataclass(frozen=True, slots=True)
class Deployed:
    """A contract on the chain, called by the names in its ABI."""

    chain: PyEvm
    name: str
    address: bytes

    def send(self, sender: bytes, function: str, *args: Any) -> Receipt:
        return self.chain.transact(Transaction(sender, self.address, abi(self.name).encode_call(function, *args)))

    def read(self, function: str, *args: Any) -> Any:
        data = self.chain.call(self.address, abi(self.name).encode_call(function, *args))
        return abi(self.name).decode_result(function, data)

    def events(self, logs: Iterable[Log]) -> list[tuple[str, dict[str, Any]]]:
        """Those of this contract's events that its ABI names, in order."""
        names = {item.hash: item.name for item in abi(self.name).events.values()}
        own = [(names[log.topics[0]], log) for log in logs if log.address == self.address]
        return [(name, abi(self.name).decode_event(name, log.topics, log.data) or {}) for name, log in own]


@dataclass(frozen=True, slots=True)
class World:
    """The contracts on a fresh chain, and who acts on it."""

    chain: PyEvm
    owner: bytes
    holder: bytes
    oracle: bytes
    stranger: bytes
    book: Deployed
    token: Deployed
    clock: Deployed
    nodes: Deployed
    slashing: Deployed
    status: Deployed

    def join(self, count: int = 1) -> None:
        """Register nodes with an operator and a signer each."""
        ids = range(first := self.nodes.read("count"), first + count)
        columns = [operator(i) for i in ids], [signer(i).address for i in ids], [0] * count, [0] * count
        self.nodes.send(self.holder, "register", *columns).raise_for_revert()

    def bond(self, node: int, nlai: int) -> None:
        self.nodes.send(self.holder, "bond", [node], [nlai]).raise_for_revert()

    def node(self, node: int) -> "Node":
        owner, bond, cluster, kind, left, key, *rest = self.nodes.read("node", node)
        return Node(to_canonical_address(owner), to_canonical_address(key), kind, cluster, left, bond, *rest)

    def balance_nlai(self, address: bytes) -> int:
        wei = int(self.token.read("balanceOf", address))
        assert wei % NANO == 0
        return wei // NANO

    def now_s(self) -> int:
        return self.chain.block().timestamp_s


@dataclass(frozen=True, slots=True)
class Node:
    """A node as it should be, or is."""

    operator: bytes
    signer: bytes
    kind: int = 0
    cluster: int = 0
    left: bool = False
    bond: int = 0
    thawing: int = 0
    thawed_at: int = 0
    proposals: int = 0

    @property
    def stake(self) -> int:
        return self.bond + self.thawing

    def slashed(self, nlai: int) -> "Node":
        from_bond = min(nlai, self.bond)
        return replace(self, bond=self.bond - from_bond, thawing=self.thawing - min(nlai - from_bond, self.thawing))


def address(name: str) -> bytes:
    return keccak(name.encode())[-20:]


def operator(node: int) -> bytes:
    return address(f"operator {node}")


def signer(node: int, generation: int = 0) -> Key:
    return Key(keccak(b"signer %d %d" % (node, generation)))


def begin() -> World:
    """Everything deployed and wired; the holder has all LAI and has approved the registry."""
    chain = PyEvm()
    owner, holder, oracle, stranger = chain.accounts()[:4]

    def deploy(name: str, *args: Any) -> Deployed:
        code = artifact(name).bytecode + abi(name).encode_constructor(*args)
        created = chain.deploy(owner, code).raise_for_revert().contract
        assert created is not None
        return Deployed(chain, name, created)

    book = deploy("AddressBook", owner)
    supply = MAX_SUPPLY_NLAI * NANO
    token = deploy("LAIToken", book.address, holder, supply, supply)
    clock = deploy("EpochClock", chain.block().timestamp_s, EPOCH_S, 2, 48)
    nodes = deploy("NodeRegistry", book.address, JOIN)
    slashing = deploy("Slashing", book.address, PENALTIES)
    status = deploy("NetworkStatus", book.address, WINDOW_S)
    for contract in (token, clock, nodes, slashing, status):
        book.send(owner, "set", contract.name.encode().ljust(32, b"\0"), contract.address).raise_for_revert()
    book.send(owner, "setOracle", NEXUS, oracle).raise_for_revert()
    token.send(holder, "approve", nodes.address, supply).raise_for_revert()
    return World(chain, owner, holder, oracle, stranger, book, token, clock, nodes, slashing, status)


WORLD = begin()
FRESH = WORLD.chain.snapshot()


def fresh() -> World:
    WORLD.chain.revert(FRESH)
    return WORLD


@pytest.fixture
def world() -> World:
    return fresh()


def said(receipt: Receipt) -> str:
    """Why it reverted."""
    assert not receipt.ok
    return reason(receipt.output)


# Decay, through the price of a join


def decayed(value: int, elapsed: int, half_life: int) -> int:
    """As Decay.sol."""
    halvings, rest = divmod(elapsed, half_life)
    value >>= halvings
    return value - value * rest // (2 * half_life) if halvings < 64 else 0


def set_price(world: World, nlai: int, half_life: int) -> None:
    """Let the price be `nlai` now, and decay to nothing."""
    world.nodes.send(world.owner, "setTerms", (0, 0, 1, THAW_S)).raise_for_revert()
    world.chain.advance_block(64)
    for floor in (nlai, 0):
        world.nodes.send(world.owner, "setTerms", (floor, 0, half_life, THAW_S)).raise_for_revert()


VALUES = st.integers(0, 2**64 - 1)
HALF_LIVES = st.integers(1, 2**32 - 1)


@given(VALUES, HALF_LIVES, st.lists(st.floats(0, 66), min_size=1, max_size=4))
@settings(max_examples=20)
def test_a_decaying_price_never_rises_and_is_the_formula_to_the_nanolai(price: int, half_life: int, ages: list[float]) -> None:
    world = fresh()
    set_price(world, price, half_life)
    start_s, last = world.now_s(), price
    for age in sorted(ages):
        world.chain.advance_block(start_s + int(age * half_life) - world.now_s())
        now = world.nodes.read("registrationPrice")
        assert now == decayed(price, world.now_s() - start_s, half_life) <= last
        last = now


@given(VALUES, HALF_LIVES, st.integers(0, 66))
@settings(max_examples=20)
def test_a_price_halves_exactly_every_half_life(price: int, half_life: int, halvings: int) -> None:
    world = fresh()
    set_price(world, price, half_life)
    world.chain.advance_block(halvings * half_life)
    assert world.nodes.read("registrationPrice") == price >> halvings


# Joining


def test_every_join_costs_more_than_the_one_before_and_its_price_is_burned(world: World) -> None:
    floor, rise, half_life, _ = JOIN
    prices = [floor]
    for _ in range(4):
        prices.append(prices[-1] + -(-prices[-1] * rise // PPM))
    before = world.token.read("totalSupply")
    receipt = world.nodes.send(
        world.holder, "register", [operator(i) for i in range(4)], [signer(i).address for i in range(4)], [0, 1, 2, 0], [9] * 4
    )
    burned = [values["burned"] for name, values in world.nodes.events(receipt.logs) if name == "NodeRegistered"]
    assert burned == prices[:4]
    assert before - world.token.read("totalSupply") == sum(burned) * NANO
    assert world.nodes.read("totalBurned") == sum(burned)
    assert world.nodes.read("registrationPrice") == prices[4]
    world.chain.advance_block(10 * half_life)
    assert world.nodes.read("registrationPrice") == floor


def test_new_terms_go_on_from_the_price_as_it_stands(world: World) -> None:
    world.join(8)
    world.chain.advance_block(3 * DAY)
    price = world.nodes.read("registrationPrice")
    world.nodes.send(world.owner, "setTerms", (NANO, 0, DAY, THAW_S)).raise_for_revert()
    assert world.nodes.read("registrationPrice") == price
    world.chain.advance_block(DAY)
    assert world.nodes.read("registrationPrice") == price // 2


def test_a_price_that_nobody_can_pay_closes_the_door_until_it_has_decayed(world: World) -> None:
    world.nodes.send(world.owner, "setTerms", (2**64 - 1, PPM, 1, THAW_S)).raise_for_revert()
    columns = [operator(0)], [signer(0).address], [0], [0]
    assert not world.nodes.send(world.holder, "register", *columns).ok
    world.nodes.send(world.owner, "setTerms", (0, PPM, DAY, THAW_S)).raise_for_revert()
    world.chain.advance_block(40 * DAY)
    assert world.nodes.send(world.holder, "register", *columns).ok


def test_ids_are_dense_and_a_node_says_who_it_is(world: World) -> None:
    world.join(2)
    columns = [operator(2)], [signer(2).address], [2], [65_535]
    receipt = world.nodes.send(world.holder, "register", *columns).raise_for_revert()
    assert int.from_bytes(receipt.output) == 2
    assert world.nodes.read("count") == 3
    assert world.node(2) == Node(operator(2), signer(2).address, kind=2, cluster=65_535)
    assert world.nodes.read("operatorOf", 2) == operator(2)
    assert world.nodes.read("signerOf", 2) == signer(2).address
    assert world.nodes.read("kindOf", 2) == 2


@pytest.mark.parametrize("function", ["operatorOf", "signerOf", "kindOf", "node", "stakeOf"])
def test_nobody_is_told_about_a_node_that_there_is_not(world: World, function: str) -> None:
    world.join()
    with pytest.raises(Reverted, match=r"UnknownNode\(node=1\)"):
        world.nodes.read(function, 1)


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        (([bytes(20)], [b"s" * 20], [0], [0]), "OperatorMissing(node=0)"),
        (([b"o" * 20], [bytes(20)], [0], [0]), "SignerMissing(node=0)"),
        (([b"o" * 20], [b"s" * 20], [3], [0]), "KindUnknown(kind=3)"),
        (([b"o" * 20], [b"s" * 20] * 2, [0], [0]), "LengthMismatch(expected=1, given=2)"),
        (([b"o" * 20], [b"s" * 20], [], [0]), "LengthMismatch(expected=1, given=0)"),
        (([b"o" * 20], [b"s" * 20], [0], [0] * 3), "LengthMismatch(expected=1, given=3)"),
        (([], [], [], []), "NothingToRegister()"),
    ],
)
def test_a_join_that_makes_no_sense_is_refused_by_name(world: World, columns: tuple[list[Any], ...], why: str) -> None:
    assert said(world.nodes.send(world.holder, "register", *columns)) == why


@pytest.mark.parametrize(
    ("terms", "why"),
    [
        ((0, 0, 0, 1), "HalfLifeZero()"),
        ((0, PPM + 1, 1, 1), "RiseTooLarge(ppm=1000001, largest=1000000)"),
        ((0, 0, 1, 0), "ThawOutOfRange(thaw=0, longest=7776000)"),
        ((0, 0, 1, 90 * DAY + 1), "ThawOutOfRange(thaw=7776001, longest=7776000)"),
    ],
)
def test_terms_of_joining_have_bounds(world: World, terms: tuple[int, ...], why: str) -> None:
    assert said(world.nodes.send(world.owner, "setTerms", terms)) == why


# What a node says of itself


def test_offers_are_posted_for_many_nodes_replaced_and_withdrawn(world: World) -> None:
    world.nodes.send(world.holder, "register", [operator(0)] * 2, [signer(0).address] * 2, [0] * 2, [0] * 2).raise_for_revert()
    columns = [0, 1, 0], [MODEL, MODEL, keccak(b"another")], [4, 5, 6], [10, 20, 30], [40, 2**64 - 1, 60]
    world.nodes.send(operator(0), "postOffers", *columns).raise_for_revert()
    assert world.nodes.read("offer", 0, MODEL) == (10, 40, 4, True)
    assert world.nodes.read("offer", 1, MODEL) == (20, 2**64 - 1, 5, True)
    world.nodes.send(operator(0), "postOffers", [0], [MODEL], [7], [0], [0]).raise_for_revert()
    assert world.nodes.read("offer", 0, MODEL) == (0, 0, 7, True)
    world.nodes.send(operator(0), "withdrawOffer", 0, MODEL).raise_for_revert()
    with pytest.raises(Reverted, match="UnknownOffer"):
        world.nodes.read("offer", 0, MODEL)
    assert said(world.nodes.send(operator(0), "withdrawOffer", 0, MODEL)).startswith("UnknownOffer(node=0")


def test_an_endpoint_of_256_bytes_is_kept_and_a_longer_one_is_not(world: World) -> None:
    world.join()
    receipt = world.nodes.send(operator(0), "setEndpoint", 0, "e" * 256).raise_for_revert()
    assert world.nodes.events(receipt.logs) == [("EndpointSet", {"node": 0, "endpoint": "e" * 256})]
    assert world.nodes.read("endpointOf", 0) == "e" * 256
    assert said(world.nodes.send(operator(0), "setEndpoint", 0, "é" * 129)) == "EndpointTooLong(length=258, longest=256)"


OPERATORS_ONLY: list[tuple[str, tuple[Any, ...]]] = [
    ("unbond", (0, 1)),
    ("rebond", (0,)),
    ("withdrawBond", (0,)),
    ("deregister", (0,)),
    ("setOperator", (0, b"o" * 20)),
    ("setSigner", (0, b"s" * 20)),
    ("setEndpoint", (0, "here")),
    ("withdrawOffer", (0, MODEL)),
    ("postOffers", ([0], [MODEL], [0], [0], [0])),
]


@pytest.mark.parametrize(("function", "args"), OPERATORS_ONLY)
def test_only_its_operator_may_act_for_a_node(world: World, function: str, args: tuple[Any, ...]) -> None:
    world.join()
    assert said(world.nodes.send(world.owner, function, *args)) == f"NotOperator(node=0, caller=0x{world.owner.hex()})"


def test_a_node_changes_hands_with_everything_it_has(world: World) -> None:
    world.join()
    world.bond(0, 100)
    world.nodes.send(operator(0), "unbond", 0, 40).raise_for_revert()
    world.nodes.send(operator(0), "setOperator", 0, operator(1)).raise_for_revert()
    world.chain.advance_block(THAW_S)
    world.nodes.send(operator(1), "withdrawBond", 0).raise_for_revert()
    assert world.balance_nlai(operator(1)) == 40
    assert said(world.nodes.send(operator(1), "setOperator", 0, bytes(20))) == "OperatorMissing(node=0)"
    assert said(world.nodes.send(operator(1), "setSigner", 0, bytes(20))) == "SignerMissing(node=0)"


def test_a_node_that_has_left_takes_its_bond_and_is_not_seen_again(world: World) -> None:
    world.join()
    world.bond(0, 100)
    world.nodes.send(operator(0), "postOffers", [0], [MODEL], [0], [1], [1]).raise_for_revert()
    world.nodes.send(operator(0), "deregister", 0).raise_for_revert()
    with pytest.raises(Reverted, match="UnknownOffer"):
        world.nodes.read("offer", 0, MODEL)
    for sender, function, args in (
        (world.holder, "bond", ([0], [1])),
        (operator(0), "rebond", (0,)),
        (operator(0), "deregister", (0,)),
        (operator(0), "setEndpoint", (0, "here")),
        (operator(0), "postOffers", ([0], [MODEL], [0], [1], [1])),
    ):
        assert said(world.nodes.send(sender, function, *args)) == "NodeLeft(node=0)"
    world.chain.advance_block(THAW_S)
    world.nodes.send(operator(0), "withdrawBond", 0).raise_for_revert()
    assert world.balance_nlai(operator(0)) == 100
    world.join()
    assert world.nodes.read("count") == 2


# Bonds


@pytest.mark.parametrize(
    ("function", "args", "why"),
    [
        ("unbond", (0, 0), "AmountZero(node=0)"),
        ("unbond", (0, 101), "BondTooSmall(node=0, bonded=100, asked=101)"),
        ("rebond", (0,), "NothingThawed(node=0)"),
        ("withdrawBond", (0,), "NothingThawed(node=0)"),
    ],
)
def test_a_bond_gives_no_more_than_it_has(world: World, function: str, args: tuple[int, ...], why: str) -> None:
    world.join()
    world.bond(0, 100)
    assert said(world.nodes.send(operator(0), function, *args)) == why


def test_bonding_nothing_nobody_or_without_the_money_is_refused(world: World) -> None:
    world.join()
    assert said(world.nodes.send(world.holder, "bond", [0], [0])) == "AmountZero(node=0)"
    assert said(world.nodes.send(world.holder, "bond", [0, 1], [1, 1])) == "UnknownNode(node=1)"
    assert said(world.nodes.send(world.holder, "bond", [0], [])) == "LengthMismatch(expected=1, given=0)"
    assert said(world.nodes.send(world.stranger, "bond", [0], [1])).startswith("ERC20InsufficientAllowance")
    assert said(world.nodes.send(world.holder, "bond", [0] * 3, [2**63] * 3)).startswith("ERC20InsufficientAllowance")


def test_unbonding_more_starts_the_thaw_again(world: World) -> None:
    world.join()
    world.bond(0, 100)
    world.nodes.send(operator(0), "unbond", 0, 10).raise_for_revert()
    world.chain.advance_block(THAW_S - 1)
    world.nodes.send(operator(0), "unbond", 0, 10).raise_for_revert()
    world.chain.advance_block(THAW_S - 1)
    assert said(world.nodes.send(operator(0), "withdrawBond", 0)) == f"StillThawing(node=0, until={world.now_s() + 1})"
    world.chain.advance_block(1)
    world.nodes.send(operator(0), "withdrawBond", 0).raise_for_revert()
    assert world.balance_nlai(operator(0)) == 20


@pytest.mark.parametrize(("function", "args"), [("slash", (0, 1, b"r" * 20, 0)), ("freeze", (0,)), ("unfreeze", (0,))])
def test_only_the_slashing_contract_touches_stakes(world: World, function: str, args: tuple[Any, ...]) -> None:
    world.join()
    assert said(world.nodes.send(world.owner, function, *args)).startswith("NotContract(")


# Slashing: two answers to one request


def prove(world: World, node: int, request: int, *keys: Key, answers: Sequence[bytes] = (b"a" * 32, b"b" * 32)) -> Receipt:
    digests = [world.slashing.read("answerDigest", request, node, answer) for answer in answers]
    signed = [key.sign(digest) for key, digest in zip(keys, digests, strict=True)]
    return world.slashing.send(world.stranger, "proveEquivocation", node, request, answers[0], signed[0], answers[1], signed[1])


def test_the_digest_of_an_answer_is_eip_712s(world: World) -> None:
    separator = domain(31_337, world.slashing.address)
    assert world.slashing.read("answerDigest", 7, 3, MODEL) == digest(separator, ANSWER, (7, 3, MODEL))


def test_two_answers_to_one_request_cost_half_the_stake_and_the_reporter_has_its_share(world: World) -> None:
    world.join()
    world.bond(0, 1_001)
    world.nodes.send(operator(0), "unbond", 0, 701).raise_for_revert()
    supply = world.token.read("totalSupply")
    prove(world, 0, 7, signer(0), signer(0)).raise_for_revert()
    node = world.node(0)
    assert (node.bond, node.thawing) == (0, 501)  # 500 taken, from the bond first
    assert world.balance_nlai(world.stranger) == 125
    assert supply - world.token.read("totalSupply") == 375 * NANO
    assert said(prove(world, 0, 7, signer(0), signer(0))) == "AlreadySlashed(node=0, request=7)"
    assert prove(world, 0, 8, signer(0), signer(0)).ok


def test_one_answer_or_somebody_elses_is_no_evidence(world: World) -> None:
    world.join(2)
    answer = b"a" * 32
    assert said(prove(world, 0, 7, signer(0), signer(0), answers=(answer, answer))) == "SameAnswer(node=0, request=7)"
    other = f"NotNodesSigner(node=0, signer=0x{signer(1).address.hex()})"
    assert said(prove(world, 0, 7, signer(0), signer(1))) == other
    assert said(prove(world, 0, 7, signer(1), signer(0))) == other
    assert said(prove(world, 2, 7, signer(0), signer(0))) == "UnknownNode(node=2)"


def test_a_malleable_or_malformed_signature_is_refused(world: World) -> None:
    world.join()
    hashes = b"a" * 32, b"b" * 32
    good, other = (signer(0).sign(world.slashing.read("answerDigest", 7, 0, answer)) for answer in hashes)
    high_s = (CURVE - int.from_bytes(other[32:64])).to_bytes(32, "big")
    for bad, why in (
        (other[:32] + high_s + bytes([55 - other[64]]), "ECDSAInvalidSignatureS"),
        (other[:64], "ECDSAInvalidSignatureLength"),
        (other[:64] + b"\x00", "ECDSAInvalidSignature"),
    ):
        receipt = world.slashing.send(world.stranger, "proveEquivocation", 0, 7, hashes[0], good, hashes[1], bad)
        assert said(receipt).startswith(why)


@pytest.mark.parametrize(("chain_id", "contract"), [(1, "slashing"), (31_337, "nodes")])
def test_an_answer_signed_for_another_chain_or_contract_is_no_evidence(world: World, chain_id: int, contract: str) -> None:
    world.join()
    foreign = domain(chain_id, getattr(world, contract).address)
    hashes = b"a" * 32, b"b" * 32
    a, b = (signer(0).sign(digest(foreign, ANSWER, (7, 0, answer))) for answer in hashes)
    receipt = world.slashing.send(world.stranger, "proveEquivocation", 0, 7, hashes[0], a, hashes[1], b)
    assert said(receipt).startswith("NotNodesSigner(node=0")


def test_a_replaced_key_is_evidence_for_as_long_as_a_bond_thaws_however_often_it_is_replaced(world: World) -> None:
    world.join()
    world.bond(0, 1_000)
    for generation in (1, 2):
        world.nodes.send(operator(0), "setSigner", 0, signer(0, generation).address).raise_for_revert()
    assert prove(world, 0, 1, signer(0, 2), signer(0, 2)).ok
    world.chain.advance_block(THAW_S - 1)
    assert prove(world, 0, 2, signer(0), signer(0, 1)).ok
    world.chain.advance_block(1)
    assert said(prove(world, 0, 3, signer(0), signer(0))).startswith("NotNodesSigner(node=0")
    assert prove(world, 0, 3, signer(0, 2), signer(0, 2)).ok


# Slashing: proposals


def propose(world: World, nlai: int, node: int = 0) -> Receipt:
    return world.slashing.send(world.oracle, "propose", NEXUS, node, nlai, MODEL)


def accused(world: World) -> World:
    """Node 0 has a stake of 1,000, of which 400 thaw, and is to lose 100."""
    world.join()
    world.bond(0, 1_000)
    world.nodes.send(operator(0), "unbond", 0, 400).raise_for_revert()
    propose(world, 100).raise_for_revert()
    return world


def test_a_proposal_that_nobody_appeals_is_executed_after_the_window(world: World) -> None:
    accused(world)
    world.chain.advance_block(WINDOW_S - 1)
    assert said(world.slashing.send(world.stranger, "execute", 0)) == f"WindowOpen(id=0, until={world.now_s() + 1})"
    world.chain.advance_block(1)
    assert said(world.slashing.send(operator(0), "appeal", 0)) == f"WindowOver(id=0, until={world.now_s()})"
    world.slashing.send(world.stranger, "execute", 0).raise_for_revert()
    node = world.node(0)
    assert (node.bond, node.thawing, node.proposals) == (500, 400, 0)
    assert world.balance_nlai(world.oracle) == 25
    assert said(world.slashing.send(world.stranger, "execute", 0)) == "WrongState(id=0, state=3)"


def test_a_bond_stays_while_a_proposal_is_open(world: World) -> None:
    accused(world)
    world.chain.advance_block(THAW_S)
    assert said(world.nodes.send(operator(0), "withdrawBond", 0)) == "Frozen(node=0, proposals=1)"
    assert said(world.nodes.send(operator(0), "setOperator", 0, operator(1))) == "Frozen(node=0, proposals=1)"
    world.slashing.send(world.stranger, "execute", 0).raise_for_revert()
    assert world.nodes.send(operator(0), "withdrawBond", 0).ok


@pytest.mark.parametrize(("uphold", "stake"), [(True, 900), (False, 1_000)])
def test_an_appeal_leaves_it_to_the_owner(world: World, uphold: bool, stake: int) -> None:
    accused(world)
    assert said(world.slashing.send(world.owner, "decide", 0, uphold)) == "WrongState(id=0, state=1)"
    assert said(world.slashing.send(world.stranger, "appeal", 0)).startswith("NotOperator(node=0")
    world.slashing.send(operator(0), "appeal", 0).raise_for_revert()
    assert said(world.slashing.send(world.stranger, "decide", 0, uphold)).startswith("NotOwner(")
    assert said(world.slashing.send(world.stranger, "execute", 0)) == "WrongState(id=0, state=2)"
    world.slashing.send(world.owner, "decide", 0, uphold).raise_for_revert()
    assert world.nodes.read("stakeOf", 0) == stake
    assert world.node(0).proposals == 0


def test_an_appeal_that_nobody_decides_lapses_in_favour_of_the_node(world: World) -> None:
    accused(world)
    world.slashing.send(operator(0), "appeal", 0).raise_for_revert()
    assert said(world.slashing.send(world.stranger, "lapse", 0)).startswith("WindowOpen(")
    world.chain.advance_block(WINDOW_S)
    assert said(world.slashing.send(world.owner, "decide", 0, True)).startswith("WindowOver(")
    world.slashing.send(world.stranger, "lapse", 0).raise_for_revert()
    assert (world.node(0).stake, world.node(0).proposals) == (1_000, 0)


def test_open_proposals_together_take_at_most_their_part_of_the_stake(world: World) -> None:
    world.join()
    world.bond(0, 1_000)
    assert said(propose(world, 101)) == "ProposalTooLarge(nanoLai=101, largest=100)"
    assert propose(world, 60).ok
    assert said(propose(world, 41)) == "ProposalTooLarge(nanoLai=41, largest=40)"
    assert propose(world, 40).ok
    assert said(propose(world, 1)) == "ProposalTooLarge(nanoLai=1, largest=0)"
    world.chain.advance_block(WINDOW_S)
    world.slashing.send(world.stranger, "execute", 0).raise_for_revert()
    assert said(propose(world, 55)) == "ProposalTooLarge(nanoLai=55, largest=54)"


def test_only_the_oracle_of_a_nexus_proposes_and_only_about_something(world: World) -> None:
    world.join()
    assert said(world.slashing.send(world.owner, "propose", NEXUS, 0, 1, MODEL)).startswith(f"NotOracle(nexus={NEXUS}")
    assert said(world.slashing.send(world.oracle, "propose", NEXUS + 1, 0, 1, MODEL)).startswith("NotOracle(nexus=2")
    assert said(propose(world, 0)) == "AmountZero(node=0)"
    assert said(propose(world, 1, node=1)) == "UnknownNode(node=1)"
    for function, args in (("appeal", (0,)), ("execute", (0,)), ("lapse", (0,))):
        assert said(world.slashing.send(world.owner, function, *args)) == "UnknownProposal(id=0)"


@pytest.mark.parametrize(
    ("terms", "why"),
    [
        ((PPM + 1, 0, 0, 1), "ShareTooLarge(ppm=1000001, largest=1000000)"),
        ((0, PPM + 1, 0, 1), "ShareTooLarge(ppm=1000001, largest=1000000)"),
        ((0, 0, 500_001, 1), "ShareTooLarge(ppm=500001, largest=500000)"),
        ((0, 0, 0, 0), "WindowOutOfRange(window=0, longest=2592000)"),
        ((0, 0, 0, 30 * DAY + 1), "WindowOutOfRange(window=2592001, longest=2592000)"),
    ],
)
def test_penalties_have_bounds(world: World, terms: tuple[int, ...], why: str) -> None:
    assert said(world.slashing.send(world.owner, "setTerms", terms)) == why


@pytest.mark.parametrize(
    ("contract", "function", "args"),
    [
        ("nodes", "setTerms", (JOIN,)),
        ("slashing", "setTerms", (PENALTIES,)),
        ("status", "setChallengeWindow", (1,)),
        ("status", "overrule", (NEXUS, 0)),
    ],
)
def test_only_the_owner_sets_terms_and_overrules(world: World, contract: str, function: str, args: tuple[Any, ...]) -> None:
    deployed: Deployed = getattr(world, contract)
    assert said(deployed.send(world.stranger, function, *args)) == f"NotOwner(caller=0x{world.stranger.hex()})"
    assert deployed.send(world.owner, function, *args).ok == (function != "overrule")


# Stakes under everything at once


def rebuild(world: World, logs: list[Log]) -> list[Node]:
    """The registry as its events tell it."""
    nodes: list[Node] = []
    for name, event in world.nodes.events(logs):
        if name == "NodeRegistered":
            assert event["node"] == len(nodes)
            nodes.append(Node(event["operator"], event["signer"], event["kind"], event["cluster"]))
        else:
            nodes[event["node"]] = applied(nodes[event["node"]], name, event)
    return nodes


def applied(node: Node, name: str, event: dict[str, Any]) -> Node:
    """The node after an event."""
    amount = event.get("nanoLai", 0)
    match name:
        case "Bonded":
            return replace(node, bond=node.bond + amount)
        case "Unbonded":
            return replace(node, bond=node.bond - amount, thawing=node.thawing + amount, thawed_at=event["thawedAt"])
        case "Rebonded":
            return replace(node, bond=node.bond + amount, thawing=node.thawing - amount)
        case "BondWithdrawn":
            return replace(node, thawing=node.thawing - amount)
        case "Slashed":
            return node.slashed(event["taken"])
        case "ProposalsChanged":
            return replace(node, proposals=event["proposals"])
        case "OperatorSet":
            return replace(node, operator=event["operator"])
        case "SignerSet":
            return replace(node, signer=event["signer"])
        case "NodeDeregistered":
            return replace(node, left=True)
        case _:
            raise AssertionError(f"{name} was not expected")


@dataclass(slots=True)
class Proposal:
    """A proposal as it should be."""

    node: int
    amount: int
    until: int
    state: str = "open"


MOVES = {
    "appeal": ("open", False),
    "execute": ("open", True),
    "lapse": ("appealed", True),
    "uphold": ("appealed", False),
    "dismiss": ("appealed", False),
}
"""From which state, and whether after its window, each move takes a proposal."""

AMOUNTS = st.one_of(st.integers(0, 1_000 * NANO), st.integers(0, 20))
NODE = st.integers(0, 2)  # at first there are two


class Stakes(RuleBasedStateMachine):
    """Operators, a reporter, an oracle and the owner at work; a Python model says what each of them may do."""

    def __init__(self) -> None:
        super().__init__()
        self.world = fresh()
        self.nodes: list[Node] = []
        self.proposals: list[Proposal] = []
        self.logs: list[Log] = []
        self.keys: list[Key] = []
        self.requests = 0
        self.burned = 0
        self.rewards = 0
        self.bonded = 0
        self.withdrawn = 0

    @initialize(nlai=st.integers(10, 1_000 * NANO))
    def two_nodes_are_bonded(self, nlai: int) -> None:
        self.somebody_registers(2)
        for node in range(2):
            self.somebody_bonds(node, nlai, rich=True)

    def act(self, receipt: Receipt, expected: bool) -> bool:
        """Whether it happened, which the model has to agree with."""
        assert receipt.ok == expected, receipt
        self.logs += receipt.logs
        return expected

    def operator_of(self, node: int) -> bytes:
        return self.nodes[node].operator if node < len(self.nodes) else operator(node)

    def active(self, node: int) -> bool:
        return node < len(self.nodes) and not self.nodes[node].left

    def change(self, node: int, **fields: Any) -> None:
        self.nodes[node] = replace(self.nodes[node], **fields)

    def slash(self, node: int, nlai: int) -> None:
        taken = min(nlai, self.nodes[node].stake)
        reward = taken * PENALTIES[2] // PPM
        self.nodes[node] = self.nodes[node].slashed(taken)
        self.rewards += reward
        self.burned += taken - reward

    @precondition(lambda self: len(self.nodes) < 4)
    @rule(count=st.integers(1, 2))
    def somebody_registers(self, count: int) -> None:
        ids = range(len(self.nodes), len(self.nodes) + count)
        new = [Node(operator(i), signer(i).address, i % 3, i) for i in ids]
        before = self.world.nodes.read("totalBurned")
        columns = [n.operator for n in new], [n.signer for n in new], [n.kind for n in new], [n.cluster for n in new]
        self.act(self.world.nodes.send(self.world.holder, "register", *columns), True)
        self.burned += self.world.nodes.read("totalBurned") - before
        self.nodes += new
        self.keys += [signer(i) for i in ids]

    @rule(node=NODE, amount=AMOUNTS, rich=st.sampled_from([True, True, False]))
    def somebody_bonds(self, node: int, amount: int, rich: bool) -> None:
        payer = self.world.holder if rich else address("a pauper")
        receipt = self.world.nodes.send(payer, "bond", [node], [amount])
        if self.act(receipt, rich and self.active(node) and amount > 0):
            self.change(node, bond=self.nodes[node].bond + amount)
            self.bonded += amount

    @rule(node=NODE, share=st.sampled_from([0.0, 0.3, 1.0, 1.1]))
    def operator_unbonds(self, node: int, share: float) -> None:
        amount = int(share * self.nodes[node].bond) if node < len(self.nodes) else 1
        receipt = self.world.nodes.send(self.operator_of(node), "unbond", node, amount)
        if self.act(receipt, node < len(self.nodes) and 0 < amount <= self.nodes[node].bond):
            self.thaw(node, amount)

    def thaw(self, node: int, amount: int) -> None:
        it = self.nodes[node]
        self.change(node, bond=it.bond - amount, thawing=it.thawing + amount, thawed_at=self.world.now_s() + THAW_S)

    @precondition(lambda self: any(node.thawing for node in self.nodes))
    @rule(node=NODE)
    def operator_rebonds(self, node: int) -> None:
        receipt = self.world.nodes.send(self.operator_of(node), "rebond", node)
        if self.act(receipt, self.active(node) and self.nodes[node].thawing > 0):
            self.change(node, bond=self.nodes[node].stake, thawing=0)

    @precondition(lambda self: any(node.thawing for node in self.nodes))
    @rule(data=st.data(), waits_s=st.sampled_from([0, THAW_S]))
    def operator_withdraws(self, data: st.DataObject, waits_s: int) -> None:
        node = data.draw(st.sampled_from([node for node, it in enumerate(self.nodes) if it.thawing]))
        self.world.chain.advance_block(waits_s)
        receipt = self.world.nodes.send(self.operator_of(node), "withdrawBond", node)
        it = self.nodes[node]
        if self.act(receipt, self.world.now_s() >= it.thawed_at and it.proposals == 0):
            self.withdrawn += it.thawing
            self.change(node, thawing=0)

    @rule(node=st.integers(1, 4))
    def operator_deregisters(self, node: int) -> None:
        if self.act(self.world.nodes.send(self.operator_of(node), "deregister", node), self.active(node)):
            self.change(node, left=True)
            if self.nodes[node].bond:
                self.thaw(node, self.nodes[node].bond)

    @rule(node=NODE, heir=st.sampled_from([operator(0), address("an heir")]), generation=st.integers(0, 2))
    def operator_replaces_the_key_and_sells(self, node: int, heir: bytes, generation: int) -> None:
        node %= len(self.nodes)
        key = self.keys[node] = signer(node, generation)
        self.act(self.world.nodes.send(self.operator_of(node), "setSigner", node, key.address), True)
        self.change(node, signer=key.address)
        receipt = self.world.nodes.send(self.operator_of(node), "setOperator", node, heir)
        if self.act(receipt, self.nodes[node].proposals == 0):
            self.change(node, operator=heir)

    @rule(node=NODE, repeat=st.booleans())
    def somebody_proves_equivocation(self, node: int, repeat: bool) -> None:
        node %= len(self.nodes)
        self.requests += 1
        if self.act(prove(self.world, node, self.requests, self.keys[node], self.keys[node]), True):
            self.slash(node, self.nodes[node].stake * PENALTIES[0] // PPM)
        if repeat:
            self.act(prove(self.world, node, self.requests, self.keys[node], self.keys[node]), False)

    @rule(node=NODE, share=st.sampled_from([0.0, 0.03, 0.1, 0.11]))
    def oracle_proposes(self, node: int, share: float) -> None:
        node %= len(self.nodes)
        amount = int(self.nodes[node].stake * share)
        open_nlai = sum(p.amount for p in self.proposals if p.node == node and p.state != "closed")
        fits = 0 < amount <= self.nodes[node].stake * PENALTIES[1] // PPM - open_nlai
        if self.act(propose(self.world, amount, node), fits):
            self.proposals.append(Proposal(node, amount, self.world.now_s() + WINDOW_S))
            self.change(node, proposals=self.nodes[node].proposals + 1)

    @precondition(lambda self: self.proposals)
    @rule(data=st.data(), waits_s=st.sampled_from([0, WINDOW_S]), what=st.sampled_from(sorted(MOVES)))
    def somebody_moves_a_proposal(self, data: st.DataObject, waits_s: int, what: str) -> None:
        self.world.chain.advance_block(waits_s)
        pending = [number for number, proposal in enumerate(self.proposals) if proposal.state != "closed"]
        number = data.draw(st.sampled_from(pending or [0]))
        proposal = self.proposals[number]
        over = self.world.now_s() >= proposal.until
        expected = (proposal.state, over) == MOVES[what]
        if what in ("uphold", "dismiss"):
            receipt = self.world.slashing.send(self.world.owner, "decide", number, what == "uphold")
        else:
            receipt = self.world.slashing.send(self.operator_of(proposal.node), what, number)
        if not self.act(receipt, expected):
            return
        if what == "appeal":
            proposal.state, proposal.until = "appealed", self.world.now_s() + WINDOW_S
            return
        proposal.state = "closed"
        self.change(proposal.node, proposals=self.nodes[proposal.node].proposals - 1)
        if what in ("execute", "uphold"):
            self.slash(proposal.node, proposal.amount)

    @rule(dt_s=st.sampled_from([1, DAY, WINDOW_S, THAW_S]))
    def time_passes(self, dt_s: int) -> None:
        self.world.chain.advance_block(dt_s)

    @invariant()
    def the_registry_is_what_the_model_says_and_holds_every_stake(self) -> None:
        world = self.world
        assert [world.node(node) for node in range(len(self.nodes))] == self.nodes
        stakes = sum(node.stake for node in self.nodes)
        assert world.balance_nlai(world.nodes.address) == world.nodes.read("totalBonded") == stakes
        assert self.bonded == stakes + self.withdrawn + self.rewards + self.burned - world.nodes.read("totalBurned")

    @invariant()
    def every_nanolai_is_somewhere(self) -> None:
        world = self.world
        assert world.token.read("totalSupply") == (MAX_SUPPLY_NLAI - self.burned) * NANO
        assert world.balance_nlai(world.stranger) + world.balance_nlai(world.oracle) == self.rewards
        operators = {address("an heir"), *(operator(node) for node in range(len(self.nodes)))}
        assert sum(world.balance_nlai(operator) for operator in operators) == self.withdrawn

    def teardown(self) -> None:
        assert rebuild(self.world, self.logs) == self.nodes


TestStakes = Stakes.TestCase
TestStakes.settings = settings(max_examples=8, stateful_step_count=40, phases=[Phase.generate])  # shrinking takes minutes


# Reports


def columns(health: Sequence[bool], reputation: Sequence[int]) -> tuple[bytes, bytes]:
    """As NetworkStatus takes them."""
    return np.packbits(np.array(health, bool)).tobytes(), np.array(reputation, ">u2").tobytes()


def post(world: World, epoch: int, nodes: int = 3, value: int = 1, nexus: int = NEXUS) -> Receipt:
    return world.status.send(world.oracle, "post", nexus, epoch, *columns([True] * nodes, [value] * nodes))


def reporting(world: World, epochs: int = 10, nodes: int = 3) -> World:
    """So many epochs are over, and there are nodes to report on."""
    world.join(nodes)
    world.chain.advance_block(epochs * EPOCH_S)
    return world


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 65_535)), max_size=40))
@settings(max_examples=20)
def test_a_report_reads_back_as_it_was_posted(nodes: list[tuple[bool, int]]) -> None:
    world = reporting(fresh(), nodes=40)
    health, reputation = columns([healthy for healthy, _ in nodes], [value for _, value in nodes])
    receipt = world.status.send(world.oracle, "post", NEXUS, 3, health, reputation).raise_for_revert()
    [(_, event)] = world.status.events(receipt.logs)
    assert (event["health"], event["reputation"]) == (health, reputation)
    for node, (healthy, value) in enumerate(nodes):
        assert world.status.read("healthy", NEXUS, 3, node) == healthy
        assert world.status.read("reputationOf", NEXUS, node) == (value, 3, False)
    with pytest.raises(Reverted, match=rf"NodeNotReported\(node={len(nodes)}, nodes={len(nodes)}\)"):
        world.status.read("healthy", NEXUS, 3, len(nodes))


@pytest.mark.parametrize(
    ("epoch", "health", "reputation", "why"),
    [
        (10, b"", b"", "EpochNotOver(epoch=10"),
        (2, b"", b"", "EpochOutOfOrder(epoch=2, last=2)"),
        (1, b"", b"", "EpochOutOfOrder(epoch=1, last=2)"),
        (3, b"", b"\x00" * 3, "ReputationMalformed(bytesGiven=3, largest=6)"),
        (3, b"\x00", b"\x00" * 8, "ReputationMalformed(bytesGiven=8, largest=6)"),
        (3, b"", b"\x00" * 6, "LengthMismatch(expected=1, given=0)"),
        (3, b"\x00\x00", b"\x00" * 6, "LengthMismatch(expected=1, given=2)"),
    ],
)
def test_a_report_out_of_order_or_of_the_wrong_size_is_refused(
    world: World, epoch: int, health: bytes, reputation: bytes, why: str
) -> None:
    reporting(world)
    post(world, 2).raise_for_revert()
    assert said(world.status.send(world.oracle, "post", NEXUS, epoch, health, reputation)).startswith(why)


def test_only_the_oracle_reports_and_nexuses_do_not_mix(world: World) -> None:
    reporting(world)
    assert said(post(world, 0, nexus=2)).startswith("NotOracle(nexus=2")
    world.book.send(world.owner, "setOracle", 2, world.oracle).raise_for_revert()
    post(world, 0, value=5).raise_for_revert()
    post(world, 1, value=6, nexus=2).raise_for_revert()
    assert world.status.read("reputationOf", NEXUS, 0) == (5, 0, False)
    assert world.status.read("reputationOf", 2, 0) == (6, 1, False)
    with pytest.raises(Reverted, match=r"NotPosted\(nexus=1, epoch=1\)"):
        world.status.read("healthy", NEXUS, 1, 0)
    with pytest.raises(Reverted, match=r"NothingPosted\(nexus=3\)"):
        world.status.read("reputationOf", 3, 0)


def test_a_report_is_final_after_its_window_and_then_nobody_overrules_it(world: World) -> None:
    reporting(world)
    post(world, 0).raise_for_revert()
    world.status.send(world.owner, "setChallengeWindow", 1).raise_for_revert()
    world.chain.advance_block(WINDOW_S - 1)
    assert not world.status.read("isFinal", NEXUS, 0)
    world.chain.advance_block(1)
    assert world.status.read("isFinal", NEXUS, 0)
    assert world.status.read("reputationOf", NEXUS, 0) == (1, 0, True)
    assert said(world.status.send(world.owner, "overrule", NEXUS, 0)).startswith("StatusFinal(nexus=1, epoch=0")
    for window in (0, 30 * DAY + 1):
        assert said(world.status.send(world.owner, "setChallengeWindow", window)).startswith("WindowOutOfRange(")


class Reports(RuleBasedStateMachine):
    """One oracle reports, the owner overrules; the model is the list of reports that stand."""

    def __init__(self) -> None:
        super().__init__()
        self.world = reporting(fresh(), epochs=0)
        self.standing: list[tuple[int, int, int, bytes]] = []  # epoch, value, final at, root
        self.overruled: set[int] = set()
        self.stale: int | None = None

    @rule(later=st.integers(-1, 2), value=st.integers(0, 65_535))
    def oracle_posts(self, later: int, value: int) -> None:
        last, *_, root = self.standing[-1] if self.standing else (-1, bytes(32))
        epoch = max(last + later, 0)
        fits = epoch > last and epoch < self.world.clock.read("current")
        receipt = post(self.world, epoch, value=value)
        assert receipt.ok == fits
        if fits:
            hashes = [keccak(column) for column in columns([True] * 3, [value] * 3)]
            root = keccak(encode(["bytes32", "uint32", "bytes32", "bytes32"], [root, epoch, *hashes]))
            self.standing.append((epoch, value, self.world.now_s() + WINDOW_S, root))
            self.overruled.discard(epoch)
            self.stale = None

    @precondition(lambda self: self.standing)
    @rule(back=st.integers(1, 2))
    def owner_overrules(self, back: int) -> None:
        epoch, _, final_at, _ = self.standing[-min(back, len(self.standing))]
        latest = epoch == self.standing[-1][0]
        receipt = self.world.status.send(self.world.owner, "overrule", NEXUS, epoch)
        assert receipt.ok == (latest and self.world.now_s() < final_at), reason(receipt.output)
        if receipt.ok:
            self.standing.pop()
            self.overruled.add(epoch)
            self.stale = epoch if self.stale is None else self.stale

    @rule(dt_s=st.sampled_from([EPOCH_S, WINDOW_S // 3]))
    def time_passes(self, dt_s: int) -> None:
        self.world.chain.advance_block(dt_s)

    @invariant()
    def what_stands_can_be_read_and_what_was_overruled_cannot(self) -> None:
        status, now_s = self.world.status, self.world.now_s()
        assert status.read("historyRoot", NEXUS) == (self.standing[-1][3] if self.standing else bytes(32))
        for epoch, _, final_at, root in self.standing:
            assert status.read("healthy", NEXUS, epoch, 2)
            assert status.read("isFinal", NEXUS, epoch) == (now_s >= final_at)
            assert status.read("posts", NEXUS, epoch)[0] == root
        for epoch in self.overruled:
            assert not status.read("isFinal", NEXUS, epoch)
            with pytest.raises(Reverted, match=rf"StatusOverruled\(nexus=1, epoch={epoch}\)"):
                status.read("healthy", NEXUS, epoch, 0)
        if self.stale is not None:
            with pytest.raises(Reverted, match=rf"StatusOverruled\(nexus=1, epoch={self.stale}\)"):
                status.read("reputationOf", NEXUS, 0)
        elif self.standing:
            epoch, value, final_at, _ = self.standing[-1]
            assert status.read("reputationOf", NEXUS, 2) == (value, epoch, now_s >= final_at)


TestReports = Reports.TestCase
TestReports.settings = settings(max_examples=8, stateful_step_count=25, phases=[Phase.generate])
