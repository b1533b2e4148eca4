"""The py-evm backend: deterministic, revertible, picklable, and to the gas what py-evm itself computes."""

import pickle
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice_core.chain.abi import keccak
from lattice_core.chain.contracts import Network
from lattice_core.chain.port import Receipt, Refused, Reverted, Transaction
from lattice_core.chain.pyevm import PyEvm
from tests.chain.networks import EPOCH_S, NEXUS, Actors, actors, address, chunk, start

ALICE, TARGET = address("alice"), address("target")


def live_a_little(network: Network, who: Actors) -> list[Receipt]:
    """A few transactions of each sort, one of which reverts."""
    network.chain.advance_block(dt_s=EPOCH_S, n=1)
    return [
        network.users.join(who.stranger, NEXUS),
        network.users.fund(who.holder, [0], [5_000]),
        network.users.fund(who.stranger, [0], [5_000]),
        network.tokenomics.settle(who.oracle, chunk({0: (3_000, 0), 1: (1, 0)}, {0: (3_001, 0)})),
        network.tokenomics.claim(who.stranger, 0),
    ]


def test_two_runs_of_one_history_are_identical() -> None:
    (one, who), (other, _) = start(nodes=1), start(nodes=1)
    assert live_a_little(one, who) == live_a_little(other, who)
    assert one.chain.digest() == other.chain.digest()
    assert one.chain.block() == other.chain.block()
    one.chain.advance_block(dt_s=1)
    assert one.chain.digest() != other.chain.digest()


def test_a_snapshot_returns_any_number_of_times_to_the_same_state() -> None:
    network, who = start(nodes=1)
    chain = network.chain
    before, snapshot = chain.digest(), chain.snapshot()
    histories = []
    for _ in range(2):
        histories.append((live_a_little(network, who), chain.digest()))
        chain.revert(snapshot)
        assert chain.digest() == before
    assert histories[0] == histories[1]


def test_a_pickled_chain_lives_on_as_the_original_does() -> None:
    network, who = start(nodes=1)
    copy = Network(pickle.loads(pickle.dumps(network.chain)), network.book.address)
    assert live_a_little(network, who) == live_a_little(copy, who)
    assert network.chain.digest() == copy.chain.digest()


def remembered(chain: PyEvm) -> list[Any]:
    assert chain.history is not None
    return chain.history.entries


def test_history_is_what_was_returned_and_survives_pickling_and_a_branch_that_was_left() -> None:
    chain = PyEvm()
    sent = [Transaction(ALICE, TARGET, bytes([number])) for number in range(3)]
    first = chain.transact(sent[0])
    before = chain.snapshot()
    chain.advance_block(dt_s=1)
    second = chain.transact(sent[1])
    branch = chain.snapshot()
    chain.revert(before)
    third = chain.transact(sent[2])
    assert remembered(chain) == [(1, 0, sent[0], first), (1, 1, sent[2], third)]
    chain.revert(branch)
    for each in (chain, pickle.loads(pickle.dumps(chain))):
        assert remembered(each) == [(1, 0, sent[0], first), (2, 1, sent[1], second)]
        assert [block.number for block in each.history.blocks] == [1, 2]


def test_a_chain_that_keeps_no_history_does_the_same_and_forgets_it() -> None:
    usual, forgetful = PyEvm(), PyEvm(history=False)
    sent = Transaction(ALICE, TARGET, b"data")
    assert usual.transact(sent) == forgetful.transact(sent)
    assert usual.advance_block(dt_s=1) == forgetful.advance_block(dt_s=1)
    assert usual.digest() == forgetful.digest()
    forgetful.revert(forgetful.snapshot())
    assert pickle.loads(pickle.dumps(forgetful)).history is forgetful.history is None


