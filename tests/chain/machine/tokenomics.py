"""Settlement, vouchers, faucet and bonus as they should be."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lattice_core.chain.abi import keccak
from lattice_core.chain.typed_data import digest
from lattice_core.chain.vouchers import TYPE
from lattice_core.decay import decayed
from lattice_core.promises import Promise, presented, ripened
from lattice_core.split import Cuts, Rates, below_ceiling, share, split
from lattice_core.units import NANO, PPM
from tests.chain.machine.shadow import (
    NOBODY,
    Refused,
    Shadow,
    Tx,
    check_payee,
    only_contract,
    only_oracle,
    only_owner,
    only_role,
    signer_of,
)
from tests.chain.machine.users import Entry
from tests.chain.machine.wire import Event, View

if TYPE_CHECKING:
    from tests.chain.machine.model import Model

ENTRY = 20
MOST_ENTRIES = 1_000
DAY_S = 86_400


class Owed(NamedTuple):
    """As in Claims.sol."""

    treasury: int
    auditors: int
    delegators: int
    operators: int


class Earned(NamedTuple):
    """What a node is owed, and what was burned of its purchased fees since its last bonus."""

    operator: int
    delegators: int
    burned: int


class Terms(NamedTuple):
    """As in Bonus.sol."""

    per_day: int
    returned: int
    window: int


class Proposal(NamedTuple):
    """Weights that wait."""

    weights: bytes
    since: int
    until: int


class Tokenomics(Shadow):
    """Amounts are nanoLAI."""

    NAME = "Tokenomics"

    def __init__(self, model: "Model") -> None:
        super().__init__(model)
        self.claims = Owed(0, 0, 0, 0)
        self.rates = Rates(0, 0, 0, 0, 0)
        self.earned: dict[int, Earned] = {}
        self.chunks: set[tuple[int, int, int]] = set()
        self.presented: dict[tuple[int, int, int, int], Promise] = {}
        self.budget = (0, 0, 1)
        self.terms = Terms(0, 0, 0)
        self.paid_until = 0
        self.proposal: Proposal | None = None

    def apply(self, event: Event) -> None:
        e = event.args
        match event.name:
            case "RatesSet":
                self.rates = Rates(*e["rates"])
            case "Endowed":
                self._owe(treasury=e["nanoLai"])
            case "Claimed":
                self._pay_node(e["node"], operator=e["nanoLai"])
            case "DelegatorsPaid":
                self._pay_node(e["node"], delegators=e["nanoLai"])
            case "TreasuryPaid":
                self._owe(treasury=-e["nanoLai"])
            case "AuditorsPaid":
                self._owe(auditors=-e["nanoLai"])
            case "BudgetSet":
                self.budget = (e["left"], event.time_s, e["halfLife"])
            case "Granted":
                self.budget = (e["left"], event.time_s, self.budget[2])
                self._owe(treasury=-e["nanoLai"])
            case "ChunkSettled":
                self._settled(event)
            case "VoucherPresented":
                *key, value, _, _ = e["voucher"]
                before = self.presented.get(tuple(key), Promise())
                self.presented[tuple(key)] = presented(before, value, e["since"], self._lapsed(event.time_s))
                self.model.users.promised(key[2], e["signer"], value - before.value_nlai)
            case "VoucherCollected":
                key = (e["nexus"], e["epoch"], e["payer"], e["node"])
                ripe = ripened(self.presented[key], self._lapsed(event.time_s))
                self.presented[key] = ripe._replace(paid_nlai=ripe.paid_nlai + e["purchased"] + e["faucet"])
                self._earn(e["node"], e["purchased"], e["faucet"], below_ceiling(self.rates, self.claims.treasury))
                self._record(Cuts(*e["cuts"]))
            case "TermsSet":
                self.terms, self.paid_until = Terms(*e["terms"]), event.time_s
            case "BonusProposed":
                self.proposal = Proposal(e["weights"], event.time_s, e["until"])
            case "BonusRejected":
                self.proposal = None
            case "BonusPaid":
                self._bonus_paid(e["pool"], e["treasury"])

    def _settled(self, event: Event) -> None:
        e = event.args
        self.chunks.add((e["nexus"], e["epoch"], e["chunk"]))
        claimed = entries_of(e["users"])
        applied = self.model.users.debited(e["epoch"], claimed)
        in_force = below_ceiling(self.rates, self.claims.treasury)
        for node, purchased, faucet in self._shares(entries_of(e["nodes"]), claimed, applied):
            self._earn(node, purchased, faucet, in_force)
        self._record(Cuts(*e["cuts"]))

    def _bonus_paid(self, pool: int, treasury: int) -> None:
        assert self.proposal is not None
        self._owe(treasury=-treasury)
        for node, operator, delegators in self._bonuses(self.proposal.weights, pool):
            it = self.earned.get(node, Earned(0, 0, 0))
            self.earned[node] = Earned(it.operator + operator, it.delegators + delegators, 0)
            self._owe(operators=operator, delegators=delegators)
        self.paid_until, self.proposal = self.proposal.since, None

    def _earn(self, node: int, purchased: int, faucet: int, rates: Rates) -> None:
        it = self.earned.get(node, Earned(0, 0, 0))
        bought, granted = split(purchased, rates), split(faucet, rates)
        self.earned[node] = Earned(
            it.operator + bought.operators_nlai + granted.operators_nlai,
            it.delegators + bought.delegators_nlai + granted.delegators_nlai,
            it.burned + bought.burned_nlai,
        )

    def _pay_node(self, node: int, operator: int = 0, delegators: int = 0) -> None:
        it = self.earned[node]
        self.earned[node] = Earned(it.operator - operator, it.delegators - delegators, it.burned)
        self._owe(operators=-operator, delegators=-delegators)

    def _record(self, cuts: Cuts) -> None:
        self._owe(cuts.treasury_nlai, cuts.auditors_nlai, cuts.delegators_nlai, cuts.operators_nlai)

    def _owe(self, treasury: int = 0, auditors: int = 0, delegators: int = 0, operators: int = 0) -> None:
        c = self.claims
        self.claims = Owed(c.treasury + treasury, c.auditors + auditors, c.delegators + delegators, c.operators + operators)

    def total(self) -> int:
        return sum(self.claims)

    def budget_left(self, now_s: int) -> int:
        left, since_s, half_life = self.budget
        return decayed(left, now_s - since_s, half_life)

    def views(self, now_s: int) -> Iterator[View]:
        assert self.claims.operators == sum(it.operator for it in self.earned.values())
        assert self.claims.delegators == sum(it.delegators for it in self.earned.values())
        yield self.view("claims", (), *self.claims)
        yield self.view("rates", (), *self.rates)
        yield self.view("terms", (), *self.terms)
        yield self.view("budgetLeft", (), self.budget_left(now_s))
        yield self.view("paidUntil", (), self.paid_until)
        if self.proposal:
            hashed = keccak(self.proposal.weights)
            yield self.view("proposal", (), hashed, self.proposal.since, self.proposal.until)
        else:
            yield self.view("proposal", (), 0, 0, 0)
        for node, it in self.earned.items():
            yield self.view("earned", (node,), *it)
        for key, it in list(self.presented.items())[-8:]:
            yield self.view("presented", key, *it)
        for chunk in sorted(self.chunks)[-4:]:
            yield self.view("isSettled", chunk, 1)
            nexus, epoch, number = chunk
            other = (nexus, epoch, number ^ 1)
            yield self.view("isSettled", other, other in self.chunks)

    # Rules

    def settle(self, tx: Tx, nexus: int, epoch: int, chunk: int, users: bytes, nodes: bytes) -> None:
        only_oracle(self.model, tx, nexus)
        check_entries(users)
        check_entries(nodes)
        epochs = self.model.epochs
        if not epochs.end_s(epoch) <= tx.now_s < epochs.lapse_s(epoch):
            raise Refused("NotSettling", epoch=epoch, current=self.model.epoch_at(tx.now_s))
        if (nexus, epoch, chunk) in self.chunks:
            raise Refused("AlreadySettled", nexus=nexus, epoch=epoch, chunk=chunk)
        debits, grosses = entries_of(users), entries_of(nodes)
        applied = self.model.users.debit_entries(tx, nexus, epoch, debits)
        self._check_balanced(debits, grosses)
        in_force = below_ceiling(self.rates, self.claims.treasury)
        parts = [Cuts(0, 0, 0, 0, 0)]
        known = len(self.model.nodes.nodes)
        for node in grosses:
            if node.id >= known:
                self.emit(tx, "NodeSkipped", node=node.id, purchased=node.purchased, faucet=node.faucet)
        for _, purchased, faucet in self._shares(grosses, debits, applied):
            parts += [split(purchased, in_force), split(faucet, in_force)]
        cuts = _sum(parts)
        purchased, faucet = (sum(column) for column in list(zip(*applied, strict=True))[1:] or ((), ()))
        rest = purchased + faucet - sum(cuts)
        cuts = cuts._replace(treasury_nlai=cuts.treasury_nlai + rest)
        fields: dict[str, Any] = {"nexus": nexus, "epoch": epoch, "chunk": chunk, "purchased": purchased, "faucet": faucet}
        self.emit(tx, "ChunkSettled", **fields, cuts=tuple(cuts), users=users, nodes=nodes)
        self._burn(tx, cuts)

    def present(self, tx: Tx, voucher: tuple[Any, ...], signature: bytes) -> None:
        nexus, epoch, payer, node, value, *_ = voucher
        epochs, now = self.model.epochs, self.model.epoch_at(tx.now_s)
        lapse_s = epochs.lapse_s(epoch)
        if not lapse_s <= tx.now_s < lapse_s + epochs.collection * epochs.length_s:
            raise Refused("NotCollecting", epoch=epoch, current=now)
        if node >= len(self.model.nodes.nodes):
            raise Refused("UnknownPayee", node=node)
        signer = signer_of(digest(self.model.domain(self.NAME), TYPE, voucher), signature)
        before = self.presented.get((nexus, epoch, payer, node), Promise()).value_nlai
        if value <= before:
            raise Refused("AlreadyPresented", value=value, presented=before)
        self.emit(tx, "VoucherPresented", voucher=tuple(voucher), signer=signer, since=now)
        kind = self.model.nodes.nodes[node].kind
        self.model.users.check_promise(nexus, epoch, payer, kind, value - before, signer)

    def collect(self, tx: Tx, nexus: int, epoch: int, payer: int, node: int) -> None:
        it = ripened(self.presented.get((nexus, epoch, payer, node), Promise()), self._lapsed(tx.now_s))
        if it.paid_nlai == it.value_nlai:
            raise Refused("NothingPresented", epoch=epoch, payer=payer, node=node)
        if it.paid_nlai == it.ripe_nlai:
            raise Refused("VoucherWaits", since=it.since)
        purchased, faucet = self.model.users.pay_voucher(tx, payer, it.ripe_nlai - it.paid_nlai)
        if purchased + faucet == 0:
            raise Refused("NothingToCollect", payer=payer)
        in_force = below_ceiling(self.rates, self.claims.treasury)
        cuts = _sum([split(purchased, in_force), split(faucet, in_force)])
        key = {"nexus": nexus, "epoch": epoch, "payer": payer, "node": node}
        self.emit(tx, "VoucherCollected", **key, purchased=purchased, faucet=faucet, cuts=tuple(cuts))
        self._burn(tx, cuts)

    def _lapsed(self, now_s: int) -> Callable[[int], bool]:
        """Of an epoch, whether no batch may settle it any more."""
        return lambda epoch: now_s >= self.model.epochs.lapse_s(epoch)

    def open_books(self, tx: Tx, nodes: Sequence[int]) -> None:
        """What is prepared shows in the gas only."""
        for node in nodes:
            if node >= len(self.model.nodes.nodes):
                raise Refused("UnknownPayee", node=node)

    def endow(self, tx: Tx, nlai: int) -> None:
        self.emit(tx, "Endowed", **{"from": tx.sender, "nanoLai": nlai})
        self.model.token.pull(tx, self.NAME, self.model.addresses[self.NAME], nlai)

    def claim(self, tx: Tx, node: int) -> None:
        amount = self.earned.get(node, Earned(0, 0, 0)).operator
        if amount == 0:
            raise Refused("NothingToClaim", node=node)
        operator = self.model.nodes.operator_of(node)
        check_payee(self.model, operator)
        self.emit(tx, "Claimed", node=node, operator=operator, nanoLai=amount)
        self.model.token.move(tx, self.NAME, operator, amount)

    def claim_for_delegators(self, tx: Tx, node: int) -> None:
        only_contract(self.model, tx, "StakingPools")
        amount = self.earned.get(node, Earned(0, 0, 0)).delegators
        if amount == 0:
            raise Refused("NothingToClaim", node=node)
        self.emit(tx, "DelegatorsPaid", node=node, to=tx.sender, nanoLai=amount)
        self.model.token.move(tx, self.NAME, tx.sender, amount)

    def pay_treasury(self, tx: Tx, to: bytes, nlai: int) -> None:
        self._pay(tx, "TreasuryPaid", self.claims.treasury, to, nlai)

    def pay_auditors(self, tx: Tx, to: bytes, nlai: int) -> None:
        self._pay(tx, "AuditorsPaid", self.claims.auditors, to, nlai)

    def set_rates(self, tx: Tx, rates: tuple[int, ...]) -> None:
        only_owner(self.model, tx)
        for ppm in rates[:4]:
            if ppm > PPM:
                raise Refused("RateTooLarge", ppm=ppm)
        self.emit(tx, "RatesSet", rates=tuple(rates))

    def set_budget(self, tx: Tx, left: int, half_life_s: int) -> None:
        only_owner(self.model, tx)
        if half_life_s == 0:
            raise Refused("HalfLifeZero")
        self.emit(tx, "BudgetSet", left=left, halfLife=half_life_s)

    def grant_faucet(self, tx: Tx, users: Sequence[int], nlai: Sequence[int]) -> None:
        only_role(self.model, tx, "Faucet")
        left = self.budget_left(tx.now_s)
        total = self.model.users.grant(tx, users, nlai)
        if total > left:
            raise Refused("BudgetExceeded", asked=total, left=left)
        if total > self.claims.treasury:
            raise Refused("AmountNotOwed", asked=total, owed=self.claims.treasury)
        self.emit(tx, "Granted", nanoLai=total, left=left - total)
        self.model.token.move(tx, self.NAME, self.model.addresses["UserRegistry"], total)

    def set_terms(self, tx: Tx, terms: tuple[int, ...]) -> None:
        only_owner(self.model, tx)
        if self.proposal:
            self.reject_bonus(tx)
        if terms[1] >= PPM:
            raise Refused("ReturnedTooLarge", ppm=terms[1])
        self.emit(tx, "TermsSet", terms=tuple(terms))

    def propose_bonus(self, tx: Tx, nexus: int, weights: bytes) -> None:
        only_oracle(self.model, tx, nexus)
        if self.proposal:
            raise Refused("ProposalOpen", until=self.proposal.until)
        check_entries(weights)
        if not sum(entry.purchased for entry in entries_of(weights)):
            raise Refused("WeightsZero")
        self.emit(tx, "BonusProposed", nexus=nexus, weights=weights, until=tx.now_s + self.terms.window)

    def reject_bonus(self, tx: Tx) -> None:
        only_owner(self.model, tx)
        if not self.proposal:
            raise Refused("NoProposal")
        self.emit(tx, "BonusRejected", weights=keccak(self.proposal.weights))

    def pay_bonus(self, tx: Tx, weights: bytes) -> None:
        if not self.proposal:
            raise Refused("NoProposal")
        if tx.now_s < self.proposal.until:
            raise Refused("WindowOpen", until=self.proposal.until)
        if weights != self.proposal.weights:
            raise Refused("WeightsDiffer", proposed=keccak(self.proposal.weights), given=keccak(weights))
        token = self.model.token
        elapsed_s = self.proposal.since - self.paid_until
        most = self.claims.treasury + (self.model.cap_wei - token.minted) // NANO
        pool = min(self.terms.per_day * elapsed_s // DAY_S, most)
        total = sum(operator + delegators for _, operator, delegators in self._bonuses(weights, pool))
        treasury = min(total, self.claims.treasury)
        self.emit(tx, "BonusPaid", weights=keccak(weights), pool=pool, treasury=treasury, minted=total - treasury)
        if total > treasury:
            token.mint_to(tx, self.model.addresses[self.NAME], total - treasury)

    def _bonuses(self, weights: bytes, pool: int) -> list[tuple[int, int, int]]:
        """(node, its operator's, its delegators') for each line."""
        entries, rewarded, seen = entries_of(weights), [], set()
        total = sum(entry.purchased for entry in entries)
        for node, weight, _ in entries:
            burned = 0 if node in seen else self.earned.get(node, Earned(0, 0, 0)).burned
            bonus = min(pool * weight // total, burned * self.terms.returned // PPM)
            delegators = share(bonus, self.rates.delegators_ppm)
            rewarded.append((node, bonus - delegators, delegators))
            seen.add(node)
        return rewarded

    def _shares(self, grosses: list[Entry], claimed: list[Entry], applied: list[Entry]) -> Iterator[tuple[int, int, int]]:
        """(node, purchased, faucet) that each known node of a chunk is paid."""
        (paid, asked), (granted, wished) = (
            [sum(entry[part] for entry in entries) for entries in (applied, claimed)] for part in (1, 2)
        )
        known = len(self.model.nodes.nodes)
        for node, purchased, faucet in grosses:
            if node < known:
                yield node, purchased * paid // (asked or 1), faucet * granted // (wished or 1)

    def _check_balanced(self, debits: list[Entry], grosses: list[Entry]) -> None:
        sums = [sum(entry[part] for entry in entries) for part in (1, 2) for entries in (debits, grosses)]
        if sums[0] != sums[1] or sums[2] != sums[3]:
            names = ("debitPurchased", "grossPurchased", "debitFaucet", "grossFaucet")
            raise Refused("ChunkUnbalanced", **dict(zip(names, sums, strict=True)))

    def _pay(self, tx: Tx, event: str, owed: int, to: bytes, nlai: int) -> None:
        only_owner(self.model, tx)
        if nlai > owed:
            raise Refused("AmountNotOwed", asked=nlai, owed=owed)
        check_payee(self.model, to)
        if to == NOBODY:
            raise Refused("ERC20InvalidReceiver", receiver=to)
        self.emit(tx, event, to=to, nanoLai=nlai)
        self.model.token.move(tx, self.NAME, to, nlai)

    def _burn(self, tx: Tx, cuts: Cuts) -> None:
        if cuts.burned_nlai:
            self.model.token.move(tx, self.NAME, NOBODY, cuts.burned_nlai)


def entries_of(packed: bytes) -> list[Entry]:
    """The lines of a chunk."""
    return [
        Entry(*(int.from_bytes(packed[at + a : at + b]) for a, b in ((0, 4), (12, 20), (4, 12))))
        for at in range(0, len(packed), ENTRY)
    ]


def packed(entries: Sequence[Entry]) -> bytes:
    """The other way."""
    return b"".join(entry.id.to_bytes(4) + entry.faucet.to_bytes(8) + entry.purchased.to_bytes(8) for entry in entries)


def check_entries(given: bytes) -> None:
    if len(given) % ENTRY or len(given) > MOST_ENTRIES * ENTRY:
        raise Refused("EntriesMalformed", bytesGiven=len(given), largest=MOST_ENTRIES * ENTRY)


def _sum(parts: Sequence[Cuts]) -> Cuts:
    return Cuts(*(sum(column) for column in zip(*parts, strict=True)))
