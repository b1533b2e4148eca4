"""An ordinary web3.py script reads the run that just finished, and goes on where it ended."""

import pickle
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from eth_tester.exceptions import ValidationError
from hypothesis import given, settings
from hypothesis import strategies as st
from web3 import Web3
from web3.exceptions import BlockNotFound, ContractCustomError, ContractPanicError, MethodUnavailable, TransactionNotFound

from lattice_core.chain.abi import abi, reason
from lattice_core.chain.artifacts import artifact
from lattice_core.chain.port import Capabilities, Receipt, Refused, Transaction
from lattice_core.chain.pyevm import PyEvm
from lattice_core.chain.tester import web3_of
from lattice_sim.model import LatticeModel
from tests.chain.networks import address
from tests.sim.served import plain

ROOT = Path(__file__).parents[2]
NOBODY = "0x" + 40 * "0"
ALICE, BOB = address("alice"), address("bob")


@pytest.fixture(scope="module")
def finished() -> LatticeModel:
    """A run of two epochs whose users have all paid for something."""
    model = LatticeModel(plain({"people.count": 6, "chain.epoch": "2m", "chain.chunk_users": 2, "sim.epochs": 2}))
    while model.running:
        model.step()
    return model


@pytest.fixture
def chain(finished: LatticeModel) -> PyEvm:
    """A chain of one's own: where that run ended."""
    copy: PyEvm = pickle.loads(pickle.dumps(finished.chain))
    return copy


@pytest.fixture
def w3(chain: PyEvm) -> Web3:
    return web3_of(chain)


@pytest.fixture
def token(finished: LatticeModel, w3: Web3) -> Any:
    """LAI, of which a script needs to know the address and the interface."""
    where = Web3.to_checksum_address(finished.bridge.network.token.address)
    return w3.eth.contract(address=where, abi=artifact("LAIToken").abi)


def richest(token: Any) -> str:
    """Who holds most."""
    transfers = token.events.Transfer().get_logs(from_block=0)
    holder: str = max({log.args.to for log in transfers}, key=lambda who: token.functions.balanceOf(who).call())
    return holder


# Reading


def test_the_transfer_logs_of_a_run_sum_to_every_balance_and_to_what_was_minted_and_not_burned(token: Any) -> None:
    sent: Counter[str] = Counter()
    received: Counter[str] = Counter()
    for log in token.events.Transfer().get_logs(from_block=0):
        sent[log.args["from"]] += log.args.value
        received[log.args.to] += log.args.value
    minted, burned = sent.pop(NOBODY), received.pop(NOBODY)
    assert len(received) > 3
    assert all(token.functions.balanceOf(who).call() == received[who] - sent[who] for who in received | sent)
    assert (minted, burned) == (token.functions.minted().call(), token.functions.burned().call())
    assert token.functions.totalSupply().call() == minted - burned < minted


def test_blocks_chain_by_parent_hash_from_block_zero_to_the_latest(w3: Web3) -> None:
    blocks = [w3.eth.get_block(number) for number in range(w3.eth.block_number + 1)]
    assert [block["number"] for block in blocks] == list(range(len(blocks)))
    assert [block["parentHash"] for block in blocks[1:]] == [block["hash"] for block in blocks[:-1]]
    assert [w3.eth.get_block(block["hash"]) for block in blocks] == blocks
    assert (w3.eth.get_block("earliest"), w3.eth.get_block("latest")) == (blocks[0], blocks[-1])
    assert blocks[-1]["transactions"], "the last settlement is in the latest block"
    assert len({block["hash"] for block in blocks}) == len(blocks)


def test_the_state_is_the_chains_own(chain: PyEvm, w3: Web3, token: Any) -> None:
    where = bytes.fromhex(token.address[2:])
    assert bytes(w3.eth.get_code(where)) == chain.code(where) != b""
    words = [int.from_bytes(w3.eth.get_storage_at(where, slot)) for slot in range(8)]
    assert words == [chain.storage(where, slot) for slot in range(8)]
    chain.fund(ALICE, 7)
    assert w3.eth.get_balance(ALICE) == 7
    asked = chain.deploy(ALICE, bytes.fromhex("66465f5260205ff35f5260076019f3")).contract  # returns block.chainid
    assert int.from_bytes(w3.eth.call({"to": asked})) == w3.eth.chain_id == chain.chain_id
    assert w3.eth.get_transaction_count(ALICE) == chain.nonce(ALICE) == 1


