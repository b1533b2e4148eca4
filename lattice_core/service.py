"""How a simulated node serves: continuous batching as a fluid, O(log n) an event. Simulated engines only.

The rules. A request takes a slot on admission; one that finds none waits, first in first out, in a bounded queue. Prompts are
prefilled one at a time in order of submission; the first token appears when the prompt is done, and the rest is decoded.

The node works in steps. With n requests decoding, a step gives each of them one token and lasts a + b·n; while a prompt is
prefilled, a step also takes in a chunk of c of its tokens and lasts c/r longer (a step of nothing but prompt lasts c/r). So
prefill has the share φ = c/(c + r·(a + b·n)) of the time, runs at φ·r, and each request decodes at (1 − φ)/(a + b·n) tokens/s.

Within a step everything flows evenly, and a step's length changes only at events. Hence one virtual clock, which counts the
steps since the node was last empty, says when everything ends: a prompt of m tokens m/c steps after it began, an answer of k
tokens k − 1 steps after its first. Each event is rounded up to a whole nanosecond here and nowhere else.

Callers keep time: before anything else happens to a node at t, its events before t have been taken by `advance`.
Requests in the system with their slots' time, integrated exactly, stand in `area_system_ns` and `area_busy_ns`.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from lattice_core.jit import jit
from lattice_core.units import NEVER_NS

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

SERVER = np.dtype(
    [
        ("a_ns", np.float64),  # a step's fixed time
        ("b_ns", np.float64),  # a step's time per decoding request
        ("prefill_ns", np.float64),  # 1e9/r, a prompt token's time; 0: prompts cost nothing
        ("chunk_tok", np.int64),  # c
        ("slots", np.int64),
        ("queue_room", np.int64),
        ("waiting", np.int64),  # how many jobs wait for a slot,
        ("prefilling", np.int64),  # how many have one and no first token,
        ("decoding", np.int64),  # and how many decode
        ("submitted", np.int64),  # jobs ever accepted
        ("clock", np.float64),  # the virtual clock at since_ns, in steps
        ("since_ns", np.int64),
        ("step_ns", np.float64),  # a step's length since then; 0: nothing in service takes time
        ("prompt", np.int64),  # the job in prefill
        ("prompt_end", np.float64),  # the clock when its prompt is done
        ("next_ns", np.int64),  # the next event
        ("next_code", np.int64),
        ("area_system_ns", np.int64),  # ∫ jobs on the node dt, to accrued_ns
        ("area_busy_ns", np.int64),  # ∫ slots taken dt
        ("accrued_ns", np.int64),
        ("head", np.int64),  # the queue: jobs in prefill, then those waiting, by submission
        ("tail", np.int64),
        ("first_waiting", np.int64),
        ("free", np.int64),  # a chain of unused job rows
        ("heap", np.int64),  # where the heap of decoding jobs begins
    ]
)

JOB = np.dtype(
    [
        ("leg", np.int64),  # the caller's handle
        ("node", np.int64),
        ("state", np.int64),
        ("prompt_tok", np.int64),
        ("output_tok", np.int64),
        ("no", np.int64),  # order of submission on its node
        ("finish", np.float64),  # the clock when its last token is out
        ("place", np.int64),  # its position in the heap
        ("before", np.int64),  # its neighbours in the queue
        ("after", np.int64),
    ]
)


class Service(NamedTuple):
    """All nodes' service state: a few arrays, picklable, one unboxing a call.

    `server` has a row a node (SERVER); `job` holds slots + queue_room rows for each node (JOB), so that it never grows; `heap`
    holds for each node `slots` job rows, those decoding, ordered by (finish, no).
    """

    server: Any
    job: Any
    heap: Any


def new_service(
    a_ns: ArrayLike, b_ns: ArrayLike, prefill_ns: ArrayLike, slots: ArrayLike, queue_room: ArrayLike, chunk_tok: ArrayLike = 128
) -> Service:
    """Empty nodes at t = 0. Each argument is one number for all nodes or a sequence of one per node.

    A step lasts a_ns + b_ns·n ns with n requests decoding, plus chunk_tok·prefill_ns ns while a prompt is prefilled. Raises
    ValueError, naming argument and node, unless a_ns, b_ns and prefill_ns are finite and ≥ 0, a_ns + b_ns > 0, and slots ≥ 1,
    queue_room ≥ 0 and chunk_tok ≥ 1 are whole.
    """
    names = ("a_ns", "b_ns", "prefill_ns", "slots", "queue_room", "chunk_tok")
    least = {"slots": 1, "queue_room": 0, "chunk_tok": 1}
    values = np.broadcast_arrays(*map(np.atleast_1d, (a_ns, b_ns, prefill_ns, slots, queue_room, chunk_tok)))
    for name, column in zip(names, values, strict=True):
        low, whole = least.get(name, 0), name in least
        for node in np.flatnonzero(~(np.isfinite(column) & (column >= low) & (not whole or column % 1 == 0))):
            kind = "a whole" if whole else "a finite"
            raise ValueError(f"{name} of node {node}: {column[node]} is not {kind} number of at least {low}")
    for node in np.flatnonzero(values[0] + values[1] == 0):
        raise ValueError(f"a_ns and b_ns of node {node} are both 0: decoding must take time")

    server = np.zeros(len(values[0]), SERVER).view(np.recarray)
    for name, column in zip(names, values, strict=True):
        server[name] = column
    server.prompt = server.head = server.tail = server.first_waiting = NONE
    server.next_ns = NEVER_NS
    rows = server.slots + server.queue_room
    server.free = np.cumsum(rows) - rows
    server.heap = np.cumsum(server.slots) - server.slots

    job = np.zeros(rows.sum(), JOB).view(np.recarray)
    job.node = np.repeat(np.arange(len(server)), rows)
    job.after = np.arange(1, len(job) + 1)
    job.after[server.free + rows - 1] = NONE
    return Service(server, job, np.full(server.slots.sum(), NONE, np.int64))


@jit
def submit(v: Service, node: int, leg: int, prompt_tok: int, output_tok: int, t_ns: int) -> int:
    """A request arrives: its job, which is the handle for `cancel`, or QUEUE_FULL. `output_tok` ≥ 1, `prompt_tok` ≥ 0.

    The handle is good until the job's DONE, `cancel` or `evict`; then its row is used again.
    """
    s = v.server[node]
    if s.prefilling + s.decoding == s.slots and s.waiting == s.queue_room:
        return QUEUE_FULL
    accrue(v, node, t_ns)
    row = s.free
    j = v.job[row]
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
        v.job[s.tail].after = row
    s.tail = row
    if s.waiting == 0:
        s.first_waiting = row
    s.waiting += 1
    if _fill_slots(v, node):
        _plan(v, node, t_ns)
    return row


@jit
def next_ns(v: Service, node: int) -> int:
    """When the node's next first token or completion is due; NEVER_NS if none."""
    return v.server[node].next_ns


