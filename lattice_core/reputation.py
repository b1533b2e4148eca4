"""What the Nexus has seen of a node, never what a node says of itself.

Latency is a Peak-EWMA (Finagle), reliability a pair of discounted success counts (after The Graph's indexer selection),
quality a discounted Beta posterior over audits with a low prior: newcomers pay dues (Jøsang & Ismail; Friedman & Resnick).

The success counts decay forward (Cormode et al. 2009): they are kept relative to the last landmark before the node's last
observation, a landmark each `BLOCK` half-lives, so that what is left of a count since then is one factor for all nodes. From
one landmark to the next a count shrinks by an exact power of two.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from lattice_core.directory import Handle
from lattice_core.jit import inlined, jit, rows
from lattice_core.state import (
    CLOSED,
    HALF_OPEN,
    NODES,
    NONE,
    OPEN,
    clock,
    group_at,
    member_at,
    node_at,
    offer_at,
    params,
)
from lattice_core.streams import QUALITY, beta
from lattice_core.units import NANO

LN2 = 0.6931471805599453

BLOCK = 16
"""Half-lives from one landmark to the next; as many of the longest duration fit int64."""

BLOCK_DECAY = 1.0 / 65536.0
"""½ to the power BLOCK."""


@jit
def decay(elapsed_ns: int, half_life_ns: int) -> float:
    """The weight left after `elapsed_ns`: ½ after each half-life."""
    return math.exp(-LN2 * float(elapsed_ns) / float(half_life_ns))


@jit
def peak_ewma(estimate: float, observed: float, elapsed_ns: int, tau_ns: int) -> float:
    """Jumps up to a worse observation at once, forgets it with time constant τ."""
    if observed > estimate:
        return observed
    weight = math.exp(-float(elapsed_ns) / float(tau_ns))
    return estimate * weight + observed * (1.0 - weight)


@jit
def shrunk(from_ns: int, to_ns: int, half_life_ns: int) -> float:
    """What one count, relative to the last landmark before `from_ns`, is relative to the one before `to_ns` ≥ `from_ns`."""
    block_ns = BLOCK * half_life_ns
    factor = 1.0
    for _ in range(min(to_ns // block_ns - from_ns // block_ns, 68)):  # then nothing is left of any float64
        factor *= BLOCK_DECAY
    return factor


class Decay(NamedTuple):
    """What is left at one time of a success count, by half-life, of one since the last landmark, and when that was."""

    fast: float
    slow: float
    fast_landmark_ns: int
    slow_landmark_ns: int


@jit
def decay_at(S: Handle, t_ns: int) -> Decay:
    """The decay that all nodes share at `t_ns`."""
    p = params(S)
    fast_ns, slow_ns = t_ns % (BLOCK * p.fast_half_life_ns), t_ns % (BLOCK * p.slow_half_life_ns)
    return Decay(decay(fast_ns, p.fast_half_life_ns), decay(slow_ns, p.slow_half_life_ns), t_ns - fast_ns, t_ns - slow_ns)


@inlined
def reliability_of(S: Handle, node: int, d: Decay, t_ns: int) -> float:
    """Share of answers that succeed: two half-lives mixed, each drawn to the prior where little is known."""
    p, n = params(S), node_at(S, node)
    fast, slow = d.fast, d.slow
    if n.observed_ns < d.fast_landmark_ns:
        fast *= shrunk(n.observed_ns, t_ns, p.fast_half_life_ns)
    if n.observed_ns < d.slow_landmark_ns:
        slow *= shrunk(n.observed_ns, t_ns, p.slow_half_life_ns)
    prior = p.prior_reliability * p.prior_count
    s_fast = (n.fast_ok * fast + prior) / (n.fast_n * fast + p.prior_count)
    s_slow = (n.slow_ok * slow + prior) / (n.slow_n * slow + p.prior_count)
    return p.fast_weight * s_fast + (1.0 - p.fast_weight) * s_slow


@jit
def bond_factor(S: Handle, nlai: int) -> float:
    """h = 1 − e^(−bond/reference) of a bond of `nlai`."""
    return 1.0 - math.exp(-float(nlai) / float(params(S).bond_reference_nlai))


@jit
def quality_posterior(S: Handle, offer: int, t_ns: int) -> tuple[float, float]:
    """(α, β) of an offer's quality at t: evidence fades to the prior."""
    p, o = params(S), offer_at(S, offer)
    weight = decay(t_ns - o.audited_ns, p.quality_half_life_ns)
    return p.quality_alpha + (o.alpha - p.quality_alpha) * weight, p.quality_beta + (o.beta - p.quality_beta) * weight


