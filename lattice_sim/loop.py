"""The compiled engine's loop: `serve` runs the network until a time, over the kernel's, the nodes' and its own tables.

Here S is the kernel's state, V the nodes' service, E the engine's own tables, by address. Each function does what its namesake
in `reference` does; the rules hold every formula.
"""

from typing import Any

import numpy as np

from lattice_core import service
from lattice_core.agenda import first_row, first_time, next_row, prefetch_time, set_time
from lattice_core.directory import Handle, in_lines
from lattice_core.faults import audit_passes, day_start_ns, wait_ns
from lattice_core.jit import inlined, jit, load, prefetch_of, row_of, rows
from lattice_core.ledger import gross_row
from lattice_core.nodes import audited, node_down, node_up, probed
from lattice_core.request_log import add
from lattice_core.requests import LEG_ROW_BITS, arrive, cancel, complete, fail, first_token, progress, timer
from lattice_core.state import (
    AUDIT,
    BALANCED,
    CANCEL,
    CLIENT_LEFT,
    COMPLETED,
    DISPATCH,
    NODE_LOST,
    NODE_REFUSED,
    NONE,
    PROBE,
    PROBE_TIMERS,
    REQUEST_TIMERS,
    STATUS,
    account_at,
    clock,
    lacks_room,
    out_at,
    prefetch_account,
    prefetch_gross,
    prefetch_leg,
    prefetch_node,
    prefetch_offer,
    prefetch_request,
    request_at,
)
from lattice_core.streams import AVAILABILITY, FAILURES
from lattice_core.timers import next_timer, next_timer_ns
from lattice_core.units import DAY_NS, NEVER_NS
from lattice_sim.engine import (
    ARRIVAL,
    NODE_CHANGE,
    PATIENCE,
    REPLY,
    RETRY_WAIT_NS,
    SERVICE,
    TIMER,
    TRAVEL,
)

# Why the loop comes back
DONE, ARRIVALS_WANTED, ROOM_WANTED, STUCK = 0, 1, 2, 3

# What a reply says, as the per-entity count of its event
FAILED, BEGUN, COMPLETE, LOST = 0, 1, 2, 3

AHEAD = 8
"""How many arrivals before its own an account is fetched from memory."""

FIRST_ARRIVAL = PATIENCE + 1
"""In place of ARRIVAL: a user asks, and not again. Such arrivals come first."""

i1, i2, i4, i8 = np.int8, np.int16, np.int32, np.int64

CORE = np.dtype(
    [
        ("seed", i8),
        ("midnight_ns", i8),  # how long before the start
        ("now_ns", i8),
        ("started", i8),
        ("requests", i8),  # ids given so far
        ("messages", i8),
        ("free_later", i8),
        ("wanted", i8),  # a population whose block of arrivals is used up
        ("next_population", i8),  # whose request arrives next,
        ("arrival_ns", i8),  # and when
        ("receipts_ns", i8),  # the time at which receipts are being handed in,
        ("receipts_to", i8),  # and the last request whose was
        ("burst", i8),  # most messages that one event can send
        ("steps", i8),  # events since time last moved,
        ("most_steps", i8),
        ("rank", i8),  # and the last of them
        ("events", i8),  # since the start
    ]
)

NODE = in_lines(
    [
        ("key", i8),
        ("days", i8),  # HOURS, SPELLS or ALWAYS
        ("up", i8),  # whether it has announced itself
        ("yesterday", i8),  # it came before the start
        ("start_ns", i8),
        ("jitter_ns", i8),
        ("up_ns", i8),
        ("on_ns", i8),
        ("off_ns", i8),
        ("spells", i8),
        ("mtbf_ns", i8),
        ("mttr_ns", i8),
        ("breakdowns", i8),
    ]
)

STATION = np.dtype(
    [
        ("delay_ns", i8),  # the way there or back
        ("broken", i4),
        ("ask", i4),  # whose first token or answer comes next,
        ("job", i4),  # its job,
        ("heap", i4),  # and the first place of the node's heap
    ]
)
"""What messages meet at a node, and what of its service its next event will need."""

