"""Lattice's contracts on a chain, found through their address book."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lattice_core.batch import Chunk
from lattice_core.chain.contracts.book import AddressBook
from lattice_core.chain.contracts.clock import EpochClock
from lattice_core.chain.contracts.contract import Contract
from lattice_core.chain.contracts.nodes import Nodes
from lattice_core.chain.contracts.slashing import Slashing
from lattice_core.chain.contracts.status import Status
from lattice_core.chain.contracts.token import Token
from lattice_core.chain.contracts.tokenomics import Tokenomics
from lattice_core.chain.contracts.users import Users
from lattice_core.chain.port import Chain, Receipt
from lattice_core.split import Cuts, Parts


@dataclass(frozen=True, slots=True, eq=False)
class Settled:
    """What settling a chunk did, read from its events: users whose debit was applied or skipped (int64 ids), and totals."""

    applied: NDArray[np.int64]
    skipped: NDArray[np.int64]
    debited: Parts
    cuts: Cuts


class Collected(NamedTuple):
    """What collecting a voucher paid, and how it was split."""

    epoch: int
    payer: int
    node: int
    paid: Parts
    cuts: Cuts


class Network:
    """The contracts, as objects."""

    def __init__(self, chain: Chain, book: bytes) -> None:
        """Raises Reverted if the address book does not know them all."""
        self.chain = chain
        self.book = AddressBook(chain, book)
        self.token = Token(chain, self.book.get(Token.NAME))
        self.clock = EpochClock(chain, self.book.get(EpochClock.NAME))
        self.users = Users(chain, self.book.get(Users.NAME))
        self.nodes = Nodes(chain, self.book.get(Nodes.NAME))
        self.status = Status(chain, self.book.get(Status.NAME))
        self.tokenomics = Tokenomics(chain, self.book.get(Tokenomics.NAME))
        self.slashing = Slashing(chain, self.book.get(Slashing.NAME))

    def contracts(self) -> tuple[Contract, ...]:
        """All of them, the address book first."""
        return (
            self.book, self.token, self.clock, self.users, self.nodes, self.status, self.tokenomics, self.slashing
        )  # fmt: skip

    def settled(self, chunk: Chunk, receipt: Receipt) -> Settled:
        """What settling `chunk` did. Raises Reverted if it did nothing."""
        receipt.raise_for_revert()
        skipped = np.array([skip["user"] for skip in self.users.logged("UserSkipped", receipt)], dtype=np.int64)
        (event,) = self.tokenomics.logged("ChunkSettled", receipt)
        return Settled(
            applied=chunk.users[~np.isin(chunk.users, skipped)],
            skipped=skipped,
            debited=Parts(event["purchased"], event["faucet"]),
            cuts=Cuts(*event["cuts"]),
        )

    def collected(self, receipt: Receipt) -> Collected:
        """What collecting a voucher did. Raises Reverted if it did nothing."""
        receipt.raise_for_revert()
        (event,) = self.tokenomics.logged("VoucherCollected", receipt)
        paid = Parts(event["purchased"], event["faucet"])
        return Collected(event["epoch"], event["payer"], event["node"], paid, Cuts(*event["cuts"]))
