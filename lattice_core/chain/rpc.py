"""A real node over JSON-RPC. Transactions are signed here, and sent at most once however often the connection breaks.

A node may have got a request whose answer was lost. So whatever changes the chain is repeated only after asking whether it has
been done: a signed transaction has a nonce and a hash that do not change, by which the node knows it.

On anvil, time and ether are ours: every block bears the time that `advance_block` gave, though each transaction has a block of
its own. Start it with `--base-fee 0`, and with a `--gas-limit` so high that no block is half full, or its base fee rises.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from threading import Event
from typing import Any
from urllib.parse import urlsplit

import requests
import rlp  # type: ignore[import-untyped]
from web3 import HTTPProvider
from web3.types import RPCEndpoint

from lattice_core.chain.abi import keccak
from lattice_core.chain.keys import Key
from lattice_core.chain.port import Block, Capabilities, Log, Receipt, Refused, Reverted, Transaction

DEVELOPMENT_CHAINS = (1_337, 31_337)
"""Chain ids on which nothing is worth stealing: only there may a key be used that everyone can derive."""

_PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Between two attempts to reach the node."""

_MINED_S = 600
"""How long a transaction may wait for its block."""

_PAYMENT_GAS = 100_000

_LOG_BLOCKS = 5_000
"""Blocks whose logs are asked for at once, as providers have limits. Chosen."""
_wait = Event().wait  # for a node, never for time that is simulated
_HALTED = re.compile(r"revert|out of gas|opcode|stack|invalid jump|EVM error", re.IGNORECASE)


class ConnectionLost(ConnectionError):  # noqa: N818 (named for what happened)
    """The node did not answer any attempt. What was asked of it last may have been done; to ask the same again is safe."""


class NodeError(Exception):
    """The node answered with an error; `data` is the revert data if it was one."""

    def __init__(self, code: int, message: str, data: bytes = b"") -> None:
        super().__init__(f"{message} (code {code})")
        self.code = code
        self.data = data


class _Interrupted(Exception):  # noqa: N818
    """No whole answer came."""


@dataclass(slots=True, eq=False)
class Snapshot:
    """A state that the node keeps under an id, which it forgets when it goes back there."""

    id: str


class Node:
    """JSON-RPC with a node: one question, one answer."""

    def __init__(self, url: str, timeout_s: float, wait: Callable[[float], object]) -> None:
        self._provider = HTTPProvider(url, {"timeout": timeout_s}, exception_retry_configuration=None)
        self._wait = wait
        self.was_away = False
        """Whether an answer did not come, so that it may be another process that answers now."""
        parts = urlsplit(url)
        self._origin = f"{parts.scheme}://{parts.hostname}" + (
            f":{parts.port}" if parts.port else ""
        )  # a path may hold a secret

    def ask(self, method: str, *params: Any, done: Callable[[], bool] | None = None) -> Any:
        """The node's result, or None if an answer was lost and `done` then says that the node did what it was asked for.

        Without `done` the question is one that may be repeated. Raises NodeError, or ConnectionLost in the end.
        """
        for pause_s in (*_PAUSES_S, None):
            try:
                return self._once(method, params)
            except _Interrupted as interruption:
                self.was_away = True
                if pause_s is None:
                    raise ConnectionLost(
                        f"the node at {self._origin} is away: {interruption}, {len(_PAUSES_S) + 1} times"
                    ) from None
            self._wait(pause_s)
            if done is not None and done():
                return None
        raise AssertionError("unreachable")

    def await_result(self, method: str, *params: Any) -> Any:
        """The node's first result that is not null. Raises TimeoutError if there is none in `_MINED_S`."""
        waited_s, pause_s = 0.0, 0.002
        while (result := self.ask(method, *params)) is None:
            if waited_s >= _MINED_S:
                raise TimeoutError(f"{method} of {params[0]} is still null after {_MINED_S} s at {self._origin}")
            self._wait(pause_s)
            waited_s, pause_s = waited_s + pause_s, min(2 * pause_s, 1.0)
        return result

    def _once(self, method: str, params: Sequence[Any]) -> Any:
        try:
            answer: Any = self._provider.make_request(RPCEndpoint(method), params)
        except requests.HTTPError as error:
            reply: Any = error.response
            if reply.status_code < 500 and reply.status_code != 429:
                raise NodeError(reply.status_code, reply.reason) from None
            raise _Interrupted(f"HTTP {reply.status_code}") from None
        except requests.Timeout:
            raise _Interrupted("no answer in time") from None
        except requests.ConnectionError:
            raise _Interrupted("connection refused or cut") from None
        except (requests.RequestException, ValueError):
            raise _Interrupted("half an answer") from None
        if "error" in answer:
            failure = answer["error"]
            data = failure.get("data")
            told = _bytes(data) if isinstance(data, str) and data.startswith("0x") else b""
            raise NodeError(failure["code"], failure["message"], told)
        return answer["result"]