HOURS, SPELLS, ALWAYS = 0, 1, 2
"""How a node comes and goes: daily, at random, or not at all."""

POPULATION = np.dtype(
    [
        ("at", i8),  # the next of its block of arrivals,
        ("count", i8),  # which holds so many,
        ("over", i8),  # and none is left before the end
        ("first_account", i8),
        ("cluster", i8),
        ("privacy", i8),
        ("max_fee_nlai", i8),
        ("limit_ns", i8),
        ("retries", i8),
    ]
)

ASK = in_lines(
    [
        ("request", i8),
        ("arrival_ns", i8),
        ("leg", i8),  # while one is open
        ("node", i4),  # to which that was sent,
        ("offer", i4),  # for this offer
        ("account", i4),
        ("job", i4),  # at the node of its leg, once it is there
        ("prompt_tok", i4),
        ("output_tok", i4),
        ("max_tok", i4),
        ("from_tok", i4),  # where in the answer the leg goes on,
        ("delivered_tok", i4),  # and how far that has come when the job has ended
        ("user", i4),
        ("population", i2),
        ("model", i2),
        ("began", i1),
        ("tries", i1),
        ("patience_ns", i8),
        ("session", i8),
        ("prefix", i8),
        ("next_free", i4),
    ]
)
"""A request as only the simulator knows it, with the answer's true length, and its leg as it stands at the node."""

MESSAGE = in_lines(
    [
        ("t_ns", i8),
        ("rank", i8),
        ("entity", i8),
        ("count", i8),
        ("ask", i8),
        ("word", i8),  # of a failure why, of a probe's reply whether the node was well
    ]
)
"""What is on its way, in a heap by (time, rank, entity, count): a request to a node, a reply, a user who asks again."""

TABLES: dict[str, Any] = {
    "core": CORE,
    "nodes": NODE,
    "populations": POPULATION,
    "asks": ASK,
    "later": ASK,
    "messages": MESSAGE,
    "stations": STATION,
    "changes": i8,
    "plans": i8,
    "waits": i8,
    "kind_of": i8,
}
"""Fixed tables; a block of arrivals follows for each population, a table a column of `workload.Requests`.

`changes` is the agenda of nodes, two rows each: days, and breakdowns; `plans` that of their next first tokens and completions;
`waits` that of asks whose users lose patience. An ask stands in the row of the kernel's request; while its user waits to ask
again, in `later`. `kind_of` is the kind of each model.
"""
_NODES, _POPULATIONS, _ASKS, _MESSAGES, _STATIONS, _CHANGES, _PLANS, _WAITS, _KIND_OF = (
    list(TABLES).index(name)
    for name in ("nodes", "populations", "asks", "messages", "stations", "changes", "plans", "waits", "kind_of")
)
_core_at, _node_at, _population_at, _ask_at, _later_at, _message_at, _station_at = (
    row_of(dtype, table) for table, dtype in enumerate(list(TABLES.values())[:7])
)
prefetch_ask = prefetch_of(ASK, _ASKS)
COLUMNS = ("t_ns", "user", "model", "prompt_tok", "output_tok", "max_tok", "patience_ns", "session", "prefix")
_T, _USER, _MODEL, _PROMPT, _OUTPUT, _MAX, _PATIENCE, _SESSION, _PREFIX = range(len(COLUMNS))
_BLOCKS = len(TABLES)
_LEG_ROW = (1 << LEG_ROW_BITS) - 1