def test_an_earlier_state_is_refused_rather_than_answered_with_the_latest(w3: Web3) -> None:
    latest = w3.eth.block_number
    assert w3.eth.get_balance(ALICE, latest) == w3.eth.get_balance(ALICE, "pending") == 0
    with pytest.raises(ValidationError, match=f"^the state of block {latest - 1} is not kept: .* the latest, {latest}, only$"):
        w3.eth.get_balance(ALICE, latest - 1)
    with pytest.raises(ValidationError, match="state of block earliest is not kept"):
        w3.eth.call({"to": ALICE}, "earliest")
    with pytest.raises(BlockNotFound):
        w3.eth.get_block(latest + 1)


def test_the_run_can_go_on_while_web3_reads_it(chain: PyEvm, w3: Web3) -> None:
    before = w3.eth.block_number
    chain.advance_block(dt_s=60)
    chain.transact(Transaction(ALICE, BOB))
    latest = w3.eth.get_block("latest", full_transactions=True)
    assert (latest["number"], latest["timestamp"]) == (before + 1, w3.eth.get_block(before)["timestamp"] + 60)
    assert [sent["from"] for sent in latest["transactions"]] == [Web3.to_checksum_address(ALICE)]


# Any history: with hash and place, what was sent and what came of it

ECHO = bytes.fromhex("7236" + "1560" + "0f57" + "365f5f37602a365fa1" + "00" + "5b5f5ffd" + "5f526013600df3")
"""Creates a contract that logs its calldata under topic 42, and reverts if there is none."""

STEPS = st.one_of(
    st.tuples(st.just("echo"), st.sampled_from([ALICE, BOB]), st.binary(max_size=40)),
    st.tuples(st.just("pay"), st.sampled_from([ALICE, BOB]), st.integers(0, 3)),
    st.tuples(st.just("create"), st.sampled_from([ALICE, BOB])),
    st.tuples(st.just("open"), st.integers(1, 100)),
    st.tuples(st.just("mark")),
    st.tuples(st.just("return"), st.integers(0, 3)),
)


@settings(max_examples=25)
@given(st.lists(STEPS, max_size=25))
def test_web3_tells_of_what_was_sent_and_of_nothing_that_was_reverted(steps: list[tuple[Any, ...]]) -> None:
    chain = PyEvm()
    for who in (ALICE, BOB):
        chain.fund(who, 100)
    told: list[tuple[int, Transaction, Receipt]] = []

    def send(transaction: Transaction) -> bytes:
        receipt = chain.transact(transaction)
        told.append((chain.block().number, transaction, receipt))
        return receipt.contract or b""

    echo = send(Transaction(ALICE, None, ECHO))
    marks: list[tuple[object, list[tuple[int, Transaction, Receipt]]]] = []
    for step in steps:
        match step:
            case "echo", who, data:
                send(Transaction(who, echo, data, gas=50_000))
            case "pay", who, wei:
                send(Transaction(who, address("target"), value_wei=wei))
            case "create", who:
                send(Transaction(who, None, ECHO))
            case "open", dt_s:
                chain.advance_block(dt_s)
            case ("mark",):
                marks.append((chain.snapshot(), told.copy()))
            case "return", index if index < len(marks):
                snapshot, past = marks[index]  # perhaps of a branch that was left since
                chain.revert(snapshot)
                told[:] = past
    w3 = web3_of(chain)
    assert w3.eth.block_number == chain.block().number
    shown = [w3.eth.get_block(number, full_transactions=True) for number in range(1, w3.eth.block_number + 1)]
    sent = [transaction for block in shown for transaction in block["transactions"]]
    assert [(t["blockNumber"], t["from"], t["to"], bytes(t["input"]), t["value"], t["gas"]) for t in sent] == [
        (number, hexed(t.sender), hexed(t.to), t.data, t.value_wei, t.gas) for number, t, _ in told
    ]
    assert [t["nonce"] for t in sent] == [sum(u.sender == t.sender for _, u, _ in told[:i]) for i, (_, t, _) in enumerate(told)]
    assert sent == [w3.eth.get_transaction(transaction["hash"]) for transaction in sent]
    for block in shown:
        receipts = [w3.eth.get_transaction_receipt(transaction["hash"]) for transaction in block["transactions"]]
        returned = [receipt for number, _, receipt in told if number == block["number"]]
        assert [outcome(receipt) for receipt in receipts] == [
            (r.ok, r.gas_used, hexed(r.contract), [(hexed(log.address), log.topics, log.data) for log in r.logs])
            for r in returned
        ]
        assert [receipt["transactionIndex"] for receipt in receipts] == list(range(len(receipts)))
        assert [log["logIndex"] for r in receipts for log in r["logs"]] == list(range(sum(len(r.logs) for r in returned)))
        assert [r["cumulativeGasUsed"] for r in receipts][-1:] == [block["gasUsed"]][: len(receipts)]
        assert {receipt["blockHash"] for receipt in receipts} <= {block["hash"]}


