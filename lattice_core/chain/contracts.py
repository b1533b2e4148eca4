"""Lattice's contracts as Python objects: `network.users.fund(payer, ids, amounts)`.

Money is int nanoLAI; it becomes wei here and nowhere else. A method that changes the chain takes the sender first, is one
transaction, and returns its receipt, which says whether it reverted (`receipt.raise_for_revert()`); a method that reads returns
the value and raises `Reverted` if the contract does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from lattice_core.batch import Chunk
from lattice_core.chain.abi import abi
from lattice_core.chain.artifacts import artifact
from lattice_core.chain.port import Chain, Receipt, Transaction
from lattice_core.split import Cuts, Parts, Rates
from lattice_core.units import NANO as NLAI_WEI

_ENTRY = np.dtype([("id", ">u4"), ("faucet", ">u8"), ("purchased", ">u8")])


@dataclass(frozen=True, slots=True)
class Genesis:
    """What a network starts with: `holder` receives the supply, `owner` governs, and each Nexus has an oracle that settles."""

    owner: bytes
    holder: bytes
    supply_nlai: int
    cap_nlai: int
    rates: Rates
    oracles: Mapping[int, bytes]


@dataclass(frozen=True, slots=True, eq=False)
class Settled:
    """What settling a chunk did, read from its events: users whose debit was applied or skipped (int64 ids), totals, gas."""

    nexus: int
    epoch: int
    chunk: int
    applied: NDArray[np.int64]
    skipped: NDArray[np.int64]
    debited: Parts
    cuts: Cuts
    gas_used: int | None


class Contract:
    """A deployed contract."""

    NAME: ClassVar[str]

    def __init__(self, chain: Chain, address: bytes) -> None:
        self.chain = chain
        self.address = address
        self.abi = abi(self.NAME)

    @classmethod
    def deploy(cls, chain: Chain, sender: bytes, *args: Any) -> Self:
        """Create the contract. Raises Reverted."""
        code = artifact(cls.NAME).bytecode + abi(cls.NAME).encode_constructor(*args)
        address = chain.deploy(sender, code).raise_for_revert().contract
        assert address is not None
        return cls(chain, address)

    def _send(self, sender: bytes, function: str, *args: Any) -> Receipt:
        return self.chain.transact(Transaction(sender, self.address, self.abi.encode_call(function, *args)))

    def _read(self, function: str, *args: Any) -> Any:
        return self.abi.decode_result(function, self.chain.call(self.address, self.abi.encode_call(function, *args)))


class AddressBook(Contract):
    """Where the contracts live, and their one owner."""

    NAME = "AddressBook"

    def set(self, sender: bytes, name: str, address: bytes) -> Receipt:
        return self._send(sender, "set", _name(name), address)

    def get(self, name: str) -> bytes:
        address: bytes = self._read("get", _name(name))
        return address

    def owner(self) -> bytes:
        owner: bytes = self._read("owner")
        return owner

    def transfer_ownership(self, sender: bytes, owner: bytes) -> Receipt:
        return self._send(sender, "transferOwnership", owner)


class Token(Contract):
    """LAI."""

    NAME = "LAIToken"

    def transfer(self, sender: bytes, to: bytes, amount_nlai: int) -> Receipt:
        return self._send(sender, "transfer", to, amount_nlai * NLAI_WEI)

    def approve(self, sender: bytes, spender: bytes, amount_nlai: int) -> Receipt:
        return self._send(sender, "approve", spender, amount_nlai * NLAI_WEI)

    def burn(self, sender: bytes, amount_nlai: int) -> Receipt:
        return self._send(sender, "burn", amount_nlai * NLAI_WEI)

    def mint(self, sender: bytes, to: bytes, amount_nlai: int) -> Receipt:
        return self._send(sender, "mint", to, amount_nlai * NLAI_WEI)

    def balance_nlai(self, address: bytes) -> int:
        return _nlai(self._read("balanceOf", address))

    def supply_nlai(self) -> int:
        return _nlai(self._read("totalSupply"))

    def minted_nlai(self) -> int:
        return _nlai(self._read("minted"))

    def burned_nlai(self) -> int:
        return _nlai(self._read("burned"))


@dataclass(frozen=True, slots=True)
class Account:
    """A user's credit in nanoLAI. Everything before epoch `settled` is settled."""

    purchased_nlai: int
    faucet_nlai: int
    settled: int