@jit
def serve(S: Handle, V: Handle, E: Handle, log: Handle, score: int, until_ns: int) -> int:
    """Everything that happens before `until_ns`; DONE, or why the caller must help before it goes on."""
    core = _core_at(E, 0)
    if core.started == 0:
        core.started = 1
        for node in range(rows(E, _NODES)):
            _begin_days(S, E, node)
            _begin_breakdowns(E, node)
    _next_arrival(E)
    while True:
        if core.wanted != NONE:
            return ARRIVALS_WANTED
        if core.messages + core.burst > rows(E, _MESSAGES) or core.free_later == NONE:
            return ROOM_WANTED
        t_ns, rank = _next(S, E)
        if t_ns >= until_ns:
            core.now_ns = until_ns
            return DONE
        if rank in (FIRST_ARRIVAL, ARRIVAL) and lacks_room(S):
            return ROOM_WANTED
        if t_ns > core.now_ns:
            core.now_ns, core.steps = t_ns, 0
        else:
            core.steps += 1
            if core.steps > core.most_steps + 64 * core.requests:
                core.rank = rank
                return STUCK
        core.events += 1
        count, a = 0, NONE  # what the kernel asks, and about whose request
        if rank == SERVICE:
            _serve(S, V, E, first_row(E, _PLANS))
        elif rank == TRAVEL:
            _reach(V, E)
            _fetch_next(V, E)
        elif rank == REPLY:
            count, a = _hear(S, V, E, score)
            _fetch_next(V, E)
        elif rank == TIMER:
            if first_time(S, REQUEST_TIMERS) != t_ns or not _receipt(S, V, E):
                timers, row = next_timer(S)
                a = row if timers == REQUEST_TIMERS else NONE
                count = timer(S, t_ns)
                prefetch_node(S, first_row(S, PROBE_TIMERS))
        elif rank == NODE_CHANGE:
            _change(S, V, E)
        elif rank == PATIENCE:
            a = _impatient(E)
            count = cancel(S, a, _ask_at(E, a).request, CLIENT_LEFT, t_ns)
        else:
            a = _arrive(S, E) if rank == FIRST_ARRIVAL else _come_back(S, E)
            count = _ask(S, E, a, score)
        if count > 0:
            _obey(S, V, E, log, count, a)


@inlined
def _next(S: Handle, E: Handle) -> tuple[int, int]:
    """Time and rank of the next event: the earliest, and of those of one time the lowest rank."""
    core = _core_at(E, 0)
    t_ns, rank = first_time(E, _CHANGES), NODE_CHANGE
    due_ns = first_time(E, _PLANS)
    if due_ns < t_ns:
        t_ns, rank = due_ns, SERVICE
    due_ns = next_timer_ns(S)
    if due_ns < t_ns:
        t_ns, rank = due_ns, TIMER
    if core.messages > 0:
        m = _message_at(E, 0)
        if m.t_ns < t_ns:
            t_ns, rank = m.t_ns, m.rank
    if core.arrival_ns < t_ns or (core.arrival_ns == t_ns and rank == ARRIVAL):
        t_ns, rank = core.arrival_ns, FIRST_ARRIVAL
    due_ns = first_time(E, _WAITS)
    if due_ns < t_ns:
        t_ns, rank = due_ns, PATIENCE
    return t_ns, rank


# --- messages ----------------------------------------------------------------------------------------------------------------


@jit
def _send(E: Handle, t_ns: int, rank: int, entity: int, count: int, ask: int, word: int) -> None:
    """Put a message on its way."""
    core = _core_at(E, 0)
    i = core.messages
    core.messages += 1
    while i > 0:
        up = (i - 1) >> 1
        if not _before(t_ns, rank, entity, count, _message_at(E, up)):
            break
        _move(E, up, i)
        i = up
    m = _message_at(E, i)
    m.t_ns, m.rank, m.entity, m.count, m.ask, m.word = t_ns, rank, entity, count, ask, word


@jit
def _receive(E: Handle) -> tuple[int, int, int, int]:
    """Take the first message out: its entity, count, ask and word."""
    core, first = _core_at(E, 0), _message_at(E, 0)
    entity, count, ask, word = first.entity, first.count, first.ask, first.word
    core.messages -= 1
    last = _message_at(E, core.messages)
    i = 0
    while True:
        child = 2 * i + 1
        if child >= core.messages:
            break
        if child + 1 < core.messages:
            beside = _message_at(E, child + 1)
            if _before(beside.t_ns, beside.rank, beside.entity, beside.count, _message_at(E, child)):
                child += 1
        if _before(last.t_ns, last.rank, last.entity, last.count, _message_at(E, child)):
            break
        _move(E, child, i)
        i = child
    _move(E, core.messages, i)
    return entity, count, ask, word