class Rpc:
    """The chain of a node. Who sends must have given its key."""

    def __init__(
        self, url: str, keys: Iterable[Key] = (), timeout_s: float = 30.0, wait: Callable[[float], object] = _wait
    ) -> None:
        """Raises ConnectionLost if the node at `url` (http or https) is away. `wait(seconds)` passes time between attempts."""
        self._node = Node(url, timeout_s, wait)
        self.chain_id = _int(self._node.ask("eth_chainId"))
        anvil = str(self._node.ask("web3_clientVersion")).startswith("anvil/")
        self.capabilities = Capabilities(name="rpc", exact_gas=True, snapshots=anvil, sets_time=anvil)
        self._node.was_away = anvil
        self._hold_time()
        self._is_free = _int(self._latest()["baseFeePerGas"]) == 0
        self._keys: dict[bytes, Key] = {}
        self._nonces: dict[bytes, int] = {}
        self._snapshots: list[Snapshot] = []  # the node forgets those after the one it goes back to
        for key in keys:
            self.add_key(key)

    def add_key(self, key: Key) -> None:
        """Raises ValueError if everyone can derive the key and the chain is no development chain."""
        if key.simulated and self.chain_id not in DEVELOPMENT_CHAINS:
            raise ValueError(
                f"the key of 0x{key.address.hex()} was derived without a secret, so that everyone has it: it may be used on a"
                f" development chain (id {' or '.join(map(str, DEVELOPMENT_CHAINS))}), and this is chain {self.chain_id}"
            )
        self._keys[key.address] = key

    def fund(self, address: bytes, wei: int) -> None:
        """Out of nothing on anvil, else from the first key that has as much: ValueError if none has."""
        if self.capabilities.sets_time:
            self._node.ask("anvil_setBalance", _hex(address), hex(self.balance(address) + wei))
            return
        for payer in self._keys:
            if payer != address and self.balance(payer) > wei:
                self.transact(Transaction(payer, address, value_wei=wei, gas=_PAYMENT_GAS)).raise_for_revert()
                return
        raise ValueError(f"none of the {len(self._keys)} keys holds more than {wei} wei to fund 0x{address.hex()} with")

    def deploy(self, sender: bytes, code: bytes) -> Receipt:
        return self.transact(Transaction(sender, None, code))

    def transact(self, transaction: Transaction) -> Receipt:
        return self._receipt(transaction, self._send(transaction))

    def transact_many(self, transactions: Sequence[Transaction]) -> list[Receipt]:
        """What one sender sends in a row is sent without waiting; the order of different senders is kept by waiting."""
        receipts: list[Receipt] = []
        for _, row in groupby(transactions, lambda transaction: transaction.sender):
            sent = [(transaction, self._send(transaction)) for transaction in row]
            receipts += [self._receipt(transaction, name) for transaction, name in sent]
        return receipts

    def call(self, to: bytes, data: bytes, sender: bytes = bytes(20)) -> bytes:
        try:
            return _bytes(self._node.ask("eth_call", {"from": _hex(sender), "to": _hex(to), "data": _hex(data)}, "latest"))
        except NodeError as error:
            if error.data or _HALTED.search(str(error)):
                raise Reverted(error.data) from None
            raise

    def advance_block(self, dt_s: int, n: int = 1) -> Block:
        """Raises NotImplementedError on a node that keeps its own time."""
        self._require("sets_time", "time")
        self._hold_time()
        latest = self._latest()
        number, time_s = _int(latest["number"]), _int(latest["timestamp"])
        for _ in range(n):
            number, time_s = number + 1, time_s + dt_s
            self._mine(number, time_s)
        return self.block()

    def block(self) -> Block:
        """On a node that keeps its own time, the time of the latest block."""
        latest = self._latest()
        return Block(_int(latest["number"]) + 1, _int(latest["timestamp"]), _bytes(latest["hash"]))

    def snapshot(self) -> Snapshot:
        """Raises NotImplementedError on a node that cannot go back."""
        self._require("snapshots", "history")
        snapshot = Snapshot(self._node.ask("evm_snapshot"))
        self._snapshots.append(snapshot)
        return snapshot

    def revert(self, snapshot: object) -> None:
        """Raises ValueError if the chain has gone back to before the snapshot was taken."""
        if not isinstance(snapshot, Snapshot):
            raise TypeError(f"a snapshot of rpc is expected, not {type(snapshot).__name__}")
        if snapshot not in self._snapshots:
            raise ValueError("this snapshot was undone: the chain has gone back to one that was taken before it")
        del self._snapshots[self._snapshots.index(snapshot) + 1 :]
        self._node.ask("evm_revert", snapshot.id)  # false when asked again: it was done the first time
        snapshot.id = self._node.ask("evm_snapshot")
        self._nonces.clear()

    def save(self) -> object:
        raise NotImplementedError("chain.backend: rpc leaves its state with a node; py-evm and revm can be saved")

    def load(self, saved: object) -> None:
        raise NotImplementedError("chain.backend: rpc takes its state from a node")

    def balance(self, address: bytes) -> int:
        return _int(self._node.ask("eth_getBalance", _hex(address), "latest"))

    def nonce(self, address: bytes) -> int:
        return _int(self._node.ask("eth_getTransactionCount", _hex(address), "latest"))

    def code(self, address: bytes) -> bytes:
        return _bytes(self._node.ask("eth_getCode", _hex(address), "latest"))

    def storage(self, address: bytes, slot: int) -> int:
        return _int(self._node.ask("eth_getStorageAt", _hex(address), hex(slot), "latest"))

    def find(self, address: bytes, topics: Sequence[bytes]) -> Receipt | None:
        """The receipt of the latest transaction that made `address` emit an event of these topics; None if there is none."""
        end = _int(self._node.ask("eth_blockNumber"))
        while end >= 0:
            start = max(0, end - _LOG_BLOCKS + 1)
            span = {"fromBlock": hex(start), "toBlock": hex(end)}
            asked = {"address": _hex(address), "topics": [_hex(topic) for topic in topics], **span}
            if logs := self._node.ask("eth_getLogs", asked):
                return _told(self._node.await_result("eth_getTransactionReceipt", logs[-1]["transactionHash"]), b"")
            end = start - 1
        return None

    def _require(self, capability: str, what: str) -> None:
        if not getattr(self.capabilities, capability):
            raise NotImplementedError(f"this node keeps its own {what}; anvil lets it be set")

    def _hold_time(self) -> None:
        """Keep anvil to the time that we give it, also once it has been started anew."""
        if self._node.was_away and self.capabilities.sets_time:
            self._node.was_away = False
            self._node.ask("evm_setTime", _int(self._latest()["timestamp"]))
            self._node.ask("anvil_setBlockTimestampInterval", 0)

    def _latest(self) -> Any:
        return self._node.ask("eth_getBlockByNumber", "latest", False)

    def _mine(self, number: int, time_s: int) -> None:
        """Close the current block, unless the chain has that number already."""
        self._node.ask("evm_mine", {"timestamp": time_s}, done=lambda: _int(self._node.ask("eth_blockNumber")) >= number)

    def _fees_wei(self) -> tuple[int, int]:
        """Tip and limit of the price of gas: twice the base fee lasts for five full blocks."""
        if self._is_free:
            return 0, 0
        tip = _int(self._node.ask("eth_maxPriorityFeePerGas"))
        return tip, 2 * _int(self._latest()["baseFeePerGas"]) + tip

    def _send(self, transaction: Transaction) -> str:
        """Hand a transaction to the node and give its hash. Raises Refused if the node does not take it.

        The nonce is counted here once the node has the transaction. So whoever repeats one that ended in ConnectionLost repeats
        its hash, too. A nonce that somebody else used is never replaced: what was lost may yet be in a block.
        """
        self._hold_time()
        sender = transaction.sender
        key = self._keys.get(sender)
        if key is None:
            raise ValueError(f"no key was given for the sender 0x{sender.hex()}")
        if sender not in self._nonces:
            self._nonces[sender] = _int(self._node.ask("eth_getTransactionCount", _hex(sender), "pending"))
        raw = _signed(transaction, key, self.chain_id, self._nonces[sender], *self._fees_wei())
        name = _hex(keccak(raw))

        def arrived() -> bool:
            return self._node.ask("eth_getTransactionByHash", name) is not None

        try:
            self._node.ask("eth_sendRawTransaction", _hex(raw), done=arrived)
        except NodeError as error:
            if not arrived():
                del self._nonces[sender]
                raise Refused(f"the node does not take a transaction of 0x{sender.hex()}: {error}") from None
        self._nonces[sender] += 1
        return name

    def _receipt(self, transaction: Transaction, name: str) -> Receipt:
        """What became of a transaction, once it is in a block. A node does not tell what a successful one returned."""
        told = self._node.await_result("eth_getTransactionReceipt", name)
        ok = _int(told["status"]) == 1
        return _told(told, b"" if ok else self._revert_data(transaction, name, _int(told["blockNumber"])))

    def _revert_data(self, transaction: Transaction, name: str, number: int) -> bytes:
        """From the node's trace, or else by executing the transaction again on the state before its block."""
        try:
            trace = self._node.ask(
                "debug_traceTransaction", name, {"tracer": "callTracer", "tracerConfig": {"onlyTopCall": True}}
            )
            return _bytes(trace.get("output", "0x"))
        except NodeError:
            pass
        message = {
            "from": _hex(transaction.sender),
            "data": _hex(transaction.data),
            "value": hex(transaction.value_wei),
            "gas": hex(transaction.gas),
        }
        if transaction.to is not None:
            message["to"] = _hex(transaction.to)
        try:
            self._node.ask("eth_call", message, hex(number - 1))
        except NodeError as error:
            return error.data
        return b""


