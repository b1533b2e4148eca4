"""web3.py on a simulated chain: an eth-tester backend over the very state of a `PyEvm`, and a `Web3` bound to it.

The chain's current block is the latest one: what a run has executed is final. A transaction sent from here enters a block of
its own, a second later, as on a node that mines at once. Anyone may send, gas is free, and nothing is signed: a transaction's
hash is `Entry.hash`, and its signature is zero. There are no tries: a block's roots are zero, and no earlier state is kept.
"""

from bisect import bisect_left
from dataclasses import replace
from typing import Any

from eth.constants import EMPTY_UNCLE_HASH
from eth_tester import EthereumTester
from eth_tester.backends.base import ZERO_ADDRESS, BaseChainBackend
from eth_tester.exceptions import BlockNotFound, TransactionNotFound, ValidationError
from web3 import EthereumTesterProvider, Web3
from web3.providers.eth_tester.defaults import API_ENDPOINTS, not_implemented, static_return
from web3.providers.eth_tester.middleware import transaction_result_formatter, transaction_result_remapper
from web3.types import RPCEndpoint, RPCError, RPCResponse

from lattice_core.chain.history import Entry, History
from lattice_core.chain.port import BLOCK_GAS, GAS_LIMIT, Block, Chain, Reverted, Transaction
from lattice_core.chain.pyevm import PyEvm

BLOCK_S = 1
"""Seconds between blocks that are mined from here."""

_ANY_LOG = 2**2048 - 1
"""The Bloom filter that rules nothing out: to build the exact ones costs more than to read the logs."""


def web3_of(chain: Chain) -> Web3:
    """A `Web3` that reads the chain as it is whenever it is asked, and sends to it.

    Raises TypeError if the chain is not py-evm's, ValueError if it keeps no history.
    """
    if not isinstance(chain, PyEvm):
        raise TypeError(f"web3 can be bound to a chain of py-evm, not of {chain.capabilities.name}")
    return Web3(_Provider(chain))


