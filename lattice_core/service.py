"""How a simulated node serves: continuous batching as a fluid, O(log n) an event. Simulated engines only.

The rules. A request takes a slot on admission; one that finds none waits, first in first out, in a bounded queue. Prompts are
prefilled one at a time in order of submission; the first token appears when the prompt is done, and the rest is decoded.

The node works in steps. With n requests decoding, a step gives each of them one token and lasts a + b·n; while a prompt is
prefilled, a step also takes in a chunk of c of its tokens and lasts c/r' longer; a step of nothing but prompt lasts c/r. So
beside others prefill has the share φ = c/(c + r'·(a + b·n)) of the time, runs at φ·r', and each request decodes at
(1 − φ)/(a + b·n) tokens/s. Unless a node is said to read more slowly beside others, r' = r.

Within a step everything flows evenly, and a step's length changes only at events. Hence one virtual clock, which counts the
steps since the node was last empty, says when everything ends: a prompt of m tokens m/c steps after it began, an answer of k
tokens k − 1 steps after its first. Each event is rounded up to a whole nanosecond here and nowhere else.

Callers keep time: before anything else happens to a node at t, its events before t have been taken by `advance`.
Requests in the system with their slots' time, integrated exactly, stand in `area_system_ns` and `area_busy_ns`.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lattice_core.directory import Directory, Handle, in_lines, zeros
from lattice_core.jit import jit, load, prefetch_of, row_of, store
from lattice_core.units import NEVER_NS

CHUNK_TOK = 128
"""Prompt tokens that a step takes in, unless a node's profile says otherwise."""

RECEIPT_TOK = 16
"""Delivered tokens are receipted at every multiple of this; a job cut short is paid up to its last receipt."""

NONE = -1
"""No job, no leg."""

QUEUE_FULL = -1
"""`submit` found neither a free slot nor room to wait."""

# What `advance` did.
NOTHING, FIRST_TOKEN, DONE = 0, 1, 2

# What a job is doing.
FREE, WAITING, PREFILL, DECODE = 0, 1, 2, 3

_SLACK_NS = 0.01
"""An event this little after a whole nanosecond belongs to it: far above the clock's float error, far below anything real."""

_FAR_NS = 2.0**62
"""146 years: what is further off than this is put here, beyond every run, where int64 still has room for it."""

i4, i8, f8 = np.int32, np.int64, np.float64

SERVER = in_lines(
    [
        ("next_ns", i8),  # the next event
        ("next_code", i4),
        ("decoding", i4),  # how many jobs decode,
        ("prefilling", i4),  # how many have a slot and no first token,
        ("waiting", i4),  # and how many wait for one
        ("slots", i4),
        ("queue_room", i4),
        ("clock", f8),  # the virtual clock at since_ns, in steps
        ("since_ns", i8),
        ("step_ns", f8),  # a step's length since then; 0: nothing in service takes time
        ("prompt_end", f8),  # the clock when its prompt is done
        ("prompt", i4),  # the job in prefill
        ("head", i4),  # the queue: jobs in prefill, then those waiting, by submission
        ("tail", i4),
        ("first_waiting", i4),
        ("free", i4),  # a chain of unused job rows
        ("heap", i4),  # where the heap of decoding jobs begins
        ("accrued_ns", i8),
        ("area_system_ns", i8),  # ∫ jobs on the node dt, to accrued_ns
        ("area_busy_ns", i8),  # ∫ slots taken dt
        ("a_ns", f8),  # a step's fixed time
        ("b_ns", f8),  # a step's time per decoding request
        ("prefill_ns", f8),  # 1e9/r, a prompt token's time; 0: prompts cost nothing
        ("beside_ns", f8),  # 1e9/r', the same while others decode
        ("chunk_tok", i8),  # c
        ("submitted", i8),  # jobs ever accepted
    ]
)

JOB = in_lines(
    [
        ("leg", i8),  # the caller's handle
        ("finish", f8),  # the clock when its last token is out
        ("no", i8),  # order of submission on its node
        ("node", i4),
        ("state", i4),
        ("prompt_tok", i4),
        ("output_tok", i4),
        ("place", i4),  # its position in the heap
        ("before", i4),  # its neighbours in the queue
        ("after", i4),
    ]
)


class Service(Directory):
    """All nodes' service state.

    `server` has a row a node (SERVER); `job` holds slots + queue_room rows for each node (JOB), so that it never grows; `heap`
    holds for each node `slots` job rows, those decoding, ordered by (finish, no). `handle` is what the functions here take.
    """


