"""Filter → score → pick: which offer serves a request.

Offers stand in groups by (model, kind, cluster). A policy says which active offers of the group it is asked about, its
sampling; the filters drop those that may not serve; the policy's score orders the rest.

* `drawn`: `candidates` distinct places by jump hash, so that the cost does not depend on the number of nodes and one more node
  moves 1/n of the draws. With probability `explore` the last is drawn among under-observed offers.
* `sticky`: likewise, but drawn for the prompt's prefix or else the account's session, so that equal ones meet equal offers.
* `turn`: the first offer that may serve, from the place after the group's last choice on.
* `all`: every offer.

If no drawn candidate may serve, a pass over the group from a random place on decides. It ends with `candidates` offers that
may, so that its cost does not depend on the number of nodes either; only a whole pass without any rejects, with the reason.

    U = q² · s⁴ · g(T̂) · (p_ref/p) · h(bond)^¼ · w    T̂ = (ttft + prompt·prefill_ref + expected·itl) · (in_flight + 1)/slots
    g(T) = (1 + e^(−T0/σ)) / (1 + e^((T − T0)/σ)), at least 1e-3, σ = T0/2;    h = 1 − e^(−bond/bond_ref)
    w = 1, and of a user who would rather have it cheap (p_ref/p)², fast g², or the best q⁴

A leg that goes on behind tokens of the answer counts as a longer prompt and a shorter answer.
"""

import importlib
import inspect
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np

from lattice_core.directory import Handle
from lattice_core.jit import call_score, callback, inlined, jit, load, rows
from lattice_core.ledger import available_nlai
from lattice_core.pricing import fee_nlai
from lattice_core.reputation import Decay, decay_at, quality_draw, reliability_of
from lattice_core.state import (
    ALL,
    BAD_SCORE,
    BEST,
    BOND_TOO_LOW,
    BOUNDARY,
    BREAKER_OPEN,
    BUSY,
    CHEAP,
    CLOSED,
    DECISIONS,
    DRAWN,
    FAST,
    GROUPS,
    HALF_OPEN,
    LISTED,
    LOCAL,
    NEWCOMER_CAP,
    NO_FUNDS,
    NO_SUCH_OFFER,
    NODE_DOWN,
    NONE,
    NOT_LISTED,
    OFFER_VIEW,
    PRICE_ABOVE_CAP,
    REQUEST_VIEW,
    SAMPLINGS,
    STICKY,
    TRIED_BEFORE,
    TURN,
    UP,
    WEIGHTS,
    account_at,
    ask_view,
    candidate_at,
    clock,
    group_at,
    list_at,
    member_at,
    memory,
    node_at,
    offer_at,
    params,
    prefetch_candidate,
    prefetch_offer,
    request_at,
    weights,
)
from lattice_core.streams import ROUTING, bits, jump_hash, mix, unit

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
    "place": 0.0,
}
"""How far behind the kernel's newest observation a column of OFFER_VIEW may be, in seconds (INV-12).

Quality is drawn once a refresh tick; the bond is a fact of the chain and arrives with its epoch. At other ticks and epochs the
configured durations apply.
"""

MAX_MEMORY = 1_000_000
"""Numbers that a policy may remember."""

# --- the built-in policies ---------------------------------------------------------------------------------------------------


@inlined
def power(x: float, weight: float) -> float:
    """x^weight for x > 0 and weight ≥ 0; of a multiple of ¼ by products and square roots, which cost less than exp and log."""
    if weight == 1.0:
        return x
    quarters = int(4.0 * weight)
    if float(quarters) != 4.0 * weight:
        return math.exp(weight * math.log(x))
    result = 1.0
    if quarters & 3:
        root = math.sqrt(x)
        if quarters & 2:
            result = root
        if quarters & 1:
            result *= math.sqrt(root)
    whole = quarters >> 2
    while whole > 0:
        if whole & 1:
            result *= x
        x *= x
        whole >>= 1
    return result