def test_the_transactions_of_a_history_have_different_hashes_and_the_same_in_every_run() -> None:
    def live() -> list[bytes]:
        chain = PyEvm()
        senders, receivers, data = (ALICE, TARGET), (None, address("other")), (b"", b"\x00", b"")
        chain.transact_many([Transaction(*sent) for sent in product(senders, receivers, data)])
        return [entry.hash for entry in remembered(chain)]

    assert len(set(live())) == 12
    assert live() == live()


def test_time_and_blocks_move_only_when_told_to() -> None:
    chain = PyEvm(genesis_s=1_000)
    clock = chain.deploy(ALICE, bytes.fromhex("66425f5260205ff35f5260076019f3")).contract  # returns block.timestamp
    assert clock is not None
    chain.transact(Transaction(ALICE, TARGET))
    assert (chain.block().number, int.from_bytes(chain.call(clock, b""))) == (1, 1_000)
    chain.advance_block(dt_s=60, n=2)
    assert (chain.block().number, int.from_bytes(chain.call(clock, b""))) == (3, 1_120)


def test_ether_moves_and_counts() -> None:
    chain = PyEvm()
    chain.fund(ALICE, 10)
    assert chain.transact(Transaction(ALICE, TARGET, value_wei=4)).gas_used == 21_000
    assert (chain.balance(ALICE), chain.balance(TARGET), chain.nonce(ALICE)) == (6, 4, 1)


def test_a_call_leaves_no_trace() -> None:
    network, who = start()
    before = network.chain.digest()
    data = network.users.abi.encode_call("join", NEXUS)
    assert int.from_bytes(network.chain.call(network.users.address, data, who.owner)) == 0
    with pytest.raises(Reverted):
        network.chain.call(network.users.address, network.users.abi.encode_call("withdraw", 0), who.owner)
    assert network.chain.digest() == before


def test_calldata_costs_at_least_its_floor() -> None:
    chain = PyEvm()
    assert chain.transact(Transaction(ALICE, TARGET, data=bytes(1_000))).gas_used == 21_000 + 10 * 1_000
    assert chain.transact(Transaction(ALICE, TARGET, data=b"\x01" * 1_000)).gas_used == 21_000 + 40 * 1_000


def stock() -> PyEvm:
    """The same driver over py-evm's own opcodes and tries: the yardstick."""
    from eth.constants import BLANK_ROOT_HASH
    from eth.db.atomic import AtomicDB
    from eth.vm.forks.prague.state import PragueState

    class Stock(PyEvm):
        def _enter(self, block: Any, ancestors: Any) -> None:
            super()._enter(block, ancestors)
            self._state = vars(self).get("tries") or PragueState(AtomicDB(), self._context(), BLANK_ROOT_HASH)
            self._state.execution_context = self._context()
            self.tries = self._state

    return Stock()


OPCODES = [
    *(0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x08, 0x0A, 0x0B, 0x10, 0x11, 0x12, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1A),
    *(0x1B, 0x1C, 0x1D, 0x20, 0x30, 0x31, 0x33, 0x35, 0x36, 0x37, 0x3B, 0x3D, 0x3F, 0x42, 0x50, 0x51, 0x52, 0x53),
    *(0x54, 0x55, 0x58, 0x59, 0x5A, 0x5B, 0x5C, 0x5D, 0x5E, 0x5F, 0x80, 0x81, 0x82, 0x8F, 0x90, 0x91, 0x9F),
    *(0xA0, 0xA1, 0xF0, 0xF1, 0xF4, 0xF5, 0xFA),
]
ENDINGS = [0x56, 0x57, 0xF3, 0xFD, 0xFE, 0xFF]
JUMPS = [bytes.fromhex("58600501565b"), bytes.fromhex("586007015760005b")]  # always, or perhaps, to the JUMPDEST at the end
SMALL = st.integers(0, 64).map(lambda value: bytes([0x60, value]))
PUSHES = st.one_of(
    *[SMALL] * 6,
    st.binary(min_size=32, max_size=32).map(lambda word: b"\x7f" + word),
    st.just(b"\x73" + TARGET),
)
STEPS = st.tuples(
    st.lists(PUSHES, max_size=3).map(b"".join),
    st.one_of(st.sampled_from([bytes([code]) for code in OPCODES]), st.sampled_from(JUMPS)),
).map(b"".join)
PROGRAMS = st.tuples(
    st.lists(PUSHES, min_size=7, max_size=20).map(b"".join),
    st.lists(STEPS, min_size=5, max_size=40).map(b"".join),
    st.sampled_from([bytes([code]) for code in ENDINGS]),
).map(b"".join)