@jit
def _before(t_ns: int, rank: int, entity: int, count: int, m: Any) -> bool:
    """Whether an event comes before the message `m`."""
    if t_ns != m.t_ns:
        return t_ns < m.t_ns
    if rank != m.rank:
        return rank < m.rank
    if entity != m.entity:
        return entity < m.entity
    return count < m.count


@jit
def _move(E: Handle, source: int, target: int) -> None:
    a, b = _message_at(E, source), _message_at(E, target)
    b.t_ns, b.rank, b.entity, b.count, b.ask, b.word = a.t_ns, a.rank, a.entity, a.count, a.ask, a.word


@jit
def _hear(S: Handle, V: Handle, E: Handle, score: int) -> tuple[int, int]:
    """A reply reaches the Nexus: how much it asks, and about which request."""
    entity, count, a, word = _receive(E)
    now_ns = _core_at(E, 0).now_ns
    if entity < 0:
        return probed(S, -1 - entity, count, word != 0, now_ns), NONE
    ask = _ask_at(E, a)
    if ask.leg != entity:
        return 0, NONE  # given up on the way
    if count == BEGUN:
        ask.began = 1
        set_time(E, _WAITS, a, NEVER_NS)
        return first_token(S, entity, now_ns), a
    if count == LOST:
        _stop_job(S, V, E, a)
    ask.leg = NONE
    if count == COMPLETE:
        return complete(S, entity, ask.delivered_tok, now_ns), a
    return fail(S, entity, word, 0, now_ns, score), a


@inlined
def _fetch_next(V: Handle, E: Handle) -> None:
    """If the next message is a request on its way to a node, fetch the job it will be there."""
    if _core_at(E, 0).messages > 0 and _message_at(E, 0).rank == TRAVEL:
        service.prefetch_free(V, _ask_at(E, _message_at(E, 0).ask).node)


# --- users -------------------------------------------------------------------------------------------------------------------


@jit
def _next_arrival(E: Handle) -> None:
    """Find the population whose request arrives next, or the first whose block is used up."""
    core = _core_at(E, 0)
    core.wanted, core.next_population, core.arrival_ns = NONE, NONE, NEVER_NS
    for p in range(rows(E, _POPULATIONS)):
        population = _population_at(E, p)
        if population.at == population.count:
            if population.over == 0:
                core.wanted = p
                return
        else:
            t_ns = _column(E, p, _T, population.at)
            if t_ns < core.arrival_ns:
                core.next_population, core.arrival_ns = p, t_ns


@jit
def _column(E: Handle, population: int, column: int, i: int) -> int:
    """A number of the population's block of arrivals."""
    return load(E, _BLOCKS + population * len(COLUMNS) + column, i)


@inlined
def _arrive(S: Handle, E: Handle) -> int:
    """The next arrival: a user wants to ask for the first time. The ask."""
    core = _core_at(E, 0)
    p = core.next_population
    population = _population_at(E, p)
    i = population.at
    population.at += 1
    a = clock(S).free_request
    ask = _ask_at(E, a)
    ask.population, ask.user, ask.model = p, _column(E, p, _USER, i), _column(E, p, _MODEL, i)
    ask.account = population.first_account + ask.user
    ask.prompt_tok, ask.output_tok = _column(E, p, _PROMPT, i), _column(E, p, _OUTPUT, i)
    ask.max_tok, ask.patience_ns = _column(E, p, _MAX, i), _column(E, p, _PATIENCE, i)
    ask.session, ask.prefix = _column(E, p, _SESSION, i), _column(E, p, _PREFIX, i)
    ask.tries = 0
    if i + AHEAD < population.count:
        prefetch_account(S, population.first_account + _column(E, p, _USER, i + AHEAD))
    _next_arrival(E)
    return a


@jit
def _come_back(S: Handle, E: Handle) -> int:
    """A user wants to ask again what stands in `later`. The ask."""
    core, a = _core_at(E, 0), clock(S).free_request
    later = _receive(E)[2]
    _copy(_later_at(E, later), _ask_at(E, a))
    _later_at(E, later).next_free = core.free_later
    core.free_later = later
    return a


