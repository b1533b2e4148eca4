"""The transitions: the only code that changes state.

Rules for a request, as a story:

* `arrive` routes it, reserves the quote of the offer it got and dispatches a leg; or reserves its cap and waits (`held`), so
  that sub-requests (rows of their own, with `parent`) can be served from the same reservation before `proceed` dispatches it.
* `first_token`, `progress` and `complete` are what the Nexus sees of the leg. Progress is cumulative: the last receipted token.
* `fail` ends a leg. Before the first token the request is routed again, at most `retries` times; after it the request fails,
  and the node is paid for the receipted tokens, the prompt included.
* `cancel` (the client left) and the deadline end the request likewise.
* However a request ends, its account pays for receipted tokens only and the rest of the reservation is released (INV-11).

Every rule takes the time, is total (unknown, late and duplicate ids are counted in `clock.ignored` and change nothing else),
and leaves what it asks of the driver in `outs`; it returns how many.
"""

import numpy as np

from lattice_core.jit import jit, rows
from lattice_core.ledger import (
    available_nlai,
    charge,
    confirm_chunk,
    fold,
    hold,
    release,
    reserve,
    root_of,
    skip_debit,
    submit_chunk,
)
from lattice_core.pricing import fee_nlai
from lattice_core.reputation import (
    observe_audit,
    observe_first_token,
    observe_outcome,
    observe_pace,
)
from lattice_core.routing import activate, deactivate, find_group, no_longer_rare, quote_nlai, route
from lattice_core.state import (
    ABSENT,
    ACCOUNTS,
    AUDIT,
    BAD_ANSWER,
    BAD_REQUEST,
    BOUNDARY,
    CANCEL,
    CHUNKS,
    CLIENT_LEFT,
    CLOSED,
    CLUSTER,
    COMPLETED,
    CONTEXT_TOO_LONG,
    DEADLINE,
    DISPATCH,
    DRAINING,
    FAILED,
    FREE,
    HALF_OPEN,
    HELD,
    LEGS,
    LOCAL,
    NO_FUNDS,
    NODE_LOST,
    NODES,
    NONE,
    OFFERS,
    OPEN,
    PROBE,
    PUBLIC,
    REASONS,
    REJECTED,
    REQUESTS,
    RESERVATION_EXPIRED,
    RUNNING,
    STATUS,
    SUBMIT,
    TIMER_BREAKER,
    TIMER_DEADLINE,
    TIMER_PROBE,
    TIMER_RESERVATION,
    UNKNOWN_ACCOUNT,
    UNKNOWN_PARENT,
    UP,
    Handle,
    account_at,
    chunk_at,
    clock,
    group_at,
    leg_at,
    node_at,
    offer_at,
    out_at,
    params,
    request_at,
    timer_at,
)
from lattice_core.streams import AUDITS, PROBES, exponential, mix, uniform
from lattice_core.timers import drop_first, drop_stale, set_timer
from lattice_core.units import MAX_PRICE_NLAI, MAX_SUPPLY_NLAI, MAX_TOKENS

LEG_ROW_BITS = 32
"""A leg's id is its serial number above the row it stands in."""

LAST_NS = 2**62
"""Time stops here, 146 years on, so that no timer's time passes 2⁶³."""

MAX_INT32 = 2**31 - 1

MAX_CHILDREN = 16
"""Sub-requests that may be open under one root; `outs` has room to end them all at once."""


@jit
def _begin(S: Handle, t_ns: int) -> int:
    """Every rule starts here: time never goes back, and nothing is asked yet."""
    c = clock(S)
    c.outs = 0
    c.now_ns = max(c.now_ns, min(t_ns, LAST_NS))
    return c.now_ns


@jit
def _ignore(S: Handle) -> int:
    clock(S).ignored += 1
    return clock(S).outs


@jit
def ignore(S: Handle, t_ns: int) -> int:
    """An event that fits nowhere passes the time and changes nothing else."""
    _begin(S, t_ns)
    return _ignore(S)


