"""All the kernel knows, as structured arrays: picklable, comparable, and one argument to a compiled rule.

Money is int64 nanoLAI, time int64 ns. Rows are found by index; what leaves the kernel carries ids that survive a row's reuse.
No dtype here has room for a request's true output length (INV-4): what a policy cannot reach it cannot read.
"""

from typing import Any

import numpy as np

from lattice_core.agenda import new_agenda, times
from lattice_core.directory import Directory, Handle, Rows, aligned, in_lines, zeros
from lattice_core.jit import jit, prefetch_of, row_of

# Kinds of node and of request
LLM, KNOWLEDGE, AGENT = 0, 1, 2
KINDS = ("llm", "knowledge", "agent")

# Privacy of a request: where it may be served
PUBLIC, CLUSTER, LOCAL = 0, 1, 2
PRIVACY = ("public", "cluster", "local")

# A node's status: UP takes requests; DRAINING finishes what it has
ABSENT, UP, DRAINING = 0, 1, 2

# A node's breaker
CLOSED, OPEN, HALF_OPEN = 0, 1, 2

# A request's state: HELD has its reservation but no leg yet
FREE, HELD, RUNNING = 0, 1, 2

# What a user would rather have
PREFERENCES = ("balanced", "cheap", "fast", "best")
BALANCED, CHEAP, FAST, BEST = range(4)

# Which offers a policy is asked about: some drawn for the request; all; from the group's last choice on, the first that may
# serve; some drawn for the prompt's prefix
DRAWN, ALL, TURN, STICKY = 0, 1, 2, 3
SAMPLINGS = ("drawn", "all", "turn", "sticky")

# How a request ends
COMPLETED, FAILED, REJECTED = 1, 2, 3
OUTCOMES = ("", "completed", "failed", "rejected")

# Why a request was rejected or failed. The first block are filters in the order in which they are tried:
# a rejection names the filter that stopped the candidate which came furthest.
REASONS = (
    "",
    "no_such_offer",
    "node_down",
    "bond_too_low",
    "boundary",
    "not_listed",
    "tried_before",
    "breaker_open",
    "newcomer_cap",
    "busy",
    "price_above_cap",
    "no_funds",
    "bad_score",
    "bad_request",
    "context_too_long",
    "unknown_account",
    "unknown_parent",
    "deadline",
    "reservation_expired",
    "client_left",
    "node_lost",
    "node_refused",
    "node_timeout",
    "bad_answer",
)
(
    NO_SUCH_OFFER,
    NODE_DOWN,
    BOND_TOO_LOW,
    BOUNDARY,
    NOT_LISTED,
    TRIED_BEFORE,
    BREAKER_OPEN,
    NEWCOMER_CAP,
    BUSY,
    PRICE_ABOVE_CAP,
    NO_FUNDS,
    BAD_SCORE,
    BAD_REQUEST,
    CONTEXT_TOO_LONG,
    UNKNOWN_ACCOUNT,
    UNKNOWN_PARENT,
    DEADLINE,
    RESERVATION_EXPIRED,
    CLIENT_LEFT,
    NODE_LOST,
    NODE_REFUSED,
    NODE_TIMEOUT,
    BAD_ANSWER,
) = range(1, len(REASONS))

# What rules ask of the driver
DISPATCH, CANCEL, PROBE, AUDIT, STATUS, SUBMIT, RECEIPT = 1, 2, 3, 4, 5, 6, 7

NONE = -1
"""No row."""

DECISIONS = 1024
"""Candidates that are kept for `Nexus.explain`: a power of two, and more than one decision draws."""


def _dtype(**columns: Any) -> np.dtype[Any]:
    return np.dtype(list(columns.items()), align=True)


def _row(**columns: Any) -> np.dtype[Any]:
    return in_lines(list(columns.items()))


i1, i2, i4, i8, u8, f8 = np.int8, np.int16, np.int32, np.int64, np.uint64, np.float64

