"""What every engine is: the network's nodes and users under simulated time, between two epochs' ends.

`reference` is written to be read, `compiled` to be fast. Both make the same decisions and leave the same state, to the bit, as
they order what falls on one nanosecond alike: (time, rank, entity, per-entity count).
"""

from collections.abc import Sequence
from typing import Any, Protocol

from lattice_core.census import NodeEntry
from lattice_core.config import Config
from lattice_core.events import Command, Event, Submit
from lattice_core.nexus import Nexus
from lattice_core.records import Records
from lattice_core.service import CHUNK_TOK, Service, new_service
from lattice_core.units import NANO

NODE_CHANGE, SERVICE, RECEIPT, TIMER, TRAVEL, REPLY, ARRIVAL, PATIENCE = range(8)
"""Ranks of events that fall on one nanosecond: what happened at a node comes before what the Nexus makes of it."""

RETRY_WAIT_NS = 2 * NANO
"""How long a user waits before asking again."""


MOST_STEPS = 100_000
"""Events on one nanosecond, besides 100 for each node and 64 for each request so far, after which something must be wrong."""

_EVENTS = {
    NODE_CHANGE: "a node comes or goes",
    SERVICE: "a node serves",
    RECEIPT: "a request's last receipt is due",
    TIMER: "a timer of the Nexus fires",
    TRAVEL: "a request reaches a node",
    REPLY: "a reply reaches the Nexus",
    ARRIVAL: "a user asks",
    PATIENCE: "a user leaves",
}


class StuckError(RuntimeError):
    """Time has stopped: the same events follow each other without end. Says which."""


def standstill(t_ns: int, rank: int, entity: int) -> StuckError:
    """Time stands still at an event of this rank. `entity`: its node where it is a node's, −1 − node where a probe's reply."""
    where = f" (node {entity})" if rank in (NODE_CHANGE, SERVICE) else ""
    if rank == REPLY and entity < 0:
        where = f" (probe of node {-1 - entity})"
    return StuckError(f"time stands still at {t_ns} ns: again and again {_EVENTS[rank]}{where}")


class Engine(Protocol):
    """Serves requests until a given time, again and again; what is under way in between stays under way."""

    name: str
    """`compiled` or `reference`."""
    nexus: Nexus
    nodes: list[NodeEntry]
    submissions: list[Submit]
    """Batches that the kernel wants to settle; whoever settles them empties it."""

    @property
    def now_ns(self) -> int:
        """Simulated time."""

    def run_until(self, t_ns: int) -> None:
        """Serve everything that happens before `t_ns`; then it is `t_ns`. Raises StuckError."""

    def tell(self, event: Event) -> Sequence[Command]:
        """Give the kernel an event and do what it asks."""

    def forget(self, epoch: int) -> None:
        """No voucher of an epoch up to this one will be asked for."""

    def busy_ns(self) -> Any:
        """Slots taken × time of each node until now, ns."""

    def system_ns(self) -> Any:
        """Requests on each node × time until now, ns."""

    def beyond_horizon(self) -> int:
        """Requests of traces that come after the last served time."""

    def save(self) -> Any:
        """A copy of what is under way between two epochs, as plain data. NotImplementedError if there is no such copy."""

    def load(self, saved: Any) -> None:
        """Go on, as a fresh engine, from what one of the same network saved; seed, users' habits and kernel are one's own."""


def service_of(nodes: Sequence[NodeEntry]) -> Service:
    """These nodes, empty, at t = 0; a node has the speed of the first of its models."""
    profiles = [entry.population.profile(entry.population.models[0]) for entry in nodes]
    return new_service(
        a_ns=[p.a_ns for p in profiles],
        b_ns=[p.b_ns for p in profiles],
        prefill_ns=[NANO / p.prefill_tok_s for p in profiles],
        slots=[entry.population.slots for entry in nodes],
        queue_room=[entry.population.queue for entry in nodes],
        chunk_tok=[p.chunk_tok or CHUNK_TOK for p in profiles],
        beside_ns=[NANO / (p.prefill_beside_tok_s or p.prefill_tok_s) for p in profiles],
    )


def engine_of(config: Config, nexus: Nexus, records: Records) -> Engine:
    """The engine that the config names, at t = 0. The kernel knows the network's nodes already, but none is up.

    A kernel that keeps a journal must be told each event, which only the reference engine does: it serves then.
    """
    if config.sim.engine == "reference" or nexus.is_recorded:
        from lattice_sim.reference import ReferenceEngine  # SimPy is not needed otherwise

        return ReferenceEngine(config, nexus, records)
    from lattice_sim.compiled import CompiledEngine

    return CompiledEngine(config, nexus, records)