def _signed(transaction: Transaction, key: Key, chain_id: int, nonce: int, tip_wei: int, fee_wei: int) -> bytes:
    """The transaction as it goes to the node (EIP-1559)."""
    to, value, data = transaction.to or b"", transaction.value_wei, transaction.data
    fields = [chain_id, nonce, tip_wei, fee_wei, transaction.gas, to, value, data, []]
    signature = key.sign(keccak(b"\x02" + rlp.encode(fields)))
    r, s, parity = int.from_bytes(signature[:32]), int.from_bytes(signature[32:64]), signature[64] - 27
    encoded: bytes = rlp.encode([*fields, parity, r, s])
    return b"\x02" + encoded


def _told(told: Any, output: bytes) -> Receipt:
    """A receipt as the node tells it."""
    ok, contract = _int(told["status"]) == 1, told["contractAddress"]
    return Receipt(
        ok=ok,
        gas_used=_int(told["gasUsed"]),
        output=output,
        logs=tuple(
            Log(_bytes(log["address"]), tuple(_bytes(topic) for topic in log["topics"]), _bytes(log["data"]))
            for log in told["logs"]
        ),
        contract=_bytes(contract) if ok and contract else None,
    )


def _hex(data: bytes) -> str:
    return f"0x{data.hex()}"


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text[2:])


def _int(text: str) -> int:
    return int(text, 16)