PARAMS = _dtype(
    seed=i8,
    nexus=i4,
    # routing
    models=i4,
    sampling=i4,
    candidates=i4,
    explore=f8,
    under_observed=i4,
    retries=i4,
    resume=i4,
    newcomer_cap=f8,
    newcomer_verified=f8,
    refresh_ns=i8,
    tau_ns=i8,
    reservation_ns=i8,
    bond_minimum_nlai=i8,
    bond_reference_nlai=i8,
    # breaker
    breaker_failures=i4,
    breaker_successes=i4,
    breaker_open_ns=i8,
    breaker_ejected=f8,
    # reputation
    fast_half_life_ns=i8,
    slow_half_life_ns=i8,
    fast_weight=f8,
    prior_reliability=f8,
    prior_count=f8,
    quality_alpha=f8,
    quality_beta=f8,
    quality_half_life_ns=i8,
    history=f8,
    probe_interval_ns=i8,
    audit_rate=f8,
    # settlement
    chunk_users=i4,
    ring=i4,
)

WEIGHTS = _dtype(quality=f8, reliability=f8, latency=f8, price=f8, bond=f8)
"""Exponents of the factors of the score; a user's policy receives them as its third argument."""

CLOCK = _dtype(
    now_ns=i8,
    epoch=i8,
    last_request=i8,
    leg_serial=i8,
    outs=i4,
    offers=i4,
    lists=i4,
    listed=i4,
    decisions=i8,
    free_request=i4,
    free_leg=i4,
    digest_a=u8,
    digest_b=u8,
    arrived=i8,
    completed=i8,
    failed=i8,
    rejected=i8,
    in_flight=i8,
    in_flight_high=i8,  # ∫ in_flight dt until now_ns, in the words of `wide`
    in_flight_low=i8,
    ignored=i8,
)

NODE = _row(
    status=i1,
    kind=i1,
    breaker=i1,
    probe_open=i1,
    cluster=i4,
    owner=i4,
    slots=i4,
    queue_room=i4,
    in_flight=i4,
    bond_nlai=i8,
    # reliability: discounted successes and trials over two half-lives, as `reputation` counts them
    fast_ok=f8,
    fast_n=f8,
    slow_ok=f8,
    slow_n=f8,
    observed_ns=i8,
    audits_passed=i8,
    bond_factor=f8,
    failures=i4,
    successes=i4,
    key=i8,
    offer=i4,
    breaker_until_ns=i8,
    probe_serial=i8,
    probes=i8,
    probes_ok=i8,
    audits=i8,
    # legs dispatched = done + lost + cancelled + in flight (INV-2)
    legs=i8,
    legs_done=i8,
    legs_lost=i8,
    legs_cancelled=i8,
    output_tok=i8,
    gross_nlai=i8,
    settled_nlai=i8,
    settled_faucet_nlai=i8,
)

OFFER = _row(
    node=i4,
    group=i4,
    price_in=i8,
    price_out=i8,
    ttft_s=f8,
    itl_s=f8,
    quality=f8,
    quality_tick=i8,
    results=i8,
    key=i8,
    model=i4,
    position=i4,
    rare_position=i4,
    next_of_node=i4,
    ttft_ns=i8,
    itl_ns=i8,
    alpha=f8,
    beta=f8,
    audited_ns=i8,
)

GROUP = _dtype(
    model=i4,
    kind=i1,
    cluster=i4,
    context_tok=i4,
    start=i4,
    capacity=i4,
    size=i4,
    active=i4,
    rare=i4,
    turn=i4,
    price_in=i8,
    price_out=i8,
    ttft_s=f8,
    itl_s=f8,
    prefill_s=f8,
    output_tok=i4,
    knee_s=f8,
)
"""Offers of one (model, kind, cluster) with the group's governed reference: prices, delays, answer length, knee T0.

`turn` is the place after the last choice.
"""

MEMBER = _dtype(active=i4, active_node=i4, rare=i4, rare_node=i4)
"""Positions: offers that are up, and those of them that are under-observed."""