@jit
def advance(v: Service, node: int, t_ns: int) -> tuple[int, int]:
    """Take the node's next event if it is due by `t_ns`: (FIRST_TOKEN or DONE, leg), at time `next_ns`; else (NOTHING, NONE).

    Call again until NOTHING: several events can fall on one nanosecond, and an answer of one token is DONE at its first.
    """
    s = v.server[node]
    if s.next_ns > t_ns:
        return NOTHING, NONE
    now_ns = s.next_ns
    code = s.next_code
    accrue(v, node, now_ns)
    if code == FIRST_TOKEN:
        row = s.head
        j = v.job[row]
        j.finish = _clock(s, now_ns) + (j.output_tok - 1)
        _dequeue(v, row)
        _heap_push(v, row)
    else:
        row = v.heap[s.heap]
        _remove(v, row)
        _fill_slots(v, node)
    _plan(v, node, now_ns)
    return code, v.job[row].leg


@jit
def cancel(v: Service, row: int, t_ns: int) -> int:
    """End a job at `t_ns` wherever it stands; its slot goes to the next in the queue. Tokens receipted, as in `evict`.

    NONE, and no effect, if the row holds no job.
    """
    j = v.job[row]
    if j.state == FREE:
        return NONE
    accrue(v, j.node, t_ns)
    receipted_tok = _receipted_tok(v, row, t_ns)
    _remove(v, row)
    _fill_slots(v, j.node)
    _plan(v, j.node, t_ns)
    return receipted_tok


@jit
def evict(v: Service, node: int, t_ns: int) -> tuple[int, int]:
    """The node fails: take one job off it, admitting no other: (leg, tokens receipted), or (NONE, 0) when it is empty.

    Call until NONE. Decoding jobs go first, by finish, then the others by submission. Receipted are the tokens delivered by
    `t_ns`, down to a multiple of RECEIPT_TOK, or the whole answer if all of it is out.
    """
    s = v.server[node]
    if s.decoding > 0:
        row = v.heap[s.heap]
    elif s.head != NONE:
        row = s.head
    else:
        return NONE, 0
    accrue(v, node, t_ns)
    receipted_tok = _receipted_tok(v, row, t_ns)
    _remove(v, row)
    _plan(v, node, t_ns)
    return v.job[row].leg, receipted_tok


@jit
def accrue(v: Service, node: int, t_ns: int) -> None:
    """Bring the node's areas up to `t_ns`, as every change does; call before reading them."""
    s = v.server[node]
    dt_ns = t_ns - s.accrued_ns
    busy = s.prefilling + s.decoding
    s.area_busy_ns += busy * dt_ns
    s.area_system_ns += (busy + s.waiting) * dt_ns
    s.accrued_ns = t_ns


