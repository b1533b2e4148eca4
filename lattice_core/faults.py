"""What happens to simulated nodes by chance: when they come and go, break and are repaired, and how audits of them end.

Simulated engines only.
"""

import math

from lattice_core.jit import jit
from lattice_core.streams import AUDITS, AVAILABILITY, exponential, normal, normal_quantile, uniform
from lattice_core.units import DAY_NS

AUDIT_THRESHOLD = float(normal_quantile(1.0 - 1e-4))
"""An honest answer's audit statistic is N(0, 1) and passes below this: one in 10,000 fails by chance (Token-DiFR)."""


@jit
def wait_ns(seed: int, subsystem: int, key: int, index: int, mean_ns: int) -> int:
    """The `index`-th exponential wait of a node, ns."""
    return math.ceil(exponential(seed, subsystem, key, index) * float(mean_ns))


@jit
def day_start_ns(seed: int, key: int, start_ns: int, jitter_ns: int, midnight_ns: int) -> int:
    """When a node with daily hours first comes, on a clock that begins so long after midnight: `start_ns` and its shift."""
    shift = 2.0 * uniform(seed, AVAILABILITY, key, 0) - 1.0
    return (start_ns + int(shift * float(jitter_ns)) - midnight_ns) % DAY_NS


@jit
def audit_passes(seed: int, key: int, arrival_ns: int) -> bool:
    """Whether an honest answer to a request passes: `key` is of the account that asked."""
    return normal(seed, AUDITS, key, arrival_ns) < AUDIT_THRESHOLD
