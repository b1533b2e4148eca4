"""The network status: which nodes were healthy in an epoch, and their reputation after it."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lattice_core.chain.contracts.contract import Contract
from lattice_core.chain.port import Receipt

FULL = 65_535
"""The reputation of 1."""


class Reputation(NamedTuple):
    """A node's latest reputation, out of `FULL`, the epoch after which it was that, and whether it can still be overruled."""

    value: int
    epoch: int
    final: bool


class Status(Contract):
    """What each Nexus reports."""

    NAME = "NetworkStatus"

    def post(
        self, oracle: bytes, nexus: int, epoch: int, healthy: NDArray[np.bool_], reputation: NDArray[np.float64]
    ) -> Receipt:
        """Report on nodes 0 to n − 1: whether each was healthy, and its reputation from 0 to 1, rounded to 1/65,535."""
        values = np.rint(reputation * FULL).astype(">u2").tobytes()
        return self._send(oracle, "post", nexus, epoch, np.packbits(healthy).tobytes(), values)

    def overrule(self, owner: bytes, nexus: int, epoch: int) -> Receipt:
        return self._send(owner, "overrule", nexus, epoch)

    def history_root(self, nexus: int) -> bytes:
        root: bytes = self._read("historyRoot", nexus)
        return root

    def is_final(self, nexus: int, epoch: int) -> bool:
        return bool(self._read("isFinal", nexus, epoch))

    def healthy(self, nexus: int, epoch: int, node: int) -> bool:
        return bool(self._read("healthy", nexus, epoch, node))

    def reputation(self, nexus: int, node: int) -> Reputation:
        return Reputation(*self._read("reputationOf", nexus, node))