_HEAP = 2
_server_at, _job_at = row_of(SERVER, 0), row_of(JOB, 1)
prefetch, prefetch_job, prefetch_heap = prefetch_of(SERVER, 0), prefetch_of(JOB, 1), prefetch_of(np.dtype(np.int64), _HEAP)


def new_service(
    a_ns: ArrayLike,
    b_ns: ArrayLike,
    prefill_ns: ArrayLike,
    slots: ArrayLike,
    queue_room: ArrayLike,
    chunk_tok: ArrayLike = CHUNK_TOK,
    beside_ns: ArrayLike | None = None,
) -> Service:
    """Empty nodes at t = 0. Each argument is one number for all nodes or a sequence of one per node.

    A step lasts a_ns + b_ns·n ns with n > 0 requests decoding, plus chunk_tok·beside_ns ns while a prompt is prefilled; one of
    nothing but prompt chunk_tok·prefill_ns. Without `beside_ns` both are equal, and where prefill_ns is 0 it must be, too.
    Raises ValueError, naming argument and node, unless times are finite and ≥ 0, a_ns + b_ns > 0, and slots ≥ 1, queue_room ≥ 0
    and chunk_tok ≥ 1 are whole.
    """
    names = ("a_ns", "b_ns", "prefill_ns", "slots", "queue_room", "chunk_tok", "beside_ns")
    beside_ns = prefill_ns if beside_ns is None else beside_ns
    least = {"slots": 1, "queue_room": 0, "chunk_tok": 1}
    values = np.broadcast_arrays(*map(np.atleast_1d, (a_ns, b_ns, prefill_ns, slots, queue_room, chunk_tok, beside_ns)))
    for name, column in zip(names, values, strict=True):
        low, whole = least.get(name, 0), name in least
        for node in np.flatnonzero(~(np.isfinite(column) & (column >= low) & (not whole or column % 1 == 0))):
            kind = "a whole" if whole else "a finite"
            raise ValueError(f"{name} of node {node}: {column[node]} is not {kind} number of at least {low}")
    for node in np.flatnonzero(values[0] + values[1] == 0):
        raise ValueError(f"a_ns and b_ns of node {node} are both 0: decoding must take time")
    for node in np.flatnonzero((values[2] == 0) != (values[6] == 0)):
        raise ValueError(f"prefill_ns and beside_ns of node {node}: both must be 0, or neither")

    server = zeros(len(values[0]), SERVER)
    for name, column in zip(names, values, strict=True):
        server[name] = column
    for name in ("prompt", "head", "tail", "first_waiting"):
        server[name] = NONE
    server["next_ns"] = NEVER_NS
    slots_of, rows_of = server["slots"], server["slots"] + server["queue_room"]
    server["free"] = np.cumsum(rows_of) - rows_of
    server["heap"] = np.cumsum(slots_of) - slots_of

    job = zeros(int(rows_of.sum()), JOB)
    job["node"] = np.repeat(np.arange(len(server)), rows_of)
    job["after"] = np.arange(1, len(job) + 1)
    job["after"][server["free"] + rows_of - 1] = NONE
    heap = zeros(int(slots_of.sum()), np.int64)
    heap[:] = NONE
    return Service({"server": server, "job": job, "heap": heap})


@jit
def submit(V: Handle, node: int, leg: int, prompt_tok: int, output_tok: int, t_ns: int) -> int:
    """A request arrives: its job, which is the handle for `cancel`, or QUEUE_FULL. `output_tok` ≥ 1, `prompt_tok` ≥ 0.

    The handle is good until the job's DONE, `cancel` or `evict`; then its row is used again.
    """
    s = _server_at(V, node)
    if s.prefilling + s.decoding == s.slots and s.waiting == s.queue_room:
        return QUEUE_FULL
    accrue(V, node, t_ns)
    row = s.free
    j = _job_at(V, row)
    s.free = j.after
    j.leg = leg
    j.state = WAITING
    j.prompt_tok = prompt_tok
    j.output_tok = output_tok
    j.no = s.submitted
    s.submitted += 1
    j.before = s.tail
    j.after = NONE
    if s.tail == NONE:
        s.head = row
    else:
        _job_at(V, s.tail).after = row
    s.tail = row
    if s.waiting == 0:
        s.first_waiting = row
    s.waiting += 1
    if _fill_slots(V, node):
        _plan(V, node, t_ns)
    return row


@jit
def next_ns(V: Handle, node: int) -> int:
    """When the node's next first token or completion is due; NEVER_NS if none."""
    return _server_at(V, node).next_ns


@jit
def next_job(V: Handle, node: int) -> int:
    """Whose first token or completion that is; NONE if none is due."""
    s = _server_at(V, node)
    if s.next_ns == NEVER_NS:
        return NONE
    return s.head if s.next_code == FIRST_TOKEN else load(V, _HEAP, s.heap)