@jit
def _out(S: Handle, kind: int) -> int:
    """A fresh row of `outs`."""
    c = clock(S)
    row = c.outs
    c.outs += 1
    o = out_at(S, row)
    o.kind, o.outcome, o.reason, o.request, o.leg = kind, 0, 0, 0, 0
    o.node, o.offer, o.from_tok, o.output_tok, o.fee_nlai = NONE, NONE, 0, 0, 0
    o.sent_ns, o.first_token_ns = 0, 0
    return row


@jit
def leg_row(S: Handle, leg: int) -> int:
    """The row of an open leg by its id, or NONE."""
    row = leg & ((1 << LEG_ROW_BITS) - 1)
    if leg <= 0 or row >= rows(S, LEGS) or leg_at(S, row).id != leg:
        return NONE
    return row


# --- chain facts -------------------------------------------------------------------------------------------------------------


@jit
def open_account(S: Handle, account: int, key: int, cluster: int, t_ns: int) -> int:
    """The chain has registered an account. Its row exists already."""
    _begin(S, t_ns)
    a = account_at(S, account)
    if a.known:
        return _ignore(S)
    a.known, a.key, a.cluster = 1, key, cluster
    return 0


@jit
def deposit(S: Handle, account: int, nlai: int, faucet: bool, t_ns: int) -> int:
    """LAI has reached the account's escrow: purchased, or granted by the faucet."""
    _begin(S, t_ns)
    if account < 0 or account >= rows(S, ACCOUNTS) or nlai <= 0 or nlai > MAX_SUPPLY_NLAI:
        return _ignore(S)
    a = account_at(S, account)
    if not a.known or a.deposited_nlai + a.granted_nlai > MAX_SUPPLY_NLAI - nlai:
        return _ignore(S)
    if faucet:
        a.granted_nlai += nlai
        a.faucet_free_nlai += nlai
    else:
        a.deposited_nlai += nlai
        a.free_nlai += nlai
    fold(S, account)
    fold(S, nlai)
    return 0


@jit
def register_node(
    S: Handle, node: int, key: int, kind: int, cluster: int, owner: int, slots: int, queue_room: int, t_ns: int
) -> int:
    """The chain has registered a node; it takes requests from `node_up` on. Its row exists already."""
    t = _begin(S, t_ns)
    n = node_at(S, node)
    if n.key != 0 or key == 0 or not (0 < slots <= MAX_INT32 and 0 <= queue_room <= MAX_INT32 and NONE <= owner <= MAX_INT32):
        return _ignore(S)
    n.key, n.kind, n.cluster, n.owner = key, kind, cluster, owner
    n.slots, n.queue_room, n.offer, n.observed_ns = slots, queue_room, NONE, t
    n.status, n.breaker = ABSENT, CLOSED
    history = params(S).history
    n.audits = int(history)
    n.audits_passed = int(history)
    return 0


@jit
def post_offer(S: Handle, offer: int, key: int, node: int, group: int, price_in: int, price_out: int, t_ns: int) -> int:
    """A registered node offers a model, once, at a price. Its row, and a place in the group, exist already."""
    t = _begin(S, t_ns)
    if not (0 <= price_in <= MAX_PRICE_NLAI and 0 <= price_out <= MAX_PRICE_NLAI):
        return _ignore(S)
    other = node_at(S, node).offer
    while other != NONE:  # a second place in the group would be a second chance to be drawn
        if offer_at(S, other).group == group:
            return _ignore(S)
        other = offer_at(S, other).next_of_node
    clock(S).offers += 1
    p, o, g = params(S), offer_at(S, offer), group_at(S, group)
    o.key, o.node, o.model, o.group = key, node, g.model, group
    o.position, o.rare_position = NONE, NONE
    o.price_in, o.price_out = price_in, price_out
    o.ttft_s, o.itl_s, o.ttft_ns, o.itl_ns = g.ttft_s, g.itl_s, t, t
    o.alpha, o.beta = p.quality_alpha + p.history, p.quality_beta
    o.audited_ns, o.quality_tick, o.results = t, 0, int(p.history)
    o.next_of_node = node_at(S, node).offer
    node_at(S, node).offer = offer
    g.size += 1
    if node_at(S, node).status == UP:
        activate(S, offer)
    return 0


