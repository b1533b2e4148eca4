"""The compiled engine: the network of `reference` as one loop over arrays, thousands of times as fast to the same result.

Whatever is under way stands in tables, so that a run can be copied or kept between any two epochs. The loop comes back where a
table is too short or a block of arrivals is used up, is given what it lacks, and goes on.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lattice_core import census
from lattice_core.agenda import first_row, new_agenda
from lattice_core.config import Config
from lattice_core.directory import Directory, zeros
from lattice_core.events import Command, Event, Submit
from lattice_core.nexus import Nexus
from lattice_core.records import Records
from lattice_core.state import KINDS, NONE, PRIVACY, PUBLIC
from lattice_core.units import DAY_NS, HOUR_NS, NEVER_NS
from lattice_sim import loop
from lattice_sim.engine import ARRIVAL, MOST_STEPS, NODE_CHANGE, REPLY, SERVICE, StuckError, service_of, standstill
from lattice_sim.workload import workload

BLOCK = 4_096
"""Arrivals taken from a workload at once: as many as stay in the cache until they are used."""


class CompiledEngine:
    """Serves requests until a given time, again and again; what is under way in between stays under way. Picklable."""

    name = "compiled"

    def __init__(self, config: Config, nexus: Nexus, records: Records) -> None:
        """The network of `config` at t = 0. The kernel knows its nodes already, but none is up."""
        self.config, self.nexus, self.records = config, nexus, records
        self.nodes = census.nodes(config)
        self.submissions: list[Submit] = []
        self.service = service_of(self.nodes)
        self._workloads = [workload(config, population) for population in config.users]
        self._tables = Directory(
            {name: zeros(0, dtype) for name, dtype in loop.TABLES.items()}
            | {f"{population.name}.{column}": zeros(0, np.int64) for population in config.users for column in loop.COLUMNS}
        )
        self._found(config)

    def _found(self, config: Config) -> None:
        """Fill the tables for t = 0."""
        tables, count = self._tables, len(self.nodes)
        core = zeros(1, loop.CORE)
        core[0]["seed"], core[0]["midnight_ns"] = config.seed, int(config.sim.start_hour * HOUR_NS)
        core[0]["free_later"] = NONE
        core[0]["burst"] = 64 + max((entry.population.slots + entry.population.queue for entry in self.nodes), default=0)
        core[0]["most_steps"] = MOST_STEPS + 100 * count
        tables.put("core", core)
        tables.put("nodes", _node_rows(self.nodes))
        tables.put("populations", _population_rows(config))
        tables.put("kind_of", np.array([KINDS.index(model.kind) for model in config.models.values()], np.int64))
        stations = zeros(count, loop.STATION)
        stations["delay_ns"] = [entry.population.network_delay_ns for entry in self.nodes]
        stations["ask"] = stations["job"] = NONE
        stations["heap"] = self.service.server["heap"]
        tables.put("stations", stations)
        tables.put("changes", new_agenda(2 * count))
        tables.put("plans", new_agenda(count))
        tables.put("waits", new_agenda(1))
        self._make_room()

    @property
    def now_ns(self) -> int:
        """Simulated time."""
        return int(self._tables.core[0]["now_ns"])

    @property
    def events(self) -> int:
        """Events served since the start: arrivals, messages, what nodes and users do, and the kernel's timers."""
        return int(self._tables.core[0]["events"])

    def run_until(self, t_ns: int) -> None:
        """Serve everything that happens before `t_ns`; then it is `t_ns`. Raises StuckError."""
        self._tables.populations["over"] = 0
        nexus, tables = self.nexus, self._tables
        while True:
            code = loop.serve(
                nexus.state.handle, self.service.handle, tables.handle, self.records.log.handle, nexus.policy.address, t_ns
            )
            if code == loop.DONE:
                return
            if code == loop.ARRIVALS_WANTED:
                self._take_arrivals(int(tables.core[0]["wanted"]), t_ns)
            elif code == loop.ROOM_WANTED:
                self._make_room()
            else:
                raise self._stuck()

    def _take_arrivals(self, number: int, t_ns: int) -> None:
        """The next block of a population's arrivals, as far as they come before `t_ns`."""
        name = self.config.users[number].name
        block = self._workloads[number].block(t_ns, BLOCK)
        for column, values in zip(loop.COLUMNS, block, strict=True):
            self._tables.put(f"{name}.{column}", values)
        row = self._tables.populations[number]
        row["at"], row["count"], row["over"] = 0, len(block.t_ns), len(block.t_ns) == 0

    def _make_room(self) -> None:
        """Room for one more request, in the kernel's tables and beside them, and for the messages of one event."""
        state, tables = self.nexus.state, self._tables
        state.make_request_room()
        core = tables.core[0]
        if len(tables.asks) < len(state.requests):
            tables.extend("asks", len(state.requests))
            tables.put("waits", new_agenda(len(state.requests), tables.waits))
        if core["free_later"] == NONE:
            first = len(tables.later)
            longer = tables.extend("later", max(16, 2 * first))
            longer["next_free"][first:] = np.arange(first + 1, len(longer) + 1)
            longer["next_free"][-1] = NONE
            core["free_later"] = first
        if core["messages"] + core["burst"] > len(tables.messages):
            tables.extend("messages", 2 * len(tables.messages) + int(core["burst"]))

    def _stuck(self) -> StuckError:
        core = self._tables.core[0]
        rank, entity = int(core["rank"]), 0
        if rank == SERVICE:
            entity = first_row(self._tables.handle, list(loop.TABLES).index("plans"))
        elif rank == NODE_CHANGE:
            entity = first_row(self._tables.handle, list(loop.TABLES).index("changes")) >> 1
        elif rank == REPLY:
            entity = int(self._tables.messages[0]["entity"])
        return standstill(int(core["now_ns"]), ARRIVAL if rank == loop.FIRST_ARRIVAL else rank, entity)

    def tell(self, event: Event) -> Sequence[Command]:
        """Give the kernel an event between two calls of `run_until`, and keep the batches that it wants to settle."""
        commands = self.nexus.handle(event)
        self.submissions += [command for command in commands if isinstance(command, Submit)]
        return commands

    def forget(self, epoch: int) -> None:
        """Receipts are not kept by this engine: no voucher can be asked for."""

    def busy_ns(self) -> NDArray[np.int64]:
        """Slots taken × time of each node until now, ns."""
        return self._areas("area_busy_ns")

    def system_ns(self) -> NDArray[np.int64]:
        """Requests on each node × time until now, ns."""
        return self._areas("area_system_ns")

    def _areas(self, column: str) -> NDArray[np.int64]:
        loop.accrue(self.service.handle, len(self.nodes), self.now_ns)
        return np.array(self.service.server[column], np.int64)

    def beyond_horizon(self) -> int:
        """Requests of traces that come after the last served time."""
        return sum(source.remaining() for source in self._workloads)

    def save(self) -> Any:
        """A copy of what is under way between two epochs."""
        return self.service.copy(), self._tables.copy(), [source.position() for source in self._workloads]

    def load(self, saved: Any) -> None:
        """Go on from what an engine of the same network saved; the seed and the users' habits are this one's own."""
        service, tables, positions = saved
        self.service, self._tables = service.copy(), tables.copy()
        self._tables.core["seed"] = self.config.seed
        habits = _population_rows(self.config)
        for name in ("max_fee_nlai", "limit_ns", "retries"):
            self._tables.populations[name] = habits[name]
        for source, position in zip(self._workloads, positions, strict=True):
            source.go_to(position, self.now_ns)


