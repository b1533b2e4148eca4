"""The rules for requests, as a story:

* `arrive` routes it, reserves the quote of the offer it got and dispatches a leg; or reserves its cap and waits (`held`), so
  that sub-requests (rows of their own, with `parent`) can be served from the same reservation before `proceed` dispatches it.
* `first_token`, `progress` and `complete` are what the Nexus sees of the leg. Progress is cumulative: the last receipted token.
  Tokens are counted over the whole answer, whichever leg delivers them.
* `fail` ends a leg, and the request is routed again, at most `retries` times. The next leg goes on behind what has reached the
  user; without `resume`, a failure after the first token ends the request.
* Each leg is paid for its own receipted tokens, the first that has any for the prompt, too.
* `cancel` (the client left) and the deadline end the request likewise.
* However a request ends, its account pays for receipted tokens only and the rest of the reservation is released (INV-11).
"""

import numpy as np

from lattice_core.agenda import set_time
from lattice_core.directory import Handle
from lattice_core.jit import jit, rows
from lattice_core.ledger import (
    available_nlai,
    charge,
    fold,
    fold_entry,
    gross_row,
    has_account,
    hold,
    release,
    reserve,
    root_of,
)
from lattice_core.nodes import observe, send_probe
from lattice_core.pricing import fee_nlai
from lattice_core.reputation import observe_first_token, observe_pace
from lattice_core.routing import find_group, no_longer_rare, quote_nlai, route
from lattice_core.state import (
    ABSENT,
    AUDIT,
    BAD_ANSWER,
    BAD_REQUEST,
    BALANCED,
    BEST,
    BOUNDARY,
    BREAKER_TIMERS,
    CANCEL,
    CLIENT_LEFT,
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
    NONE,
    PUBLIC,
    REASONS,
    REJECTED,
    REQUEST_TIMERS,
    REQUESTS,
    RESERVATION_EXPIRED,
    RUNNING,
    STATUS,
    UNKNOWN_ACCOUNT,
    UNKNOWN_PARENT,
    UP,
    account_at,
    clock,
    group_at,
    leg_at,
    node_at,
    offer_at,
    out_at,
    params,
    prefetch_gross,
    request_at,
)
from lattice_core.streams import AUDITS, mix, uniform
from lattice_core.timers import next_timer, next_timer_ns
from lattice_core.transition import begin, ignored, out
from lattice_core.units import MAX_SUPPLY_NLAI, MAX_TOKENS, NEVER_NS

LEG_ROW_BITS = 32
"""A leg's id is its serial number above the row it stands in."""

MAX_CHILDREN = 16
"""Sub-requests that may be open under one root; `outs` has room to end them all at once."""


