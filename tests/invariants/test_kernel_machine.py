"""Whatever a driver, a chain, a node or an enemy does to the kernel, it never raises and loses no nanoLAI.

Beside the kernel stands a model of it: which requests are open, which legs, what each must cost and what becomes of the charge.
After every event the tables are checked (INV-1, 2, 3, 10, the lists and heaps), with each command INV-3, 10, 11 and 13; at the
end INV-5 and 7.
"""

import pickle
from dataclasses import dataclass, field
from functools import cache
from math import inf, nan
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from lattice_core.config import Config
from lattice_core.events import (
    EVENTS,
    AccountOpened,
    Arrive,
    Audited,
    BatchConfirmed,
    BatchFailed,
    BatchLapsed,
    Bonded,
    Cancel,
    CancelRequest,
    CloseEpoch,
    Complete,
    Deposited,
    Dispatch,
    Event,
    Fail,
    FaucetGranted,
    FirstToken,
    NodeDown,
    NodeRegistered,
    NodesListed,
    NodeUp,
    OfferPosted,
    Probe,
    Probed,
    Proceed,
    Progress,
    Receipt,
    Status,
    Submit,
    Tick,
    VoucherCollected,
    VoucherPresented,
    WithdrawalRequested,
    Withdrawn,
)
from lattice_core.journal import read
from lattice_core.nexus import MAX_ROWS, Nexus
from lattice_core.state import CLUSTER, COMPLETED, FREE, LOCAL, OUTCOMES, PUBLIC, REASONS, REJECTED, UP
from lattice_core.units import MAX_SUPPLY_NLAI, NANO, PPM
from tests.invariants import checks
from tests.invariants.books import Books
from tests.invariants.town import config

LEAST, MOST = -(2**63), 2**63 - 1
ANY = st.one_of(st.integers(-2, 9), st.sampled_from([LEAST, -(2**31), 2**31, 2**32, 2**40, MOST]), st.integers(LEAST, MOST))
FEW = st.integers(0, 5)
PICK = st.integers(0, 10_000)
TOKENS = st.sampled_from([1, 16, 100, 400])
LATE = [kind for kind in EVENTS if kind not in (Arrive, Audited)]


@cache
def town(policy: str) -> Config:
    """A town on edge: breakers open at two failures, batches hold two users and lapse after an epoch, timers are short."""
    return config(
        {
            "routing.policy": policy,
            "routing.breaker": {"failures": 2, "open": "5s", "successes": 2, "max_ejected": 0.5},
            "routing.reservation": "2m",
            "routing.under_observed": 3,
            "routing.explore": 0.5,
            "reputation.audit_rate": 0.5,
            "reputation.probe_interval": "30s",
            "chain.chunk_users": 2,
            "chain.grace_epochs": 1,
        }
    )


class Order(NamedTuple):
    """What a user wants; `parent` picks one of the open roots, `nodes` one of the lists."""

    account: int
    model: int
    prompt_tok: int
    max_tok: int
    max_fee_nlai: int
    wait_s: int
    privacy: int
    held: bool
    parent: int | None
    prefer: int
    nodes: int | None


class Reply(NamedTuple):
    """What a node says of an open leg."""

    kind: type[Event]
    pick: int
    tokens: int
    why: int
    sent: int


class Verdict(NamedTuple):
    """What the chain says of a batch."""

    pick: int
    fate: type[Event]
    skipped: int
    strangers: list[int]


ORDERS = st.builds(
    Order,
    account=st.sampled_from([0, 0, 1, 2]),
    model=st.sampled_from([0, 0, 1]),
    prompt_tok=TOKENS,
    max_tok=TOKENS,
    max_fee_nlai=st.sampled_from([0, 2_000_000, 500_000, 50_000]),
    wait_s=st.sampled_from([0, 0, 1, 60]),
    privacy=st.sampled_from([PUBLIC, PUBLIC, PUBLIC, CLUSTER, LOCAL]),
    held=st.booleans(),
    parent=st.one_of(st.none(), PICK),
    prefer=st.integers(0, 3),
    nodes=st.one_of(st.none(), st.none(), PICK),
)
REPLIES = st.builds(
    Reply,
    st.sampled_from([FirstToken, Progress, Progress, Complete, Fail, Fail]),
    PICK,
    TOKENS,
    st.integers(18, 25),
    st.sampled_from([0, 0, 7, 20, 100, 400]),
)
BUSY = st.lists(ORDERS, min_size=1, max_size=5)
FATES = st.sampled_from([BatchConfirmed, BatchConfirmed, BatchFailed, BatchFailed, BatchLapsed])
VERDICTS = st.builds(Verdict, PICK, FATES, st.integers(0, 2), st.lists(FEW, max_size=2))
AMOUNTS = st.sampled_from([0, 1, 20_000, 500_000, 5_000_000])