@jit
def leg_of(V: Handle, job: int) -> int:
    """The leg with which a job was submitted."""
    return _job_at(V, job).leg


@jit
def prefetch_free(V: Handle, node: int) -> None:
    """The row of the node's next job will be needed soon."""
    s = _server_at(V, node)
    if s.free != NONE:
        prefetch_job(V, s.free)


@jit
def advance(V: Handle, node: int, t_ns: int) -> tuple[int, int]:
    """Take the node's next event if it is due by `t_ns`: (FIRST_TOKEN or DONE, leg), at time `next_ns`; else (NOTHING, NONE).

    Call again until NOTHING: several events can fall on one nanosecond, and an answer of one token is DONE at its first.
    """
    s = _server_at(V, node)
    if s.next_ns > t_ns:
        return NOTHING, NONE
    now_ns = s.next_ns
    code = s.next_code
    accrue(V, node, now_ns)
    if code == FIRST_TOKEN:
        row = s.head
        j = _job_at(V, row)
        j.finish = _clock(s, now_ns) + (j.output_tok - 1)
        _dequeue(V, row)
        _heap_push(V, row)
    else:
        row = load(V, _HEAP, s.heap)
        _remove(V, row)
        _fill_slots(V, node)
    _plan(V, node, now_ns)
    return code, _job_at(V, row).leg


@jit
def cancel(V: Handle, row: int, t_ns: int) -> int:
    """End a job at `t_ns` wherever it stands; its slot goes to the next in the queue. Tokens receipted, as in `evict`.

    NONE, and no effect, if the row holds no job.
    """
    j = _job_at(V, row)
    if j.state == FREE:
        return NONE
    accrue(V, j.node, t_ns)
    receipted_tok = _receipted_tok(V, row, t_ns)
    _remove(V, row)
    _fill_slots(V, j.node)
    _plan(V, j.node, t_ns)
    return receipted_tok


@jit
def evict(V: Handle, node: int, t_ns: int) -> tuple[int, int]:
    """The node fails: take one job off it, admitting no other: (leg, tokens receipted), or (NONE, 0) when it is empty.

    Call until NONE. Decoding jobs go first, by finish, then the others by submission. Receipted are the tokens delivered by
    `t_ns`, down to a multiple of RECEIPT_TOK, or the whole answer if all of it is out.
    """
    s = _server_at(V, node)
    if s.decoding > 0:
        row = load(V, _HEAP, s.heap)
    elif s.head != NONE:
        row = s.head
    else:
        return NONE, 0
    accrue(V, node, t_ns)
    receipted_tok = _receipted_tok(V, row, t_ns)
    _remove(V, row)
    _plan(V, node, t_ns)
    return _job_at(V, row).leg, receipted_tok


@jit
def accrue(V: Handle, node: int, t_ns: int) -> None:
    """Bring the node's areas up to `t_ns`, as every change does; call before reading them."""
    s = _server_at(V, node)
    dt_ns = t_ns - s.accrued_ns
    busy = s.prefilling + s.decoding
    s.area_busy_ns += busy * dt_ns
    s.area_system_ns += (busy + s.waiting) * dt_ns
    s.accrued_ns = t_ns


@jit
def _fill_slots(V: Handle, node: int) -> bool:
    """No slot stays free while a job waits (INV-15). Whether any job was admitted."""
    s = _server_at(V, node)
    admitted = False
    while s.waiting > 0 and s.prefilling + s.decoding < s.slots:
        j = _job_at(V, s.first_waiting)
        j.state = PREFILL
        s.first_waiting = j.after
        s.waiting -= 1
        s.prefilling += 1
        admitted = True
    return admitted


@jit
def _plan(V: Handle, node: int, t_ns: int) -> None:
    """After a change at `t_ns`: the prompt in prefill, the step's length from now on, and the next event."""
    s = _server_at(V, node)
    s.next_ns = NEVER_NS
    if s.prefilling + s.decoding == 0:
        s.clock = 0.0
        s.step_ns = 0.0
        s.prompt = NONE
        return

    now = _clock(s, t_ns)
    step_ns = s.a_ns + s.b_ns * s.decoding if s.decoding > 0 else 0.0
    if s.prefilling == 0:
        s.prompt = NONE
    else:
        prompt_tok = _job_at(V, s.head).prompt_tok if s.prefill_ns > 0.0 else 0
        if s.prompt != s.head:
            s.prompt = s.head
            s.prompt_end = now + prompt_tok / s.chunk_tok
        if prompt_tok > 0:
            step_ns += (s.beside_ns if s.decoding > 0 else s.prefill_ns) * s.chunk_tok
    if step_ns != s.step_ns:  # an unchanged pace keeps its origin, so that float errors do not add up
        s.clock = now
        s.since_ns = t_ns
        s.step_ns = step_ns

    if s.prefilling > 0:
        s.next_ns = t_ns + _round_up((s.prompt_end - now) * step_ns)
        s.next_code = FIRST_TOKEN
    if s.decoding > 0:
        due_ns = t_ns + _round_up((_job_at(V, load(V, _HEAP, s.heap)).finish - now) * step_ns)
        if due_ns <= s.next_ns:
            s.next_ns = due_ns
            s.next_code = DONE