@jit
def leg_row(S: Handle, leg: int) -> int:
    """The row of an open leg by its id, or NONE."""
    row = leg & ((1 << LEG_ROW_BITS) - 1)
    if leg <= 0 or row >= rows(S, LEGS) or leg_at(S, row).id != leg:
        return NONE
    return row


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
    row = out(S, STATUS)
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
def _end_request(S: Handle, request: int, outcome: int, reason: int, node: int) -> None:
    """Release what is left, tell the driver, free the row. Legs and children are closed already."""
    r = request_at(S, request)
    if r.parent == NONE:
        release(S, request)
    row = out(S, STATUS)
    o = out_at(S, row)
    o.request, o.outcome, o.reason, o.node, o.output_tok = r.id, outcome, reason, node, r.from_tok
    o.nlai, o.sent_ns, o.first_token_ns = r.charged_nlai, r.sent_ns, r.first_token_ns
    _count_end(S, r.account, outcome)
    fold_entry(S, clock(S).now_ns, r.id, (reason << 8) + outcome, r.charged_nlai)
    if r.parent != NONE:
        _unlink(S, request)
    r.state, r.id = FREE, 0
    r.next_free = clock(S).free_request
    clock(S).free_request = request
    set_time(S, REQUEST_TIMERS, request, NEVER_NS)


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
def _close_leg(S: Handle, request: int) -> int:
    """Charge the request's open leg for its receipted tokens and free it; returns its node."""
    r = request_at(S, request)
    le = leg_at(S, r.leg)
    offer = offer_at(S, le.offer)
    delivered = le.to_tok - le.from_tok
    nlai = fee_nlai(offer.price_in, offer.price_out, r.unpaid_tok, delivered) if delivered > 0 else 0
    charge(S, r.leg, min(nlai, le.reserved_nlai))
    if delivered > 0:
        r.unpaid_tok = 0
    r.from_tok = le.to_tok
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
    return offer.node


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
    le.from_tok, le.to_tok, le.charged_nlai = r.from_tok, r.from_tok, 0
    le.sent_ns, le.first_token_ns = t_ns, 0
    reserve(S, leg, quote)
    r.leg, r.state = leg, RUNNING
    r.legs += 1
    if r.first_token_ns == 0:  # whoever goes on with an answer is not who began it
        r.sent_ns = t_ns
    n.in_flight += 1
    n.legs += 1
    row = out(S, DISPATCH)
    o = out_at(S, row)
    o.request, o.leg, o.offer, o.node = r.id, le.id, offer, offer_at(S, offer).node
    o.from_tok, o.nlai, o.sent_ns = r.from_tok, quote, t_ns
    fold_entry(S, t_ns, r.id, (r.from_tok << 32) + offer, quote)
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
    prefer: int,
    nodes: int,
    t_ns: int,
    score: int,
) -> int:
    """A request. `parent` is the row of its root, found by `parent_id` (0: it is a root). A free row and leg exist already.

    `held` reserves `max_fee_nlai` and dispatches nothing until `proceed`. Ids grow: one that does not is a duplicate, and
    ignored.
    """
    t = begin(S, t_ns)
    c = clock(S)
    if id <= c.last_request:
        return ignored(S)
    c.last_request = id
    if not has_account(S, account):
        c.ignored += 1
        _reject(S, id, UNKNOWN_ACCOUNT)
        return c.outs
    _count_arrival(S, account)
    reason = 0
    if (
        not (1 <= prompt_tok <= MAX_TOKENS and 1 <= max_tok <= MAX_TOKENS and 0 <= max_fee_nlai <= MAX_SUPPLY_NLAI)
        or privacy < PUBLIC
        or privacy > LOCAL
        or not (BALANCED <= prefer <= BEST and 0 <= nodes <= c.lists)
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
    r.from_tok, r.unpaid_tok, r.prefer, r.nodes = 0, prompt_tok, prefer, nodes
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
        _end_request(S, request, REJECTED, reason, NONE)
        return c.outs
    limit_ns = t + params(S).reservation_ns
    set_time(S, REQUEST_TIMERS, request, min(deadline_ns, limit_ns) if deadline_ns > 0 else limit_ns)
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
    t = begin(S, t_ns)
    if not _is_open(S, request, id) or request_at(S, request).state != HELD:
        return ignored(S)
    r = request_at(S, request)
    if not (1 <= prompt_tok <= MAX_TOKENS):
        reason = BAD_REQUEST
    elif r.group != NONE and prompt_tok + r.max_tok > group_at(S, r.group).context_tok:
        reason = CONTEXT_TOO_LONG
    else:
        r.prompt_tok, r.unpaid_tok = prompt_tok, prompt_tok
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
    t = begin(S, t_ns)
    leg = leg_row(S, leg_id)
    if leg == NONE or leg_at(S, leg).first_token_ns != 0:
        return ignored(S)
    le = leg_at(S, leg)
    r = request_at(S, le.request)
    le.first_token_ns = t
    if r.first_token_ns == 0:
        r.first_token_ns = t
    else:  # no status tells of it
        fold(S, t)
    observe_first_token(S, le.offer, float(t - le.sent_ns) / 1e9, r.prompt_tok + le.from_tok, t)
    return 0


@jit
def progress(S: Handle, leg_id: int, upto_tok: int, t_ns: int) -> int:
    """A cumulative receipt: the leg has delivered up to token `upto_tok` of the answer."""
    begin(S, t_ns)
    leg = leg_row(S, leg_id)
    if leg == NONE:
        return ignored(S)
    le = leg_at(S, leg)
    le.to_tok = max(le.to_tok, min(upto_tok, request_at(S, le.request).max_tok))
    return 0


@jit
def complete(S: Handle, leg_id: int, output_tok: int, t_ns: int) -> int:
    """The leg has delivered the end of the answer, which has `output_tok` tokens in all."""
    t = begin(S, t_ns)
    leg = leg_row(S, leg_id)
    if leg == NONE:
        return ignored(S)
    le = leg_at(S, leg)
    request, offer = le.request, le.offer
    r, o = request_at(S, request), offer_at(S, offer)
    prefetch_gross(S, gross_row(S, r.account, o.node))
    le.to_tok = max(le.to_tok, min(output_tok, r.max_tok))
    if le.first_token_ns != 0:
        observe_pace(S, offer, t - le.first_token_ns, le.to_tok - le.from_tok - 1, t)
    o.results += 1
    if o.results >= params(S).under_observed:
        no_longer_rare(S, offer)
    node_at(S, o.node).legs_done += 1
    observe(S, o.node, True, t)
    if uniform(params(S).seed, AUDITS, r.key, r.legs) < params(S).audit_rate:
        row = out(S, AUDIT)
        out_at(S, row).request, out_at(S, row).leg, out_at(S, row).offer, out_at(S, row).node = r.id, leg_id, offer, o.node
        out_at(S, row).output_tok = le.to_tok
    _cancel_children(S, request, t)
    _end_request(S, request, COMPLETED, 0, _close_leg(S, request))
    return clock(S).outs


@jit
def fail(S: Handle, leg_id: int, why: int, sent_tok: int, t_ns: int, score: int) -> int:
    """The leg's node is lost, refuses, or answers badly: another goes on behind what is receipted, or behind the answer's first
    `sent_tok` tokens if these have reached the user.
    """
    t = begin(S, t_ns)
    leg = leg_row(S, leg_id)
    if leg == NONE:
        return ignored(S)
    le = leg_at(S, leg)
    request, offer, began = le.request, le.offer, le.first_token_ns != 0
    r, node = request_at(S, request), offer_at(S, le.offer).node
    why = why if NODE_LOST <= why <= BAD_ANSWER else NODE_LOST
    node_at(S, node).legs_lost += 1
    observe(S, node, False, t)
    _close_leg(S, request)
    r.from_tok = max(r.from_tok, min(sent_tok, r.max_tok))
    fold(S, leg_id)
    fold(S, why)
    outcome = FAILED
    if params(S).resume or not (began or r.from_tok > 0):
        if r.from_tok == r.max_tok:
            outcome, why = COMPLETED, 0
        elif r.legs <= params(S).retries:
            r.avoid = offer
            if _dispatch(S, request, t, score) == 0:
                return clock(S).outs
    _cancel_children(S, request, t)
    _end_request(S, request, outcome, why, node)
    return clock(S).outs


@jit
def cancel(S: Handle, request: int, id: int, reason: int, t_ns: int) -> int:
    """The client has left, or the driver gives the request up."""
    t = begin(S, t_ns)
    if not _is_open(S, request, id):
        return ignored(S)
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
    node = NONE
    if r.leg != NONE:
        le = leg_at(S, r.leg)
        row = out(S, CANCEL)
        o = out_at(S, row)
        o.request, o.leg, o.offer, o.node = r.id, le.id, le.offer, offer_at(S, le.offer).node
        if le.first_token_ns == 0:  # a wait this long is the least that the first token would have taken
            observe_first_token(S, le.offer, float(t_ns - le.sent_ns) / 1e9, r.prompt_tok + le.from_tok, t_ns)
        node_at(S, o.node).legs_cancelled += 1
        node = _close_leg(S, request)
    _end_request(S, request, FAILED, reason, node)


# --- timers ------------------------------------------------------------------------------------------------------------------


@jit
def timer(S: Handle, t_ns: int) -> int:
    """Fire the one earliest timer that is due by `t_ns`; the caller repeats while one is."""
    t = begin(S, t_ns)
    if next_timer_ns(S) > t:
        return 0
    timers, at = next_timer(S)
    set_time(S, timers, at, NEVER_NS)
    if timers == REQUEST_TIMERS:
        r = request_at(S, at)
        in_time = 0 < r.deadline_ns <= r.arrival_ns + params(S).reservation_ns
        _abandon(S, at, DEADLINE if in_time else RESERVATION_EXPIRED, t)
    elif timers == BREAKER_TIMERS:
        n = node_at(S, at)
        n.breaker, n.failures, n.successes = HALF_OPEN, 0, 0
        if n.status == UP and not n.probe_open:
            send_probe(S, at, t)
    else:
        n = node_at(S, at)
        if n.probe_open:  # the last probe was never answered
            n.probe_open = 0
            n.probes += 1
            observe(S, at, False, t)
        send_probe(S, at, t)
    return clock(S).outs