REQUEST = _row(
    id=i8,
    arrival_ns=i8,
    sent_ns=i8,
    first_token_ns=i8,
    charged_nlai=i8,
    account=i4,
    leg=i4,
    parent=i4,
    child=i4,
    prompt_tok=i4,
    max_tok=i4,
    # what the account has set aside for this request and its sub-requests, and how much of it legs may still take
    hold_nlai=i8,
    hold_faucet_nlai=i8,
    committed_nlai=i8,
    key=i8,
    max_fee_nlai=i8,
    group=i4,
    avoid=i4,
    cluster=i4,
    legs=i4,
    state=i1,
    kind=i1,
    privacy=i1,
    next_free=i4,
    deadline_ns=i8,
    principal=i8,
    session=i8,
    prefix=u8,
    nexus=i4,
    model=i4,
    sibling=i4,
    from_tok=i4,  # of the answer so far: behind them the next leg goes on
    unpaid_tok=i4,  # of the prompt: all until a leg is paid for it, then none
    nodes=i4,
    prefer=i1,
)

LEG = _row(
    id=i8,
    sent_ns=i8,
    first_token_ns=i8,
    reserved_nlai=i8,
    charged_nlai=i8,
    request=i4,
    offer=i4,
    from_tok=i4,
    to_tok=i4,
    next_free=i4,
    no=i2,
)
"""An attempt at a request, or a sub-request's. It goes on behind the answer's first `from_tok` tokens, and `to_tok` is the last
that is receipted.
"""

LIST = _dtype(start=i4, count=i4, allow=i1)
"""A list of nodes: `listed` holds them from `start` on, ascending. Row = id − 1."""

ACCOUNT = _row(
    key=i8,
    known=i1,
    cluster=i4,
    free_nlai=i8,
    held_nlai=i8,
    debit_nlai=i8,
    faucet_free_nlai=i8,
    faucet_held_nlai=i8,
    faucet_debit_nlai=i8,
    arrived=i8,
    in_flight=i8,
    completed=i8,
    withdrawing_nlai=i8,
    promised_nlai=i8,
    overdue_nlai=i8,
    faucet_overdue_nlai=i8,
    failed=i8,
    rejected=i8,
    unsettled_nlai=i8,
    spent_nlai=i8,
    withdrawn_nlai=i8,
    deposited_nlai=i8,
    faucet_unsettled_nlai=i8,
    faucet_spent_nlai=i8,
    granted_nlai=i8,
)
"""Purchased: deposited = free + held + debit + unsettled + overdue + spent + withdrawn. Faucet credit likewise, granted on the
left and never withdrawn.

`debit` was charged in this epoch, `unsettled` is in batches that are pending, `overdue` was charged and is left to the
vouchers, `spent` has reached the nodes. `withdrawing` is what new reservations leave of the free purchased credit, and
`promised` what they leave of both for vouchers that were presented, beyond what is overdue.
"""

BATCH = _dtype(pending=i1, failed=i1, epoch=i8)
"""A chunk's batch of one epoch; row = chunk · ring + epoch mod ring, so that the last `ring` epochs' may be pending at once."""

MONEY = _dtype(nlai=i8, faucet_nlai=i8)
"""An amount by the credit that pays for it, purchased or faucet. Three tables:

* `unsettled`, what an account owes in a pending batch: row = account · ring + epoch mod ring;
* `gross`, what a chunk's accounts owe a node for this epoch: row = chunk · len(nodes) + node;
* `unsettled_gross`, what they owe it in a pending batch: row = batch · len(nodes) + node.
"""

OUT = _dtype(
    kind=i1,
    outcome=i1,
    reason=i4,
    request=i8,
    leg=i8,
    node=i4,
    offer=i4,
    account=i4,
    from_tok=i4,
    epoch=i8,
    prompt_tok=i4,
    output_tok=i4,
    nlai=i8,
    faucet_nlai=i8,
    sent_ns=i8,
    first_token_ns=i8,
)

OFFER_VIEW = _dtype(
    quality=f8,
    reliability=f8,
    latency=f8,
    price=f8,
    bond=f8,
    eta_s=f8,
    ttft_s=f8,
    itl_s=f8,
    fee_nlai=f8,
    load=f8,
    in_flight=f8,
    slots=f8,
    results=f8,
    noise=f8,
    place=f8,
)
"""What a policy sees of a candidate. `routing.SIGNAL_AGE_S` says how old each column may be (INV-12)."""