def hexed(where: bytes | None) -> str | None:
    return None if where is None else Web3.to_checksum_address(where)


def outcome(receipt: Any) -> tuple[Any, ...]:
    logs = [(log["address"], tuple(map(bytes, log["topics"])), bytes(log["data"])) for log in receipt["logs"]]
    return receipt["status"] == 1, receipt["gasUsed"], receipt["contractAddress"], logs


# Reverts


def test_a_revert_shows_the_custom_errors_data(w3: Web3, token: Any) -> None:
    transfer = token.functions.transfer(BOB, 5)
    for attempt in (transfer.call, transfer.estimate_gas, transfer.transact):
        with pytest.raises(ContractCustomError) as caught:
            attempt({"from": ALICE})
        data = bytes.fromhex(str(caught.value.data)[2:])
        assert reason(data) == f"ERC20InsufficientBalance(sender=0x{ALICE.hex()}, balance=0, needed=5)"


def test_a_panic_is_a_panic(chain: PyEvm, w3: Web3) -> None:
    runtime = "634e487b7160e01b5f52601160045260245ffd"  # reverts with Panic(0x11)
    where = chain.deploy(ALICE, bytes.fromhex("72" + runtime + "5f526013600df3")).contract
    with pytest.raises(ContractPanicError, match="overflow"):
        w3.eth.call({"to": where})


def test_a_transaction_that_reverts_has_a_receipt_that_says_so(w3: Web3, token: Any) -> None:
    sent = token.functions.transfer(BOB, 5).transact({"from": ALICE, "gas": 100_000})
    receipt = w3.eth.wait_for_transaction_receipt(sent)
    assert (receipt["status"], receipt["logs"], receipt["blockNumber"]) == (0, [], w3.eth.block_number)


# Sending


def test_sending_changes_the_chain_and_is_in_its_history(chain: PyEvm, w3: Web3, token: Any) -> None:
    before, holder = w3.eth.get_block("latest"), richest(token)
    sent = token.functions.transfer(BOB, 5).transact({"from": holder})
    receipt = w3.eth.wait_for_transaction_receipt(sent)
    latest = w3.eth.get_block("latest")
    assert chain.call(bytes.fromhex(token.address[2:]), abi("LAIToken").encode_call("balanceOf", BOB)) == (5).to_bytes(32)
    assert chain.history is not None
    assert (chain.history.entries[-1].hash, chain.history.entries[-1].receipt.gas_used) == (bytes(sent), receipt["gasUsed"])
    assert (latest["number"], latest["parentHash"]) == (before["number"] + 1, before["hash"])
    assert latest["timestamp"] == before["timestamp"] + 1
    assert latest["transactions"] == [sent]
    assert [log.args.to for log in token.events.Transfer().get_logs()] == [hexed(BOB)]


def test_anyone_may_send_and_ether_moves_only_where_there_is_some(chain: PyEvm, w3: Web3) -> None:
    chain.fund(ALICE, 10)
    w3.eth.send_transaction({"from": ALICE, "to": BOB, "value": 4, "gasPrice": 10**9})
    assert (w3.eth.get_balance(ALICE), w3.eth.get_balance(BOB), w3.eth.gas_price) == (6, 4, 0)
    with pytest.raises(Refused, match="balance"):
        w3.eth.send_transaction({"from": ALICE, "to": BOB, "value": 7, "gas": 21_000})
    with pytest.raises(ValidationError, match=f"^the nonce of 0x{ALICE.hex()} must be 1, not 0$"):
        w3.eth.send_transaction({"from": ALICE, "to": BOB, "nonce": 0})


