"""Every backend is the same chain: whatever is done comes to the same on py-evm, revm and a real node.

`Alike` is three chains behind one port. It does everything on all three and compares what came of it, so that any code that
works on a chain becomes a differential test. `ACTIONS` is what is done at random: to add an action, add a function there.
"""

import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from random import Random

import numpy as np
import pytest
from web3 import HTTPProvider

from lattice_core.chain.abi import keccak
from lattice_core.chain.backends import BACKENDS, open_chain
from lattice_core.chain.contracts import Network
from lattice_core.chain.contracts.slashing import sign_answer
from lattice_core.chain.keys import Key
from lattice_core.chain.port import Block, Capabilities, Chain, Receipt, Refused, Reverted, Transaction
from lattice_core.chain.pyevm import PyEvm
from lattice_core.chain.revm import Revm
from lattice_core.chain.rpc import Rpc
from lattice_core.chain.typed_data import domain
from lattice_core.chain.vouchers import Voucher, sign
from tests.chain.anvil import anvil
from tests.chain.networks import NEXUS, Actors, address, chunk, key, start

STEPS = 500
USERS, NODES = 10, 4
NAMES = (*Actors._fields, *(f"owner {i}" for i in range(USERS + 1)), *(f"operator {i}" for i in range(NODES + 1)))
PEOPLE = tuple(address(name) for name in NAMES)
SLOTS = range(8)
"""Where random programs store."""


class Alike:
    """py-evm, revm and a node as one chain. An AssertionError names what they disagree on."""

    capabilities = Capabilities(name="alike", exact_gas=True, snapshots=True, sets_time=True)

    def __init__(self, url: str) -> None:
        self.url = url
        self.pyevm, self.revm, self.rpc = PyEvm(), Revm(), Rpc(url)
        self.others: tuple[Chain, ...] = (self.revm, self.rpc)
        self.chains: tuple[Chain, ...] = (self.pyevm, *self.others)
        self.chain_id = self.pyevm.chain_id
        for chain in self.others:
            assert chain.chain_id == self.chain_id

    def add_key(self, key: Key) -> None:
        for chain in self.chains:
            chain.add_key(key)

    def fund(self, address: bytes, wei: int) -> None:
        for chain in self.chains:
            chain.fund(address, wei)

    def deploy(self, sender: bytes, code: bytes) -> Receipt:
        return self.transact(Transaction(sender, None, code))

    def transact(self, transaction: Transaction) -> Receipt:
        return self._agreed(self.pyevm.transact(transaction), [chain.transact(transaction) for chain in self.others])

    def transact_many(self, transactions: Sequence[Transaction]) -> list[Receipt]:
        receipts = self.pyevm.transact_many(transactions)
        others = zip(*(chain.transact_many(transactions) for chain in self.others), strict=True)
        return [self._agreed(receipt, list(other)) for receipt, other in zip(receipts, others, strict=True)]

    def call(self, to: bytes, data: bytes, sender: bytes = bytes(20)) -> bytes:
        def outcome(chain: Chain) -> tuple[bool, bytes]:
            try:
                return True, chain.call(to, data, sender)
            except Reverted as revert:
                return False, revert.data

        first, *others = (outcome(chain) for chain in self.chains)
        assert all(other == first for other in others), (first, others)
        ok, output = first
        if not ok:
            raise Reverted(output)
        return output

    def advance_block(self, dt_s: int, n: int = 1) -> Block:
        for chain in self.chains:
            chain.advance_block(dt_s, n)
        return self.block()

    def block(self) -> Block:
        assert len({chain.block().timestamp_s for chain in self.chains}) == 1
        return self.pyevm.block()

    def snapshot(self) -> tuple[object, ...]:
        return tuple(chain.snapshot() for chain in self.chains)

    def revert(self, snapshot: object) -> None:
        assert isinstance(snapshot, tuple)
        for chain, part in zip(self.chains, snapshot, strict=True):
            chain.revert(part)

    def balance(self, address: bytes) -> int:
        return self.pyevm.balance(address)

    def nonce(self, address: bytes) -> int:
        return self.pyevm.nonce(address)

    def code(self, address: bytes) -> bytes:
        return self.pyevm.code(address)

    def storage(self, address: bytes, slot: int) -> int:
        return self.pyevm.storage(address, slot)

    def compare_states(self, more: Sequence[tuple[bytes, int]] = ()) -> None:
        """Compare every slot that is not zero on py-evm, `more` slots, and every account."""
        storage, *accounts = self.pyevm.snapshot().tables
        slots = sorted({*storage, *more})
        told = self._on_node("eth_getStorageAt", [(address, hex(slot)) for address, slot in slots])
        for (owner, slot), word in zip(slots, told, strict=True):
            values = [storage.get((owner, slot), 0), self.revm.storage(owner, slot), int(word, 16)]
            assert len(set(values)) == 1, (owner.hex(), slot, values)
        known = sorted(set().union(*accounts))
        nodes_view = zip(
            *(self._on_node(f"eth_get{what}", [(a,) for a in known]) for what in ("Balance", "TransactionCount", "Code")),
            strict=True,
        )
        for account, (balance, nonce, code) in zip(known, nodes_view, strict=True):
            on_node = (int(balance, 16), int(nonce, 16), bytes.fromhex(code[2:]))
            in_process = [(c.balance(account), c.nonce(account), c.code(account)) for c in (self.pyevm, self.revm)]
            assert in_process == [on_node, on_node], account.hex()

    def _on_node(self, method: str, questions: Sequence[tuple[bytes, *tuple[str, ...]]]) -> list[str]:
        """Answers to many questions about the latest state at once: one by one takes a second for every thousand."""
        asked = [(method, [f"0x{who.hex()}", *rest, "latest"]) for who, *rest in questions]
        answers = HTTPProvider(self.url).make_batch_request(asked) if asked else []
        return [answer["result"] for answer in answers]

    def _agreed(self, receipt: Receipt, others: Sequence[Receipt]) -> Receipt:
        on_revm, on_node = others
        assert on_revm == replace(receipt, gas_used=None)
        assert on_node == replace(receipt, output=b"" if receipt.ok else receipt.output)  # a node tells no more
        return receipt