@jit
def _clock(s: Any, t_ns: int) -> float:
    """The node's virtual clock at `t_ns`."""
    return s.clock + (t_ns - s.since_ns) / s.step_ns if s.step_ns > 0.0 else s.clock


@jit
def _round_up(duration_ns: float) -> int:
    """Whole nanoseconds from now: the one place where a duration is rounded."""
    return max(0, math.ceil(min(duration_ns, _FAR_NS) - _SLACK_NS))


@jit
def _receipted_tok(V: Handle, row: int, t_ns: int) -> int:
    j = _job_at(V, row)
    if j.state != DECODE:
        return 0
    s = _server_at(V, j.node)
    left_tok = math.ceil(j.finish - _clock(s, t_ns) - _SLACK_NS / s.step_ns)
    if left_tok <= 0:
        return j.output_tok
    delivered_tok = j.output_tok - left_tok
    return delivered_tok - delivered_tok % RECEIPT_TOK


@jit
def _remove(V: Handle, row: int) -> None:
    """Take a job off its node. Its row is free, and holds what it held until the next `submit`."""
    j = _job_at(V, row)
    if j.state == DECODE:
        _heap_remove(V, row)
    else:
        _dequeue(V, row)
    s = _server_at(V, j.node)
    j.state = FREE
    j.after = s.free
    s.free = row


@jit
def _dequeue(V: Handle, row: int) -> None:
    j = _job_at(V, row)
    s = _server_at(V, j.node)
    if j.state == WAITING:
        s.waiting -= 1
    else:
        s.prefilling -= 1
    if s.first_waiting == row:
        s.first_waiting = j.after
    if s.head == row:
        s.head = j.after
    else:
        _job_at(V, j.before).after = j.after
    if s.tail == row:
        s.tail = j.before
    else:
        _job_at(V, j.after).before = j.before


@jit
def _heap_push(V: Handle, row: int) -> None:
    j = _job_at(V, row)
    s = _server_at(V, j.node)
    j.state = DECODE
    _rise(V, s.heap, s.decoding, row)
    s.decoding += 1


@jit
def _heap_remove(V: Handle, row: int) -> None:
    """Put the heap's last job where `row` was, and let it rise or sink from there."""
    j = _job_at(V, row)
    s = _server_at(V, j.node)
    s.decoding -= 1
    last = load(V, _HEAP, s.heap + s.decoding)
    if last != row:
        _sink(V, s.heap, s.decoding, j.place, last)
        _rise(V, s.heap, _job_at(V, last).place, last)


@jit
def _rise(V: Handle, heap: int, place: int, row: int) -> None:
    """Put `row` at `place` or, while it precedes its parent, above it."""
    while place > 0:
        parent = (place - 1) // 2
        above = load(V, _HEAP, heap + parent)
        if not _precedes(_job_at(V, row), _job_at(V, above)):
            break
        store(V, _HEAP, heap + place, above)
        _job_at(V, above).place = place
        place = parent
    store(V, _HEAP, heap + place, row)
    _job_at(V, row).place = place


@jit
def _sink(V: Handle, heap: int, size: int, place: int, row: int) -> None:
    """Put `row` at `place` or, while a child precedes it, below that child."""
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        below = load(V, _HEAP, heap + child)
        if child + 1 < size:
            beside = load(V, _HEAP, heap + child + 1)
            if _precedes(_job_at(V, beside), _job_at(V, below)):
                child, below = child + 1, beside
        if not _precedes(_job_at(V, below), _job_at(V, row)):
            break
        store(V, _HEAP, heap + place, below)
        _job_at(V, below).place = place
        place = child
    store(V, _HEAP, heap + place, row)
    _job_at(V, row).place = place


@jit
def _precedes(x: Any, y: Any) -> bool:
    """Whether job `x` ends before job `y`; at one finish, the one submitted first."""
    return x.finish < y.finish or (x.finish == y.finish and x.no < y.no)
