"""py-evm driven directly: its state executor runs unsigned transactions, with no signing, no block import and no tries.

Gas is exact (refunds and EIP-7623's calldata floor included). Every block is a pure function of the calls made, so that two
runs give the same digest. A block's gas is not limited, a transaction's is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b, sha256
from typing import Any, cast

from eth.vm.execution_context import ExecutionContext
from eth.vm.forks.prague import PragueVM
from eth.vm.forks.prague.state import PragueState
from eth.vm.spoof import SpoofTransaction
from eth_typing import Address, BlockNumber, Hash32
from eth_utils.exceptions import ValidationError

from lattice_core.chain.history import History
from lattice_core.chain.keys import Key
from lattice_core.chain.opcodes import LeanComputation
from lattice_core.chain.port import BLOCK_GAS, Block, Capabilities, Log, Receipt, Refused, Transaction
from lattice_core.chain.world import Tables, World

_ANCESTORS = 256


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state, the current block, the hashes of those before it, and what is remembered of them."""

    tables: Tables
    block: Block
    ancestors: tuple[bytes, ...]
    history: History | None


class _State(PragueState):
    """Prague's state over a `World`."""

    computation_class = LeanComputation
    account_db_class: Any = staticmethod(lambda world, root: world)


class PyEvm:
    """An in-process Prague chain. Gas is free, so that an account without ether may send. Picklable."""

    capabilities = Capabilities(name="py-evm", exact_gas=True, snapshots=True, sets_time=True)

    def __init__(self, chain_id: int = 31_337, genesis_s: int = 1_700_000_000, history: bool = True) -> None:
        """An empty chain whose first block is stamped `genesis_s`, in Unix seconds.

        Without `history` it forgets its transactions, and the memory they take.
        """
        self.chain_id = chain_id
        self._world = World()
        genesis = Block(1, genesis_s, bytes(32))
        self.history = History([genesis]) if history else None
        self._enter(genesis, ())

    def add_key(self, key: Key) -> None:
        """Nothing to do: transactions are not signed here."""

    def accounts(self) -> tuple[bytes, ...]:
        return tuple(blake2b(b"lattice account %d" % i, digest_size=20).digest() for i in range(10))

    def fund(self, address: bytes, wei: int) -> None:
        self._world.set_balance(address, self._world.get_balance(address) + wei)

    def deploy(self, sender: bytes, code: bytes) -> Receipt:
        return self.transact(Transaction(sender, None, code))

    def transact(self, transaction: Transaction) -> Receipt:
        nonce = self._state.get_nonce(Address(transaction.sender))
        receipt = self._execute(transaction)
        self._state.lock_changes()
        if self.history is not None:
            self.history.record(nonce, transaction, receipt)
        return receipt

    def transact_many(self, transactions: Sequence[Transaction]) -> list[Receipt]:
        return [self.transact(transaction) for transaction in transactions]

    def simulate(self, transaction: Transaction) -> Receipt:
        """What `transact` would return, without effect."""
        before = self._state.snapshot()
        try:
            return self._execute(transaction)
        finally:
            self._state.revert(before)

    def call(self, to: bytes, data: bytes, sender: bytes = bytes(20)) -> bytes:
        return self.simulate(Transaction(sender, to, data, gas=BLOCK_GAS)).raise_for_revert().output

    def advance_block(self, dt_s: int, n: int = 1) -> Block:
        for _ in range(n):
            closed, parent = self._block, self._block.hash
            self._enter(Block(closed.number + 1, closed.timestamp_s + dt_s, parent), (parent, *self._ancestors))
            if self.history is not None:
                self.history.blocks.append(self._block)
        return self._block

    def block(self) -> Block:
        return self._block

    def snapshot(self) -> Snapshot:
        return Snapshot(self._world.tables(), self._block, self._ancestors, self.history and self.history.copy())

    def revert(self, snapshot: object) -> None:
        if not isinstance(snapshot, Snapshot):
            raise TypeError(f"a snapshot of py-evm is expected, not {type(snapshot).__name__}")
        self._world.restore(snapshot.tables)
        self.history = snapshot.history and snapshot.history.copy()
        self._enter(snapshot.block, snapshot.ancestors)

    def find(self, address: bytes, topics: Sequence[bytes]) -> Receipt | None:
        raise NotImplementedError("a chain in this process keeps no logs: who sends has the receipt")

    def save(self) -> Snapshot:
        return self.snapshot()

    def load(self, saved: object) -> None:
        self.revert(saved)

    def balance(self, address: bytes) -> int:
        return self._world.get_balance(address)

    def nonce(self, address: bytes) -> int:
        return self._world.get_nonce(address)

    def code(self, address: bytes) -> bytes:
        return self._world.get_code(address)

    def storage(self, address: bytes, slot: int) -> int:
        return self._world.get_storage(address, slot)

    def digest(self) -> bytes:
        """A hash of the whole state and the current block."""
        return sha256(self._world.digest() + repr(self._block).encode()).digest()

    def __getstate__(self) -> tuple[int, Snapshot]:
        return self.chain_id, self.snapshot()

    def __setstate__(self, state: tuple[int, Snapshot]) -> None:
        self.chain_id, snapshot = state
        self._world = World()
        self.revert(snapshot)

    def _enter(self, block: Block, ancestors: tuple[bytes, ...]) -> None:
        """Make `block` current; `ancestors` are the hashes of those before it, latest first."""
        self._block = block
        self._ancestors = ancestors[:_ANCESTORS]
        self._state = _State(cast(Any, self._world), self._context(), Hash32(b""))

    def _context(self) -> ExecutionContext:
        number = self._block.number
        return ExecutionContext(
            coinbase=Address(bytes(20)),
            timestamp=self._block.timestamp_s,
            block_number=BlockNumber(number),
            difficulty=0,
            mix_hash=Hash32(self._block.mix_hash),
            gas_limit=BLOCK_GAS,
            prev_hashes=[Hash32(parent) for parent in self._ancestors],
            chain_id=self.chain_id,
            base_fee_per_gas=0,
            excess_blob_gas=0,
        )

    def _execute(self, transaction: Transaction) -> Receipt:
        state: Any = self._state
        unsigned = PragueVM.get_transaction_builder().create_unsigned_transaction(
            nonce=state.get_nonce(Address(transaction.sender)),
            gas_price=0,
            gas=transaction.gas,
            to=Address(transaction.to or b""),
            value=transaction.value_wei,
            data=transaction.data,
        )
        before = state.snapshot()
        try:
            result = state.get_transaction_executor()(SpoofTransaction(unsigned, from_=Address(transaction.sender)))
        except ValidationError as error:
            state.revert(before)
            raise Refused(str(error)) from error
        spent = transaction.gas - result.get_gas_remaining()
        refund = min(result.get_gas_refund(), spent // 5)  # EIP-3529
        return Receipt(
            ok=result.is_success,
            gas_used=spent - refund + result.data_floor_gas,
            output=result.output if transaction.to is not None or result.is_error else b"",
            logs=tuple(
                Log(address, tuple(topic.to_bytes(32, "big") for topic in topics), data)
                for address, topics, data in result.get_log_entries()
            ),
            contract=result.msg.storage_address if transaction.to is None and result.is_success else None,
        )