@pytest.fixture
def alike() -> Iterator[Alike]:
    with anvil() as url:
        yield Alike(url)


@dataclass
class World:
    """What the actions act in: a network, and programs, each with its level: it may call those of lower levels."""

    draw: Random
    chain: Alike
    network: Network
    who: Actors
    factory: bytes
    programs: list[tuple[int, bytes]] = field(default_factory=list)
    marks: list[tuple[object, int]] = field(default_factory=list)

    def anyone(self) -> bytes:
        return self.draw.choice(PEOPLE)

    def mostly(self, right: bytes) -> bytes:
        return right if self.draw.random() < 0.9 else self.anyone()

    def program(self) -> bytes:
        return self.draw.choice(self.programs)[1]

    def amount_nlai(self) -> int:
        return self.draw.choice((0, 1, 5_000, self.draw.randrange(10**6), 2**63))

    def user(self) -> int:
        return self.draw.randrange(USERS + 1)

    def owner(self, user: int) -> bytes:
        return self.mostly(address(f"owner {user}"))

    def node(self) -> int:
        return self.draw.randrange(NODES + 1)

    def operator(self, node: int) -> bytes:
        return self.mostly(address(f"operator {node}"))

    def epoch(self, *ages: int) -> int:
        """So many epochs ago."""
        return max(0, self.network.clock.current() - self.draw.choice(ages))

    def compare_states(self) -> None:
        self.chain.compare_states([(program, slot) for _, program in self.programs for slot in SLOTS])


# Programs


def deployed(code: bytes) -> bytes:
    """Creation code of a contract with that code."""
    return b"\x61" + len(code).to_bytes(2) + bytes.fromhex("80600a5f395ff3") + code