@jit
def set_bond(S: Handle, node: int, nlai: int, t_ns: int) -> int:
    """The chain's record of a node's bond."""
    _begin(S, t_ns)
    if node < 0 or node >= rows(S, NODES) or node_at(S, node).key == 0 or nlai < 0 or nlai > MAX_SUPPLY_NLAI:
        return _ignore(S)
    node_at(S, node).bond_nlai = nlai
    fold(S, node)
    fold(S, nlai)
    return 0


@jit
def close_epoch(S: Handle, epoch: int, t_ns: int) -> int:
    """End an epoch: send each chunk's debits to the chain, and again what the chain did not take."""
    _begin(S, t_ns)
    c = clock(S)
    if epoch != c.epoch:
        return _ignore(S)
    c.epoch += 1
    for chunk in range(rows(S, CHUNKS)):
        k = chunk_at(S, chunk)
        if (k.pending and k.failed) or submit_chunk(S, chunk, epoch):
            k.failed = 0
            row = _out(S, SUBMIT)
            out_at(S, row).request, out_at(S, row).leg = chunk, k.epoch
    return c.outs


@jit
def batch_skipped(S: Handle, chunk: int, epoch: int, account: int, t_ns: int) -> int:
    """The chain skipped one account's entry of a batch that it otherwise settled (told before `batch_confirmed`)."""
    _begin(S, t_ns)
    if not _is_pending(S, chunk, epoch) or account < 0 or account >= rows(S, ACCOUNTS):
        return _ignore(S)
    if account // params(S).chunk_users != chunk:
        return _ignore(S)
    skip_debit(S, account)
    return 0


@jit
def batch_confirmed(S: Handle, chunk: int, epoch: int, t_ns: int) -> int:
    """The chain settled a batch."""
    _begin(S, t_ns)
    if not _is_pending(S, chunk, epoch):
        return _ignore(S)
    confirm_chunk(S, chunk)
    return 0


@jit
def batch_failed(S: Handle, chunk: int, epoch: int, t_ns: int) -> int:
    """The chain did not take a batch; the next `submit` sends it again under the same key."""
    _begin(S, t_ns)
    if not _is_pending(S, chunk, epoch):
        return _ignore(S)
    chunk_at(S, chunk).failed = 1
    return 0


@jit
def _is_pending(S: Handle, chunk: int, epoch: int) -> bool:
    return chunk >= 0 and chunk < rows(S, CHUNKS) and chunk_at(S, chunk).pending == 1 and chunk_at(S, chunk).epoch == epoch


# --- nodes -------------------------------------------------------------------------------------------------------------------


@jit
def _schedule_probe(S: Handle, node: int, t_ns: int) -> None:
    """The next health probe comes after an exponential wait, so that a node cannot foresee it."""
    p, n = params(S), node_at(S, node)
    n.probe_serial += 1
    wait = exponential(p.seed, PROBES, n.key, n.probe_serial) * float(p.probe_interval_ns)
    set_timer(S, t_ns + 1 + int(min(wait, 0.5 * LAST_NS)), TIMER_PROBE, node, n.probe_serial)


@jit
def _send_probe(S: Handle, node: int, t_ns: int) -> None:
    """Ask for a probe now; without an answer within a probe interval it counts as failed."""
    n = node_at(S, node)
    n.probe_serial += 1
    n.probe_open = 1
    row = _out(S, PROBE)
    out_at(S, row).node, out_at(S, row).leg = node, n.probe_serial
    set_timer(S, t_ns + params(S).probe_interval_ns, TIMER_PROBE, node, n.probe_serial)


