"""The rules for nodes: they come and go, are probed and audited, and their breakers open and close."""

from lattice_core.agenda import set_time
from lattice_core.directory import Handle
from lattice_core.jit import jit, rows
from lattice_core.ledger import fold
from lattice_core.reputation import observe_audit, observe_outcome
from lattice_core.routing import activate, deactivate
from lattice_core.state import (
    ABSENT,
    BREAKER_TIMERS,
    DRAINING,
    HALF_OPEN,
    NODES,
    NONE,
    OFFERS,
    OPEN,
    PROBE,
    PROBE_TIMERS,
    UP,
    clock,
    node_at,
    offer_at,
    out_at,
    params,
)
from lattice_core.streams import PROBES, exponential
from lattice_core.transition import LAST_NS, begin, ignored, out
from lattice_core.units import NEVER_NS


@jit
def _schedule_probe(S: Handle, node: int, t_ns: int) -> None:
    """The next health probe comes after an exponential wait, so that a node cannot foresee it."""
    p, n = params(S), node_at(S, node)
    n.probe_serial += 1
    wait = exponential(p.seed, PROBES, n.key, n.probe_serial) * float(p.probe_interval_ns)
    set_time(S, PROBE_TIMERS, node, t_ns + 1 + int(min(wait, 0.5 * LAST_NS)))


@jit
def send_probe(S: Handle, node: int, t_ns: int) -> None:
    """Ask for a probe now; without an answer within a probe interval it counts as failed."""
    n = node_at(S, node)
    n.probe_serial += 1
    n.probe_open = 1
    row = out(S, PROBE)
    out_at(S, row).node, out_at(S, row).leg = node, n.probe_serial
    set_time(S, PROBE_TIMERS, node, t_ns + params(S).probe_interval_ns)


@jit
def node_up(S: Handle, node: int, t_ns: int) -> int:
    """A registered node announces that it takes requests."""
    t = begin(S, t_ns)
    if node < 0 or node >= rows(S, NODES) or node_at(S, node).key == 0 or node_at(S, node).status == UP:
        return ignored(S)
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
    begin(S, t_ns)
    if node < 0 or node >= rows(S, NODES) or node_at(S, node).status != UP:
        return ignored(S)
    n = node_at(S, node)
    n.status = DRAINING if n.in_flight > 0 else ABSENT
    offer = n.offer
    while offer != NONE:
        deactivate(S, offer)
        offer = offer_at(S, offer).next_of_node
    n.probe_serial += 1
    n.probe_open = 0
    set_time(S, PROBE_TIMERS, node, NEVER_NS)
    fold(S, ~node)
    return 0


@jit
def observe(S: Handle, node: int, ok: bool, t_ns: int) -> None:
    """Count a success or failure; an opened breaker gets its timer."""
    if observe_outcome(S, node, ok, t_ns) == OPEN:
        set_time(S, BREAKER_TIMERS, node, node_at(S, node).breaker_until_ns)
        fold(S, node)


@jit
def probed(S: Handle, node: int, serial: int, ok: bool, t_ns: int) -> int:
    """The answer to a probe, or that there was none. Half-open nodes are probed on until their breaker closes or opens."""
    t = begin(S, t_ns)
    if node < 0 or node >= rows(S, NODES) or not node_at(S, node).probe_open or node_at(S, node).probe_serial != serial:
        return ignored(S)
    n = node_at(S, node)
    n.probe_open = 0
    n.probes += 1
    if ok:
        n.probes_ok += 1
    observe(S, node, ok, t)
    if n.breaker == HALF_OPEN:
        send_probe(S, node, t)
    else:
        _schedule_probe(S, node, t)
    return clock(S).outs


@jit
def audited(S: Handle, offer: int, passed: bool, weight: float, t_ns: int) -> int:
    """An auditor's verdict on one answer of an offer."""
    t = begin(S, t_ns)
    if offer < 0 or offer >= rows(S, OFFERS) or offer_at(S, offer).node == NONE or not (0.0 < weight <= 1000.0):
        return ignored(S)
    observe_audit(S, offer, passed, weight, t)
    fold(S, offer)
    fold(S, 1 if passed else 0)
    return 0
