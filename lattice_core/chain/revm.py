"""revm through pyrevm: what py-evm comes to, at a hundred times its speed, without gas.

pyrevm never ends a transaction: all that a chain executes is one long one in revm's journal. Status, output, logs and state are
right nevertheless, for a transaction that is not about to run out of gas. Gas is not: slots once touched stay warm and keep the
value they began with, so that a transaction uses less here than it should, and one that barely fails on py-evm may pass. A
contract that destroys itself keeps its code, BLOCKHASH knows no block, and the BLS precompiles are missing. The journal grows
by some 400 bytes with each transaction, and 100 with each slot written.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyrevm

from lattice_core.chain.keys import Key
from lattice_core.chain.port import BLOCK_GAS, Block, Capabilities, Log, Receipt, Refused, Transaction

_SPEC = "Cancun"  # an unknown name would silently mean the latest
_OUTPUT = re.compile(r"^Revert .*output: 0x([0-9a-f]*)")
_PADDING = 33
"""Zeros that revm appends to code."""

_MINT = "0x" + b"mint".rjust(20, b"\x00").hex()
"""Where funded ether comes from."""


class Funding(NamedTuple):
    """Ether that was given to an address."""

    address: bytes
    wei: int


type Step = Transaction | Block | Funding
"""What changes a chain; entering a block does."""


@dataclass(slots=True, eq=False)
class Snapshot:
    """A place in revm's journal, and what stands beside the journal."""

    checkpoint: Any
    block: Block
    sent: dict[bytes, int]
    steps: int


