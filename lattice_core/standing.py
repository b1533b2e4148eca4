"""What a Nexus says of its nodes after an epoch, and has its oracle report to the chain."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lattice_core.nexus import Nexus
from lattice_core.state import UP


class Standing(NamedTuple):
    """Of nodes 0 to n − 1: whether each takes requests, and its reputation from 0 to 1."""

    healthy: NDArray[np.bool_]
    reputation: NDArray[np.float64]


def standing(nexus: Nexus, t_ns: int) -> Standing:
    """That of every node up to the last registered; its reputation is the kernel's reliability of it."""
    nodes = nexus.table("nodes")[: nexus.registered]
    return Standing(nodes["status"] == UP, nexus.reliabilities(t_ns))