@jit
def _copy(source: Any, target: Any) -> None:
    """What of an ask outlives its request."""
    target.population, target.user, target.account, target.model = source.population, source.user, source.account, source.model
    target.prompt_tok, target.output_tok, target.max_tok = source.prompt_tok, source.output_tok, source.max_tok
    target.patience_ns, target.session, target.prefix = source.patience_ns, source.session, source.prefix
    target.tries = source.tries


@jit
def _ask(S: Handle, E: Handle, a: int, score: int) -> int:
    """A user asks: the request arrives, in the row that the kernel will give it."""
    core, ask = _core_at(E, 0), _ask_at(E, a)
    population = _population_at(E, ask.population)
    core.requests += 1
    request = core.requests
    ask.request, ask.arrival_ns, ask.leg, ask.began = request, core.now_ns, NONE, 0
    if ask.patience_ns < NEVER_NS - core.now_ns:
        set_time(E, _WAITS, a, core.now_ns + ask.patience_ns)
    return arrive(
        S, request, 0, NONE, ask.account, ask.account, ask.session, ask.model, load(E, _KIND_OF, ask.model),
        population.cluster, population.privacy, ask.prompt_tok, ask.max_tok, population.max_fee_nlai,
        core.now_ns + population.limit_ns, ask.prefix, False, BALANCED, 0, core.now_ns, score,
    )  # fmt: skip


@jit
def _impatient(E: Handle) -> int:
    """No first token yet: of all who have waited long enough, the user who asked first leaves. The ask."""
    a = first_row(E, _WAITS)
    other = next_row(E, _WAITS, a)
    while other != NONE:
        if _ask_at(E, other).request < _ask_at(E, a).request:
            a = other
        other = next_row(E, _WAITS, other)
    set_time(E, _WAITS, a, NEVER_NS)
    return a


@jit
def _end(E: Handle, log: Handle, a: int, o: Any) -> None:
    """A request has ended as `o` says: write it down, and maybe the user asks again."""
    core, ask = _core_at(E, 0), _ask_at(E, a)
    add(
        log, ask.request, ask.population, ask.user, o.node, ask.model, ask.prompt_tok, o.output_tok, ask.arrival_ns,
        o.sent_ns, o.first_token_ns, core.now_ns, o.outcome, o.reason, o.nlai,
    )  # fmt: skip
    set_time(E, _WAITS, a, NEVER_NS)
    request = ask.request
    ask.request = 0
    if o.outcome != COMPLETED and ask.tries < _population_at(E, ask.population).retries:
        ask.tries += 1
        later = core.free_later
        core.free_later = _later_at(E, later).next_free
        _copy(ask, _later_at(E, later))
        _send(E, core.now_ns + RETRY_WAIT_NS, ARRIVAL, request, 0, later, 0)


# --- legs --------------------------------------------------------------------------------------------------------------------


@jit
def _obey(S: Handle, V: Handle, E: Handle, log: Handle, count: int, a: int) -> None:
    """Do what the rule that was called last asks: `count` rows of `outs`, about the ask `a`."""
    core = _core_at(E, 0)
    now_ns = core.now_ns
    for i in range(count):
        o = out_at(S, i)
        if o.kind == DISPATCH:
            ask = _ask_at(E, a)
            ask.leg, ask.node, ask.offer, ask.job = o.leg, o.node, o.offer, NONE
            ask.from_tok, ask.delivered_tok = o.from_tok, o.from_tok
            _send(E, now_ns + _station_at(E, o.node).delay_ns, TRAVEL, o.leg, 0, a, 0)
            service.prefetch(V, o.node)
        elif o.kind == STATUS:
            _end(E, log, a, o)
        elif o.kind == CANCEL:
            ask = _ask_at(E, a)
            ask.leg = NONE
            if ask.job != NONE:
                service.cancel(V, ask.job, now_ns)
                _plan(V, E, ask.node)
        elif o.kind == PROBE:
            well = 1 - _station_at(E, o.node).broken
            _send(E, now_ns + 2 * _station_at(E, o.node).delay_ns, REPLY, -1 - o.node, o.leg, NONE, well)
        elif o.kind == AUDIT:
            ask = _ask_at(E, a)
            passed = audit_passes(core.seed, account_at(S, ask.account).key, ask.arrival_ns)
            audited(S, o.offer, passed, 1.0, now_ns)