class Revm:
    """An in-process chain that is fast. Gas is free, so that an account without ether may send.

    Pickled as the steps that led to its state, and rebuilt by taking them again.
    """

    capabilities = Capabilities(name="revm", exact_gas=False, snapshots=True, sets_time=True)

    def __init__(self, chain_id: int = 31_337, genesis_s: int = 1_700_000_000) -> None:
        """An empty chain whose first block is stamped `genesis_s`, in Unix seconds."""
        self.chain_id = chain_id
        self._evm: Any = pyrevm.EVM(env=pyrevm.Env(cfg=pyrevm.CfgEnv(chain_id=chain_id)), gas_limit=BLOCK_GAS, spec_id=_SPEC)
        self._evm.set_balance(_MINT, 2**255)
        self._sent: dict[bytes, int] = {}  # revm counts the contracts that an account creates, but not its calls
        self._steps: list[Step] = []
        self._snapshots: list[Snapshot] = []  # each of them leads to those after it
        self._enter(Block(1, genesis_s, bytes(32)))

    def add_key(self, key: Key) -> None:
        """Nothing to do: transactions are not signed here."""

    def fund(self, address: bytes, wei: int) -> None:
        self._steps.append(Funding(address, wei))
        self._evm.deploy(_MINT, b"\x73" + address + b"\xff", value=wei)  # SELFDESTRUCT pays without running the payee's code

    def deploy(self, sender: bytes, code: bytes) -> Receipt:
        return self.transact(Transaction(sender, None, code))

    def transact(self, transaction: Transaction) -> Receipt:
        nonce = self.nonce(transaction.sender)
        receipt = self._execute(transaction, nonce)
        self._sent[transaction.sender] = nonce + 1
        self._steps.append(transaction)
        return receipt

    def transact_many(self, transactions: Sequence[Transaction]) -> list[Receipt]:
        return [self.transact(transaction) for transaction in transactions]

    def call(self, to: bytes, data: bytes, sender: bytes = bytes(20)) -> bytes:
        before = self._evm.snapshot()
        try:
            receipt = self._execute(Transaction(sender, to, data, gas=BLOCK_GAS), self.nonce(sender))
        finally:
            self._evm.revert(before)
        return receipt.raise_for_revert().output

    def advance_block(self, dt_s: int, n: int = 1) -> Block:
        for _ in range(n):
            closed = self._block
            self._enter(Block(closed.number + 1, closed.timestamp_s + dt_s, closed.hash))
        return self._block

    def block(self) -> Block:
        return self._block

    def snapshot(self) -> Snapshot:
        snapshot = Snapshot(self._checkpoint(), self._block, self._sent.copy(), len(self._steps))
        self._snapshots.append(snapshot)
        return snapshot

    def revert(self, snapshot: object) -> None:
        """Raises ValueError if the chain has gone back to before the snapshot was taken."""
        if not isinstance(snapshot, Snapshot):
            raise TypeError(f"a snapshot of revm is expected, not {type(snapshot).__name__}")
        if snapshot not in self._snapshots:
            raise ValueError("this snapshot was undone: the chain has gone back to one that was taken before it")
        del self._snapshots[self._snapshots.index(snapshot) + 1 :]
        self._evm.snapshot()  # revm reverts from within one only
        self._evm.revert(snapshot.checkpoint)
        snapshot.checkpoint = self._checkpoint()
        self._sent = dict.fromkeys(self._sent, 0) | snapshot.sent  # revm's own counts do not go back
        del self._steps[snapshot.steps :]
        self._set(snapshot.block)

    def find(self, address: bytes, topics: Sequence[bytes]) -> Receipt | None:
        raise NotImplementedError("a chain in this process keeps no logs: who sends has the receipt")

    def save(self) -> tuple[Step, ...]:
        """The steps that led here."""
        return tuple(self._steps)

    def load(self, saved: object) -> None:
        """Take those steps again."""
        if not isinstance(saved, tuple):
            raise TypeError(f"the steps of a revm chain are expected, not {type(saved).__name__}")
        self._steps.clear()
        for step in saved:
            match step:
                case Transaction():
                    self.transact(step)
                case Block():
                    self._enter(step)
                case Funding():
                    self.fund(*step)

    def balance(self, address: bytes) -> int:
        balance: int = self._evm.get_balance(_hex(address))
        return balance

    def nonce(self, address: bytes) -> int:
        sent = self._sent.get(address)
        return self._evm.basic(_hex(address)).nonce if sent is None else sent

    def code(self, address: bytes) -> bytes:
        padded: bytes | None = self._evm.get_code(_hex(address))
        return padded[:-_PADDING] if padded else b""

    def storage(self, address: bytes, slot: int) -> int:
        value: int = self._evm.storage(_hex(address), slot)
        return value

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (self.chain_id, self.save())

    def _enter(self, block: Block) -> None:
        self._set(block)
        self._steps.append(block)

    def _set(self, block: Block) -> None:
        self._block = block
        self._evm.set_block_env(pyrevm.BlockEnv(number=block.number, timestamp=block.timestamp_s, prevrandao=block.mix_hash))

    def _checkpoint(self) -> Any:
        """A mark in the journal, closed at once: an open one counts as a level of the call stack."""
        checkpoint = self._evm.snapshot()
        self._evm.commit()
        return checkpoint

    def _execute(self, sent: Transaction, nonce: int) -> Receipt:
        evm, sender = self._evm, _hex(sent.sender)
        evm.reset_transient_storage()  # it would outlive the transaction, as everything does here
        contract, output = None, b""
        try:
            if sent.to is None:
                account: Any = pyrevm.AccountInfo  # its stub leaves out the balance
                evm.insert_account_info(sender, account(balance=evm.get_balance(sender), nonce=nonce))
                contract = bytes.fromhex(evm.deploy(sender, sent.data, value=sent.value_wei, gas=sent.gas)[2:])
            else:
                output = evm.message_call(sender, _hex(sent.to), sent.data, value=sent.value_wei, gas=sent.gas)
        except RuntimeError as error:
            if evm.result is None:
                raise Refused(f"revm does not take a transaction of 0x{sent.sender.hex()}: {error}") from None
            reverted = _OUTPUT.match(str(error))
            return Receipt(ok=False, gas_used=None, output=bytes.fromhex(reverted[1]) if reverted else b"", logs=())
        logs = tuple(Log(bytes.fromhex(log.address[2:]), *_topics_and_data(log)) for log in evm.result.logs)
        return Receipt(ok=True, gas_used=None, output=output, logs=logs, contract=contract)


def _rebuilt(chain_id: int, steps: tuple[Step, ...]) -> Revm:
    chain = Revm(chain_id)
    chain.load(steps)
    return chain


def _topics_and_data(log: Any) -> tuple[tuple[bytes, ...], bytes]:
    topics, data = log.data
    return tuple(topics), data


def _hex(address: bytes) -> str:
    return f"0x{address.hex()}"
