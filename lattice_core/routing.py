"""Filter → score → pick: which offer serves a request.

Offers stand in groups by (model, kind, cluster). A policy draws `candidates` distinct positions of the group's active offers
by jump hash, so that the cost does not depend on the number of nodes and one more node moves 1/n of the draws; the filters
drop those that may not serve; the policy's score orders the rest. With probability `explore` the last position is drawn among
under-observed offers. If no drawn candidate may serve, one full pass in index order decides; only an empty pass is a
rejection, with its reason.

    U = q² · s⁴ · g(T̂) · (p_ref/p) · h(bond)^¼        T̂ = (ttft + prompt·prefill_ref + expected·itl) · (in_flight + 1)/slots
    g(T) = (1 + e^(−T0/σ)) / (1 + e^((T − T0)/σ)), at least 1e-3, σ = T0/2;    h = 1 − e^(−bond/bond_ref)
"""

import importlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numba

from lattice_core.jit import call_score, callback, jit, rows
from lattice_core.ledger import available_nlai
from lattice_core.pricing import fee_nlai
from lattice_core.reputation import quality_draw, reliability
from lattice_core.state import (
    BAD_SCORE,
    BOND_TOO_LOW,
    BOUNDARY,
    BREAKER_OPEN,
    BUSY,
    CANDIDATES,
    CLOSED,
    GROUPS,
    HALF_OPEN,
    LOCAL,
    NEWCOMER_CAP,
    NO_FUNDS,
    NO_SUCH_OFFER,
    NODE_DOWN,
    NONE,
    OFFER_VIEW,
    PRICE_ABOVE_CAP,
    REQUEST_VIEW,
    TRIED_BEFORE,
    UP,
    WEIGHTS,
    Handle,
    ask_view,
    candidate_at,
    clock,
    group_at,
    member_at,
    node_at,
    offer_at,
    params,
    request_at,
    weights,
)
from lattice_core.streams import ROUTING, bits, jump_hash, uniform

SIGNAL_AGE_S = {
    "quality": 60.0,
    "reliability": 0.0,
    "latency": 0.0,
    "price": 0.0,
    "bond": 3600.0,
    "eta_s": 0.0,
    "ttft_s": 0.0,
    "itl_s": 0.0,
    "fee_nlai": 0.0,
    "load": 0.0,
    "in_flight": 0.0,
    "slots": 0.0,
    "results": 0.0,
    "noise": 0.0,
}
"""How far behind the kernel's newest observation a column of OFFER_VIEW may be, in seconds (INV-12).

Quality is drawn once a refresh tick; the bond is a fact of the chain and arrives with its epoch. At other ticks and epochs the
configured durations apply.
"""


@jit
def score_sampled(o: Any, r: Any, w: Any) -> float:
    """The product of audited factors, each to its weight."""
    return math.exp(
        w.quality * math.log(o.quality)
        + w.reliability * math.log(o.reliability)
        + w.latency * math.log(o.latency)
        + w.price * math.log(o.price)
        + w.bond * math.log(o.bond)
    )


@jit
def random(o: Any, r: Any, w: Any) -> float:
    """Any offer that may serve: the baseline."""
    return o.noise


@jit
def power_of_two(o: Any, r: Any, w: Any) -> float:
    """The less loaded of two (Mitzenmacher 2001)."""
    return -o.load


class Policy(NamedTuple):
    """A compiled score with its sampling defaults. Keep the object alive while its `address` is in use."""

    name: str
    candidates: int
    explores: bool
    compiled: Any

    @property
    def address(self) -> int:
        """Address of `float64 score(OFFER_VIEW *, REQUEST_VIEW *, WEIGHTS *)`."""
        return int(self.compiled.address)


_SIGNATURE = numba.float64(numba.from_dtype(OFFER_VIEW), numba.from_dtype(REQUEST_VIEW), numba.from_dtype(WEIGHTS))


def policy(candidates: int = 4, explores: bool = True) -> Callable[[Callable[[Any, Any, Any], float]], Policy]:
    """Make `score(offer, request, weights) -> float64`, higher is better, a routing policy.

    The columns are those of `state.OFFER_VIEW`, `REQUEST_VIEW` and `WEIGHTS`. `candidates` offers are drawn for each decision;
    a policy that `explores` draws one of them among the under-observed in the configured share of decisions. A score that is
    not finite drops the offer.
    """

    def compile_score(score: Callable[[Any, Any, Any], float]) -> Policy:
        source = getattr(score, "py_func", score)
        return Policy(source.__name__, candidates, explores, callback(_SIGNATURE, source))

    return compile_score