@inlined
def preferred(o: Any, r: Any) -> float:
    """w: what the user would rather have weighs more."""
    if r.prefer == float(CHEAP):
        return o.price * o.price
    if r.prefer == float(FAST):
        return o.latency * o.latency
    if r.prefer == float(BEST):
        return o.quality * o.quality * o.quality * o.quality
    return 1.0


@inlined
def utility(o: Any, r: Any, w: Any) -> float:
    """U: the product of audited factors, each to its weight, and of what the user prefers."""
    return (
        power(o.quality, w.quality)
        * power(o.reliability, w.reliability)
        * power(o.latency, w.latency)
        * power(o.price, w.price)
        * power(o.bond, w.bond)
        * preferred(o, r)
    )


def score_sampled(o: Any, r: Any, w: Any) -> float:
    """The best of four by U."""
    return utility(o, r, w)


def score_all(o: Any, r: Any, w: Any) -> float:
    """Any with probability in proportion to U: the largest of u^(1/U) (A-Res, Efraimidis & Spirakis 2006)."""
    return math.log(o.noise) / max(1e-300, utility(o, r, w))


def price_weighted(o: Any, r: Any, w: Any) -> float:
    """Any with probability in proportion to 1/fee² (OpenRouter's old rule), by A-Res."""
    return math.log(o.noise) * (1.0 + o.fee_nlai) * (1.0 + o.fee_nlai)


def random(o: Any, r: Any, w: Any) -> float:
    """Any offer that may serve: the baseline."""
    return o.noise


def round_robin(o: Any, r: Any, w: Any) -> float:
    """Each in turn, whatever is known of it."""
    return 0.0


def power_of_two(o: Any, r: Any, w: Any) -> float:
    """The less loaded of two (Mitzenmacher 2001)."""
    return -o.load


def least_in_flight(o: Any, r: Any, w: Any) -> float:
    """The fewest requests in flight; among equals, any."""
    return o.noise - o.in_flight


def peak_ewma(o: Any, r: Any, w: Any) -> float:
    """Of two, the less latency times requests in flight with this one (Finagle's Peak EWMA)."""
    return -(o.ttft_s + r.expected_tok * o.itl_s) * (o.in_flight + 1.0)


def cheapest(o: Any, r: Any, w: Any) -> float:
    """The lowest fee; among equals, any."""
    return o.noise - o.fee_nlai


def sticky(o: Any, r: Any, w: Any) -> float:
    """The first of the prefix's own four that answers within the knee; if none does, the soonest (llm-d's latency gate)."""
    return 1.0 / (1.0 + o.place) if o.eta_s <= r.knee_s else -o.eta_s


BUILTIN: dict[str, tuple[Callable[[Any, Any, Any], float], dict[str, Any]]] = {
    "argmax": (score_sampled, {"sampling": "all"}),
    "cheapest": (cheapest, {"sampling": "all"}),
    "least_in_flight": (least_in_flight, {"sampling": "all"}),
    "peak_ewma": (peak_ewma, {"candidates": 2, "explores": False}),
    "power_of_two": (power_of_two, {"candidates": 2, "explores": False}),
    "price_weighted": (price_weighted, {"sampling": "all"}),
    "random": (random, {"candidates": 1, "explores": False}),
    "round_robin": (round_robin, {"sampling": "turn"}),
    "score_all": (score_all, {"sampling": "all"}),
    "score_sampled": (score_sampled, {"candidates": 4}),
    "sticky": (sticky, {"candidates": 4, "sampling": "sticky"}),
}

# --- policies as objects -----------------------------------------------------------------------------------------------------


class PolicyError(ValueError):
    """A function that is no policy: one line that says what is wrong and what is allowed."""


class Policy(NamedTuple):
    """A compiled score with what it asks of the kernel. Keep the object alive while its `address` is in use."""

    name: str
    candidates: int
    explores: bool
    sampling: int
    memory: int
    compiled: Any

    @property
    def address(self) -> int:
        """Address of `float64 score(OFFER_VIEW *, REQUEST_VIEW *, WEIGHTS *, float64 *)`."""
        return int(self.compiled.address)