class Backend(BaseChainBackend):  # type: ignore[misc]
    """What eth-tester asks of a chain. Amounts are wei; addresses, hashes and calldata are bytes."""

    def __init__(self, chain: PyEvm) -> None:
        """Raises ValueError if the chain keeps no history."""
        if chain.history is None:
            raise ValueError("web3 reads a chain's history, and this one keeps none: PyEvm(history=False)")
        self._chain = chain
        self._pending: int | None = None  # the block that was opened by sending, until it is mined

    # The chain

    def take_snapshot(self) -> tuple[object, int | None]:
        return self._chain.snapshot(), self._pending

    def revert_to_snapshot(self, snapshot: tuple[object, int | None]) -> None:
        state, self._pending = snapshot
        self._chain.revert(state)

    def reset_to_genesis(self) -> None:
        raise NotImplementedError("a run cannot be undone: take a snapshot first")

    def time_travel(self, to_timestamp: int) -> None:
        """Open a block of that time."""
        self._chain.advance_block(to_timestamp - self._chain.block().timestamp_s)

    def mine_blocks(self, num_blocks: int = 1, coinbase: bytes = ZERO_ADDRESS) -> tuple[bytes, ...]:
        """Hashes of the blocks; nobody earns from them."""
        return tuple(self._mine() for _ in range(num_blocks))

    def get_accounts(self) -> tuple[bytes, ...]:
        return self._chain.accounts()

    def add_account(self, private_key: bytes) -> None:
        raise NotImplementedError("no keys are kept: anyone may send")

    # Its history

    def get_block_by_number(self, block_number: int | str, full_transaction: bool = True) -> dict[str, Any]:
        return self._show_block(self._block(block_number), full_transaction)

    def get_block_by_hash(self, block_hash: bytes, full_transaction: bool = True) -> dict[str, Any]:
        for block in (*reversed(self._history.blocks), self._block(0)):
            if _hash(block) == block_hash:
                return self._show_block(block, full_transaction)
        raise BlockNotFound(f"no block has the hash 0x{block_hash.hex()}")

    def get_transaction_by_hash(self, transaction_hash: bytes) -> dict[str, Any]:
        return self._show_transaction(self._position(transaction_hash))

    def get_transaction_receipt(self, transaction_hash: bytes) -> dict[str, Any]:
        position = self._position(transaction_hash)
        entry = self._history.entries[position]
        before = self._history.entries[self._history.of(entry.block).start : position]
        place = self._place(position)
        first_log = sum(len(earlier.receipt.logs) for earlier in before)
        receipt = entry.receipt
        return {
            **place,
            "transaction_hash": transaction_hash,
            "from": entry.transaction.sender,
            "to": entry.transaction.to or b"",
            "type": 0,
            "status": int(receipt.ok),
            "state_root": b"",
            "contract_address": receipt.contract,
            "gas_used": receipt.gas_used,
            "cumulative_gas_used": _gas_used([*before, entry]),
            "effective_gas_price": 0,
            "logs": [
                {
                    **place,
                    "transaction_hash": transaction_hash,
                    "type": "pending" if place["block_number"] is None else "mined",
                    "log_index": log_index,
                    "address": log.address,
                    "topics": log.topics,
                    "data": log.data,
                }
                for log_index, log in enumerate(receipt.logs, first_log)
            ],
        }

    # Its state

    def get_nonce(self, account: bytes, block_number: int | str = "latest") -> int:
        return self._state(block_number).nonce(account)

    def get_balance(self, account: bytes, block_number: int | str = "latest") -> int:
        return self._state(block_number).balance(account)

    def get_code(self, account: bytes, block_number: int | str = "latest") -> bytes:
        return self._state(block_number).code(account)

    def get_storage(self, account: bytes, slot: int, block_number: int | str = "latest") -> int:
        return self._state(block_number).storage(account, slot)

    # Transactions

    def send_transaction(self, transaction: dict[str, Any]) -> bytes:
        """Execute in the pending block, and give the hash. Raises ValidationError if the sender's nonce is another."""
        nonce = self._chain.nonce(transaction["from"])
        if transaction.get("nonce", nonce) != nonce:
            raise ValidationError(f"the nonce of 0x{transaction['from'].hex()} must be {nonce}, not {transaction['nonce']}")
        if self._pending != self._chain.block().number:
            self._pending = self._chain.advance_block(BLOCK_S).number
        self._chain.transact(_transaction(transaction, GAS_LIMIT))
        return self._history.entries[-1].hash

    def send_signed_transaction(self, transaction: dict[str, Any]) -> bytes:
        raise NotImplementedError("transactions are not signed here")  # eth-tester then sends it unsigned

    def estimate_gas(self, transaction: dict[str, Any], block_number: int | str = "latest") -> int:
        """The least gas with which it succeeds now. Raises Reverted if it does with as much as a transaction may have."""
        state, sent = self._state(block_number), _transaction(transaction, GAS_LIMIT)
        used = state.simulate(sent).raise_for_revert().gas_used
        assert used is not None
        enough = range(used, sent.gas)  # a refund comes too late, and a call is given 63/64 at most
        return used + bisect_left(enough, True, key=lambda gas: state.simulate(replace(sent, gas=gas)).ok)

    def call(self, transaction: dict[str, Any], block_number: int | str = "latest") -> bytes:
        """What it returns now. Raises Reverted."""
        return self._state(block_number).simulate(_transaction(transaction, BLOCK_GAS)).raise_for_revert().output

    # How it is shown

    @property
    def _history(self) -> History:
        history = self._chain.history
        assert history is not None
        return history

    def _latest(self) -> int:
        number = self._chain.block().number
        return number - 1 if number == self._pending else number

    def _mine(self) -> bytes:
        """Close the pending block, or an empty one if there is none."""
        if self._pending != self._chain.block().number:
            self._chain.advance_block(BLOCK_S)
        self._pending = None
        return self._chain.block().hash

    def _block(self, name: int | str) -> Block:
        """Raises BlockNotFound. Block 0 is empty, and its hash is the zero that the chain's first block names as its parent."""
        head = self._history.blocks[-1]
        if name == "pending":
            ahead = Block(head.number + 1, head.timestamp_s + BLOCK_S, head.hash)
            return head if head.number == self._pending else ahead
        latest = self._latest()
        number = (0 if name == "earliest" else latest) if isinstance(name, str) else name
        if number > latest:
            raise BlockNotFound(f"there is no block {number}: the latest is {latest}")
        return self._history.blocks[number - 1] if number else replace(self._history.blocks[0], number=0)

    def _state(self, name: int | str) -> PyEvm:
        """The chain, if its state is that of the block asked for."""
        latest = self._latest()
        if name not in ("latest", "pending", "safe", "finalized", latest):
            raise ValidationError(f"the state of block {name} is not kept: it can be read at the latest, {latest}, only")
        return self._chain

    def _position(self, transaction_hash: bytes) -> int:
        try:
            return self._history.position(transaction_hash)
        except KeyError:
            raise TransactionNotFound(f"no transaction has the hash 0x{transaction_hash.hex()}") from None

    def _place(self, position: int) -> dict[str, Any]:
        """Where a transaction stands: nowhere yet while its block is pending."""
        number = self._history.entries[position].block
        mined = number <= self._latest()
        return {
            "block_number": number if mined else None,
            "block_hash": self._history.blocks[number - 1].hash if mined else None,
            "transaction_index": position - self._history.of(number).start if mined else None,
        }

    def _show_transaction(self, position: int) -> dict[str, Any]:
        entry = self._history.entries[position]
        sent = entry.transaction
        return {
            **self._place(position),
            "hash": entry.hash,
            "type": 0,
            "nonce": entry.nonce,
            "from": sent.sender,
            "to": sent.to or b"",
            "value": sent.value_wei,
            "gas": sent.gas,
            "gas_price": 0,
            "data": sent.data,
            "v": 0,
            "r": 0,
            "s": 0,
        }

    def _show_block(self, block: Block, full_transactions: bool) -> dict[str, Any]:
        positions = self._history.of(block.number)
        entries = self._history.entries[positions.start : positions.stop]
        return {
            "number": block.number,
            "hash": _hash(block),
            "parent_hash": block.parent_hash,
            "timestamp": block.timestamp_s,
            "transactions": [
                self._show_transaction(position) if full_transactions else self._history.entries[position].hash
                for position in positions
            ],
            "gas_used": _gas_used(entries),
            "gas_limit": BLOCK_GAS,
            "base_fee_per_gas": 0,
            "size": sum(len(entry.transaction.data) for entry in entries),
            "mix_hash": block.mix_hash,
            "logs_bloom": _ANY_LOG,
            "transactions_root": bytes(32),
            "receipts_root": bytes(32),
            "state_root": bytes(32),
            "coinbase": ZERO_ADDRESS,
            "difficulty": 0,
            "total_difficulty": 0,
            "nonce": bytes(8),
            "extra_data": bytes(32),
            "sha3_uncles": EMPTY_UNCLE_HASH,
            "uncles": [],
        }


