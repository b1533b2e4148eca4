"""A real node behind a connection that breaks: nothing is sent twice, and what cannot be done is said in a line."""

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import groupby
from typing import Any
from urllib.request import Request, urlopen

import pytest

from lattice_core.chain.keys import Key, key_of
from lattice_core.chain.port import Refused, Reverted, Transaction
from lattice_core.chain.rpc import ConnectionLost, NodeError, Rpc
from tests.chain.anvil import anvil

ALICE, BOB = key_of(1), key_of(2)
SHOP = key_of(3).address
PAY = Transaction(ALICE.address, SHOP, value_wei=3)
CUTS = ("before the request", "after the request", "within the answer", "reset", "silence", "bad gateway")


class Line:
    """A connection to a node that breaks as it is told to. `cuts` lists, for each method, what befalls its next requests."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.cuts: dict[str, list[str]] = {}
        self.answers: dict[str, Any] = {}
        """What to answer in the node's stead."""
        self.forwarded: list[str] = []
        self.is_down = False
        self.url = ""

    def pass_on(self, body: bytes) -> bytes:
        with urlopen(Request(self.node, body, {"Content-Type": "application/json"})) as answer:
            told: bytes = answer.read()
        return told

    def befall(self, method: str) -> str | None:
        if self.is_down:
            return CUTS[0]
        return cuts.pop(0) if (cuts := self.cuts.get(method)) else None


@contextmanager
def line(node: str) -> Iterator[Line]:
    """A proxy on loopback in front of a node."""
    made = Line(node)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            question = json.loads(body)
            cut = made.befall(question["method"])
            if cut == "before the request":
                return self.hang_up()
            if question["method"] in made.answers:
                answer = json.dumps({"jsonrpc": "2.0", "id": question["id"], **made.answers[question["method"]]}).encode()
            else:
                made.forwarded.append(question["method"])
                answer = made.pass_on(body)
            if cut == "bad gateway":
                return self.send_error(502)
            if cut == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if cut == "silence":
                over.wait(30)
            if cut in ("after the request", "reset", "silence"):
                return self.hang_up()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer[: len(answer) // 2] if cut == "within the answer" else answer)
            if cut:
                self.hang_up()
            return None

        def hang_up(self) -> None:
            self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    over = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    try:
        yield made
    finally:
        over.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def broken_line() -> Iterator[Line]:
    with anvil() as url, line(url) as made:
        yield made


def connect(made: Line, *keys: Key, wait: Callable[[float], object] = lambda _: None) -> Rpc:
    chain = Rpc(made.url, keys or (ALICE, BOB), timeout_s=0.3, wait=wait)
    chain.fund(ALICE.address, 100)
    return chain


@pytest.mark.parametrize("cut", CUTS)
def test_a_payment_is_made_once_wherever_the_connection_breaks(broken_line: Line, cut: str) -> None:
    chain = connect(broken_line)
    broken_line.cuts = {name: [cut, cut] for name in ("eth_sendRawTransaction", "eth_getTransactionReceipt")}
    receipt = chain.transact(PAY)
    assert (receipt.ok, receipt.gas_used) == (True, 21_000)
    assert (chain.balance(ALICE.address), chain.balance(SHOP), chain.nonce(ALICE.address)) == (97, 3, 1)
    assert broken_line.forwarded.count("eth_sendRawTransaction") == 1
    assert chain.transact(PAY).ok
    assert chain.balance(SHOP) == 6


def test_a_payment_that_the_node_shows_late_is_not_made_twice(broken_line: Line) -> None:
    """The answer is lost, and at first the node does not find the transaction that it has: sent again, it is refused."""
    chain = connect(broken_line, wait=lambda _: broken_line.answers.update(lost) if broken_line.answers else None)
    lost: dict[str, Any] = {}
    broken_line.cuts = {"eth_sendRawTransaction": ["after the request"]}
    broken_line.answers = {"eth_getTransactionByHash": {"result": None}}
    sent = broken_line.pass_on

    def pass_on(body: bytes) -> bytes:
        if broken_line.forwarded.count("eth_sendRawTransaction") == 2:
            broken_line.answers.clear()
        return sent(body)

    broken_line.pass_on = pass_on  # type: ignore[method-assign]
    assert chain.transact(PAY).ok
    assert broken_line.forwarded.count("eth_sendRawTransaction") == 2
    assert (chain.balance(SHOP), chain.nonce(ALICE.address)) == (3, 1)


def test_whoever_repeats_a_payment_after_a_lost_connection_pays_once(broken_line: Line) -> None:
    chain = connect(broken_line)
    broken_line.cuts = {"eth_sendRawTransaction": ["after the request"], "eth_getTransactionByHash": [CUTS[0]] * 8}
    with pytest.raises(ConnectionLost):
        chain.transact(PAY)
    assert chain.transact(PAY).ok
    assert (chain.balance(SHOP), chain.nonce(ALICE.address)) == (3, 1)


@pytest.mark.parametrize("cut", CUTS)
def test_time_passes_once_and_a_return_happens_once_wherever_the_connection_breaks(broken_line: Line, cut: str) -> None:
    chain = connect(broken_line)
    before, mark = chain.block(), chain.snapshot()
    broken_line.cuts = {"evm_mine": [cut], "evm_revert": [cut], "evm_snapshot": [cut]}
    after = chain.advance_block(60, 2)
    assert (after.number, after.timestamp_s) == (before.number + 2, before.timestamp_s + 120)
    chain.transact(PAY)
    chain.revert(mark)
    assert chain.block() == before
    chain.transact(PAY)
    chain.revert(mark)
    assert (chain.block(), chain.balance(SHOP), chain.nonce(ALICE.address)) == (before, 0, 0)


def test_a_node_that_stays_away_is_named_after_a_few_attempts(broken_line: Line) -> None:
    pauses_s: list[float] = []
    chain = connect(broken_line, wait=pauses_s.append)
    broken_line.is_down = True
    with pytest.raises(ConnectionLost) as lost:
        chain.transact(PAY)
    assert str(lost.value) == f"the node at {broken_line.url} is away: connection refused or cut, 8 times"
    assert pauses_s == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2]