@jit
def _fill_slots(v: Service, node: int) -> bool:
    """No slot stays free while a job waits (INV-15). Whether any job was admitted."""
    s = v.server[node]
    admitted = False
    while s.waiting > 0 and s.prefilling + s.decoding < s.slots:
        j = v.job[s.first_waiting]
        j.state = PREFILL
        s.first_waiting = j.after
        s.waiting -= 1
        s.prefilling += 1
        admitted = True
    return admitted


@jit
def _plan(v: Service, node: int, t_ns: int) -> None:
    """After a change at `t_ns`: the prompt in prefill, the step's length from now on, and the next event."""
    s = v.server[node]
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
        prompt_tok = v.job[s.head].prompt_tok if s.prefill_ns > 0.0 else 0
        if s.prompt != s.head:
            s.prompt = s.head
            s.prompt_end = now + prompt_tok / s.chunk_tok
        if prompt_tok > 0:
            step_ns += s.prefill_ns * s.chunk_tok
    if step_ns != s.step_ns:  # an unchanged pace keeps its origin, so that float errors do not add up
        s.clock = now
        s.since_ns = t_ns
        s.step_ns = step_ns

    if s.prefilling > 0:
        s.next_ns = t_ns + _round_up((s.prompt_end - now) * step_ns)
        s.next_code = FIRST_TOKEN
    if s.decoding > 0:
        due_ns = t_ns + _round_up((v.job[v.heap[s.heap]].finish - now) * step_ns)
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
    return max(0, math.ceil(duration_ns - _SLACK_NS))


@jit
def _receipted_tok(v: Service, row: int, t_ns: int) -> int:
    j = v.job[row]
    if j.state != DECODE:
        return 0
    s = v.server[j.node]
    left_tok = math.ceil(j.finish - _clock(s, t_ns) - _SLACK_NS / s.step_ns)
    if left_tok <= 0:
        return j.output_tok
    delivered_tok = j.output_tok - left_tok
    return delivered_tok - delivered_tok % RECEIPT_TOK


@jit
def _remove(v: Service, row: int) -> None:
    """Take a job off its node. Its row is free, and holds what it held until the next `submit`."""
    j = v.job[row]
    if j.state == DECODE:
        _heap_remove(v, row)
    else:
        _dequeue(v, row)
    s = v.server[j.node]
    j.state = FREE
    j.after = s.free
    s.free = row


@jit
def _dequeue(v: Service, row: int) -> None:
    j = v.job[row]
    s = v.server[j.node]
    if j.state == WAITING:
        s.waiting -= 1
    else:
        s.prefilling -= 1
    if s.first_waiting == row:
        s.first_waiting = j.after
    if s.head == row:
        s.head = j.after
    else:
        v.job[j.before].after = j.after
    if s.tail == row:
        s.tail = j.before
    else:
        v.job[j.after].before = j.before


@jit
def _heap_push(v: Service, row: int) -> None:
    j = v.job[row]
    s = v.server[j.node]
    j.state = DECODE
    _rise(v, s.heap, s.decoding, row)
    s.decoding += 1


@jit
def _heap_remove(v: Service, row: int) -> None:
    """Put the heap's last job where `row` was, and let it rise or sink from there."""
    j = v.job[row]
    s = v.server[j.node]
    s.decoding -= 1
    last = v.heap[s.heap + s.decoding]
    if last != row:
        _sink(v, s.heap, s.decoding, j.place, last)
        _rise(v, s.heap, v.job[last].place, last)


@jit
def _rise(v: Service, heap: int, place: int, row: int) -> None:
    """Put `row` at `place` or, while it precedes its parent, above it."""
    while place > 0:
        parent = (place - 1) // 2
        above = v.heap[heap + parent]
        if not _precedes(v.job[row], v.job[above]):
            break
        v.heap[heap + place] = above
        v.job[above].place = place
        place = parent
    v.heap[heap + place] = row
    v.job[row].place = place


@jit
def _sink(v: Service, heap: int, size: int, place: int, row: int) -> None:
    """Put `row` at `place` or, while a child precedes it, below that child."""
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and _precedes(v.job[v.heap[heap + child + 1]], v.job[v.heap[heap + child]]):
            child += 1
        below = v.heap[heap + child]
        if not _precedes(v.job[below], v.job[row]):
            break
        v.heap[heap + place] = below
        v.job[below].place = place
        place = child
    v.heap[heap + place] = row
    v.job[row].place = place


@jit
def _precedes(x: Any, y: Any) -> bool:
    """Whether job `x` ends before job `y`; at one finish, the one submitted first."""
    return x.finish < y.finish or (x.finish == y.finish and x.no < y.no)
