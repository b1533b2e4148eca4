"""Tokenomics: settlement, vouchers, faucet, bonus, and the payment of what is owed."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lattice_core.batch import Chunk
from lattice_core.chain.contracts.contract import Contract
from lattice_core.chain.port import Receipt
from lattice_core.chain.vouchers import Signed
from lattice_core.promises import Promise
from lattice_core.split import Rates

_ENTRY = np.dtype([("id", ">u4"), ("faucet", ">u8"), ("purchased", ">u8")])


class Claims(NamedTuple):
    """What the contract owes, in nanoLAI."""

    treasury_nlai: int
    auditors_nlai: int
    delegators_nlai: int
    operators_nlai: int


class Earned(NamedTuple):
    """What a node has earned and not been paid, and what was burned of its purchased fees since its last bonus."""

    operator_nlai: int
    delegators_nlai: int
    burned_nlai: int


class BonusTerms(NamedTuple):
    """The bonus: what its pool gains a day, which part of its burned fees a node gets back at most, and how long the owner may
    reject weights."""

    per_day_nlai: int
    returned_ppm: int
    window_s: int


class Tokenomics(Contract):
    """Settlement and what follows from it."""

    NAME = "Tokenomics"

    def settle(self, sender: bytes, chunk: Chunk) -> Receipt:
        """Settle a chunk, once; `Network.settled` reads what it did."""
        return self._send_data(sender, self.encode_settle(chunk))

    def encode_settle(self, chunk: Chunk) -> bytes:
        """Calldata of `settle`, packed by hand: eth_abi would take longer than the kernel."""
        users = _entries(chunk.users, chunk.debit_faucet_nlai, chunk.debit_purchased_nlai)
        nodes = _entries(chunk.nodes, chunk.gross_faucet_nlai, chunk.gross_purchased_nlai)
        first, second = 5 * 32, 5 * 32 + len(users)
        head = b"".join(word.to_bytes(32, "big") for word in (chunk.nexus, chunk.epoch, chunk.chunk, first, second))
        return self.abi.functions["settle"].selector + head + users + nodes

    def present(self, sender: bytes, signed: Signed) -> Receipt:
        """Present what a payer signed for and no batch settled; it can be collected once the grace of this epoch is over."""
        return self._send(sender, "present", tuple(signed.voucher), signed.signature)

    def collect(self, sender: bytes, nexus: int, epoch: int, payer: int, node: int) -> Receipt:
        """Pay a node what was presented, as far as the payer's credit goes."""
        return self._send(sender, "collect", nexus, epoch, payer, node)

    def open_books(self, sender: bytes, nodes: Sequence[int]) -> Receipt:
        """Make the first payment of these nodes as cheap as the next."""
        return self._send(sender, "openBooks", nodes)

    def claim(self, sender: bytes, node: int) -> Receipt:
        """Pay the node's operator what the node has earned."""
        return self._send(sender, "claim", node)

    def claim_for_delegators(self, pools: bytes, node: int) -> Receipt:
        """Pay the staking pools what the node has earned for its delegators."""
        return self._send(pools, "claimForDelegators", node)

    def pay_treasury(self, owner: bytes, to: bytes, amount_nlai: int) -> Receipt:
        return self._send(owner, "payTreasury", to, amount_nlai)

    def pay_auditors(self, owner: bytes, to: bytes, amount_nlai: int) -> Receipt:
        return self._send(owner, "payAuditors", to, amount_nlai)

    def endow(self, sender: bytes, amount_nlai: int) -> Receipt:
        """Give the treasury of the sender's LAI, which it has approved."""
        return self._send(sender, "endow", amount_nlai)

    def set_rates(self, owner: bytes, rates: Rates) -> Receipt:
        return self._send(owner, "setRates", tuple(rates))

    def set_budget(self, owner: bytes, left_nlai: int, half_life_s: int) -> Receipt:
        """What the faucet may grant from now on; half as much each half-life."""
        return self._send(owner, "setBudget", left_nlai, half_life_s)

    def grant_faucet(self, faucet: bytes, ids: Sequence[int], amounts_nlai: Sequence[int]) -> Receipt:
        """Move LAI of the treasury into escrow as credit that can only be spent."""
        return self._send(faucet, "grantFaucet", ids, amounts_nlai)

    def set_bonus_terms(self, owner: bytes, terms: BonusTerms) -> Receipt:
        return self._send(owner, "setTerms", tuple(terms))

    def propose_bonus(self, oracle: bytes, nexus: int, nodes: NDArray[np.int64], weights: NDArray[np.int64]) -> Receipt:
        return self._send(oracle, "proposeBonus", nexus, encode_weights(nodes, weights))

    def reject_bonus(self, owner: bytes) -> Receipt:
        return self._send(owner, "rejectBonus")

    def pay_bonus(self, sender: bytes, nodes: NDArray[np.int64], weights: NDArray[np.int64]) -> Receipt:
        return self._send(sender, "payBonus", encode_weights(nodes, weights))

    def earned(self, node: int) -> Earned:
        return Earned(*self._read("earned", node))

    def presented(self, nexus: int, epoch: int, payer: int, node: int) -> Promise:
        return Promise(*self._read("presented", nexus, epoch, payer, node))

    def budget_left_nlai(self) -> int:
        """What the faucet may grant now."""
        return int(self._read("budgetLeft"))

    def bonus_terms(self) -> BonusTerms:
        return BonusTerms(*self._read("terms"))

    def bonus_paid_until_s(self) -> int:
        return int(self._read("paidUntil"))

    def rates(self) -> Rates:
        return Rates(*self._read("rates"))

    def claims(self) -> Claims:
        return Claims(*self._read("claims"))

    def total_claims_nlai(self) -> int:
        return int(self._read("totalClaims"))

    def is_settled(self, nexus: int, epoch: int, chunk: int) -> bool:
        return bool(self._read("isSettled", nexus, epoch, chunk))


def encode_weights(nodes: NDArray[np.int64], weights: NDArray[np.int64]) -> bytes:
    """A bonus's weights as the contract takes them: Entry.sol's lines whose purchased amount is the weight."""
    return _packed(nodes, np.zeros_like(weights), weights)


def _packed(ids: NDArray[np.int64], faucet: NDArray[np.int64], purchased: NDArray[np.int64]) -> bytes:
    entries = np.empty(len(ids), _ENTRY)
    entries["id"], entries["faucet"], entries["purchased"] = ids, faucet, purchased
    return entries.tobytes()


def _entries(ids: NDArray[np.int64], faucet_nlai: NDArray[np.int64], purchased_nlai: NDArray[np.int64]) -> bytes:
    """An ABI `bytes` of Entry.sol's lines: its length, and the lines padded to whole words."""
    packed = _packed(ids, faucet_nlai, purchased_nlai)
    return len(packed).to_bytes(32, "big") + packed + bytes(-len(packed) % 32)
