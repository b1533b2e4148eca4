"""What a node counts of its work, in the form that Prometheus reads."""

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

if TYPE_CHECKING:
    from lattice_live.node.worker import Stream, Worker

MEDIA_TYPE = CONTENT_TYPE_PLAIN_0_0_4

_TTFT_S = (0.01, 0.03, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 12.0, 30.0, 60.0)
_ITL_S = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.3, 1.0, 3.0)


class Metrics:
    """The counters of one node, by model."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()

        def name(name: str) -> str:
            return f"lattice_node_{name}"

        model = ["model"]
        self._requests = Counter(name("requests"), "Requests by how they ended", [*model, "outcome"], registry=registry)
        self._tokens = Counter(name("tokens"), "Tokens of prompts served and of answers", [*model, "kind"], registry=registry)
        self._ttft = Histogram(name("ttft_seconds"), "From arrival to first token", model, buckets=_TTFT_S, registry=registry)
        self._itl = Histogram(name("itl_seconds"), "Between tokens", model, buckets=_ITL_S, registry=registry)
        self._in_flight = Gauge(name("in_flight"), "Requests in slots", model, registry=registry)
        self._queued = Gauge(name("queued"), "Requests that wait for a slot", model, registry=registry)

    def watch(self, worker: "Worker") -> None:
        """Read a worker's load whenever somebody asks."""
        self._in_flight.labels(worker.name).set_function(lambda: worker.in_flight)
        self._queued.labels(worker.name).set_function(lambda: worker.queued)

    def refuse(self, model: str) -> None:
        """The queue was full."""
        self._requests.labels(model, "refused").inc()

    def token(self, model: str, stream: "Stream", now_s: float) -> None:
        """A token is about to be put into `stream`."""
        histogram = self._itl if stream.output_tok else self._ttft
        histogram.labels(model).observe(now_s - stream.last_s)
        if not stream.output_tok:
            self._tokens.labels(model, "prompt").inc(stream.prompt_tok)
        self._tokens.labels(model, "output").inc()

    def end(self, model: str, outcome: str) -> None:
        """A request that was taken has ended."""
        self._requests.labels(model, outcome).inc()

    def text(self) -> bytes:
        """All of it, as MEDIA_TYPE."""
        return generate_latest(self._registry)