VIEWS = tuple(numba.from_dtype(view) for view in (OFFER_VIEW, REQUEST_VIEW, WEIGHTS))
"""What a score is given, before its own memory (INV-4)."""

_MEMORY = numba.types.CPointer(numba.float64)  # type: ignore[no-untyped-call]


def policy(
    candidates: int = 4, explores: bool = True, sampling: str = "drawn", memory: int = 0
) -> Callable[[Callable[..., float]], Policy]:
    """Make `score(offer, request, weights) -> float64`, higher is better, a routing policy.

    The columns are those of `state.OFFER_VIEW`, `REQUEST_VIEW` and `WEIGHTS`. `sampling` says which offers the score is asked
    of: `drawn`, `sticky`, `turn` or `all`; the first two draw `candidates`, and `drawn` draws one of them among the
    under-observed in the configured share of decisions if the policy `explores`. A score that is not finite drops the offer.
    With a fourth parameter the function gets its `memory`: that many float64, zero at first, `memory[0]` and so on, whose
    bounds nobody checks. PolicyError for a function that cannot be one.
    """

    def compile_score(score: Callable[..., float]) -> Policy:
        source = getattr(score, "py_func", score)
        if sampling not in SAMPLINGS:
            raise PolicyError(f"sampling is {sampling!r}; allowed: {', '.join(SAMPLINGS)}")
        for name, value, least, most in (("candidates", candidates, 1, 64), ("memory", memory, 0, MAX_MEMORY)):
            if type(value) is not int or not least <= value <= most:
                raise PolicyError(f"{name} is {value!r}; allowed: {least} to {most}")
        if not inspect.isfunction(source):
            raise PolicyError(f"is a {type(score).__name__}, not a function")
        wanted = 4 if memory else 3
        taken = len(inspect.signature(source).parameters)
        if taken != wanted:
            raise PolicyError(
                f"takes {taken} parameter{'' if taken == 1 else 's'}; allowed: 3 (offer, request, weights), "
                "or with memory=N declared 4 (offer, request, weights, memory)"
            )
        # The kernel passes all four pointers; a C function of three leaves the last one unread.
        signature = numba.float64(*VIEWS, *([_MEMORY] if memory else []))
        try:
            compiled = callback(signature, source)
        except Exception as error:
            raise PolicyError(f"does not compile: {_gist(error)}") from error
        return Policy(
            source.__name__, candidates, explores and sampling == "drawn", SAMPLINGS.index(sampling), memory, compiled
        )

    return compile_score


def _gist(error: Exception) -> str:
    """What numba says of a function, without its pipeline's steps, its source lines and its types in full."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [line.strip() for line in text.splitlines()]
    said = [line for line in lines if line and not re.match(r"Failed in|During: |File |<source|def |return |\^|-+$", line)]
    return re.sub(r"Record\(.*?;(True|False)\)", "a view", said[0] if said else type(error).__name__)[:200]


def load_policy(spec: str) -> Policy:
    """A built-in policy by name, or a user's as `module:Name`. ValueError says what is allowed."""
    if spec in BUILTIN:
        score, options = BUILTIN[spec]
        return policy(**options)(score)
    allowed = f"allowed: {', '.join(sorted(BUILTIN))} or module:Name of a function decorated with @policy()"
    module, colon, name = spec.partition(":")
    if not colon:
        raise ValueError(f"{spec!r} is not a routing policy; {allowed}")
    try:
        found = getattr(importlib.import_module(module), name)
    except PolicyError as error:
        raise ValueError(f"routing policy {spec!r}: {error}") from error
    except Exception as error:
        raise ValueError(f"routing policy {spec!r} cannot be loaded ({type(error).__name__}: {error}); {allowed}") from error
    if not isinstance(found, Policy):
        raise ValueError(f"{spec!r} is a {type(found).__name__}, not a policy; {allowed}")
    return found