class Users(Contract):
    """Users and the escrow of their credit."""

    NAME = "UserRegistry"

    def register(self, sender: bytes, identities: Sequence[bytes], owners: Sequence[bytes]) -> Receipt:
        """Give the next ids to `identities` (32 bytes each), in order."""
        return self._send(sender, "register", identities, owners)

    def fund(self, sender: bytes, ids: Sequence[int], amounts_nlai: Sequence[int]) -> Receipt:
        """Move the sender's LAI, which it has approved, into escrow as purchased credit."""
        return self._send(sender, "fund", ids, amounts_nlai)

    def grant_faucet(self, sender: bytes, ids: Sequence[int], amounts_nlai: Sequence[int]) -> Receipt:
        """As `fund`, as credit that can only be spent."""
        return self._send(sender, "grantFaucet", ids, amounts_nlai)

    def account(self, user: int) -> Account:
        return Account(*self._read("account", user))

    def count(self) -> int:
        return int(self._read("count"))

    def id_of(self, identity: bytes) -> int:
        return int(self._read("idOf", identity))

    def owner_of(self, user: int) -> bytes:
        owner: bytes = self._read("ownerOf", user)
        return owner

    def total_claims_nlai(self) -> int:
        return int(self._read("totalClaims"))


@dataclass(frozen=True, slots=True)
class Node:
    """A registered node."""

    operator: bytes
    kind: int
    cluster: int
    bond_nlai: int
    model_hash: bytes


class Nodes(Contract):
    """Nodes and their bonds."""

    NAME = "NodeRegistry"

    def register(
        self,
        sender: bytes,
        operators: Sequence[bytes],
        kinds: Sequence[int],
        model_hashes: Sequence[bytes],
        clusters: Sequence[int],
    ) -> Receipt:
        """Give the next ids to these nodes, in order."""
        return self._send(sender, "register", operators, kinds, model_hashes, clusters)

    def bond(self, sender: bytes, ids: Sequence[int], amounts_nlai: Sequence[int]) -> Receipt:
        """Add the sender's LAI, which it has approved, to the nodes' bonds."""
        return self._send(sender, "bond", ids, amounts_nlai)

    def node(self, node: int) -> Node:
        return Node(*self._read("nodes", node))

    def operator_of(self, node: int) -> bytes:
        operator: bytes = self._read("operatorOf", node)
        return operator

    def count(self) -> int:
        return int(self._read("count"))

    def total_bonded_nlai(self) -> int:
        return int(self._read("totalBonded"))


@dataclass(frozen=True, slots=True)
class Claims:
    """What the Tokenomics contract owes, in nanoLAI."""

    treasury_nlai: int
    auditors_nlai: int
    delegators_nlai: int
    operators_nlai: int


class Tokenomics(Contract):
    """Settlement and what follows from it."""

    NAME = "Tokenomics"

    def set_oracle(self, sender: bytes, nexus: int, oracle: bytes) -> Receipt:
        return self._send(sender, "setOracle", nexus, oracle)

    def set_rates(self, sender: bytes, rates: Rates) -> Receipt:
        return self._send(sender, "setRates", tuple(rates))

    def settle(self, sender: bytes, chunk: Chunk) -> Receipt:
        """Settle a chunk, once; `settled` reads what it did. Packed by hand: eth_abi would take longer than the kernel."""
        users = _entries(chunk.users, chunk.debit_faucet_nlai, chunk.debit_purchased_nlai)
        nodes = _entries(chunk.nodes, chunk.gross_faucet_nlai, chunk.gross_purchased_nlai)
        first, second = 5 * 32, 5 * 32 + len(users)
        head = b"".join(word.to_bytes(32, "big") for word in (chunk.nexus, chunk.epoch, chunk.chunk, first, second))
        selector = self.abi.functions["settle"].selector
        return self.chain.transact(Transaction(sender, self.address, selector + head + users + nodes))

    def claim(self, sender: bytes, node: int) -> Receipt:
        """Pay the node's operator what the node has earned."""
        return self._send(sender, "claim", node)

    def earned_nlai(self, node: int) -> tuple[int, int]:
        """What the node's operator and its delegators have earned and not been paid."""
        operator, delegators = self._read("earned", node)
        return operator, delegators

    def rates(self) -> Rates:
        return Rates(*self._read("rates"))

    def claims(self) -> Claims:
        return Claims(*self._read("claims"))

    def total_claims_nlai(self) -> int:
        return int(self._read("totalClaims"))

    def is_settled(self, nexus: int, epoch: int, chunk: int) -> bool:
        return bool(self._read("isSettled", nexus, epoch, chunk))


