"""The reference engine: a network of nodes and users under SimPy's clock, written to be read. The oracle for faster ones.

Arrivals, breakdowns and days are processes; what follows from them is called when its time comes. What a node does with its
requests stands in `lattice_core.service`, what the Nexus makes of it in the kernel, which is reached through `Nexus.handle`
alone. The engine knows what no policy may know: how long an answer will be.
"""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lattice_core import census, faults, request_log, service, streams
from lattice_core.chain.abi import keccak
from lattice_core.config import Config
from lattice_core.events import (
    Arrive,
    Audit,
    Audited,
    Cancel,
    CancelRequest,
    Command,
    Complete,
    Dispatch,
    Event,
    Fail,
    FirstToken,
    NodeDown,
    NodeUp,
    Probe,
    Probed,
    Progress,
    Receipt,
    Status,
    Submit,
    Tick,
)
from lattice_core.nexus import Nexus
from lattice_core.receipts import Receipts
from lattice_core.records import Records
from lattice_core.state import COMPLETED, KINDS, NODE_LOST, NODE_REFUSED, PRIVACY, PUBLIC
from lattice_core.units import DAY_NS, HOUR_NS, NEVER_NS
from lattice_sim.clock import Clock
from lattice_sim.engine import ARRIVAL, NODE_CHANGE, PATIENCE, RECEIPT, REPLY, RETRY_WAIT_NS, SERVICE, TIMER, TRAVEL, service_of
from lattice_sim.workload import Requests, workload

type Story = Generator[Any, None, None]

NONE = service.NONE


@dataclass(slots=True)
class Ask:
    """A request as only the simulator knows it: with the answer's true length."""

    arrival_ns: int
    population: int
    user: int
    account: int
    model: int
    prompt_tok: int
    max_tok: int
    output_tok: int
    patience_ns: int
    session: int
    prefix: int
    tries: int = 0
    leg: int = 0
    began: bool = False


_ASKED = ("t_ns", "user", "model", "prompt_tok", "max_tok", "output_tok", "patience_ns", "session", "prefix")


@dataclass(slots=True)
class Leg:
    """A leg that the Nexus has sent: its job at the node, once it is there, and how far the answer has come when it is done."""

    request: int
    node: int
    from_tok: int
    delivered_tok: int
    job: int = NONE