@inlined
def _reach(V: Handle, E: Handle) -> None:
    """The node takes the request, or refuses it, or is not there."""
    leg, _, a, _ = _receive(E)
    ask, now_ns = _ask_at(E, a), _core_at(E, 0).now_ns
    if ask.leg != leg:
        return  # given up on the way
    why = NODE_LOST
    if _station_at(E, ask.node).broken == 0:
        left_tok = max(1, ask.output_tok - ask.from_tok)  # that nothing is left takes a step to find out, too
        job = service.submit(V, ask.node, a, ask.prompt_tok + ask.from_tok, left_tok, now_ns)
        if job != service.QUEUE_FULL:
            ask.job = job
            _plan(V, E, ask.node)
            return
        why = NODE_REFUSED
    _send(E, now_ns + _station_at(E, ask.node).delay_ns, REPLY, ask.leg, FAILED, a, why)


@jit
def _plan(V: Handle, E: Handle, node: int) -> None:
    """Note the node's next first token or completion."""
    set_time(E, _PLANS, node, service.next_ns(V, node))
    station, job = _station_at(E, node), service.next_job(V, node)
    station.job = job
    if job != NONE:
        station.ask = service.leg_of(V, job)


@inlined
def _serve(S: Handle, V: Handle, E: Handle, node: int) -> None:
    """The node has a first token or a whole answer ready; it reaches the Nexus after the way back."""
    now_ns = _core_at(E, 0).now_ns
    at_ns = now_ns + _station_at(E, node).delay_ns
    while service.next_ns(V, node) <= now_ns:
        code, a = service.advance(V, node, now_ns)
        ask = _ask_at(E, a)
        if code == service.FIRST_TOKEN:
            _send(E, at_ns, REPLY, ask.leg, BEGUN, a, 0)
        else:
            ask.job, ask.delivered_tok = NONE, ask.output_tok
            _send(E, at_ns, REPLY, ask.leg, COMPLETE, a, 0)
            prefetch_account(S, ask.account)
            prefetch_gross(S, gross_row(S, ask.account, node))
        prefetch_request(S, a)
        prefetch_time(S, REQUEST_TIMERS, a)
        prefetch_time(E, _WAITS, a)
        prefetch_offer(S, ask.offer)
        prefetch_leg(S, ask.leg & _LEG_ROW)
    prefetch_node(S, node)
    _plan(V, E, node)
    following = first_row(E, _PLANS)
    station = _station_at(E, following)
    service.prefetch(V, following)
    prefetch_ask(E, station.ask)
    service.prefetch_job(V, station.job)
    service.prefetch_heap(V, station.heap)


@jit
def _receipt(S: Handle, V: Handle, E: Handle) -> bool:
    """Of the requests whose time is up, the next by id: what its leg has delivered is receipted before the kernel ends it.

    False if none is left.
    """
    core = _core_at(E, 0)
    if core.receipts_ns != core.now_ns:
        core.receipts_ns, core.receipts_to = core.now_ns, 0
    chosen, row = NONE, first_row(S, REQUEST_TIMERS)
    while row != NONE:
        id = request_at(S, row).id
        if id > core.receipts_to and (chosen == NONE or id < request_at(S, chosen).id):
            chosen = row
        row = next_row(S, REQUEST_TIMERS, row)
    if chosen == NONE:
        return False
    core.receipts_to = request_at(S, chosen).id
    if _ask_at(E, chosen).began:
        _stop_job(S, V, E, chosen)
    return True


@jit
def _stop_job(S: Handle, V: Handle, E: Handle, a: int) -> None:
    """End the job of an ask's leg at its node and hand in its last receipt."""
    ask, now_ns = _ask_at(E, a), _core_at(E, 0).now_ns
    if ask.leg == NONE:
        return
    if ask.job != NONE:
        _deliver(ask, service.cancel(V, ask.job, now_ns))
        _plan(V, E, ask.node)
    if ask.delivered_tok > ask.from_tok:
        progress(S, ask.leg, ask.delivered_tok, now_ns)