REQUEST_VIEW = _dtype(
    prompt_tok=f8, max_tok=f8, expected_tok=f8, knee_s=f8, max_fee_nlai=f8, kind=f8, privacy=f8, session=f8, prefer=f8
)
"""What a policy sees of a request: never its true output length (INV-4)."""

CANDIDATE = np.dtype(
    [("request", i8), ("leg", i4), ("offer", i4), ("reason", i4), ("chosen", i1), ("score", f8), ("seen", OFFER_VIEW)],
    align=True,
)
"""One candidate of one decision as it was; the last `len(candidates)` are kept for `Nexus.explain`."""

MEMORY = _dtype(number=f8)
"""What a policy remembers from one decision to the next; the rules neither read nor write it."""


_TABLES: dict[str, Any] = {
    "params": PARAMS,
    "weights": WEIGHTS,
    "clock": CLOCK,
    "nodes": NODE,
    "offers": OFFER,
    "groups": GROUP,
    "members": MEMBER,
    "requests": REQUEST,
    "legs": LEG,
    "accounts": ACCOUNT,
    "batches": BATCH,
    "unsettled": MONEY,
    "gross": MONEY,
    "unsettled_gross": MONEY,
    "breaker_timers": i8,
    "request_timers": i8,
    "probe_timers": i8,
    "outs": OUT,
    "ask": REQUEST_VIEW,
    "candidates": CANDIDATE,
    "memory": MEMORY,
    "lists": LIST,
    "listed": i8,
}
(
    NODES, OFFERS, GROUPS, REQUESTS, LEGS, ACCOUNTS, BATCHES,
    BREAKER_TIMERS, REQUEST_TIMERS, PROBE_TIMERS, CANDIDATES, MEMORIES, LISTED,
) = (
    list(_TABLES).index(name)
    for name in (
        "nodes", "offers", "groups", "requests", "legs", "accounts", "batches",
        "breaker_timers", "request_timers", "probe_timers", "candidates", "memory", "listed",
    )
)  # fmt: skip

_AT = {name: row_of(dtype, table) for table, (name, dtype) in enumerate(_TABLES.items()) if np.dtype(dtype).names}

(
    _params_at, _weights_at, _clock_at, node_at, offer_at, group_at, member_at, request_at, leg_at,
    account_at, batch_at, unsettled_at, gross_at, unsettled_gross_at, out_at, _ask_at, candidate_at, _memory_at, list_at,
) = _AT.values()  # fmt: skip

prefetch_node, prefetch_offer, prefetch_request, prefetch_leg, prefetch_account, prefetch_gross = (
    prefetch_of(_TABLES[name], list(_TABLES).index(name))
    for name in ("nodes", "offers", "requests", "legs", "accounts", "gross")
)

prefetch_candidate = prefetch_of(NODE, NODES, 128)
"""What a decision reads of a node stands in its first two lines."""


@jit
def params(S: Handle) -> Any:
    """The parameters."""
    return _params_at(S, 0)


@jit
def weights(S: Handle) -> Any:
    """The exponents of the score."""
    return _weights_at(S, 0)


@jit
def clock(S: Handle) -> Any:
    """Time, counters, free lists and digest."""
    return _clock_at(S, 0)


@jit
def lacks_room(S: Handle) -> bool:
    """Whether the next event might find no free request or leg."""
    return clock(S).free_request == NONE or clock(S).free_leg == NONE


@jit
def ask_view(S: Handle) -> Any:
    """What the policy sees of the request being routed."""
    return _ask_at(S, 0)


@jit
def memory(S: Handle) -> Any:
    """Where the policy's memory begins."""
    return _memory_at(S, 0)