@jit
def node_up(S: Handle, node: int, t_ns: int) -> int:
    """A registered node announces that it takes requests."""
    t = _begin(S, t_ns)
    if node < 0 or node >= rows(S, NODES) or node_at(S, node).key == 0 or node_at(S, node).status == UP:
        return _ignore(S)
    node_at(S, node).status = UP
    offer = node_at(S, node).offer
    while offer != NONE:
        activate(S, offer)
        offer = offer_at(S, offer).next_of_node
    node_at(S, node).probe_open = 0
    _schedule_probe(S, node, t)
    fold(S, node)
    return 0


@jit
def node_down(S: Handle, node: int, t_ns: int) -> int:
    """A node announces that it takes no more requests; it finishes what it has."""
    _begin(S, t_ns)
    if node < 0 or node >= rows(S, NODES) or node_at(S, node).status != UP:
        return _ignore(S)
    n = node_at(S, node)
    n.status = DRAINING if n.in_flight > 0 else ABSENT
    offer = n.offer
    while offer != NONE:
        deactivate(S, offer)
        offer = offer_at(S, offer).next_of_node
    n.probe_serial += 1
    n.probe_open = 0
    drop_stale(S)
    fold(S, ~node)
    return 0


@jit
def _observe(S: Handle, node: int, ok: bool, t_ns: int) -> None:
    """Count a success or failure; an opened breaker gets its timer."""
    if observe_outcome(S, node, ok, t_ns) == OPEN:
        set_timer(S, node_at(S, node).breaker_until_ns, TIMER_BREAKER, node, node_at(S, node).breaker_until_ns)
        fold(S, node)


@jit
def probed(S: Handle, node: int, serial: int, ok: bool, t_ns: int) -> int:
    """The answer to a probe, or that there was none. Half-open nodes are probed on until their breaker closes or opens."""
    t = _begin(S, t_ns)
    if node < 0 or node >= rows(S, NODES) or not node_at(S, node).probe_open or node_at(S, node).probe_serial != serial:
        return _ignore(S)
    n = node_at(S, node)
    n.probe_open = 0
    n.probes += 1
    if ok:
        n.probes_ok += 1
    _observe(S, node, ok, t)
    if n.breaker == HALF_OPEN:
        _send_probe(S, node, t)
    else:
        _schedule_probe(S, node, t)
    drop_stale(S)
    return clock(S).outs


@jit
def audited(S: Handle, offer: int, passed: bool, weight: float, t_ns: int) -> int:
    """An auditor's verdict on one answer of an offer."""
    t = _begin(S, t_ns)
    if offer < 0 or offer >= rows(S, OFFERS) or offer_at(S, offer).node == NONE or not (0.0 < weight <= 1000.0):
        return _ignore(S)
    observe_audit(S, offer, passed, weight, t)
    fold(S, offer)
    fold(S, 1 if passed else 0)
    return 0


# --- requests ----------------------------------------------------------------------------------------------------------------


@jit
def _take_request(S: Handle) -> int:
    c = clock(S)
    row = c.free_request
    c.free_request = request_at(S, row).next_free
    return row


@jit
def _take_leg(S: Handle) -> int:
    c = clock(S)
    row = c.free_leg
    c.free_leg = leg_at(S, row).next_free
    c.leg_serial += 1
    leg_at(S, row).id = (c.leg_serial << LEG_ROW_BITS) | row
    return row


@jit
def _reject(S: Handle, id: int, reason: int) -> None:
    """Say that a request which never got a row, or whose row is freed by the caller, was rejected."""
    row = _out(S, STATUS)
    o = out_at(S, row)
    o.request, o.outcome, o.reason = id, REJECTED, reason
    fold(S, id)
    fold(S, -reason)


@jit
def _count_arrival(S: Handle, account: int) -> None:
    clock(S).arrived += 1
    clock(S).in_flight += 1
    account_at(S, account).arrived += 1
    account_at(S, account).in_flight += 1