# --- a decision --------------------------------------------------------------------------------------------------------------

_AT_ONCE = 1.0 + math.exp(-2.0)
"""What makes the latency factor of an answer at once 1."""

_EXPLORE = 0
"""Index of the word that says whether a decision explores. Those of its draws follow."""

_START = 1 << 30
"""Index of the word that says where a pass begins."""

_NOISE = 1 << 31
"""Index of the word from which a decision's noise is mixed, by node."""


class Decision(NamedTuple):
    """What is the same for every candidate of a decision: what a leg may cost, the group's reference fee, and chance."""

    available_nlai: int
    fair: float
    noise: np.uint64
    tick: int
    decay: Decay


@jit
def find_group(S: Handle, model: int, kind: int, cluster: int) -> int:
    """The group of (model, kind, cluster), or NONE. Groups stand by cluster and then by model."""
    models = params(S).models
    g = cluster * models + model
    if model < 0 or model >= models or cluster < 0 or g >= rows(S, GROUPS) or group_at(S, g).kind != kind:
        return NONE
    return g


@inlined
def quote_nlai(S: Handle, offer: int, request: int) -> int:
    """The most that `request` can still cost at `offer`: its prompt, unless that is paid, and the rest of max_tok output
    tokens.
    """
    o, r = offer_at(S, offer), request_at(S, request)
    return fee_nlai(o.price_in, o.price_out, r.unpaid_tok, r.max_tok - r.from_tok)


@jit
def _is_listed(S: Handle, nodes: int, node: int) -> bool:
    """Whether `node` is on the list `nodes`."""
    li = list_at(S, nodes - 1)
    low, high = li.start, li.start + li.count
    while low < high:
        middle = (low + high) >> 1
        if load(S, LISTED, middle) < node:
            low = middle + 1
        else:
            high = middle
    return low < li.start + li.count and load(S, LISTED, low) == node


@inlined
def refusal(S: Handle, offer: int, request: int, quote: int, available: int) -> int:
    """Why `offer` may not serve `request` at this quote, as a code of `state.REASONS`; 0 if it may.

    `available` is what a leg may cost.
    """
    p, o, r = params(S), offer_at(S, offer), request_at(S, request)
    n = node_at(S, o.node)
    if n.status != UP:
        return NODE_DOWN
    if n.bond_nlai < p.bond_minimum_nlai:
        return BOND_TOO_LOW
    if n.cluster != r.cluster or (r.privacy == LOCAL and n.owner != r.account):
        return BOUNDARY
    if r.nodes != 0 and _is_listed(S, r.nodes, o.node) != (list_at(S, r.nodes - 1).allow != 0):
        return NOT_LISTED
    if offer == r.avoid:
        return TRIED_BEFORE
    if n.breaker != CLOSED and not (n.breaker == HALF_OPEN and n.in_flight == 0):
        return BREAKER_OPEN
    above = float(n.in_flight) - p.newcomer_cap
    if above >= 0.0 and p.newcomer_cap > 0.0 and above * p.newcomer_verified >= p.newcomer_cap * float(n.audits_passed):
        return NEWCOMER_CAP
    if n.in_flight >= n.slots + n.queue_room:
        return BUSY
    if r.max_fee_nlai > 0 and quote > r.max_fee_nlai - r.charged_nlai - r.committed_nlai:  # sub-requests count towards the cap
        return PRICE_ABOVE_CAP
    if quote > available:
        return NO_FUNDS
    return 0


@inlined
def latency_factor(eta_s: float, knee_s: float) -> float:
    """A soft step: about 1 well before the knee T0, ½ at it, 1e-3 far behind it (σ = T0/2)."""
    sigmas = 2.0 * eta_s / knee_s - 2.0
    if sigmas > 8.0:
        return 1e-3
    return max(1e-3, _AT_ONCE / (1.0 + math.exp(sigmas)))


