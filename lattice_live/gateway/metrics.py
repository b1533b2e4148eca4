"""What the Nexus counts of its work, in the form that Prometheus reads. No user's name, and nothing of what was said."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from lattice_core.events import Status
from lattice_core.nexus import Nexus
from lattice_core.state import CLOSED, HALF_OPEN, OPEN, OUTCOMES, UP
from lattice_core.units import NANO

MEDIA_TYPE = CONTENT_TYPE_PLAIN_0_0_4

_TTFT_S = (0.01, 0.03, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 12.0, 30.0, 60.0)
_ITL_S = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.3, 1.0, 3.0)
_DECISION_S = (5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 2e-2, 0.1)


class Metrics:
    """The counters of one gateway. `open_requests` is asked when somebody reads them, and so is the kernel."""

    def __init__(self, nexus: Nexus, open_requests: Callable[[], int]) -> None:
        self._registry = registry = CollectorRegistry()

        def name(name: str) -> str:
            return f"lattice_nexus_{name}"

        model = ["model"]
        http = Counter(name("http_responses"), "Responses by status", ["status"], registry=registry)
        requests = Counter(name("requests"), "Requests by how they ended", [*model, "outcome"], registry=registry)
        tokens = Counter(name("tokens"), "Tokens of prompts served and of answers", [*model, "kind"], registry=registry)
        charges = Counter(name("charges_nlai"), "Fees", model, registry=registry)
        ttft = Histogram(name("ttft_seconds"), "From arrival to first token", model, buckets=_TTFT_S, registry=registry)
        itl = Histogram(name("itl_seconds"), "Mean time between an answer's tokens", model, buckets=_ITL_S, registry=registry)
        self.decided = Histogram(
            name("decision_seconds"), "The kernel's time for an arrival", buckets=_DECISION_S, registry=registry
        ).observe
        registry.register(_Kernel(nexus, open_requests))
        # Finding a child by its labels costs more than counting
        self._http = cache(lambda status: http.labels(str(status)))
        self._requests = cache(lambda model, outcome: requests.labels(model, OUTCOMES[outcome]))
        self._tokens = cache(lambda model: (tokens.labels(model, "prompt"), tokens.labels(model, "output")))
        self._charges = cache(charges.labels)
        self._delays = cache(lambda model: (ttft.labels(model), itl.labels(model)))

    def answered(self, status: int) -> None:
        """An HTTP request has been answered."""
        self._http(status).inc()

    def ended(self, model: str, prompt_tok: int, arrived_ns: int, now_ns: int, status: Status) -> None:
        """A request has ended."""
        self._requests(model, status.outcome).inc()
        if not status.output_tok:
            return
        prompt, output = self._tokens(model)
        prompt.inc(prompt_tok)
        output.inc(status.output_tok)
        self._charges(model).inc(status.fee_nlai)
        ttft, itl = self._delays(model)
        ttft.observe((status.first_token_ns - arrived_ns) / NANO)
        if status.output_tok > 1:
            itl.observe((now_ns - status.first_token_ns) / NANO / (status.output_tok - 1))

    def text(self) -> bytes:
        """All of it, as MEDIA_TYPE."""
        return generate_latest(self._registry)


class _Kernel(Collector):
    """What the kernel knows."""

    def __init__(self, nexus: Nexus, open_requests: Callable[[], int]) -> None:
        self._nexus = nexus
        self._open_requests = open_requests

    def collect(self) -> Any:
        nodes = self._nexus.table("nodes")
        breakers = GaugeMetricFamily("lattice_nexus_nodes", "Nodes that are up, by their breaker", labels=["breaker"])
        for name, state in (("closed", CLOSED), ("open", OPEN), ("half_open", HALF_OPEN)):
            breakers.add_metric([name], int(((nodes["status"] == UP) & (nodes["breaker"] == state)).sum()))
        queued = int(np.maximum(nodes["in_flight"] - nodes["slots"], 0).sum())
        yield breakers
        yield GaugeMetricFamily("lattice_nexus_queue", "Legs that wait at their nodes for a slot", value=queued)
        in_flight = self._nexus.count("in_flight")
        yield GaugeMetricFamily("lattice_nexus_in_flight", "Requests that the kernel has open", value=in_flight)
        yield GaugeMetricFamily("lattice_nexus_open", "Requests that users wait for", value=self._open_requests())