BUILTIN: dict[str, tuple[Callable[[Any, Any, Any], float], int, bool]] = {
    "random": (random, 1, False),
    "power_of_two": (power_of_two, 2, False),
    "score_sampled": (score_sampled, 4, True),
}


def load_policy(spec: str) -> Policy:
    """A built-in policy by name, or a user's as `module:Name`. ValueError says what is allowed."""
    if spec in BUILTIN:
        score, candidates, explores = BUILTIN[spec]
        return policy(candidates, explores)(score)
    allowed = f"allowed: {', '.join(sorted(BUILTIN))} or module:Name of a function decorated with @policy()"
    module, colon, name = spec.partition(":")
    if not colon:
        raise ValueError(f"{spec!r} is not a routing policy; {allowed}")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"routing policy {spec!r} cannot be loaded ({error}); {allowed}") from error
    if not isinstance(found, Policy):
        raise ValueError(f"{spec!r} is a {type(found).__name__}, not a policy; {allowed}")
    return found


@jit
def find_group(S: Handle, model: int, kind: int, cluster: int) -> int:
    """The group of (model, kind, cluster), or NONE."""
    for g in range(rows(S, GROUPS)):
        if group_at(S, g).model == model and group_at(S, g).kind == kind and group_at(S, g).cluster == cluster:
            return g
    return NONE


@jit
def quote_nlai(S: Handle, offer: int, request: int) -> int:
    """The most that `request` can cost at `offer`: its whole prompt and max_tok output tokens."""
    o, r = offer_at(S, offer), request_at(S, request)
    return fee_nlai(o.price_in, o.price_out, r.prompt_tok, r.max_tok)


@jit
def refusal(S: Handle, offer: int, request: int, available: int) -> int:
    """Why `offer` may not serve `request`, as a code of `state.REASONS`; 0 if it may. `available`: what a leg may cost."""
    p, o, r = params(S), offer_at(S, offer), request_at(S, request)
    n = node_at(S, o.node)
    if n.status != UP:
        return NODE_DOWN
    if n.bond_nlai < p.bond_minimum_nlai:
        return BOND_TOO_LOW
    if n.cluster != r.cluster or (r.privacy == LOCAL and n.owner != r.account):
        return BOUNDARY
    if offer == r.avoid:
        return TRIED_BEFORE
    if n.breaker != CLOSED and not (n.breaker == HALF_OPEN and n.in_flight == 0):
        return BREAKER_OPEN
    if p.newcomer_cap > 0.0 and float(n.in_flight) >= p.newcomer_cap * (1.0 + float(n.audits_passed) / p.newcomer_verified):
        return NEWCOMER_CAP
    if n.in_flight >= n.slots + n.queue_room:
        return BUSY
    quote = quote_nlai(S, offer, request)
    if r.max_fee_nlai > 0 and quote > r.max_fee_nlai - r.charged_nlai - r.committed_nlai:  # sub-requests count towards the cap
        return PRICE_ABOVE_CAP
    if quote > available:
        return NO_FUNDS
    return 0


@jit
def latency_factor(eta_s: float, knee_s: float) -> float:
    """A soft step: about 1 well before the knee T0, ½ at it, 1e-3 far behind it (σ = T0/2)."""
    sigma_s = 0.5 * knee_s
    return max(1e-3, (1.0 + math.exp(-2.0)) / (1.0 + math.exp(min(700.0, (eta_s - knee_s) / sigma_s))))


@jit
def observe_candidate(S: Handle, offer: int, request: int, view: Any, t_ns: int) -> None:
    """Fill `view` with what a policy may know of `offer` now."""
    p, o, r = params(S), offer_at(S, offer), request_at(S, request)
    n, g = node_at(S, o.node), group_at(S, o.group)
    quote = quote_nlai(S, offer, request)
    load = float(n.in_flight + 1) / float(max(1, n.slots))
    answer_s = float(r.prompt_tok) * g.prefill_s + ask_view(S).expected_tok * o.itl_s
    view.quality = quality_draw(S, offer, t_ns)
    view.reliability = max(1e-9, reliability(S, o.node, t_ns))  # factors have logarithms
    view.eta_s = (o.ttft_s + answer_s) * load
    view.latency = latency_factor(view.eta_s, g.knee_s)
    view.price = float(1 + fee_nlai(g.price_in, g.price_out, r.prompt_tok, r.max_tok)) / float(1 + quote)
    view.bond = max(1e-9, 1.0 - math.exp(-float(n.bond_nlai) / float(p.bond_reference_nlai)))
    view.ttft_s = o.ttft_s
    view.itl_s = o.itl_s
    view.fee_nlai = float(quote)
    view.load = load
    view.in_flight = float(n.in_flight)
    view.slots = float(n.slots)
    view.results = float(o.results)
    view.noise = uniform(p.seed, ROUTING, r.key, (r.legs << 32) + (1 << 31) + o.node)