@jit
def observe_request(S: Handle, request: int) -> None:
    """Fill `ask` with what a policy may know of `request`: what is answered is to be read, and only the rest is left."""
    r, ask = request_at(S, request), ask_view(S)
    g = group_at(S, r.group)
    ask.prompt_tok, ask.max_tok = float(r.prompt_tok + r.from_tok), float(r.max_tok - r.from_tok)
    ask.expected_tok, ask.knee_s = float(min(r.max_tok - r.from_tok, g.output_tok)), g.knee_s
    ask.max_fee_nlai, ask.kind = float(r.max_fee_nlai), float(r.kind)
    ask.privacy, ask.session, ask.prefer = float(r.privacy), float(r.session), float(r.prefer)


@inlined
def observe_candidate(S: Handle, offer: int, quote: int, d: Decision, view: Any, t_ns: int) -> None:
    """Fill `view` with what a policy may know of `offer` now."""
    o, ask = offer_at(S, offer), ask_view(S)
    n, g = node_at(S, o.node), group_at(S, o.group)
    quality, in_flight, slots = quality_draw(S, offer, d.tick, t_ns), float(n.in_flight), float(max(1, n.slots))
    load = (in_flight + 1.0) / slots
    eta_s = (o.ttft_s + (ask.prompt_tok * g.prefill_s + ask.expected_tok * o.itl_s)) * load
    reliability = reliability_of(S, o.node, d.decay, t_ns)
    price = d.fair / float(1 + quote)
    view.fee_nlai, view.load, view.in_flight, view.slots, view.results = float(quote), load, in_flight, slots, float(o.results)
    view.eta_s, view.ttft_s, view.itl_s, view.noise = eta_s, o.ttft_s, o.itl_s, unit(mix(d.noise, o.node))
    # what has a power is more than 0
    view.quality, view.reliability, view.bond = max(1e-9, quality), max(1e-9, reliability), max(1e-9, n.bond_factor)
    view.price, view.latency = price, latency_factor(eta_s, g.knee_s)


@inlined
def _consider(S: Handle, offer: int, request: int, place: int, d: Decision, t_ns: int) -> int:
    """Filter and observe one candidate, the decision's `place`-th, in the next row of `candidates`; returns that row."""
    row = clock(S).decisions & (DECISIONS - 1)
    clock(S).decisions += 1
    c, r = candidate_at(S, row), request_at(S, request)
    quote = quote_nlai(S, offer, request)
    c.request, c.leg, c.offer, c.chosen, c.score = r.id, r.legs, offer, 0, 0.0
    c.reason = refusal(S, offer, request, quote, d.available_nlai)
    if c.reason == 0:
        observe_candidate(S, offer, quote, d, c.seen, t_ns)
        c.seen.place = float(place)
    return row


@jit
def _affinity(S: Handle, request: int) -> np.uint64:
    """Key of what keeps a request at its nodes: the prompt's prefix, or the account's session, or else only itself."""
    r = request_at(S, request)
    if r.prefix != np.uint64(0):
        return np.uint64(r.prefix)
    if r.session != 0:
        return mix(account_at(S, r.account).key, r.session)
    return np.uint64(r.key)


@inlined
def _draw(S: Handle, group: int, words: np.uint64, explore: bool) -> int:
    """Put distinct offers of a group into the next rows of `candidates`; how many. Whoever explores gets a rare one last.

    All are fetched from memory at once, before the first is looked at.
    """
    g, first = group_at(S, group), clock(S).decisions
    wanted, drawn, attempts = min(params(S).candidates, g.active), 0, 0
    while drawn < wanted and attempts < 4 * wanted:
        attempts += 1
        word = mix(words, attempts)
        if explore and drawn + 1 == wanted:
            m = member_at(S, g.start + jump_hash(word, g.rare))
            offer, node = m.rare, m.rare_node
        else:
            m = member_at(S, g.start + jump_hash(word, g.active))
            offer, node = m.active, m.active_node
        seen = False
        for k in range(first, first + drawn):
            seen = seen or candidate_at(S, k & (DECISIONS - 1)).offer == offer
        if not seen:
            candidate_at(S, (first + drawn) & (DECISIONS - 1)).offer = offer
            prefetch_offer(S, offer)
            prefetch_candidate(S, node)
            drawn += 1
    return drawn


