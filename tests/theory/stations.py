"""Nodes under an engine that are stations of queueing theory, and customers for them without end."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lattice_core.config.quantities import MAX_DURATION_NS
from lattice_sim.compiled import CompiledEngine
from lattice_sim.workload import Requests
from tests.sim.served import Planned, asked, plain, start

TOKEN_NS = 7_000_000
MEAN_TOK = 300.0

PATIENT = {
    "people.deadline": f"{MAX_DURATION_NS}ns",
    "routing.reservation": f"{MAX_DURATION_NS}ns",
    "people.budget.deposit": 1_000_000,
}
"""Customers who wait as long as it takes."""

FIRST_COME = {"node.hardware": {"a": f"{TOKEN_NS}ns", "b": 0, "prefill_tok_s": 1000}, "node.queue": 65_000}
"""Each slot serves a token in TOKEN_NS, however many slots are taken."""

SHARED = {"node.hardware": {"a": 0, "b": f"{TOKEN_NS}ns", "prefill_tok_s": 1000}, "node.slots": 1024}
"""All tokens that are decoded at once share a processor that makes one in TOKEN_NS."""

_BLOCK = 4_096

type Law = Callable[[np.random.Generator, int], NDArray[np.int64]]


def exponential(rng: np.random.Generator, count: int) -> NDArray[np.int64]:
    """Services of MEAN_TOK tokens on average, rounded up; how much that adds, `mean_tok` says."""
    return np.ceil(MEAN_TOK * rng.exponential(size=count)).astype(np.int64)


def mean_tok(mean: float = MEAN_TOK) -> float:
    """The mean of an exponential law after rounding up: 1/(1 − e^(−1/mean))."""
    return float(1.0 / -np.expm1(-1.0 / mean))


class Customers:
    """A workload: Poisson arrivals at a mean gap, rounded up, of requests that need as many tokens' time as `law` says."""

    def __init__(self, law: Law, mean_gap_ns: float, seed: int) -> None:
        self._law, self._mean_gap_ns, self._rng = law, mean_gap_ns, np.random.default_rng(seed)
        self._times_ns = self._service_tok = np.zeros(0, np.int64)
        self._last_ns = 0
        self.count = 0
        """How many have arrived."""

    def block(self, t_ns: int, most: int) -> Requests:
        if len(self._times_ns) == 0:
            gaps_ns = np.ceil(self._mean_gap_ns * self._rng.exponential(size=_BLOCK)).astype(np.int64)
            self._times_ns, self._service_tok = self._last_ns + np.cumsum(gaps_ns), self._law(self._rng, _BLOCK)
            self._last_ns = int(self._times_ns[-1])
        count = min(most, int(np.searchsorted(self._times_ns, t_ns)))
        times_ns, self._times_ns = np.split(self._times_ns, [count])
        service_tok, self._service_tok = np.split(self._service_tok, [count])
        self.count += count
        # The first token comes with the prompt, and prompts cost nothing.
        return asked(times_ns, np.ones_like(service_tok), service_tok + 1)


def station(changes: dict[str, Any], customers: Customers | Planned, kind: type[Any] = CompiledEngine) -> Any:
    """The plain network with `changes`, whose users are these customers and whose prompts cost nothing; nobody probes."""
    engine, _ = start(plain({**PATIENT, "reputation.probe_interval": "3650d", **changes}), kind)
    engine.service.server["prefill_ns"] = 0.0
    engine._workloads[0] = customers
    return engine
