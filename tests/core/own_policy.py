"""A user's own routing policies, as their file would look."""

from typing import Any

from lattice_core.routing import policy


@policy(candidates=64, explores=False)
def dearest(o: Any, r: Any, w: Any) -> float:
    """The most expensive offer wins, unless it would cost more than 0.001 LAI, which no score can express."""
    return o.fee_nlai if o.fee_nlai <= 1e6 else float("nan")


@policy(sampling="all", memory=2)
def alternating(o: Any, r: Any, w: Any, memory: Any) -> float:
    """The dearest and the cheapest in turn: `memory` holds the decisions so far, and the score of the last."""
    if o.place == 0.0:
        memory[0] += 1.0
    memory[1] = o.fee_nlai if memory[0] % 2.0 == 1.0 else -o.fee_nlai
    return memory[1]