@pytest.mark.filterwarnings("ignore:SELFDESTRUCT")
@given(st.lists(PROGRAMS, min_size=2, max_size=2), st.binary(max_size=40), st.sampled_from([60_000, 2**24]))
def test_any_program_runs_as_on_py_evm_itself_to_the_gas(programs: list[bytes], data: bytes, gas: int) -> None:
    outcomes = []
    for chain in (PyEvm(), stock()):
        for target, program in zip((TARGET, address("other")), programs, strict=True):
            chain._state.set_code(target, program)
        chain._state.delta_balance(TARGET, 5)
        chain._state.lock_changes()
        receipts = [chain.transact(Transaction(ALICE, to, data, gas=gas)) for to in (TARGET, address("other"), TARGET)]
        state = chain._state
        slots = [state.get_storage(where, slot) for where in (TARGET, address("other")) for slot in range(70)]
        accounts = [(state.get_balance(where), state.get_nonce(where), state.get_code(where)) for where in (ALICE, TARGET)]
        outcomes.append((receipts, slots, accounts))
    assert outcomes[0] == outcomes[1]


EDGES = (0, 1, 2, 31, 32, 255, 256, 257, 2**255, 2**256 - 1)


@pytest.mark.parametrize("opcode", [0x01, 0x02, 0x03, 0x04, 0x10, 0x11, 0x14, 0x15, 0x16, 0x17, 0x19, 0x1B, 0x1C, 0x35, 0x51])
def test_an_opcode_agrees_with_py_evm_at_the_edges_of_its_operands(opcode: int) -> None:
    for left in EDGES[: 8 if opcode == 0x51 else None]:
        pushes = b"".join(b"\x7f" + right.to_bytes(32) + b"\x7f" + left.to_bytes(32) + bytes([opcode]) for right in EDGES)
        stores = b"".join(bytes([0x60, 32 * i, 0x52]) for i in range(8))
        program = pushes + stores[:24] + bytes.fromhex("6101005ff3")
        receipts = []
        for chain in (PyEvm(), stock()):
            chain._state.set_code(TARGET, program)
            receipts.append(chain.transact(Transaction(ALICE, TARGET, bytes(range(1, 200)))))
        assert receipts[0] == receipts[1]
        assert receipts[0].ok


def test_a_network_lives_as_on_py_evm_itself_to_the_gas(monkeypatch: pytest.MonkeyPatch) -> None:
    network, who = start(nodes=1)
    receipts = live_a_little(network, who)
    monkeypatch.setattr("tests.chain.networks.PyEvm", stock)
    yardstick, _ = start(nodes=1)
    assert live_a_little(yardstick, actors()) == receipts
    assert [receipt.ok for receipt in receipts] == [True, True, False, True, True]


def test_keccak_is_ethereums() -> None:
    assert keccak(b"").hex().startswith("c5d2460186f7233c")


def test_a_transaction_that_cannot_start_is_refused_and_leaves_no_trace() -> None:
    chain = PyEvm()
    before = chain.digest()
    for hopeless in (Transaction(ALICE, TARGET, gas=20_999), Transaction(ALICE, TARGET, value_wei=1)):
        with pytest.raises(Refused):
            chain.transact(hopeless)
    assert chain.digest() == before
    assert chain.nonce(ALICE) == 0