@dataclass
class Leg:
    request: int
    node: int
    offer: int
    from_tok: int
    to_tok: int

    @property
    def receipted_tok(self) -> int:
        return self.to_tok - self.from_tok


@dataclass
class Request:
    """`to_tok` of the answer have reached the user or are receipted; `unpaid_tok` of the prompt nobody is paid for yet."""

    arrive: Arrive
    unpaid_tok: int
    arrival_ns: int
    held: bool
    leg: int = 0
    to_tok: int = 0
    charged_nlai: int = 0
    children: list[int] = field(default_factory=list)


class Kernel(RuleBasedStateMachine):
    nexus: Nexus

    def __init__(self) -> None:
        super().__init__()
        self.t_ns = NANO
        self.journal: list[str] = []
        self.decisions: list[str] = []
        self.open: dict[int, Request] = {}
        self.legs: dict[int, Leg] = {}
        self.known_legs: list[int] = [0]
        self.probes: list[tuple[int, int]] = []
        self.lists: list[tuple[bool, set[int]]] = []
        self.batches: list[tuple[int, int, tuple[int, ...]]] = []
        self.last_id = 0
        self.middle: bytes | None = None

    # --- what happens ---

    @initialize(
        policy=st.sampled_from(["score_sampled", "power_of_two", "random"]), orders=BUSY, replies=st.lists(REPLIES, max_size=6)
    )
    def a_small_town(self, policy: str, orders: list[Order], replies: list[Reply]) -> None:
        self.nexus = Nexus(town(policy), self.journal.append, self.decisions.append)
        self.books = Books(ring=2, chunk_users=2)
        for account, (cluster, nlai) in enumerate(((0, 50_000_000), (0, 1_500_000), (1, 50_000_000))):
            self.do(AccountOpened(self.t_ns, account, 100 + account, cluster))
            self.do(Deposited(self.t_ns, account, nlai))
        self.do(FaucetGranted(self.t_ns, 0, 600_000))
        for node, (kind, cluster, owner) in enumerate(((0, 0, 1), (0, 0, -1), (0, 1, 2), (1, 0, -1))):
            self.do(NodeRegistered(self.t_ns, node, 200 + node, kind, cluster, owner, 1 + node % 2, 2))
            self.do(OfferPosted(self.t_ns, node, kind, NANO // 5, NANO + node))
            self.do(Bonded(self.t_ns, node, 200 * NANO))
            self.do(NodeUp(self.t_ns, node))
        self.business(orders, replies)

    @rule(seconds=st.sampled_from([1e-9, 0.5, 7.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.t_ns += int(seconds * NANO)

    @rule(timers=st.integers(1, 4), offset_ns=st.sampled_from([-1, 0, 0, 1]))
    def timers_are_due(self, timers: int, offset_ns: int) -> None:
        for _ in range(timers):
            if (next_ns := self.nexus.next_timer_ns()) is not None:
                self.t_ns = max(self.t_ns, next_ns + offset_ns)
                self.do(Tick(self.t_ns))

    @rule(orders=BUSY, replies=st.lists(REPLIES, max_size=6))
    def business(self, orders: list[Order], replies: list[Reply]) -> None:
        for order in orders:
            self.request_arrives(order)
        for reply in replies:
            if self.legs:
                leg = list(self.legs)[reply.pick % len(self.legs)]
                said = {FirstToken: [], Fail: [reply.why, reply.sent]}.get(reply.kind, [reply.tokens])
                self.do(reply.kind(self.t_ns, leg, *said))

    def request_arrives(self, order: Order) -> None:
        roots = [id for id, request in self.open.items() if not request.arrive.parent]
        above = roots[order.parent % len(roots)] if roots and order.parent is not None else 0
        self.do(
            Arrive(
                self.t_ns,
                self.last_id + 1,
                self.open[above].arrive.account if above else order.account,
                order.model,
                order.prompt_tok,
                order.max_tok,
                kind=order.model,
                max_fee_nlai=order.max_fee_nlai,
                deadline_ns=self.t_ns + order.wait_s * NANO if order.wait_s else 0,
                privacy=order.privacy,
                cluster=int(order.privacy != PUBLIC and order.account == 2),
                parent=above,
                held=order.held and order.max_fee_nlai > 0 and not above,
                prefer=order.prefer,
                nodes=1 + order.nodes % len(self.lists) if self.lists and order.nodes is not None else 0,
            )
        )

    @precondition(lambda self: any(request.held for request in self.open.values()))
    @rule(pick=PICK, prompt=st.one_of(TOKENS, ANY))
    def a_held_request_proceeds(self, pick: int, prompt: int) -> None:
        held = [id for id, request in self.open.items() if request.held]
        self.do(Proceed(self.t_ns, held[pick % len(held)], prompt))

    @precondition(lambda self: self.open)
    @rule(pick=PICK)
    def a_client_leaves(self, pick: int) -> None:
        self.do(CancelRequest(self.t_ns, list(self.open)[pick % len(self.open)]))

    @precondition(lambda self: self.probes)
    @rule(pick=st.integers(1, 3), ok=st.booleans(), again=st.booleans())
    def a_probe_is_answered(self, pick: int, ok: bool, again: bool) -> None:
        for _ in range(1 + again):
            self.do(Probed(self.t_ns, *self.probes[-min(pick, len(self.probes))], ok))

    @rule(offer=FEW, passed=st.booleans(), weight=st.sampled_from([1.0, 0.0, -1.0, 1e-9, 1e300, nan, inf, -inf]))
    def an_audit(self, offer: int, passed: bool, weight: float) -> None:
        self.do(Audited(self.t_ns, offer, passed, weight))

    @rule(allow=st.booleans(), nodes=st.lists(st.one_of(FEW, FEW, ANY), max_size=4), skip=st.sampled_from([0, 0, 0, 1]))
    def nodes_are_listed(self, allow: bool, nodes: list[int], skip: int) -> None:
        self.do(NodesListed(self.t_ns, len(self.lists) + 1 + skip, allow, tuple(nodes)))

    @rule(node=FEW, up=st.booleans())
    def a_node_comes_or_goes(self, node: int, up: bool) -> None:
        self.do(NodeUp(self.t_ns, node) if up else NodeDown(self.t_ns, node))

    @rule(node=FEW, model=st.integers(0, 1), slots=st.one_of(FEW, ANY), room=st.one_of(FEW, ANY), owner=st.one_of(FEW, ANY))
    def a_node_registers(self, node: int, model: int, slots: int, room: int, owner: int) -> None:
        self.do(NodeRegistered(self.t_ns, node, 200 + node, model, 0, owner, slots, room))
        self.do(OfferPosted(self.t_ns, node, model, NANO, NANO))

    @rule(account=st.integers(0, 4), nlai=st.sampled_from([1, 500_000, 5_000_000]), faucet=st.booleans())
    def credit(self, account: int, nlai: int, faucet: bool) -> None:
        self.do(AccountOpened(self.t_ns, 3, 103, 0))
        self.do(FaucetGranted(self.t_ns, account, nlai) if faucet else Deposited(self.t_ns, account, nlai))

    @rule(pending=st.booleans(), verdicts=st.lists(VERDICTS, max_size=4))
    def an_epoch_ends(self, pending: bool, verdicts: list[Verdict]) -> None:
        """Of the newest batches, each may fail, lapse, be confirmed, but for some accounts or not, told of twice or never."""
        if not pending:
            self.do(CloseEpoch(self.t_ns, self.nexus.count("epoch")))
        for verdict in verdicts:
            if self.batches:
                epoch, chunk, users = self.batches[-1 - verdict.pick % min(4, len(self.batches))]
                skipped = [(*verdict.strangers, *users[: verdict.skipped])] if verdict.fate is BatchConfirmed else []
                self.do(verdict.fate(self.t_ns, epoch, chunk, *skipped))

    @rule(age=st.integers(0, 4), account=FEW, node=FEW, nlai=AMOUNTS, faucet_nlai=AMOUNTS)
    def a_node_collects_a_voucher(self, age: int, account: int, node: int, nlai: int, faucet_nlai: int) -> None:
        self.do(VoucherCollected(self.t_ns, self.nexus.count("epoch") - age, account, node, nlai, faucet_nlai))

    @rule(account=FEW, nlai=AMOUNTS)
    def a_voucher_is_presented(self, account: int, nlai: int) -> None:
        self.do(VoucherPresented(self.t_ns, account, nlai))

    @rule(account=FEW, asks=st.lists(AMOUNTS, max_size=2), paid=st.one_of(st.none(), AMOUNTS))
    def a_user_withdraws(self, account: int, asks: list[int], paid: int | None) -> None:
        for nlai in asks:
            self.do(WithdrawalRequested(self.t_ns, account, nlai))
        if paid is not None:
            self.do(Withdrawn(self.t_ns, account, paid))

    @rule(data=st.data())
    def a_wild_request_arrives(self, data: st.DataObject) -> None:
        fields = {name: data.draw(st.one_of(FEW, ANY)) for name in Arrive._fields if name not in ("t_ns", "request", "held")}
        request = data.draw(st.one_of(st.just(self.last_id + 1), st.integers(-1, self.last_id + 3)))
        self.do(Arrive(self.t_ns, request, held=data.draw(st.booleans()), **fields))

    @rule(data=st.data(), kind=st.sampled_from(LATE))
    def a_late_or_unknown_one(self, data: st.DataObject, kind: type[Event]) -> None:
        """Any event about anything: a leg or request that has ended, an index that nobody has, a number of any size."""
        known = {"leg": self.known_legs, "request": [self.last_id]}
        wild: dict[str, Any] = {"t_ns": self.t_ns - data.draw(st.sampled_from([0, 1, 10 * NANO]))}
        for name in kind._fields[1:]:
            wild[name] = data.draw(st.one_of(st.sampled_from(known[name]), ANY) if name in known else ANY)
        if kind is BatchConfirmed:
            wild["skipped"] = tuple(data.draw(st.lists(ANY, max_size=3)))
        if kind is NodesListed:
            wild |= {"allow": data.draw(st.booleans()), "nodes": tuple(data.draw(st.lists(ANY, max_size=3)))}
        if kind is Probed:
            wild["ok"] = data.draw(st.booleans())
        if kind in (Deposited, FaucetGranted) and not wild["nlai"] < MAX_SUPPLY_NLAI // 100:
            wild["account"] = -1  # as much LAI as that does not exist
        if kind is OfferPosted:
            wild["price_out"] = data.draw(st.sampled_from([-1, LEAST, MOST]))
        if kind is AccountOpened and 0 <= wild["account"] < MAX_ROWS:
            wild["cluster"] = data.draw(st.sampled_from([-1, 2, MOST]))
        if kind is NodeRegistered and 0 <= wild["node"] < MAX_ROWS:
            wild["kind"] = data.draw(st.sampled_from([-1, 3, MOST]))
        self.do(kind(**wild))

    @precondition(lambda self: self.middle is None and len(self.journal) > 30)
    @rule()
    def the_kernel_is_put_away_and_taken_out_again(self) -> None:
        self.middle = pickle.dumps(self.nexus)
        self.events_before = len(self.journal)
        self.decisions_before = len(self.decisions)

    # --- what must follow ---

    def do(self, event: Event) -> None:
        before_ns, accounts = self.nexus.count("now_ns"), self.nexus.table("accounts")
        due = self.the_chain_speaks(event)
        commands = self.nexus.handle(event)
        assert self.nexus.count("now_ns") == max(before_ns, event.t_ns), "INV-3: time never decreases"
        if not isinstance(event, Withdrawn | VoucherCollected):
            kept = np.minimum(accounts["free_nlai"], accounts["withdrawing_nlai"])
            after = self.nexus.table("accounts")[: len(kept)]
            assert (after["free_nlai"] >= kept).all(), "no reservation takes what is being withdrawn"
            free = accounts["free_nlai"] + accounts["faucet_free_nlai"]
            promised = accounts["promised_nlai"] - accounts["overdue_nlai"] - accounts["faucet_overdue_nlai"]
            kept = np.minimum(free, np.maximum(0, promised))
            assert (after["free_nlai"] + after["faucet_free_nlai"] >= kept).all(), "nor what a voucher waits for"
        match event:
            case Arrive() if event.request > self.last_id:
                self.last_id = event.request
                if 0 <= event.account < len(accounts := self.nexus.table("accounts")) and accounts[event.account]["known"]:
                    self.open[event.request] = Request(event, event.prompt_tok, self.nexus.count("now_ns"), event.held)
                    if event.parent in self.open:
                        self.open[event.parent].children.append(event.request)
            case NodesListed() if event.list == len(self.lists) + 1 and all(0 <= node < MAX_ROWS for node in event.nodes):
                self.lists.append((event.allow, set(event.nodes)))
            case Progress(leg=leg) if leg in self.legs:
                self.receipt(leg, event.upto_tok)
            case Fail(leg=leg) if leg in self.legs:
                request = self.open[self.legs[leg].request]
                request.to_tok = max(request.to_tok, min(event.sent_tok, request.arrive.max_tok))
            case Complete(leg=leg) if leg in self.legs:
                self.receipt(leg, event.output_tok)
            case Proceed(request=id) if id in self.open and self.open[id].held:
                self.open[id].held = False
                self.open[id].unpaid_tok = event.prompt_tok
        for command in commands:
            match command:
                case Dispatch():
                    self.dispatched(command)
                case Status():
                    self.ended(command)
                case Cancel():
                    assert self.legs[command.leg].node == command.node
                case Probe():
                    self.probes.append((command.node, command.serial))
                    assert self.nexus.table("nodes")[command.node]["status"] == UP
                case Submit(batch=batch):
                    assert (batch.epoch, batch.chunk) == due.pop(0)
                    self.batches.append((batch.epoch, batch.chunk, tuple(batch.users.tolist())))
                    self.books.submitted(batch)
                case Receipt():
                    self.receipted(command)
        assert not due, "a batch has not been sent"
        self.check()

    def the_chain_speaks(self, event: Event) -> list[tuple[int, int]]:
        """Enter an event, before the kernel has it, in the books: the keys of the batches that must follow."""
        match event:
            case CloseEpoch(epoch=epoch) if epoch == self.books.epoch:
                return self.books.close()
            case BatchConfirmed():
                self.books.confirm((event.epoch, event.chunk), event.skipped)
            case BatchFailed():
                self.books.fail((event.epoch, event.chunk))
            case BatchLapsed():
                self.books.lapse((event.epoch, event.chunk))
            case VoucherCollected():
                self.books.collect(event, self.nexus)
            case Withdrawn():
                self.books.withdraw(event, self.nexus)
        return []

    def receipted(self, receipt: Receipt) -> None:
        """INV-11: a receipt names what was delivered, and its price."""
        self.books.receipt(receipt)
        leg, request = self.legs[receipt.leg], self.open[receipt.request]
        assert (leg.request, leg.node, leg.receipted_tok) == (receipt.request, receipt.node, receipt.output_tok)
        assert (request.arrive.account, request.unpaid_tok) == (receipt.account, receipt.prompt_tok)
        assert receipt.nlai + receipt.faucet_nlai == self.fee_nlai(leg.offer, request.unpaid_tok, leg.receipted_tok)

    def receipt(self, leg: int, upto_tok: int) -> None:
        request = self.open[self.legs[leg].request]
        self.legs[leg].to_tok = max(self.legs[leg].to_tok, min(upto_tok, request.arrive.max_tok))
        request.to_tok = max(request.to_tok, self.legs[leg].to_tok)

    def fee_nlai(self, offer: int, prompt_tok: int, output_tok: int) -> int:
        prices = self.nexus.table("offers")[offer]
        exact = int(prices["price_in"]) * prompt_tok + int(prices["price_out"]) * output_tok
        return -(-exact // PPM)

    def dispatched(self, sent: Dispatch) -> None:
        request = self.open[sent.request]
        self.close_leg(request)
        node = self.nexus.table("nodes")[sent.node]
        account = self.nexus.table("accounts")[request.arrive.account]
        private = request.arrive.privacy != PUBLIC
        assert node["cluster"] == (account["cluster"] if private else 0), "INV-13: what is private stays in its cluster"
        assert request.arrive.privacy != LOCAL or node["owner"] == request.arrive.account, "INV-13: what is local stays at home"
        if request.arrive.nodes:
            allow, nodes = self.lists[request.arrive.nodes - 1]
            assert (sent.node in nodes) == allow, "INV-13: who is not wanted does not serve"
        assert sent.from_tok == request.to_tok < request.arrive.max_tok, "a leg goes on where the answer stands"
        left_tok = request.arrive.max_tok - sent.from_tok
        assert sent.quote_nlai == self.fee_nlai(sent.offer, request.unpaid_tok, left_tok), "INV-11: the prompt is paid once"
        request.leg = sent.leg
        self.legs[sent.leg] = Leg(sent.request, sent.node, sent.offer, sent.from_tok, sent.from_tok)
        self.known_legs.append(sent.leg)

    def close_leg(self, request: Request) -> None:
        """What the request's leg must have cost: receipted tokens at the offer's price."""
        if request.leg:
            leg = self.legs.pop(request.leg)
            fee_nlai = self.fee_nlai(leg.offer, request.unpaid_tok, leg.receipted_tok) if leg.receipted_tok else 0
            request.leg = 0
            if leg.receipted_tok:
                request.unpaid_tok = 0
            request.charged_nlai += fee_nlai
            if request.arrive.parent:
                self.open[request.arrive.parent].charged_nlai += fee_nlai

    def ended(self, status: Status) -> None:
        assert OUTCOMES[status.outcome]
        assert (status.outcome == COMPLETED) == (REASONS[status.reason] == ""), "INV-13: whoever is not served is told why"
        if status.request not in self.open:
            assert REASONS[status.reason] == "unknown_account"
            return
        self.close_leg(self.open[status.request])
        request = self.open.pop(status.request)
        assert not any(child in self.open for child in request.children)
        assert status.fee_nlai == request.charged_nlai, "INV-11: receipted tokens and nothing else"
        assert status.output_tok == request.to_tok
        assert status.outcome != REJECTED or status.fee_nlai == 0
        if (cap := request.arrive.max_fee_nlai) > 0:
            assert status.fee_nlai <= cap, "INV-11: never more than the cap"
        times_ns = [request.arrival_ns, status.sent_ns, status.first_token_ns, self.nexus.count("now_ns")]
        known_ns = [t_ns for t_ns in times_ns if t_ns or t_ns == request.arrival_ns]
        assert known_ns == sorted(known_ns), "INV-3: arrival, dispatch, first token, end"

    def check(self) -> None:
        checks.everything(self.nexus)
        self.books.check(self.nexus)
        requests, legs = self.nexus.table("requests"), self.nexus.table("legs")
        assert set(requests["id"][requests["state"] != FREE].tolist()) == set(self.open)
        assert set(legs["id"][legs["id"] != 0].tolist()) == set(self.legs)

    def teardown(self) -> None:
        if hasattr(self, "nexus"):
            self.the_day_ends()
            self.the_journal_tells_it_all()

    def the_day_ends(self) -> None:
        """Everything can be brought to an end; vouchers pay what batches did not, and nothing is held, owed or in flight."""
        for leg in list(self.legs)[::2]:
            if leg in self.legs:
                self.do(Complete(self.t_ns, leg, 16))
        for id in list(self.open):
            self.do(CancelRequest(self.t_ns, id))
        for skips in (1, 1, 0, 0):
            self.do(CloseEpoch(self.t_ns, self.nexus.count("epoch")))
            for epoch, chunk, users in self.batches[-8:]:
                self.do(BatchConfirmed(self.t_ns, epoch, chunk, users[:skips]))
        for account, row in enumerate(self.nexus.table("accounts")):
            overdue = int(row["overdue_nlai"]), int(row["faucet_overdue_nlai"])
            if any(overdue):
                self.do(VoucherCollected(self.t_ns, 0, account, 0, *overdue))
        accounts, gross = self.nexus.table("accounts"), self.nexus.table("gross")
        assert not self.nexus.count("in_flight")
        for name in ("held", "debit", "unsettled", "overdue"):
            assert not accounts[f"{name}_nlai"].any(), name
            assert not accounts[f"faucet_{name}_nlai"].any(), name
        assert not gross["nlai"].any()
        assert not gross["faucet_nlai"].any()

    def the_journal_tells_it_all(self) -> None:
        """INV-5, INV-7: it alone gives the same decisions and digest; a kernel pickled on the way gives the same digest."""
        _, events = read(self.journal, "journal")
        history = list(events)
        decisions: list[str] = []
        again = Nexus(self.nexus.config, decisions=decisions.append)
        for event in history:
            again.handle(event)
        assert again.digest() == self.nexus.digest()
        assert decisions == self.decisions
        if self.middle is not None:
            thawed: Nexus = pickle.loads(self.middle)
            for event in history[self.events_before - 1 :]:
                thawed.handle(event)
            assert thawed.digest() == self.nexus.digest()


TestKernel = Kernel.TestCase