def _node_rows(nodes: Sequence[census.NodeEntry]) -> NDArray[Any]:
    rows = zeros(len(nodes), loop.NODE)
    for row, entry in zip(rows, nodes, strict=True):
        population = entry.population
        row["key"], row["days"] = entry.key, loop.ALWAYS
        row["mtbf_ns"] = NEVER_NS
        if population.failures is not None:
            row["mtbf_ns"], row["mttr_ns"] = population.failures.mtbf_ns, population.failures.mttr_ns
        availability = population.availability
        if availability.diurnal is not None:
            day = availability.diurnal
            row["days"], row["start_ns"], row["jitter_ns"] = loop.HOURS, day.start_ns, day.jitter_ns
            row["up_ns"] = min(day.up_ns, DAY_NS - 1)
        elif availability.on_ns is not None and availability.off_ns is not None:
            row["days"], row["on_ns"], row["off_ns"] = loop.SPELLS, availability.on_ns, availability.off_ns
    return rows


def _population_rows(config: Config) -> NDArray[Any]:
    rows = zeros(len(config.users), loop.POPULATION)
    clusters = {cluster.name: number for number, cluster in enumerate(config.clusters, 1)}
    for row, population, first in zip(rows, config.users, census.first_accounts(config), strict=True):
        privacy = PRIVACY.index(population.privacy)
        row["first_account"], row["privacy"] = first, privacy
        row["cluster"] = 0 if privacy == PUBLIC or population.cluster is None else clusters[population.cluster]
        row["max_fee_nlai"], row["limit_ns"] = population.max_fee_nlai or 0, population.deadline_ns
        row["retries"] = population.retries
    return rows