def test_the_estimate_is_the_least_gas_that_is_enough(w3: Web3, token: Any) -> None:
    holder = richest(token)
    everything = token.functions.transfer(BOB, token.functions.balanceOf(holder).call())  # is refunded, after it was spent
    least = everything.estimate_gas({"from": holder})
    for gas, status in ((least - 1, 0), (least, 1)):
        receipt = w3.eth.wait_for_transaction_receipt(everything.transact({"from": holder, "gas": gas}))
        assert receipt["status"] == status
    assert receipt["gasUsed"] < least


def test_a_contract_is_created_where_its_receipt_says(w3: Web3) -> None:
    receipt = w3.eth.wait_for_transaction_receipt(w3.eth.send_transaction({"from": ALICE, "data": ECHO}))
    assert receipt["to"] is None
    assert len(w3.eth.get_code(receipt["contractAddress"])) == 19


def test_a_snapshot_forgets_what_came_later(chain: PyEvm, w3: Web3, token: Any) -> None:
    holder, digest, latest = richest(token), chain.digest(), w3.eth.get_block("latest")
    mark = w3.testing.snapshot()
    sent = token.functions.transfer(BOB, 5).transact({"from": holder})
    w3.testing.mine(3)
    w3.testing.revert(mark)
    assert (chain.digest(), w3.eth.get_block("latest")) == (digest, latest)
    assert token.functions.balanceOf(BOB).call() == 0
    with pytest.raises(TransactionNotFound):
        w3.eth.get_transaction(sent)
    assert token.functions.transfer(BOB, 5).transact({"from": holder}) == sent


def test_what_is_sent_without_mining_waits_for_its_block(w3: Web3) -> None:
    provider: Any = w3.provider
    tester = provider.ethereum_tester
    tester.disable_auto_mine_transactions()
    before = w3.eth.block_number
    sent = [w3.eth.send_transaction({"from": who, "to": who}) for who in (ALICE, BOB)]
    assert (w3.eth.block_number, w3.eth.get_transaction(sent[0])["blockNumber"]) == (before, None)
    tester.mine_block()
    assert w3.eth.get_block("latest")["transactions"] == sent
    assert w3.eth.block_number == before + 1


def test_filters_notice_each_log_block_and_transaction_once(w3: Web3, token: Any) -> None:
    holder = richest(token)
    filters = [w3.eth.filter({"address": token.address}), w3.eth.filter("latest"), w3.eth.filter("pending")]
    sent = token.functions.transfer(BOB, 5).transact({"from": holder})
    logs, blocks, pending = ([*filter.get_new_entries()] for filter in filters)
    assert [log["transactionHash"] for log in logs] == [sent]
    assert (blocks, pending) == ([w3.eth.get_block("latest")["hash"]], [sent])


def test_time_travel_opens_a_block_of_that_time(w3: Web3) -> None:
    then = w3.eth.get_block("latest")["timestamp"] + 10_000
    w3.testing.timeTravel(then)
    assert w3.eth.get_block("latest")["timestamp"] == then


# Binding


def test_a_chain_without_history_or_of_another_backend_cannot_be_bound() -> None:
    with pytest.raises(ValueError, match=r"this one keeps none: PyEvm\(history=False\)$"):
        web3_of(PyEvm(history=False))
    other: Any = SimpleNamespace(capabilities=Capabilities("revm", exact_gas=False, snapshots=True, sets_time=True))
    with pytest.raises(TypeError, match="not of revm"):
        web3_of(other)


def test_what_has_no_meaning_here_is_refused(w3: Web3) -> None:
    for ask in (partial(w3.eth.send_raw_transaction, b"signed"), partial(w3.eth.fee_history, 1, "latest")):
        with pytest.raises(MethodUnavailable, match="has not been implemented"):
            ask()
    provider: Any = w3.provider
    with pytest.raises(NotImplementedError, match="a run cannot be undone: take a snapshot first"):
        provider.ethereum_tester.reset_to_genesis()
    with pytest.raises(NotImplementedError, match="no keys are kept: anyone may send"):
        provider.ethereum_tester.add_account("0x" + 64 * "1")


def test_only_the_binding_imports_web3() -> None:
    code = "import sys, lattice_core.chain.bridge; print({'web3', 'eth_tester'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.strip() == "set()", run.stderr
