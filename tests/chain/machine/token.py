"""LAI as it should be: every balance in wei, whoever holds it.

An allowance here is nothing or everything, since a finite one shrinks without an event. `nonces` (of permits) are told by no
event, either: whoever applies a permit counts it.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lattice_core.chain.typed_data import digest
from lattice_core.units import NANO
from tests.chain.machine.shadow import NOBODY, Refused, Shadow, Tx, only_contract, signer_of
from tests.chain.machine.wire import Event, View

if TYPE_CHECKING:
    from tests.chain.machine.model import Model

ALL = 2**256 - 1
PERMIT = "Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"


class Token(Shadow):
    """Amounts are wei, but in `move` and `pull`, which the other contracts use."""

    NAME = "LAIToken"

    def __init__(self, model: "Model") -> None:
        super().__init__(model)
        self.balances: dict[bytes, int] = {}
        self.allowed: set[tuple[bytes, bytes]] = set()
        self.delegates: dict[bytes, bytes] = {}
        self.votes: dict[bytes, int] = {}
        self.minted = 0
        self.burned = 0
        self.nonces: dict[bytes, int] = {}

    def apply(self, event: Event) -> None:
        e = event.args
        match event.name:
            case "Transfer":
                source, target, wei = e["from"], e["to"], e["value"]
                if source == NOBODY:
                    self.minted += wei
                else:
                    self.balances[source] = self.balances.get(source, 0) - wei
                if target == NOBODY:
                    self.burned += wei
                else:
                    self.balances[target] = self.balances.get(target, 0) + wei
            case "Approval":
                allowance = (e["owner"], e["spender"])
                if e["value"] == ALL:
                    self.allowed.add(allowance)
                else:
                    assert e["value"] == 0, "an allowance of the machine is nothing or everything"
                    self.allowed.discard(allowance)
            case "DelegateChanged":
                self.delegates[e["delegator"]] = e["toDelegate"]
            case "DelegateVotesChanged":
                assert self.votes.get(e["delegate"], 0) == e["previousVotes"]
                self.votes[e["delegate"]] = e["newVotes"]

    def balance(self, address: bytes) -> int:
        return self.balances.get(address, 0)

    @property
    def supply(self) -> int:
        return self.minted - self.burned

    def views(self, now_s: int) -> Iterator[View]:
        yield self.view("minted", (), self.minted)
        yield self.view("burned", (), self.burned)
        for holder, wei in self.balances.items():
            yield self.view("balanceOf", (holder,), wei)
        votes = dict.fromkeys(self.delegates.values(), 0)
        for holder, delegate in self.delegates.items():
            votes[delegate] += self.balance(holder)
        for delegate, wei in votes.items():
            if delegate != NOBODY:
                yield self.view("getVotes", (delegate,), wei)
                assert self.votes.get(delegate, 0) == wei
        for owner, nonce in self.nonces.items():
            yield self.view("nonces", (owner,), nonce)

    def transfer(self, tx: Tx, to: bytes, wei: int) -> None:
        self._transfer(tx, tx.sender, tx.sender, to, wei)

    def transfer_from(self, tx: Tx, source: bytes, to: bytes, wei: int) -> None:
        self._spend_allowance(source, tx.sender, wei)
        self._transfer(tx, tx.sender, source, to, wei)

    def approve(self, tx: Tx, spender: bytes, wei: int) -> None:
        if spender == NOBODY:
            raise Refused("ERC20InvalidSpender", spender=spender)
        self.emit(tx, "Approval", owner=tx.sender, spender=spender, value=wei)

    def burn(self, tx: Tx, wei: int) -> None:
        self._update(tx, tx.sender, NOBODY, wei)

    def burn_from(self, tx: Tx, source: bytes, wei: int) -> None:
        self._spend_allowance(source, tx.sender, wei)
        self._update(tx, source, NOBODY, wei)

    def mint(self, tx: Tx, to: bytes, wei: int) -> None:
        only_contract(self.model, tx, "Tokenomics")
        raise AssertionError("Tokenomics mints for a bonus only")

    def delegate(self, tx: Tx, delegate: bytes) -> None:
        before = self.delegates.get(tx.sender, NOBODY)
        self.emit(tx, "DelegateChanged", delegator=tx.sender, fromDelegate=before, toDelegate=delegate)

    def permit(
        self, tx: Tx, owner: bytes, spender: bytes, wei: int, deadline_s: int, v: int, r: bytes, s: bytes
    ) -> None:  # fmt: skip
        if tx.now_s > deadline_s:
            raise Refused("ERC2612ExpiredSignature", deadline=deadline_s)
        hashed = digest(self.model.domain(self.NAME), PERMIT, (owner, spender, wei, self.nonces.get(owner, 0), deadline_s))
        signer = signer_of(hashed, r + s + bytes([v]))
        if signer != owner:
            raise Refused("ERC2612InvalidSigner", signer=signer, owner=owner)
        self.emit(tx, "Approval", owner=owner, spender=spender, value=wei)

    def move(self, tx: Tx, contract: str, to: bytes, nlai: int) -> None:
        """A contract pays; to NOBODY, it burns. That it has the money is INV-1."""
        self.emit(tx, "Transfer", **{"from": self.model.addresses[contract], "to": to, "value": nlai * NANO})

    def pull(self, tx: Tx, contract: str, to: bytes, nlai: int) -> None:
        """A contract takes from the sender, for itself or to burn."""
        self._spend_allowance(tx.sender, self.model.addresses[contract], nlai * NANO)
        self._update(tx, tx.sender, to, nlai * NANO, by=self.model.addresses[contract])

    def mint_to(self, tx: Tx, to: bytes, nlai: int) -> None:
        left = self.model.cap_wei - self.minted
        if nlai * NANO > left:
            raise Refused("CapExceeded", amount=nlai * NANO, left=left)
        self.emit(tx, "Transfer", **{"from": NOBODY, "to": to, "value": nlai * NANO})

    def _transfer(self, tx: Tx, by: bytes, source: bytes, to: bytes, wei: int) -> None:
        if to == NOBODY:
            raise Refused("ERC20InvalidReceiver", receiver=to)
        self._update(tx, source, to, wei, by)

    def _update(self, tx: Tx, source: bytes, to: bytes, wei: int, by: bytes = NOBODY) -> None:
        if to in self.model.contracts and by not in self.model.contracts:
            raise Refused("SentToContract", to=to)
        if self.balance(source) < wei:
            raise Refused("ERC20InsufficientBalance", sender=source, balance=self.balance(source), needed=wei)
        self.emit(tx, "Transfer", **{"from": source, "to": to, "value": wei})

    def _spend_allowance(self, owner: bytes, spender: bytes, wei: int) -> None:
        if wei and (owner, spender) not in self.allowed:
            raise Refused("ERC20InsufficientAllowance", spender=spender, allowance=0, needed=wei)