@jit
def _deliver(ask: Any, receipted_tok: int) -> None:
    """The job of an ask's leg has ended before its time, with so much of it receipted."""
    ask.job = NONE
    ask.delivered_tok = min(ask.from_tok + receipted_tok, ask.output_tok)


# --- nodes -------------------------------------------------------------------------------------------------------------------


@jit
def _change(S: Handle, V: Handle, E: Handle) -> None:
    """A node comes or goes, breaks or is repaired."""
    row = first_row(E, _CHANGES)
    if row & 1:
        _break(V, E, row >> 1)
    else:
        _come_or_go(S, E, row >> 1)


@jit
def _begin_days(S: Handle, E: Handle, node: int) -> None:
    """A node is there at the start, or is not yet."""
    core, n = _core_at(E, 0), _node_at(E, node)
    next_ns = NEVER_NS
    if n.days == HOURS:
        n.start_ns = day_start_ns(core.seed, n.key, n.start_ns, n.jitter_ns, core.midnight_ns)
        n.yesterday = 1 if n.start_ns + n.up_ns > DAY_NS else 0
        next_ns = n.start_ns + n.up_ns - DAY_NS if n.yesterday else n.start_ns
    elif n.days == SPELLS:
        next_ns = wait_ns(core.seed, AVAILABILITY, n.key, 0, n.on_ns)
    if n.days != HOURS or n.yesterday:
        n.up = 1
        node_up(S, node, 0)
    set_time(E, _CHANGES, 2 * node, next_ns)


@jit
def _come_or_go(S: Handle, E: Handle, node: int) -> None:
    """A node announces that it comes or goes; it finishes what it has before it goes."""
    core, n = _core_at(E, 0), _node_at(E, node)
    n.up = 1 - n.up
    if n.up:
        node_up(S, node, core.now_ns)
    else:
        node_down(S, node, core.now_ns)
    if n.days == SPELLS:
        n.spells += 1
        next_ns = core.now_ns + wait_ns(core.seed, AVAILABILITY, n.key, n.spells, n.on_ns if n.up else n.off_ns)
    elif n.up:
        next_ns = n.start_ns + n.up_ns
    else:
        if n.yesterday:
            n.yesterday = 0
        else:
            n.start_ns += DAY_NS
        next_ns = n.start_ns
    set_time(E, _CHANGES, 2 * node, next_ns)


@jit
def _begin_breakdowns(E: Handle, node: int) -> None:
    n = _node_at(E, node)
    if n.mtbf_ns < NEVER_NS:
        set_time(E, _CHANGES, 2 * node + 1, wait_ns(_core_at(E, 0).seed, FAILURES, n.key, 0, n.mtbf_ns))


@jit
def _break(V: Handle, E: Handle, node: int) -> None:
    """A node breaks and loses what it was doing, or is repaired; it tells nobody."""
    core, n = _core_at(E, 0), _node_at(E, node)
    _station_at(E, node).broken = 1 - _station_at(E, node).broken
    if _station_at(E, node).broken:
        at_ns = core.now_ns + _station_at(E, node).delay_ns
        while True:
            a, receipted_tok = service.evict(V, node, core.now_ns)
            if a == service.NONE:
                break
            ask = _ask_at(E, a)
            _deliver(ask, receipted_tok)
            _send(E, at_ns, REPLY, ask.leg, LOST, a, NODE_LOST)
        _plan(V, E, node)
        mean_ns = n.mttr_ns
    else:
        mean_ns = n.mtbf_ns
    n.breakdowns += 1
    set_time(E, _CHANGES, 2 * node + 1, core.now_ns + wait_ns(core.seed, FAILURES, n.key, n.breakdowns, mean_ns))


@jit
def accrue(V: Handle, nodes: int, t_ns: int) -> None:
    """Bring the areas of all nodes up to `t_ns`."""
    for node in range(nodes):
        service.accrue(V, node, t_ns)