def test_a_node_that_comes_back_is_served_again(broken_line: Line) -> None:
    chain = connect(broken_line, wait=lambda pause_s: setattr(broken_line, "is_down", pause_s < 0.8))
    broken_line.is_down = True
    assert chain.transact(PAY).ok
    assert chain.balance(SHOP) == 3


def test_an_address_where_nobody_listens_is_named_without_what_may_be_secret() -> None:
    with pytest.raises(
        ConnectionLost, match=r"^the node at http://127\.0\.0\.1:1 is away: connection refused or cut, 8 times$"
    ):
        Rpc("http://user:word@127.0.0.1:1/token", wait=lambda _: None)


def test_one_senders_row_is_not_held_up_and_the_order_of_senders_is_kept(broken_line: Line) -> None:
    chain = connect(broken_line)
    broken_line.forwarded.clear()
    row = [Transaction(key.address, SHOP, value_wei=wei) for key, wei in ((ALICE, 1), (ALICE, 2), (BOB, 0), (ALICE, 3))]
    assert [receipt.ok for receipt in chain.transact_many(row)] == [True] * 4
    asked = [method for method in broken_line.forwarded if method in ("eth_sendRawTransaction", "eth_getTransactionReceipt")]
    send, receipt = "eth_sendRawTransaction", "eth_getTransactionReceipt"
    assert asked[:2] == [send, send]
    assert [method for method, _ in groupby(asked)][:3] == [send, receipt, send]  # a block may take more than one question
    assert (chain.balance(SHOP), chain.nonce(ALICE.address), chain.nonce(BOB.address)) == (6, 3, 1)


def test_a_revert_is_told_to_the_byte_with_a_trace_and_without(broken_line: Line) -> None:
    """The contract reverts with the time and the value, so that no other block or message gives the same."""
    chain = connect(broken_line)
    teller = chain.deploy(ALICE.address, bytes.fromhex("600b8060095f395ff3" + "425f523460205260405ffd")).contract
    assert teller is not None
    now_s = chain.advance_block(60).timestamp_s
    told = now_s.to_bytes(32) + (5).to_bytes(32)
    assert chain.transact(Transaction(ALICE.address, teller, value_wei=5)).output == told
    broken_line.answers["debug_traceTransaction"] = {"error": {"code": -32601, "message": "Method not found"}}
    assert chain.transact(Transaction(ALICE.address, teller, value_wei=5)).output == told
    with pytest.raises(Reverted) as reverted:
        chain.call(teller, b"")
    assert reverted.value.data == now_s.to_bytes(32) + bytes(32)


def test_an_error_of_the_node_is_no_revert(broken_line: Line) -> None:
    chain = connect(broken_line)
    broken_line.answers["eth_call"] = {"error": {"code": -32005, "message": "rate limit exceeded"}}
    with pytest.raises(NodeError, match="rate limit exceeded"):
        chain.call(SHOP, b"")


def test_a_node_that_is_not_ours_keeps_its_time_and_its_ether(broken_line: Line) -> None:
    broken_line.answers["web3_clientVersion"] = {"result": "Geth/v1.16.0"}
    chain = Rpc(broken_line.url, (ALICE, BOB))
    assert [chain.capabilities.sets_time, chain.capabilities.snapshots] == [False, False]
    for what in (chain.snapshot, lambda: chain.advance_block(1)):
        with pytest.raises(NotImplementedError, match="this node keeps its own"):
            what()
    with pytest.raises(ValueError, match="none of the 2 keys holds more than 7 wei"):
        chain.fund(SHOP, 7)
    broken_line.answers.clear()
    connect(broken_line)
    broken_line.answers["web3_clientVersion"] = {"result": "Geth/v1.16.0"}
    Rpc(broken_line.url, (BOB, ALICE)).fund(SHOP, 7)
    assert (chain.balance(SHOP), chain.balance(ALICE.address)) == (7, 93)


def test_gas_is_paid_for_where_it_has_a_price() -> None:
    with anvil(base_fee_wei=10**9) as url:
        chain = Rpc(url, (ALICE,))
        with pytest.raises(Refused, match=r"(?i)insufficient funds"):
            chain.transact(PAY)
        chain.fund(ALICE.address, 10**18)
        for _ in range(3):
            assert chain.transact(PAY).ok
        assert chain.balance(SHOP) == 9
        assert chain.balance(ALICE.address) < 10**18 - 3 * 21_000 * 10**8


def test_a_key_that_everyone_has_works_on_a_development_chain_only() -> None:
    with anvil(chain_id=1) as url:
        chain = Rpc(url)
        with pytest.raises(ValueError, match=r"derived without a secret.*\(id 1337 or 31337\), and this is chain 1"):
            chain.add_key(ALICE)
        private = key_of(1, b"secret")
        chain.add_key(private)
        assert chain.transact(Transaction(private.address, SHOP)).ok


def test_who_gave_no_key_cannot_send(broken_line: Line) -> None:
    with pytest.raises(ValueError, match=f"no key was given for the sender 0x{SHOP.hex()}"):
        connect(broken_line).transact(Transaction(SHOP, SHOP))