class Network:
    """Lattice's contracts on a chain, found through their address book."""

    def __init__(self, chain: Chain, book: bytes) -> None:
        self.chain = chain
        self.book = AddressBook(chain, book)
        self.token = Token(chain, self.book.get(Token.NAME))
        self.users = Users(chain, self.book.get(Users.NAME))
        self.nodes = Nodes(chain, self.book.get(Nodes.NAME))
        self.tokenomics = Tokenomics(chain, self.book.get(Tokenomics.NAME))

    def settled(self, chunk: Chunk, receipt: Receipt) -> Settled:
        """What settling `chunk` did. Raises Reverted if it did nothing."""
        receipt.raise_for_revert()
        skip = self.users.abi.events["UserSkipped"].hash
        skips = [log for log in receipt.logs if log.address == self.users.address and log.topics[0] == skip]
        skipped = np.array([int.from_bytes(log.topics[1]) for log in skips], dtype=np.int64)
        events = (self.tokenomics.abi.decode_event("ChunkSettled", log.topics, log.data) for log in receipt.logs)
        event = next(event for event in events if event is not None)
        return Settled(
            nexus=chunk.nexus,
            epoch=chunk.epoch,
            chunk=chunk.chunk,
            applied=chunk.users[~np.isin(chunk.users, skipped)],
            skipped=skipped,
            debited=Parts(event["purchased"], event["faucet"]),
            cuts=Cuts(*event["cuts"]),
            gas_used=receipt.gas_used,
        )


def deploy(chain: Chain, genesis: Genesis) -> Network:
    """Deploy and wire the contracts from the chain's first account, which keeps no role. Raises Reverted."""
    deployer = chain.accounts()[0]
    book = AddressBook.deploy(chain, deployer, deployer)
    supply, cap = genesis.supply_nlai * NLAI_WEI, genesis.cap_nlai * NLAI_WEI
    contracts: tuple[Contract, ...] = (
        Token.deploy(chain, deployer, book.address, genesis.holder, supply, cap),
        Users.deploy(chain, deployer, book.address),
        Nodes.deploy(chain, deployer, book.address),
        Tokenomics.deploy(chain, deployer, book.address, tuple(genesis.rates)),
    )
    for contract in contracts:
        book.set(deployer, contract.NAME, contract.address).raise_for_revert()
    network = Network(chain, book.address)
    for nexus, oracle in sorted(genesis.oracles.items()):
        network.tokenomics.set_oracle(deployer, nexus, oracle).raise_for_revert()
    book.transfer_ownership(deployer, genesis.owner).raise_for_revert()
    return network


def _name(name: str) -> bytes:
    return name.encode().ljust(32, b"\x00")


def _nlai(wei: int) -> int:
    """nanoLAI of an amount that the contracts keep a multiple of one."""
    return wei // NLAI_WEI


def _entries(ids: NDArray[np.int64], faucet_nlai: NDArray[np.int64], purchased_nlai: NDArray[np.int64]) -> bytes:
    """An ABI `bytes` of Entry.sol's lines: its length, and the lines padded to whole words."""
    entries = np.empty(len(ids), _ENTRY)
    entries["id"], entries["faucet"], entries["purchased"] = ids, faucet_nlai, purchased_nlai
    packed = entries.tobytes()
    return len(packed).to_bytes(32, "big") + packed + bytes(-len(packed) % 32)
