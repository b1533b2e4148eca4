"""What a node's part of the bonus pool is worth: its verified work, uptime and quality since it was last weighed."""

import math

import numpy as np

from lattice_core.directory import Rows
from lattice_core.nexus import Nexus
from lattice_core.rewards import Exponents, posted, weight

_LOWER_TAIL_SD = 1.6448536269514722
"""Standard deviations from the mean to the 5 % quantile of a normal distribution, which stands for a Beta posterior's."""


class Merits:
    """Weighs every node against what it had done when it was last weighed."""

    def __init__(self, exponents: Exponents) -> None:
        self._exponents = exponents
        self._seen: Rows | None = None

    def save(self) -> Rows | None:
        """What it has seen of the nodes, for `load`."""
        return self._seen

    def load(self, saved: Rows | None) -> None:
        """Weigh from there on."""
        self._seen = saved

    def weigh(self, nexus: Nexus, t_ns: int) -> list[int]:
        """The weights of all nodes as an oracle posts them, all 0 if nobody did anything."""
        nodes = nexus.table("nodes")
        nodes = nodes[nodes["key"] != 0]
        offers = nexus.table("offers")[: nexus.count("offers")]
        gained = {name: _gained(nodes[name], self._seen, name) for name in ("output_tok", "probes", "probes_ok")}
        self._seen = nodes
        posteriors = nexus.qualities(t_ns)
        weights = []
        for node, row in enumerate(nodes):
            served = np.flatnonzero(offers["node"] == node).tolist()
            compute = max((float(row["slots"]) / float(offers[offer]["itl_s"]) for offer in served), default=0.0)
            probes = int(gained["probes"][node])
            uptime = int(gained["probes_ok"][node]) / probes if probes else 0.0
            quality = _lower_quality(posteriors[served].tolist())
            weights.append(weight(compute, float(gained["output_tok"][node]), uptime, quality, self._exponents))
        return posted(weights)


def _gained(now: Rows, seen: Rows | None, name: str) -> Rows:
    gained = now.copy()
    if seen is not None:
        gained[: len(seen)] -= seen[name]
    return gained


def _lower_quality(posteriors: list[tuple[float, float]]) -> float:
    """The lower 5 % quantile of the quality of all offers together."""
    alpha, beta = (sum(posterior[side] for posterior in posteriors) for side in (0, 1))
    n = alpha + beta
    if n == 0.0:
        return 0.0
    return max(0.0, alpha / n - _LOWER_TAIL_SD * math.sqrt(alpha * beta / (n * n * (n + 1.0))))
