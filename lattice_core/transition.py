"""How every transition begins, and how it says what it asks of the driver.

The rules stand in `facts`, `batches`, `nodes` and `requests`; with what they call they are the only code that changes state.
Every rule takes the time, is total (unknown, late and duplicate ids are counted in `clock.ignored` and change nothing else),
and leaves what it asks in `outs`; it returns how many.
"""

from lattice_core.directory import Handle
from lattice_core.jit import jit
from lattice_core.state import NONE, clock, out_at
from lattice_core.wide import plus

LAST_NS = 2**62
"""Time stops here, 146 years on, so that no timer's time passes 2⁶³."""


@jit
def begin(S: Handle, t_ns: int) -> int:
    """Every rule starts here: time never goes back, and nothing is asked yet."""
    c = clock(S)
    c.outs = 0
    now_ns = max(c.now_ns, min(t_ns, LAST_NS))
    c.in_flight_high, c.in_flight_low = plus(c.in_flight_high, c.in_flight_low, c.in_flight, now_ns - c.now_ns)
    c.now_ns = now_ns
    return now_ns


@jit
def ignored(S: Handle) -> int:
    """Count an event that changed nothing."""
    clock(S).ignored += 1
    return clock(S).outs


@jit
def ignore(S: Handle, t_ns: int) -> int:
    """An event that fits nowhere passes the time and changes nothing else."""
    begin(S, t_ns)
    return ignored(S)


@jit
def out(S: Handle, kind: int) -> int:
    """A fresh row of `outs`."""
    c = clock(S)
    row = c.outs
    c.outs += 1
    o = out_at(S, row)
    o.kind, o.outcome, o.reason, o.request, o.leg = kind, 0, 0, 0, 0
    o.node, o.offer, o.account, o.from_tok, o.epoch = NONE, NONE, NONE, 0, 0
    o.prompt_tok, o.output_tok, o.nlai, o.faucet_nlai = 0, 0, 0, 0
    o.sent_ns, o.first_token_ns = 0, 0
    return row