def push(value: int) -> bytes:
    size = max(1, (value.bit_length() + 7) // 8)
    return bytes([0x5F + size]) + value.to_bytes(size)


def value(world: World, depth: int = 2) -> bytes:
    """Code that pushes one word."""
    draw = world.draw
    match draw.randrange(9 if depth else 5):
        case 0 | 1:
            return push(draw.randrange(8))
        case 2:
            return push(draw.getrandbits(256))
        case 3:  # ADDRESS, ORIGIN, CALLER, CALLVALUE, CALLDATASIZE, RETURNDATASIZE, TIMESTAMP, CHAINID, SELFBALANCE, MSIZE
            return bytes([draw.choice((0x30, 0x32, 0x33, 0x34, 0x36, 0x3D, 0x42, 0x46, 0x47, 0x59))])
        case 4:
            return push(32 * draw.randrange(3)) + bytes([draw.choice((0x35, 0x51))])  # CALLDATALOAD, MLOAD
        case 5:
            return push(draw.choice(SLOTS)) + bytes([draw.choice((0x54, 0x5C))])  # SLOAD, TLOAD
        case 6:  # BALANCE, EXTCODESIZE, EXTCODEHASH
            subject = draw.choice((*(where for _, where in world.programs), world.anyone(), keccak(b"nobody")[:20]))
            return b"\x73" + subject + bytes([draw.choice((0x31, 0x3B, 0x3F))])
        case 7:
            return push(64) + push(draw.choice((0, 32))) + b"\x20"  # KECCAK256
        case _:  # arithmetic, comparison and bits
            operator = draw.choice((*range(0x01, 0x08), 0x0A, 0x0B, *range(0x10, 0x15), *range(0x16, 0x19), *range(0x1A, 0x1E)))
            return value(world, depth - 1) + value(world, depth - 1) + bytes([operator])


def program(world: World, level: int) -> bytes:
    """Up to eight statements that read and write, and at level 1 and 2 up to two calls into lower levels.

    A call is given so much gas that the callee never runs out of it, and the caller has enough left if the callee burns it all:
    revm counts gas otherwise.
    """
    draw = world.draw
    targets = [target for its_level, target in world.programs if its_level < level]
    statements = []
    for _ in range(draw.randint(1, 6)):
        match draw.randrange(5):
            case 0 | 1:
                statements.append(value(world) + push(draw.choice(SLOTS)) + b"\x55")  # SSTORE
            case 2:
                statements.append(value(world) + push(draw.choice(SLOTS)) + b"\x5d")  # TSTORE
            case 3:
                statements.append(value(world) + push(32 * draw.randrange(3)) + b"\x52")  # MSTORE
            case _:
                topics = draw.randrange(5)
                words = b"".join(value(world) for _ in range(topics))
                statements.append(words + push(draw.randrange(65)) + b"\x5f" + bytes([0xA0 + topics]))
    for _ in range(draw.randint(0, 2) if level else 0):
        opcode = draw.choice((0xF1, 0xF1, 0xF4, 0xFA))  # CALL, DELEGATECALL, STATICCALL
        target = draw.choice((*targets, *targets, bytes(19) + bytes([draw.randint(1, 4)]), world.anyone()))
        wei = push(draw.randrange(3)) if opcode == 0xF1 else b""
        memory = push(32) + push(32) + push(96) + b"\x5f"  # what comes back, and what goes
        gas = push((500_000, 1_500_000)[level - 1])
        call = memory + wei + b"\x73" + target + gas + bytes([opcode]) + push(draw.choice(SLOTS)) + b"\x55"
        statements.insert(draw.randrange(len(statements) + 1), call)
    end = draw.choice((b"\x00", *[push(64) + b"\x5f\xf3"] * 4, push(draw.randrange(65)) + b"\x5f\xfd", b"\xfe"))
    return b"".join(statements) + end


def deploy_program(world: World) -> None:
    level = world.draw.randrange(3)
    created = world.chain.deploy(world.anyone(), deployed(program(world, level))).contract
    assert created is not None
    world.programs.append((level, created))


def run_program(world: World) -> None:
    data = world.draw.randbytes(world.draw.randrange(70))
    world.chain.transact(Transaction(world.anyone(), world.program(), data, world.draw.randrange(3)))


def run_programs_in_one_go(world: World) -> None:
    senders = sorted(world.anyone() for _ in range(4))
    world.chain.transact_many([Transaction(sender, world.program()) for sender in senders])


def call_program(world: World) -> None:
    with suppress(Reverted):
        world.chain.call(world.program(), world.draw.randbytes(32), world.anyone())


def fail_to_deploy(world: World) -> None:
    """A revert with data, an invalid opcode, an endless loop, code that begins with EF, and code that is too long."""
    creations = ("63deadbeef5f526004601cfd", "fe", "5b5f56", "60ef5f5360015ff3", "6160015ff3")
    creation = bytes.fromhex(world.draw.choice(creations))
    assert not world.chain.transact(Transaction(world.anyone(), None, creation, gas=200_000)).ok


def create_at_a_salt(world: World) -> None:
    """CREATE2, which fails where a contract is already."""
    world.chain.transact(Transaction(world.anyone(), world.factory, world.draw.randrange(5).to_bytes(32)))


def pay_ether(world: World) -> None:
    """With so much data, sometimes, that its floor is what is paid (EIP-7623)."""
    data = world.draw.randbytes(world.draw.choice((0, 0, 40, 3_000)))
    world.chain.transact(Transaction(world.anyone(), world.anyone(), data, world.draw.randrange(100)))


# The network


def move_tokens(world: World) -> None:
    token, sender = world.network.token, world.mostly(world.who.holder)
    match world.draw.randrange(3):
        case 0:
            token.burn(sender, world.amount_nlai())
        case 1:
            token.approve(sender, world.anyone(), world.amount_nlai())
        case _:
            token.transfer(sender, world.anyone(), world.amount_nlai())


def take_what_is_not_ours(world: World) -> None:
    """Each is forbidden to most."""
    network, sender = world.network, world.anyone()
    match world.draw.randrange(4):
        case 0:
            network.book.set(sender, "Tokenomics", sender)
        case 1:
            network.token.mint(sender, sender, 1)
        case 2:
            network.tokenomics.pay_treasury(world.mostly(world.who.owner), sender, world.amount_nlai())
        case _:
            network.tokenomics.set_budget(world.mostly(world.who.owner), 10**18, 3_600)


def open_accounts(world: World) -> None:
    count = world.draw.randint(1, 3)
    identities = [keccak(b"newcomer %d" % world.draw.randrange(40)) for _ in range(count)]
    if world.draw.random() < 0.8:
        world.network.users.register(world.mostly(world.who.holder), NEXUS, identities, [world.anyone()] * count)
    else:
        world.network.users.join(world.anyone(), NEXUS)


def fund_users(world: World) -> None:
    users = [world.user() for _ in range(3)]
    world.network.users.fund(world.mostly(world.who.holder), users, [world.draw.randrange(10**6) for _ in users])


def grant_credit(world: World) -> None:
    if world.draw.random() < 0.5:
        world.network.tokenomics.endow(world.mostly(world.who.holder), world.draw.randrange(10**6))
    else:
        users = sorted({world.user() for _ in range(3)})
        world.network.tokenomics.grant_faucet(
            world.mostly(world.who.holder), users, [world.draw.randrange(10**4) for _ in users]
        )


def withdraw(world: World) -> None:
    user = world.user()
    if world.draw.random() < 0.5:
        world.network.users.request_withdrawal(world.owner(user), user, world.amount_nlai())
    else:
        world.network.users.withdraw(world.anyone(), user)


def delegate_to_a_session_key(world: World) -> None:
    user = world.user()
    expiry_s = world.chain.block().timestamp_s + world.draw.choice((0, 10**5))
    world.network.users.set_session_key(
        world.owner(user), user, world.anyone(), world.amount_nlai(), NEXUS, world.draw.randrange(16), expiry_s
    )


def settle(world: World) -> None:
    """Mostly balanced, often with users who cannot pay."""
    draw = world.draw
    users = {
        user: (draw.randrange(10**5), draw.randrange(100)) for user in sorted(draw.sample(range(USERS), draw.randint(1, 5)))
    }
    purchased, faucet = (sum(column) for column in zip(*users.values(), strict=True))
    node = draw.randrange(NODES)
    nodes = {node: (purchased, faucet)} if draw.random() < 0.9 else {node: (purchased + 1, faucet)}
    batch = chunk(users, nodes, epoch=world.epoch(0, 1, 1, 2, 2, 3), number=draw.randrange(3))
    world.network.tokenomics.settle(world.mostly(world.who.oracle), batch)


def present(world: World) -> None:
    payer, node = world.draw.randrange(USERS), world.draw.randrange(NODES)
    value_nlai = world.draw.randrange(10**5)
    voucher = Voucher(NEXUS, world.epoch(2, 3, 3, 4, 5, 20), payer, node, value_nlai, 1_000, keccak(b"receipts"))
    signer = f"owner {payer}" if world.draw.random() < 0.9 else "stranger"
    separator = domain(world.chain.chain_id, world.network.tokenomics.address)
    world.network.tokenomics.present(world.anyone(), sign(voucher, key(signer), separator))


def collect(world: World) -> None:
    payer, node = world.draw.randrange(USERS), world.draw.randrange(NODES)
    world.network.tokenomics.collect(world.anyone(), NEXUS, world.epoch(3, 5, 6, 7, 8, 20), payer, node)


def open_books(world: World) -> None:
    world.network.tokenomics.open_books(world.anyone(), [world.draw.randrange(NODES + 1)])


def claim(world: World) -> None:
    node = world.node()
    world.network.tokenomics.claim(world.operator(node), node)


def move_bonds(world: World) -> None:
    nodes, node = world.network.nodes, world.node()
    match world.draw.randrange(5):
        case 0 | 1:
            nodes.bond(world.mostly(world.who.holder), [node], [world.draw.randrange(10**9)])
        case 2:
            nodes.unbond(world.operator(node), node, world.amount_nlai())
        case 3:
            nodes.rebond(world.operator(node), node)
        case _:
            nodes.withdraw_bond(world.operator(node), node)


def offer(world: World) -> None:
    node, model = world.node(), keccak(b"model %d" % world.draw.randrange(3))
    match world.draw.randrange(3):
        case 0:
            world.network.nodes.withdraw_offer(world.operator(node), node, model)
        case 1:
            endpoint = "https://node.example/" + "x" * world.draw.randrange(60)
            world.network.nodes.set_endpoint(world.operator(node), node, endpoint)
        case _:
            world.network.nodes.post_offers(world.operator(node), [node], [model], [1], [world.draw.randrange(1_000)], [7])


def accuse(world: World) -> None:
    """With two answers to one request, of which one may be of another node, or the same."""
    node = world.draw.randrange(NODES)
    separator = domain(world.chain.chain_id, world.network.slashing.address)
    signer = key(f"operator {node}" if world.draw.random() < 0.8 else "stranger")
    request = world.draw.randrange(3)
    one, other = (sign_answer(request, node, keccak(b"%d" % world.draw.randrange(3)), signer, separator) for _ in range(2))
    world.network.slashing.prove_equivocation(world.anyone(), node, request, one, other)


def propose_to_slash(world: World) -> None:
    slashing, node = world.network.slashing, world.node()
    match world.draw.randrange(4):
        case 0 | 1:
            slashing.propose(world.mostly(world.who.oracle), NEXUS, node, world.draw.randrange(10**4), keccak(b"evidence"))
        case 2:
            slashing.appeal(world.operator(node), world.draw.randrange(2))
        case _:
            slashing.execute(world.anyone(), world.draw.randrange(2))


def report_status(world: World) -> None:
    healthy = np.array([world.draw.random() < 0.5 for _ in range(NODES)])
    reputation = np.array([world.draw.random() for _ in range(NODES)])
    world.network.status.post(world.mostly(world.who.oracle), NEXUS, world.epoch(0, 1, 1, 2), healthy, reputation)


def read(world: World) -> None:
    network = world.network
    network.users.account(world.draw.randrange(USERS))
    network.tokenomics.claims()
    network.nodes.registration_price_nlai()


# The chain itself


def pass_time(world: World) -> None:
    world.chain.advance_block(world.draw.choice((0, 1, 60, 3_600, 7_200)), world.draw.randint(1, 2))


def give_ether(world: World) -> None:
    world.chain.fund(world.anyone(), world.draw.randrange(10**6))


def remember(world: World) -> None:
    world.marks.append((world.chain.snapshot(), len(world.programs)))


def go_back(world: World) -> None:
    world.compare_states()
    if world.marks:
        del world.marks[max(1, len(world.marks) - world.draw.randrange(2)) :]
        mark, programs = world.marks[-1]
        world.chain.revert(mark)
        del world.programs[programs:]


ACTIONS: dict[Callable[[World], None], int] = {
    deploy_program: 4,
    run_program: 12,
    run_programs_in_one_go: 2,
    call_program: 2,
    fail_to_deploy: 2,
    create_at_a_salt: 2,
    pay_ether: 3,
    move_tokens: 4,
    take_what_is_not_ours: 2,
    open_accounts: 2,
    fund_users: 4,
    grant_credit: 3,
    withdraw: 3,
    delegate_to_a_session_key: 1,
    settle: 8,
    present: 4,
    collect: 3,
    open_books: 1,
    claim: 3,
    move_bonds: 4,
    offer: 2,
    accuse: 2,
    propose_to_slash: 3,
    report_status: 2,
    read: 2,
    pass_time: 6,
    give_ether: 1,
    remember: 1,
    go_back: 1,
}
"""How often each is done, relative to the others."""


def test_random_operations_come_to_the_same_on_every_backend_to_the_gas(alike: Alike) -> None:
    for name in NAMES:
        alike.add_key(key(name))
        alike.fund(address(name), 1_000)
    network, who = start(users=USERS, nodes=NODES, chain=alike)
    creation = deployed(b"\x00").ljust(32, b"\x00")
    factory = b"\x7f" + creation + bytes.fromhex("5f525f35600b5f5ff55f3555")  # CREATE2(0, 0, 11, salt) -> slot salt
    created = alike.deploy(who.stranger, deployed(factory)).contract
    assert created is not None
    world = World(Random(3), alike, network, who, created)
    for _ in range(5):
        deploy_program(world)
    for action in world.draw.choices(list(ACTIONS), list(ACTIONS.values()), k=STEPS):
        action(world)
    world.compare_states()


def test_transient_storage_ends_with_its_transaction(alike: Alike) -> None:
    """As ReentrancyGuardTransient needs it: entered twice in one transaction the guard holds, and in two it does not."""
    guard = bytes.fromhex("5f5c600d575f6001905d005b5f5ffd")  # if TLOAD(0): revert; TSTORE(0, 1)
    alike.add_key(key("stranger"))
    stranger = address("stranger")
    guarded = alike.deploy(stranger, deployed(guard)).contract
    assert guarded is not None
    once = b"\x5f\x5f\x5f\x5f\x5f\x73" + guarded + bytes.fromhex("5af1")  # CALL with all gas
    twice = alike.deploy(stranger, deployed(once + b"\x50" + once + bytes.fromhex("5f5260205ff3"))).contract
    assert twice is not None
    for _ in range(3):
        assert alike.transact(Transaction(stranger, guarded)).ok
        assert int.from_bytes(alike.call(twice, b"")) == 0
        assert alike.transact(Transaction(stranger, twice)).ok


def test_every_transaction_of_a_block_and_every_call_sees_its_time(alike: Alike) -> None:
    alike.add_key(key("stranger"))
    clock = alike.deploy(address("stranger"), deployed(bytes.fromhex("425f55425f5260205ff3"))).contract  # slot 0 := TIMESTAMP
    assert clock is not None
    for dt_s in (0, 7, 3_600):
        now_s = alike.advance_block(dt_s, 2).timestamp_s
        for _ in range(3):
            assert alike.transact(Transaction(address("stranger"), clock)).ok
            assert int.from_bytes(alike.call(clock, b"")) == now_s
            alike.compare_states()


def test_a_snapshot_returns_any_number_of_times_until_an_earlier_one_does(alike: Alike) -> None:
    alike.add_key(key("stranger"))
    pay = Transaction(address("stranger"), address("owner"), value_wei=1)
    alike.fund(address("stranger"), 5)
    early = alike.snapshot()
    for _ in range(2):
        alike.transact(pay)
        late = alike.snapshot()
        alike.fund(address("owner"), 3)
        for _ in range(2):
            alike.advance_block(10)
            alike.transact(pay)
            alike.deploy(address("stranger"), b"")
            alike.revert(late)
            alike.compare_states()
        alike.revert(early)
        alike.compare_states()
    for chain, mark in zip(alike.others, late[1:], strict=True):
        with pytest.raises(ValueError, match="this snapshot was undone"):
            chain.revert(mark)


def test_who_cannot_pay_is_refused_and_nothing_changes(alike: Alike) -> None:
    alike.add_key(key("stranger"))
    for chain in alike.others:
        for refused in (
            Transaction(address("stranger"), bytes(20), value_wei=1),
            Transaction(address("stranger"), bytes(20), gas=1),
        ):
            with pytest.raises(Refused, match=address("stranger").hex()):
                chain.transact(refused)
        assert chain.nonce(address("stranger")) == 0
        assert chain.transact(Transaction(address("stranger"), bytes(20))).ok


def test_a_pickled_revm_lives_on_as_the_original_does() -> None:
    network, who = start(users=2, nodes=1, chain=Revm())
    chain = network.chain
    chain.fund(who.stranger, 3)
    mark = chain.snapshot()
    network.token.transfer(who.holder, who.stranger, 1)
    chain.revert(mark)
    chain.advance_block(5)
    copy = pickle.loads(pickle.dumps(chain))
    assert copy.block() == chain.block()
    receipts = [Network(one, network.book.address).token.transfer(who.holder, who.stranger, 7) for one in (chain, copy)]
    assert receipts[0] == receipts[1]
    assert [copy.balance(who.stranger), copy.nonce(who.holder)] == [3, chain.nonce(who.holder)]


def test_a_backend_is_opened_by_its_name() -> None:
    with anvil() as url:
        for backend in BACKENDS:
            chain = open_chain(backend, url if backend == "rpc" else None)
            assert (chain.capabilities.name, chain.block().timestamp_s) == (backend, 1_700_000_000)


@pytest.mark.parametrize(
    ("backend", "url", "said"),
    [
        ("geth", None, "must be one of py-evm, revm, rpc, not 'geth'"),
        ("rpc", None, "rpc needs one"),
        ("revm", "http://127.0.0.1", "the others take none"),
    ],
)
def test_a_backend_that_does_not_exist_is_named(backend: str, url: str | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        open_chain(backend, url)


def test_a_missing_pyrevm_is_named_with_the_pythons_it_exists_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "lattice_core.chain.revm")
    monkeypatch.setitem(sys.modules, "pyrevm", None)
    with pytest.raises(ImportError, match=r"pyrevm, which exists for Python 3\.12 and older only"):
        open_chain("revm")