@jit
def _count_end(S: Handle, account: int, outcome: int) -> None:
    c, a = clock(S), account_at(S, account)
    c.in_flight -= 1
    a.in_flight -= 1
    if outcome == COMPLETED:
        c.completed += 1
        a.completed += 1
    elif outcome == FAILED:
        c.failed += 1
        a.failed += 1
    else:
        c.rejected += 1
        a.rejected += 1


@jit
def _end_request(S: Handle, request: int, outcome: int, reason: int, node: int, output_tok: int) -> None:
    """Release what is left, tell the driver, free the row. Legs and children are closed already."""
    r = request_at(S, request)
    if r.parent == NONE:
        release(S, request)
    row = _out(S, STATUS)
    o = out_at(S, row)
    o.request, o.outcome, o.reason, o.node, o.output_tok = r.id, outcome, reason, node, output_tok
    o.fee_nlai, o.sent_ns, o.first_token_ns = r.charged_nlai, r.sent_ns, r.first_token_ns
    _count_end(S, r.account, outcome)
    fold(S, clock(S).now_ns)
    fold(S, r.id)
    fold(S, outcome)
    fold(S, reason)
    fold(S, r.charged_nlai)
    if r.parent != NONE:
        _unlink(S, request)
    r.state, r.id = FREE, 0
    r.next_free = clock(S).free_request
    clock(S).free_request = request
    drop_stale(S)


@jit
def _unlink(S: Handle, request: int) -> None:
    """Take a sub-request out of its parent's list."""
    parent = request_at(S, request_at(S, request).parent)
    if parent.child == request:
        parent.child = request_at(S, request).sibling
        return
    at = parent.child
    while request_at(S, at).sibling != request:
        at = request_at(S, at).sibling
    request_at(S, at).sibling = request_at(S, request).sibling


@jit
def _close_leg(S: Handle, request: int) -> tuple[int, int]:
    """Charge the request's open leg for its receipted tokens and free it; returns (node, receipted tokens)."""
    r = request_at(S, request)
    le = leg_at(S, r.leg)
    offer = offer_at(S, le.offer)
    delivered = le.to_tok - le.from_tok
    nlai = fee_nlai(offer.price_in, offer.price_out, r.prompt_tok, delivered) if delivered > 0 else 0
    charge(S, r.leg, min(nlai, le.reserved_nlai))
    if root_of(S, request) != request:
        r.charged_nlai += le.charged_nlai
    n = node_at(S, offer.node)
    n.in_flight -= 1
    n.output_tok += delivered
    if n.status == DRAINING and n.in_flight == 0:
        n.status = ABSENT
    le.id = 0
    le.next_free = clock(S).free_leg
    clock(S).free_leg = r.leg
    r.leg = NONE
    return offer.node, delivered


@jit
def _dispatch(S: Handle, request: int, t_ns: int, score: int) -> int:
    """Route a request and send one more leg of it; returns 0, or the reason why no node may serve it."""
    offer = route(S, request, t_ns, score)
    r = request_at(S, request)
    if offer < 0:
        fold(S, r.id)
        fold(S, offer)
        return -offer
    quote = quote_nlai(S, offer, request)
    leg = _take_leg(S)
    le, n = leg_at(S, leg), node_at(S, offer_at(S, offer).node)
    le.request, le.no, le.offer = request, r.legs, offer
    le.from_tok, le.to_tok, le.charged_nlai = 0, 0, 0
    le.sent_ns, le.first_token_ns = t_ns, 0
    reserve(S, leg, quote)
    r.leg, r.state, r.sent_ns = leg, RUNNING, t_ns
    r.legs += 1
    n.in_flight += 1
    n.legs += 1
    row = _out(S, DISPATCH)
    o = out_at(S, row)
    o.request, o.leg, o.offer, o.node = r.id, le.id, offer, offer_at(S, offer).node
    o.fee_nlai, o.sent_ns = quote, t_ns
    fold(S, t_ns)
    fold(S, r.id)
    fold(S, offer)
    fold(S, quote)
    return 0