@jit
def route(S: Handle, request: int, t_ns: int, score: int) -> int:
    """The offer that serves `request`, or −reason. `score` is a policy's address."""
    p, r, k = params(S), request_at(S, request), clock(S)
    if r.group == NONE:
        return -NO_SUCH_OFFER
    g = group_at(S, r.group)
    observe_request(S, request)
    base = bits(p.seed, ROUTING, r.key, r.legs)
    fair = float(1 + fee_nlai(g.price_in, g.price_out, r.unpaid_tok, r.max_tok - r.from_tok))
    d = Decision(available_nlai(S, request), fair, mix(base, _NOISE), t_ns // p.refresh_ns + 1, decay_at(S, t_ns))
    first, drawn, passed = k.decisions, 0, 0
    if p.sampling == DRAWN or p.sampling == STICKY:
        words = bits(p.seed, ROUTING, _affinity(S, request), _NOISE) if p.sampling == STICKY else base
        drawn = _draw(S, r.group, words, g.rare > 0 and p.explore > 0.0 and unit(mix(base, _EXPLORE)) < p.explore)
    # so many offers that may serve end a pass
    enough = 1 if p.sampling == TURN else g.active if p.sampling == ALL else p.candidates
    start, found = g.turn if p.sampling == TURN and g.turn < g.active else 0, 0
    best, best_score, best_at, reason = NONE, -math.inf, 0, NODE_DOWN if g.size > 0 else NO_SUCH_OFFER
    while True:
        place = k.decisions - first
        if place < drawn:
            offer = int(candidate_at(S, k.decisions & (DECISIONS - 1)).offer)
        elif passed < g.active and (best == NONE or (passed > 0 and found < enough)):
            if passed == 0 and drawn > 0:
                start = jump_hash(mix(base, _START), g.active)
            at = start + passed
            offer = int(member_at(S, g.start + (at if at < g.active else at - g.active)).active)
            passed += 1
        else:
            break
        c = candidate_at(S, _consider(S, offer, request, place, d, t_ns))
        if c.reason == 0:
            c.score = call_score(score, c.seen, ask_view(S), weights(S), memory(S))
            if not math.isfinite(c.score):
                c.reason = BAD_SCORE
            else:
                found += 1
                if c.score > best_score:
                    best, best_score, best_at = offer, c.score, k.decisions
        reason = max(reason, c.reason)
    if best == NONE:
        return -reason
    if p.sampling == TURN:
        g.turn = offer_at(S, best).position + 1
    row = (best_at - 1) & (DECISIONS - 1)
    if k.decisions - best_at >= DECISIONS:  # a longer pass has written over it
        row = _consider(S, best, request, best_at - 1 - first, d, t_ns)
        candidate_at(S, row).score = best_score
    candidate_at(S, row).chosen = 1
    return best


@jit
def activate(S: Handle, offer: int) -> None:
    """Give `offer` a place among its group's active ones (and the under-observed, while it is)."""
    o = offer_at(S, offer)
    g = group_at(S, o.group)
    if o.position == NONE:
        o.position = g.active
        member_at(S, g.start + g.active).active = offer
        member_at(S, g.start + g.active).active_node = o.node
        g.active += 1
    if o.rare_position == NONE and o.results < params(S).under_observed:
        o.rare_position = g.rare
        member_at(S, g.start + g.rare).rare = offer
        member_at(S, g.start + g.rare).rare_node = o.node
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
        member_at(S, g.start + o.position).active_node = offer_at(S, last).node
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
        member_at(S, g.start + o.rare_position).rare_node = offer_at(S, last).node
        offer_at(S, last).rare_position = o.rare_position
        o.rare_position = NONE
