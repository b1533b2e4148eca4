"""A user's own routing policy, as its file would look."""

from typing import Any

from lattice_core.routing import policy


@policy(candidates=64, explores=False)
def dearest(o: Any, r: Any, w: Any) -> float:
    """The most expensive offer wins, unless it would cost more than 0.001 LAI, which no score can express."""
    return o.fee_nlai if o.fee_nlai <= 1e6 else float("nan")