@jit
def arrive(
    S: Handle,
    id: int,
    parent_id: int,
    parent: int,
    account: int,
    principal: int,
    session: int,
    model: int,
    kind: int,
    cluster: int,
    privacy: int,
    prompt_tok: int,
    max_tok: int,
    max_fee_nlai: int,
    deadline_ns: int,
    prefix: int,
    held: bool,
    t_ns: int,
    score: int,
) -> int:
    """A request. `parent` is the row of its root, found by `parent_id` (0: it is a root). A free row and leg exist already.

    `held` reserves `max_fee_nlai` and dispatches nothing until `proceed`. Ids grow: one that does not is a duplicate, and
    ignored.
    """
    t = _begin(S, t_ns)
    c = clock(S)
    if id <= c.last_request:
        return _ignore(S)
    c.last_request = id
    if account < 0 or account >= rows(S, ACCOUNTS) or not account_at(S, account).known:
        c.ignored += 1
        _reject(S, id, UNKNOWN_ACCOUNT)
        return c.outs
    _count_arrival(S, account)
    reason = 0
    if (
        not (1 <= prompt_tok <= MAX_TOKENS and 1 <= max_tok <= MAX_TOKENS and 0 <= max_fee_nlai <= MAX_SUPPLY_NLAI)
        or privacy < PUBLIC
        or privacy > LOCAL
        or (held and (max_fee_nlai == 0 or parent_id != 0))
    ):
        reason = BAD_REQUEST
    elif parent_id != 0 and not _may_adopt(S, parent, parent_id, account):
        reason = UNKNOWN_PARENT
    elif 0 < deadline_ns <= t:
        reason = DEADLINE
    # A private request goes to its account's own cluster, whatever it asks; a public one never enters a private cluster.
    place = 0 if privacy == PUBLIC else account_at(S, account).cluster
    if reason == 0 and (cluster != place or (privacy == CLUSTER and place == 0)):
        reason = BOUNDARY
    if reason == 0 and parent_id != 0 and privacy < request_at(S, parent).privacy:
        reason = BOUNDARY  # a part of a private request is no less private
    group = find_group(S, model, kind, place)
    if reason == 0 and group != NONE and prompt_tok + max_tok > group_at(S, group).context_tok:
        reason = CONTEXT_TOO_LONG
    if reason != 0:
        _reject(S, id, reason)
        _count_end(S, account, REJECTED)
        return c.outs
    request = _take_request(S)
    r = request_at(S, request)
    r.id, r.parent, r.nexus, r.account, r.principal, r.session = id, NONE, params(S).nexus, account, principal, session
    r.key = np.int64(mix(account_at(S, account).key, account_at(S, account).arrived))
    r.model, r.kind, r.privacy, r.cluster, r.group = model, kind, privacy, place, group
    r.prompt_tok, r.max_tok, r.max_fee_nlai, r.deadline_ns, r.prefix = (
        prompt_tok, max_tok, max_fee_nlai, deadline_ns, np.uint64(prefix),
    )  # fmt: skip
    r.arrival_ns, r.first_token_ns, r.sent_ns = t, 0, 0
    r.leg, r.legs, r.avoid, r.child, r.sibling = NONE, 0, NONE, NONE, NONE
    r.hold_nlai, r.hold_faucet_nlai, r.committed_nlai, r.charged_nlai = 0, 0, 0, 0
    r.state = HELD
    if parent_id != 0:
        r.parent = parent
        r.sibling = request_at(S, parent).child
        request_at(S, parent).child = request
    if held:
        if max_fee_nlai > available_nlai(S, request):
            reason = NO_FUNDS
        else:
            hold(S, request, max_fee_nlai)
    else:
        reason = _dispatch(S, request, t, score)
    if reason != 0:
        _end_request(S, request, REJECTED, reason, NONE, 0)
        return c.outs
    if deadline_ns > 0 and deadline_ns <= t + params(S).reservation_ns:
        set_timer(S, deadline_ns, TIMER_DEADLINE, request, id)
    else:
        set_timer(S, t + params(S).reservation_ns, TIMER_RESERVATION, request, id)
    return c.outs