class _Provider(EthereumTesterProvider):
    """eth-tester's provider, with the chain's own id and prices, and with answers spelled as a node spells them."""

    def __init__(self, chain: PyEvm) -> None:
        eth = {
            "chainId": static_return(chain.chain_id),
            "gasPrice": static_return(0),
            "maxPriorityFeePerGas": static_return(0),
            "blobBaseFee": not_implemented,
            "feeHistory": not_implemented,
            "sendRawTransaction": not_implemented,
        }
        net = {"version": static_return(str(chain.chain_id))}
        endpoints = {**API_ENDPOINTS, "eth": {**API_ENDPOINTS["eth"], **eth}, "net": {**API_ENDPOINTS["net"], **net}}
        super().__init__(EthereumTester(Backend(chain)), endpoints)

    def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        try:
            response = super().make_request(method, params)
        except Reverted as revert:
            error: RPCError = {"code": 3, "message": f"execution reverted: {revert}", "data": f"0x{revert.data.hex()}"}
            return {"id": 0, "jsonrpc": "2.0", "error": error}
        shown = response.get("result")
        if isinstance(shown, dict) and method.startswith("eth_getBlockBy"):
            shown["transactions"] = [_respelled(sent) if isinstance(sent, dict) else sent for sent in shown["transactions"]]
        elif isinstance(shown, dict) and method == "eth_getTransactionReceipt":
            shown["to"] = shown["to"] or None
        return response


def _transaction(fields: dict[str, Any], gas: int) -> Transaction:
    """eth-tester's fields as a transaction, with so much gas where they name none. Prices are ignored: gas is free."""
    to, data, value = fields.get("to"), fields.get("data", b""), fields.get("value", 0)
    return Transaction(fields["from"], to or None, data, value, fields.get("gas", gas))


def _respelled(transaction: dict[str, Any]) -> dict[str, Any]:
    """A transaction of a block, as web3's middleware spells one that is asked for by itself."""
    return transaction_result_remapper(transaction_result_formatter(transaction))


def _hash(block: Block) -> bytes:
    return block.hash if block.number else block.parent_hash


def _gas_used(entries: list[Entry]) -> int:
    return sum(entry.receipt.gas_used or 0 for entry in entries)