class State(Directory):
    """The kernel's tables. Only the rules write to them; this class only makes room.

    `handle` is what rules take as `S`.
    """

    def __init__(self, parameters: Rows, exponents: Rows, groups: Rows, numbers: int) -> None:
        """An empty state with these PARAMS, WEIGHTS and GROUP rows, and this many numbers of a policy's memory."""
        super().__init__({name: zeros(1, dtype) for name, dtype in _TABLES.items()})
        self.put("params", aligned(parameters))
        self.put("weights", aligned(exponents))
        self.put("groups", aligned(groups))
        self.put("members", zeros(int(groups["capacity"].sum()), MEMBER))
        self.put("candidates", zeros(DECISIONS, CANDIDATE))
        self.put("memory", zeros(numbers, MEMORY))
        for name in ("offers", "accounts", "batches", "unsettled", "gross", "unsettled_gross", "requests", "legs"):
            self.put(name, zeros(0, _TABLES[name]))
        self.put("lists", zeros(0, LIST))
        self.put("listed", zeros(0, i8))
        for name in ("breaker_timers", "request_timers", "probe_timers"):
            self.put(name, new_agenda(1))
        self.clock["free_request"] = self.clock["free_leg"] = NONE
        self.make_request_room()
        self.put("outs", zeros(64, OUT))

    def _lengthen(self, name: str, at_least: int = 0) -> Rows:
        return self.extend(name, max(2 * len(getattr(self, name)), at_least, 16))

    def make_request_room(self) -> None:
        """Room for one more request and leg."""
        for name, free in (("requests", "free_request"), ("legs", "free_leg")):
            if self.clock[0][free] == NONE:
                first = len(getattr(self, name))
                longer = self._lengthen(name, 256)
                longer["next_free"][first:] = np.arange(first + 1, len(longer) + 1)
                longer["next_free"][-1] = NONE
                self.clock[0][free] = first
        self._make_timer_room("request_timers", len(self.requests))

    def _make_timer_room(self, name: str, capacity: int) -> None:
        timers = getattr(self, name)
        if capacity > len(times(timers)):
            self.put(name, new_agenda(capacity, timers))

    def make_account_room(self, account: int) -> None:
        """A row for `account`, and the batches of its chunk."""
        if account < len(self.accounts):
            return
        ring = int(self.params[0]["ring"])
        accounts = len(self._lengthen("accounts", account + 1))
        chunks = -(-accounts // int(self.params[0]["chunk_users"]))
        self.extend("unsettled", accounts * ring)
        self.extend("batches", chunks * ring)
        self.extend("gross", chunks * len(self.nodes))
        self.extend("unsettled_gross", chunks * ring * len(self.nodes))
        self.put("outs", zeros(64 + chunks * ring, OUT))

    def make_node_room(self, node: int) -> None:
        """A row for `node`, and its column in what chunks and batches owe."""
        if node < len(self.nodes):
            return
        width = len(self.nodes)
        wider = len(self._lengthen("nodes", node + 1))
        self._make_timer_room("breaker_timers", wider)
        self._make_timer_room("probe_timers", wider)
        for name in ("gross", "unsettled_gross"):
            old = getattr(self, name).reshape(-1, width)
            table = zeros(len(old) * wider, MONEY).reshape(-1, wider)
            table[:, :width] = old
            self.put(name, table.reshape(-1))

    def make_list_room(self, nodes: int) -> None:
        """Room for one more list, of this many nodes."""
        clock = self.clock[0]
        for name, needed in (("lists", clock["lists"] + 1), ("listed", clock["listed"] + nodes)):
            if needed > len(getattr(self, name)):
                self._lengthen(name, int(needed))

    def make_offer_room(self, offer: int, group: int) -> None:
        """A row for `offer`, and one more place in `group`."""
        if offer >= len(self.offers):
            first = len(self.offers)
            self._lengthen("offers", offer + 1)["node"][first:] = NONE
        if self.groups[group]["size"] >= self.groups[group]["capacity"]:
            members = zeros(2 * len(self.members) + 16 * len(self.groups), MEMBER)
            start = 0
            for row in self.groups:
                capacity = 2 * int(row["capacity"]) + 16
                old = self.members[row["start"] : row["start"] + row["capacity"]]
                members[start : start + len(old)] = old
                row["start"], row["capacity"] = start, capacity
                start += capacity
            self.put("members", members)