@jit
def _may_adopt(S: Handle, parent: int, parent_id: int, account: int) -> bool:
    """A sub-request hangs under an open root of the same account."""
    if parent < 0 or parent >= rows(S, REQUESTS):
        return False
    r = request_at(S, parent)
    if r.state == FREE or r.id != parent_id or r.parent != NONE or r.account != account:
        return False
    children, at = 0, r.child
    while at != NONE:
        children, at = children + 1, request_at(S, at).sibling
    return children < MAX_CHILDREN


@jit
def proceed(S: Handle, request: int, id: int, prompt_tok: int, t_ns: int, score: int) -> int:
    """Dispatch a held request; its prompt may have grown by what its sub-requests found."""
    t = _begin(S, t_ns)
    if not _is_open(S, request, id) or request_at(S, request).state != HELD:
        return _ignore(S)
    r = request_at(S, request)
    if not (1 <= prompt_tok <= MAX_TOKENS):
        reason = BAD_REQUEST
    elif r.group != NONE and prompt_tok + r.max_tok > group_at(S, r.group).context_tok:
        reason = CONTEXT_TOO_LONG
    else:
        r.prompt_tok = prompt_tok
        reason = _dispatch(S, request, t, score)
    if reason != 0:
        _abandon(S, request, reason, t)
    return clock(S).outs


@jit
def _is_open(S: Handle, request: int, id: int) -> bool:
    return 0 <= request < rows(S, REQUESTS) and request_at(S, request).state != FREE and request_at(S, request).id == id


@jit
def first_token(S: Handle, leg_id: int, t_ns: int) -> int:
    """The leg's node has begun to answer."""
    t = _begin(S, t_ns)
    leg = leg_row(S, leg_id)
    if leg == NONE or leg_at(S, leg).first_token_ns != 0:
        return _ignore(S)
    le = leg_at(S, leg)
    r = request_at(S, le.request)
    le.first_token_ns = t
    if r.first_token_ns == 0:
        r.first_token_ns = t
    observe_first_token(S, le.offer, float(t - le.sent_ns) / 1e9, r.prompt_tok, t)
    return 0


@jit
def progress(S: Handle, leg_id: int, upto_tok: int, t_ns: int) -> int:
    """A cumulative receipt: the leg has delivered up to token `upto_tok`."""
    _begin(S, t_ns)
    leg = leg_row(S, leg_id)
    if leg == NONE:
        return _ignore(S)
    le = leg_at(S, leg)
    le.to_tok = max(le.to_tok, min(upto_tok, request_at(S, le.request).max_tok))
    return 0


@jit
def complete(S: Handle, leg_id: int, output_tok: int, t_ns: int) -> int:
    """The leg has delivered its whole answer of `output_tok` tokens."""
    t = _begin(S, t_ns)
    leg = leg_row(S, leg_id)
    if leg == NONE:
        return _ignore(S)
    le = leg_at(S, leg)
    request, offer = le.request, le.offer
    r, o = request_at(S, request), offer_at(S, offer)
    le.to_tok = max(le.to_tok, min(output_tok, r.max_tok))
    if le.first_token_ns != 0:
        observe_pace(S, offer, t - le.first_token_ns, le.to_tok - le.from_tok - 1, t)
    o.results += 1
    if o.results >= params(S).under_observed:
        no_longer_rare(S, offer)
    node_at(S, o.node).legs_done += 1
    _observe(S, o.node, True, t)
    if uniform(params(S).seed, AUDITS, r.key, r.legs) < params(S).audit_rate:
        row = _out(S, AUDIT)
        out_at(S, row).request, out_at(S, row).leg, out_at(S, row).offer, out_at(S, row).node = r.id, leg_id, offer, o.node
        out_at(S, row).output_tok = le.to_tok
    _cancel_children(S, request, t)
    node, delivered = _close_leg(S, request)
    _end_request(S, request, COMPLETED, 0, node, delivered)
    return clock(S).outs