@jit
def _consider(S: Handle, offer: int, request: int, available: int, t_ns: int, score: int) -> int:
    """Filter and score one candidate into the next row of `candidates`; returns that row."""
    row = clock(S).decisions % rows(S, CANDIDATES)
    clock(S).decisions += 1
    c, r = candidate_at(S, row), request_at(S, request)
    c.request, c.leg, c.offer, c.chosen, c.score = r.id, r.legs, offer, 0, 0.0
    c.reason = refusal(S, offer, request, available)
    if c.reason == 0:
        observe_candidate(S, offer, request, c.seen, t_ns)
        c.score = call_score(score, c.seen, ask_view(S), weights(S))
        if not math.isfinite(c.score):
            c.reason = BAD_SCORE
    return row


@jit
def route(S: Handle, request: int, t_ns: int, score: int) -> int:
    """The offer that serves `request`, or −reason. `score` is a policy's address."""
    p, r = params(S), request_at(S, request)
    if r.group == NONE:
        return -NO_SUCH_OFFER
    g = group_at(S, r.group)
    ask = ask_view(S)
    ask.prompt_tok, ask.max_tok = float(r.prompt_tok), float(r.max_tok)
    ask.expected_tok = float(min(r.max_tok, g.output_tok))
    ask.max_fee_nlai, ask.kind, ask.privacy, ask.session = (
        float(r.max_fee_nlai),
        float(r.kind),
        float(r.privacy),
        float(r.session),
    )
    available = available_nlai(S, request)
    best, reason = NONE, NODE_DOWN if g.size > 0 else NO_SUCH_OFFER
    wanted = min(p.candidates, g.active)
    first = clock(S).decisions
    explore = g.rare > 0 and uniform(p.seed, ROUTING, r.key, r.legs << 32) < p.explore
    drawn, attempt = 0, 0
    while drawn < wanted and attempt < 4 * p.candidates:
        attempt += 1
        word = bits(p.seed, ROUTING, r.key, (r.legs << 32) + attempt)
        if explore and drawn == wanted - 1:
            offer = member_at(S, g.start + jump_hash(word, g.rare)).rare
        else:
            offer = member_at(S, g.start + jump_hash(word, g.active)).active
        seen = False
        for k in range(first, clock(S).decisions):
            seen = seen or candidate_at(S, k % rows(S, CANDIDATES)).offer == offer
        if seen:
            continue
        drawn += 1
        row = _consider(S, offer, request, available, t_ns, score)
        reason = max(reason, candidate_at(S, row).reason)
        if candidate_at(S, row).reason == 0 and (best == NONE or candidate_at(S, row).score > candidate_at(S, best).score):
            best = row
    if best == NONE:
        for k in range(g.active):
            row = _consider(S, member_at(S, g.start + k).active, request, available, t_ns, score)
            reason = max(reason, candidate_at(S, row).reason)
            if candidate_at(S, row).reason == 0 and (best == NONE or candidate_at(S, row).score > candidate_at(S, best).score):
                best = row
    if best == NONE:
        return -reason
    candidate_at(S, best).chosen = 1
    return candidate_at(S, best).offer


@jit
def activate(S: Handle, offer: int) -> None:
    """Give `offer` a place among its group's active ones (and the under-observed, while it is)."""
    o = offer_at(S, offer)
    g = group_at(S, o.group)
    if o.position == NONE:
        o.position = g.active
        member_at(S, g.start + g.active).active = offer
        g.active += 1
    if o.rare_position == NONE and o.results < params(S).under_observed:
        o.rare_position = g.rare
        member_at(S, g.start + g.rare).rare = offer
        g.rare += 1


@jit
def deactivate(S: Handle, offer: int) -> None:
    """Take `offer` out of its group's active ones; the last takes its place."""
    o = offer_at(S, offer)
    g = group_at(S, o.group)
    if o.position != NONE:
        g.active -= 1
        last = member_at(S, g.start + g.active).active
        member_at(S, g.start + o.position).active = last
        offer_at(S, last).position = o.position
        o.position = NONE
    no_longer_rare(S, offer)


@jit
def no_longer_rare(S: Handle, offer: int) -> None:
    """Take `offer` out of its group's under-observed ones."""
    o = offer_at(S, offer)
    g = group_at(S, o.group)
    if o.rare_position != NONE:
        g.rare -= 1
        last = member_at(S, g.start + g.rare).rare
        member_at(S, g.start + o.rare_position).rare = last
        offer_at(S, last).rare_position = o.rare_position
        o.rare_position = NONE