class ReferenceEngine:
    """Serves requests until a given time, again and again; what is under way in between stays under way."""

    name = "reference"

    def __init__(self, config: Config, nexus: Nexus, records: Records) -> None:
        """The network of `config` at t = 0. The kernel knows its nodes already, but none is up."""
        self.config, self.nexus, self.records = config, nexus, records
        self.clock = Clock(0)
        self.nodes = census.nodes(config)
        self.clock.most_steps += 100 * len(self.nodes)
        self.delay_ns = [entry.population.network_delay_ns for entry in self.nodes]
        self.service = service_of(self.nodes)
        self._next_ns = self.service.server["next_ns"].item
        self.broken = [False] * len(self.nodes)
        self._plans = [0] * len(self.nodes)
        self._planned_ns = [NEVER_NS] * len(self.nodes)
        self._asks: dict[int, Ask] = {}
        self._legs: dict[int, Leg] = {}
        self._requests = 0
        self._timer_ns = NEVER_NS
        self._timers = 0
        self._kinds = [KINDS.index(model.kind) for model in config.models.values()]
        self.submissions: list[Submit] = []
        self.receipts = Receipts(keccak)
        self._reservation_ns = config.routing.reservation_ns
        self._workloads = [workload(config, population) for population in config.users]
        self._first_account = list(census.first_accounts(config))
        self._terms = [(PRIVACY.index(p.privacy), p.max_fee_nlai or 0, p.deadline_ns) for p in config.users]
        users = census.users(config)
        self._clusters = [entry.cluster for entry in users]
        self._keys = [entry.key for entry in users]
        for entry in self.nodes:
            self.clock.process(self._days(entry))
            if entry.population.failures is not None:
                self.clock.process(self._breakdowns(entry))

    @property
    def now_ns(self) -> int:
        """Simulated time."""
        return self.clock.now

    # --- time ----------------------------------------------------------------------------------------------------------------

    def run_until(self, t_ns: int) -> None:
        """Serve everything that happens before `t_ns`."""
        for index, source in enumerate(self._workloads):
            self.clock.process(self._arrivals(index, source.until(t_ns)))
        self.clock.run_until(t_ns)

    def tell(self, event: Event) -> Sequence[Command]:
        """Give the kernel an event, do what it asks, and keep its next timer on the clock."""
        commands = self.nexus.handle(event)
        for command in commands:
            _OBEY[type(command)](self, command)
        due_ns = self.nexus.next_timer_ns()
        if due_ns is not None and due_ns != self._timer_ns:
            self._timer_ns = due_ns
            self._timers += 1
            self.clock.call(due_ns, TIMER, 0, self._timers, self._tick, self._timers)
        return commands

    def _tick(self, number: int) -> None:
        if number == self._timers:  # else another timer has become the next
            self._timer_ns = NEVER_NS
            self.tell(Tick(self.clock.now))

    # --- users ---------------------------------------------------------------------------------------------------------------

    def _arrivals(self, population: int, requests: Requests) -> Story:
        """A population's requests, one after another."""
        first = self._first_account[population]
        rows = zip(*(getattr(requests, name).tolist() for name in _ASKED), strict=True)
        for count, (t_ns, user, *asked) in enumerate(rows):
            yield self.clock.at(t_ns, ARRIVAL, population, count)
            self._ask(Ask(t_ns, population, user, first + user, *asked))

    def _ask(self, ask: Ask) -> None:
        """A user asks: the request arrives, and someone keeps an eye on the time."""
        privacy, max_fee_nlai, limit_ns = self._terms[ask.population]
        now = self.clock.now
        self._requests += 1
        self.clock.most_steps += 64
        request = self._requests
        self._asks[request] = ask
        deadline_ns = now + limit_ns
        self.tell(
            Arrive(
                now,
                request,
                ask.account,
                ask.model,
                ask.prompt_tok,
                ask.max_tok,
                kind=self._kinds[ask.model],
                max_fee_nlai=max_fee_nlai,
                deadline_ns=deadline_ns,
                principal=ask.account,
                cluster=0 if privacy == PUBLIC else self._clusters[ask.account],
                privacy=privacy,
                session=ask.session,
                prefix=ask.prefix,
            )
        )
        if request in self._asks:
            end_ns = min(deadline_ns, now + self._reservation_ns)
            self.clock.call(end_ns, RECEIPT, request, 0, self._receipt, request)
            if ask.patience_ns < NEVER_NS - now:
                self.clock.call(now + ask.patience_ns, PATIENCE, request, 0, self._lose_patience, request)

    def _lose_patience(self, request: int) -> None:
        """No first token yet: the user leaves."""
        ask = self._asks.get(request)
        if ask is not None and not ask.began:
            self.tell(CancelRequest(self.clock.now, request))

    def _status(self, status: Status) -> None:
        """A request has ended: write it down, and maybe the user asks again."""
        ask = self._asks.pop(status.request)
        now = self.clock.now
        request_log.add(
            self.records.log.handle,
            status.request,
            ask.population,
            ask.user,
            status.node,
            ask.model,
            ask.prompt_tok,
            status.output_tok,
            ask.arrival_ns,
            status.sent_ns,
            status.first_token_ns,
            now,
            status.outcome,
            status.reason,
            status.fee_nlai,
        )
        if status.outcome != COMPLETED and ask.tries < self.config.users[ask.population].retries:
            ask.tries += 1
            ask.arrival_ns, ask.leg, ask.began = now + RETRY_WAIT_NS, 0, False
            self.clock.call(now + RETRY_WAIT_NS, ARRIVAL, len(self.config.users) + status.request, 0, self._ask, ask)

    # --- legs ----------------------------------------------------------------------------------------------------------------

    def _dispatch(self, command: Dispatch) -> None:
        """The request travels to the node."""
        self._legs[command.leg] = Leg(command.request, command.node, command.from_tok, command.from_tok)
        self._asks[command.request].leg = command.leg
        self.clock.call(self.clock.now + self.delay_ns[command.node], TRAVEL, command.leg, 0, self._reach, command.leg)

    def _reach(self, leg_id: int) -> None:
        """The node takes the request, or refuses it, or is not there."""
        leg = self._legs.get(leg_id)
        if leg is None:
            return  # cancelled on the way
        now, node, why = self.clock.now, leg.node, NODE_LOST
        if not self.broken[node]:
            ask = self._asks[leg.request]
            left_tok = max(1, ask.output_tok - leg.from_tok)  # that nothing is left takes a step to find out, too
            leg.job = service.submit(self.service.handle, node, leg_id, ask.prompt_tok + leg.from_tok, left_tok, now)
            if leg.job != service.QUEUE_FULL:
                self._plan(node)
                return
            why = NODE_REFUSED
        self.clock.call(now + self.delay_ns[node], REPLY, leg_id, 0, self._fail, leg_id, why)

    def _plan(self, node: int) -> None:
        """Put the node's next first token or completion on the clock."""
        due_ns: int = self._next_ns(node)
        if due_ns != self._planned_ns[node]:
            self._planned_ns[node] = due_ns
            self._plans[node] += 1
            if due_ns < NEVER_NS:
                self.clock.call(due_ns, SERVICE, node, self._plans[node], self._serve, node, self._plans[node])

    def _serve(self, node: int, number: int) -> None:
        """The node has a first token or a whole answer ready; it reaches the Nexus after the way back."""
        if number != self._plans[node]:
            return  # the node's plan has changed
        now = self.clock.now
        self._planned_ns[node] = NEVER_NS
        while self._next_ns(node) <= now:
            code, leg_id = service.advance(self.service.handle, node, now)
            leg = self._legs[leg_id]
            at_ns = now + self.delay_ns[node]
            if code == service.FIRST_TOKEN:
                self.clock.call(at_ns, REPLY, leg_id, 1, self._first_token, leg_id)
            else:
                leg.job, leg.delivered_tok = NONE, self._asks[leg.request].output_tok
                self.clock.call(at_ns, REPLY, leg_id, 2, self._complete, leg_id)
        self._plan(node)

    def _first_token(self, leg_id: int) -> None:
        leg = self._legs.get(leg_id)
        if leg is not None:
            self._asks[leg.request].began = True
            self.tell(FirstToken(self.clock.now, leg_id))

    def _complete(self, leg_id: int) -> None:
        leg = self._legs.pop(leg_id, None)
        if leg is not None:
            self.tell(Complete(self.clock.now, leg_id, leg.delivered_tok))

    def _fail(self, leg_id: int, why: int) -> None:
        if self._legs.pop(leg_id, None) is not None:
            self.tell(Fail(self.clock.now, leg_id, why))

    def _receipt(self, request: int) -> None:
        """The request's time is up: what its leg has delivered is receipted before the kernel ends it."""
        ask = self._asks.get(request)
        if ask is not None and ask.began:
            self._stop_job(ask.leg)

    def _stop_job(self, leg_id: int) -> None:
        """End a leg's job at its node and hand in its last receipt."""
        leg = self._legs.get(leg_id)
        if leg is None:
            return
        if leg.job != NONE:
            self._deliver(leg, service.cancel(self.service.handle, leg.job, self.clock.now))
            self._plan(leg.node)
        if leg.delivered_tok > leg.from_tok:
            self.tell(Progress(self.clock.now, leg_id, leg.delivered_tok))

    def _deliver(self, leg: Leg, receipted_tok: int) -> None:
        """A leg's job has ended before its time, with so much of it receipted."""
        leg.job = NONE
        leg.delivered_tok = min(leg.from_tok + receipted_tok, self._asks[leg.request].output_tok)

    def _cancel(self, command: Cancel) -> None:
        """The Nexus gives a leg up; its job ends at once."""
        leg = self._legs.pop(command.leg)
        if leg.job != NONE:
            service.cancel(self.service.handle, leg.job, self.clock.now)
            self._plan(leg.node)

    # --- nodes ---------------------------------------------------------------------------------------------------------------

    def _breakdowns(self, entry: census.NodeEntry) -> Story:
        """A node breaks, loses what it was doing, and is repaired; it tells nobody."""
        failures, node = entry.population.failures, entry.node
        assert failures is not None
        count = 0
        while True:
            yield self._wait(entry, streams.FAILURES, 2 * count, failures.mtbf_ns)
            self.broken[node] = True
            at_ns = self.clock.now + self.delay_ns[node]
            while True:
                leg_id, receipted_tok = service.evict(self.service.handle, node, self.clock.now)
                if leg_id == service.NONE:
                    break
                self._deliver(self._legs[leg_id], receipted_tok)
                self.clock.call(at_ns, REPLY, leg_id, 3, self._lose, leg_id)
            self._plan(node)
            yield self._wait(entry, streams.FAILURES, 2 * count + 1, failures.mttr_ns)
            self.broken[node] = False
            count += 1

    def _lose(self, leg_id: int) -> None:
        """The connection to a broken node is gone; its last receipt counts."""
        self._stop_job(leg_id)
        self._fail(leg_id, NODE_LOST)

    def _days(self, entry: census.NodeEntry) -> Story:
        """A node comes and goes: it announces both, and finishes what it has before it goes."""
        availability, node, count = entry.population.availability, entry.node, 0
        if availability.diurnal is not None:
            day = availability.diurnal
            midnight_ns = int(self.config.sim.start_hour * HOUR_NS)
            start_ns = faults.day_start_ns(self.config.seed, entry.key, day.start_ns, day.jitter_ns, midnight_ns)
            up_ns = min(day.up_ns, DAY_NS - 1)
            if start_ns + up_ns > DAY_NS:  # up at the start, since yesterday
                self.tell(NodeUp(0, node))
                yield self._at_change(node, start_ns + up_ns - DAY_NS)
                self.tell(NodeDown(self.clock.now, node))
            while True:
                yield self._at_change(node, start_ns)
                self.tell(NodeUp(self.clock.now, node))
                yield self._at_change(node, start_ns + up_ns)
                self.tell(NodeDown(self.clock.now, node))
                start_ns += DAY_NS
        self.tell(NodeUp(0, node))
        while availability.on_ns is not None and availability.off_ns is not None:
            yield self._wait(entry, streams.AVAILABILITY, count, availability.on_ns)
            self.tell(NodeDown(self.clock.now, node))
            yield self._wait(entry, streams.AVAILABILITY, count + 1, availability.off_ns)
            self.tell(NodeUp(self.clock.now, node))
            count += 2

    def _wait(self, entry: census.NodeEntry, subsystem: int, index: int, mean_ns: int) -> Any:
        """An exponential time of this mean from now."""
        wait_ns = faults.wait_ns(self.config.seed, subsystem, entry.key, index, mean_ns)
        return self._at_change(entry.node, self.clock.now + wait_ns, subsystem)

    def _at_change(self, node: int, t_ns: int, subsystem: int = streams.AVAILABILITY) -> Any:
        return self.clock.at(t_ns, NODE_CHANGE, node, subsystem == streams.FAILURES)

    # --- probes and audits ---------------------------------------------------------------------------------------------------

    def _probe(self, command: Probe) -> None:
        """A probe goes to the node and comes back, or does not."""
        at_ns = self.clock.now + 2 * self.delay_ns[command.node]
        ok = not self.broken[command.node]
        self.clock.call(at_ns, REPLY, -1 - command.node, command.serial, self._probed, command, ok)

    def _probed(self, command: Probe, ok: bool) -> None:
        self.tell(Probed(self.clock.now, command.node, command.serial, ok))

    def _audit(self, command: Audit) -> None:
        """An auditor runs the answer again: for an honest node its statistic is N(0, 1)."""
        ask = self._asks[command.request]
        passed = faults.audit_passes(self.config.seed, self._keys[ask.account], ask.arrival_ns)
        self.tell(Audited(self.clock.now, command.offer, passed))

    # --- what the model asks -------------------------------------------------------------------------------------------------

    def busy_ns(self) -> Any:
        """Slots taken × time of each node until now, ns."""
        return self._areas("area_busy_ns")

    def system_ns(self) -> Any:
        """Requests on each node × time until now, ns."""
        return self._areas("area_system_ns")

    def _areas(self, column: str) -> Any:
        for entry in self.nodes:
            service.accrue(self.service.handle, entry.node, self.clock.now)
        return np.array(self.service.server[column], np.int64)

    def forget(self, epoch: int) -> None:
        """No voucher of an epoch up to this one will be asked for."""
        self.receipts.forget(epoch)

    def beyond_horizon(self) -> int:
        """Requests of traces that come after the last served time."""
        return sum(source.remaining() for source in self._workloads)

    def save(self) -> Any:
        """Cannot be done: generators stand in the middle of their code."""
        raise NotImplementedError("sim.engine: reference has processes that cannot be saved; compiled can")

    def load(self, saved: Any) -> None:
        """Cannot be done."""
        raise NotImplementedError("sim.engine: reference cannot go on from a checkpoint; compiled can")

    def under_way(self) -> Iterable[tuple[int, Ask]]:
        """Requests that have arrived and not ended, by id."""
        return sorted(self._asks.items())


_OBEY: dict[type, Any] = {
    Dispatch: ReferenceEngine._dispatch,
    Cancel: ReferenceEngine._cancel,
    Probe: ReferenceEngine._probe,
    Audit: ReferenceEngine._audit,
    Status: ReferenceEngine._status,
    Submit: lambda engine, command: engine.submissions.append(command),
    Receipt: lambda engine, command: engine.receipts.add(command),
}