@jit
def fail(S: Handle, leg_id: int, why: int, t_ns: int, score: int) -> int:
    """The leg's node is lost, refuses, or answers badly. Before the first token the request is routed again."""
    t = _begin(S, t_ns)
    leg = leg_row(S, leg_id)
    if leg == NONE:
        return _ignore(S)
    le = leg_at(S, leg)
    request, offer, began = le.request, le.offer, le.first_token_ns != 0 or le.to_tok > 0
    r, node = request_at(S, request), offer_at(S, le.offer).node
    why = why if NODE_LOST <= why <= BAD_ANSWER else NODE_LOST
    node_at(S, node).legs_lost += 1
    _observe(S, node, False, t)
    node, delivered = _close_leg(S, request)
    fold(S, leg_id)
    fold(S, why)
    if not began and r.legs <= params(S).retries:
        r.avoid = offer
        if _dispatch(S, request, t, score) == 0:
            return clock(S).outs
    _cancel_children(S, request, t)
    _end_request(S, request, FAILED, why, node, delivered)
    return clock(S).outs


@jit
def cancel(S: Handle, request: int, id: int, reason: int, t_ns: int) -> int:
    """The client has left, or the driver gives the request up."""
    t = _begin(S, t_ns)
    if not _is_open(S, request, id):
        return _ignore(S)
    _abandon(S, request, reason if 0 < reason < len(REASONS) else CLIENT_LEFT, t)
    return clock(S).outs


@jit
def _abandon(S: Handle, request: int, reason: int, t_ns: int) -> None:
    """End a request with its sub-requests: their legs are cancelled at the nodes and paid for what was receipted."""
    _cancel_children(S, request, t_ns)
    _abandon_one(S, request, reason, t_ns)


@jit
def _cancel_children(S: Handle, request: int, t_ns: int) -> None:
    while request_at(S, request).child != NONE:
        _abandon_one(S, request_at(S, request).child, CLIENT_LEFT, t_ns)


@jit
def _abandon_one(S: Handle, request: int, reason: int, t_ns: int) -> None:
    r = request_at(S, request)
    node, delivered = NONE, 0
    if r.leg != NONE:
        le = leg_at(S, r.leg)
        row = _out(S, CANCEL)
        o = out_at(S, row)
        o.request, o.leg, o.offer, o.node = r.id, le.id, le.offer, offer_at(S, le.offer).node
        if le.first_token_ns == 0:  # a wait this long is the least that the first token would have taken
            observe_first_token(S, le.offer, float(t_ns - le.sent_ns) / 1e9, r.prompt_tok, t_ns)
        node_at(S, o.node).legs_cancelled += 1
        node, delivered = _close_leg(S, request)
    _end_request(S, request, FAILED, reason, node, delivered)


# --- timers ------------------------------------------------------------------------------------------------------------------


@jit
def timer(S: Handle, t_ns: int) -> int:
    """Fire the one earliest timer that is due by `t_ns`; the caller repeats while one is."""
    t = _begin(S, t_ns)
    if clock(S).timers == 0 or timer_at(S, 0).t_ns > t:
        return 0
    kind, at = timer_at(S, 0).kind, timer_at(S, 0).row
    drop_first(S)
    if kind in (TIMER_DEADLINE, TIMER_RESERVATION):
        _abandon(S, at, DEADLINE if kind == TIMER_DEADLINE else RESERVATION_EXPIRED, t)
    elif kind == TIMER_BREAKER:
        n = node_at(S, at)
        n.breaker, n.failures, n.successes = HALF_OPEN, 0, 0
        if n.status == UP and not n.probe_open:
            _send_probe(S, at, t)
    elif node_at(S, at).status == UP:
        n = node_at(S, at)
        if n.probe_open:  # the last probe was never answered
            n.probe_open = 0
            n.probes += 1
            _observe(S, at, False, t)
        _send_probe(S, at, t)
    drop_stale(S)
    return clock(S).outs