@jit
def reliabilities(S: Handle, t_ns: int) -> Any:
    """`reliability_of` every row of the nodes' table, float64."""
    found = np.empty(rows(S, NODES), np.float64)
    d = decay_at(S, t_ns)
    for node in range(len(found)):
        found[node] = reliability_of(S, node, d, t_ns)
    return found


@jit
def quality_posteriors(S: Handle, t_ns: int) -> Any:
    """`quality_posterior` of every offer, float64 (offers, 2)."""
    found = np.empty((clock(S).offers, 2), np.float64)
    for offer in range(len(found)):
        found[offer, 0], found[offer, 1] = quality_posterior(S, offer, t_ns)
    return found


@jit
def quality_draw(S: Handle, offer: int, tick: int, t_ns: int) -> float:
    """A Thompson draw from the posterior, made once per offer and refresh tick, when first needed."""
    p, o = params(S), offer_at(S, offer)
    if o.quality_tick != tick:
        a, b = quality_posterior(S, offer, t_ns)
        o.quality = beta(a, b, p.seed, QUALITY, o.key, tick)
        o.quality_tick = tick
    return o.quality


@jit
def observe_audit(S: Handle, offer: int, passed: bool, weight: float, t_ns: int) -> None:
    """Add one audit's verdict to the posterior."""
    o = offer_at(S, offer)
    o.alpha, o.beta = quality_posterior(S, offer, t_ns)
    o.audited_ns = t_ns
    n = node_at(S, o.node)
    n.audits += 1
    if passed:
        n.audits_passed += 1
        o.alpha += weight
    else:
        o.beta += weight


@jit
def observe_first_token(S: Handle, offer: int, delay_s: float, prompt_tok: int, t_ns: int) -> None:
    """Time to first token, less the group's reference prefill of that prompt."""
    p, o = params(S), offer_at(S, offer)
    own_s = max(0.0, delay_s - float(prompt_tok) * group_at(S, o.group).prefill_s)
    o.ttft_s = peak_ewma(o.ttft_s, own_s, t_ns - o.ttft_ns, p.tau_ns)
    o.ttft_ns = t_ns


@jit
def observe_pace(S: Handle, offer: int, elapsed_ns: int, tokens: int, t_ns: int) -> None:
    """Time per output token over an answer's decode."""
    if tokens > 0:
        p, o = params(S), offer_at(S, offer)
        o.itl_s = peak_ewma(o.itl_s, float(elapsed_ns) / float(NANO) / float(tokens), t_ns - o.itl_ns, p.tau_ns)
        o.itl_ns = t_ns


@jit
def observe_outcome(S: Handle, node: int, ok: bool, t_ns: int) -> int:
    """Count a success or a failure and move the breaker; returns the breaker's state if it changed, else NONE."""
    p, n = params(S), node_at(S, node)
    d = decay_at(S, t_ns)
    if n.observed_ns < d.fast_landmark_ns:
        kept = shrunk(n.observed_ns, t_ns, p.fast_half_life_ns)
        n.fast_ok, n.fast_n = n.fast_ok * kept, n.fast_n * kept
    if n.observed_ns < d.slow_landmark_ns:
        kept = shrunk(n.observed_ns, t_ns, p.slow_half_life_ns)
        n.slow_ok, n.slow_n = n.slow_ok * kept, n.slow_n * kept
    fast, slow = 1.0 / d.fast, 1.0 / d.slow  # what a count of now is at the landmark
    n.fast_n += fast
    n.slow_n += slow
    if ok:
        n.fast_ok += fast
        n.slow_ok += slow
    n.observed_ns = t_ns
    if ok:
        n.failures = 0
        n.successes += 1
        if n.breaker == HALF_OPEN and n.successes >= p.breaker_successes:
            n.breaker = CLOSED
            return CLOSED
        return NONE
    n.failures += 1
    n.successes = 0
    trip = n.breaker == HALF_OPEN or (n.breaker == CLOSED and n.failures >= p.breaker_failures and _may_eject(S, node))
    if not trip:
        return NONE
    n.breaker = OPEN
    n.breaker_until_ns = t_ns + p.breaker_open_ns
    return OPEN


@jit
def _may_eject(S: Handle, node: int) -> bool:
    """Never more than the allowed share of the active offers of any of the node's groups, but at least one."""
    offer = node_at(S, node).offer
    while offer != NONE:
        g = group_at(S, offer_at(S, offer).group)
        ejected = 0
        for k in range(g.active):
            other = offer_at(S, member_at(S, g.start + k).active).node
            if node_at(S, other).breaker != CLOSED:
                ejected += 1
        if ejected + 1 > max(1, int(params(S).breaker_ejected * float(g.active))):
            return False
        offer = offer_at(S, offer).next_of_node
    return True
