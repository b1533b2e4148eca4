"""How a node serves: slots, queue, receipts, cancellation and failure, against a plain model in exact fractions."""

import importlib.util
import pickle
from collections import Counter
from fractions import Fraction
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from lattice_core import jit, service
from lattice_core.service import (
    DONE,
    FIRST_TOKEN,
    NONE,
    NOTHING,
    QUEUE_FULL,
    RECEIPT_TOK,
    accrue,
    advance,
    cancel,
    evict,
    new_service,
    next_ns,
    submit,
)
from lattice_core.units import MAX_TOKENS, NEVER_NS
from tests.theory.brute_node import SLACK_NS, BruteNode
from tests.theory.service_node import ServiceNode

MS = 1_000_000
NODES = 2

paces = st.fixed_dictionaries(
    {
        "a_ns": st.integers(0, 9),
        "b_ns": st.integers(1, 5),
        "prefill_ns": st.integers(0, 5),
        "beside_ns": st.integers(1, 5),
        "slots": st.sampled_from([1, 2, 3, 9]),
        "queue_room": st.integers(0, 4),
        "chunk_tok": st.sampled_from([1, 3, 128]),
    }
).map(lambda pace: {**pace, "beside_ns": pace["beside_ns"] if pace["prefill_ns"] else 0})
nodes = st.integers(0, NODES - 1)
picks = st.integers(0, 99)


def receipts(delivered_tok: Fraction, output_tok: int) -> set[int]:
    """What may be receipted: the last slack before a token is out counts as the token's nanosecond."""
    return {
        output_tok if tok >= output_tok else int(tok) // RECEIPT_TOK * RECEIPT_TOK
        for tok in (delivered_tok, delivered_tok + SLACK_NS)
    }


class NodesAgainstBruteForce(RuleBasedStateMachine):
    """Two neighbouring nodes, each beside an exact model that rounds as the service does: every answer and time is equal."""

    @initialize(pace=st.tuples(paces, paces))
    def build(self, pace) -> None:
        state = new_service(**{name: [p[name] for p in pace] for name in pace[0]})
        self.nodes = [ServiceNode(state, node) for node in range(NODES)]
        self.brutes = [BruteNode(**p, whole_ns=True) for p in pace]
        self.output_tok: list[int] = []
        self.now_ns = 0

    @rule(gap_ns=st.integers(0, 300))
    def wait(self, gap_ns: int) -> None:
        self.now_ns += gap_ns
        self.catch_up()

    @rule(node=nodes)
    def wait_for_the_next_event(self, node: int) -> None:
        if (due_ns := next_ns(self.nodes[node].state.handle, node)) < NEVER_NS:
            self.now_ns = max(self.now_ns, due_ns)
            self.catch_up()

    @rule(node=nodes, prompt_tok=st.integers(0, 40), output_tok=st.integers(1, 60))
    def submit(self, node: int, prompt_tok: int, output_tok: int) -> None:
        leg = len(self.output_tok)
        self.output_tok.append(output_tok)
        accepted = self.brutes[node].submit(leg, prompt_tok, output_tok, self.now_ns)
        assert self.nodes[node].submit(leg, prompt_tok, output_tok, self.now_ns) == accepted
        self.catch_up()

    @rule(node=nodes, pick=picks)
    def cancel(self, node: int, pick: int) -> None:
        brute = self.brutes[node]
        if brute.jobs:
            leg = brute.jobs[pick % len(brute.jobs)].leg
            receipted_tok = self.nodes[node].cancel(leg, self.now_ns)
            assert receipted_tok in receipts(brute.cancel(leg, self.now_ns), self.output_tok[leg])
            self.catch_up()

    @rule(node=nodes)
    def fail(self, node: int) -> None:
        delivered_tok = self.brutes[node].fail(self.now_ns)
        receipted_tok = self.nodes[node].fail(self.now_ns)
        assert receipted_tok.keys() == delivered_tok.keys()
        for leg, tok in receipted_tok.items():
            assert tok in receipts(delivered_tok[leg], self.output_tok[leg])

    def catch_up(self) -> None:
        for each in self.nodes + self.brutes:
            each.run_to(self.now_ns)

    @invariant()
    def both_models_stand_alike(self) -> None:
        for node, brute in zip(self.nodes, self.brutes, strict=True):
            s = node.server
            assert node.events == brute.events
            assert (s.waiting, s.prefilling, s.decoding) == tuple(map(len, (brute.waiting, brute.prefilling, brute.decoding)))
            assert s.next_ns == (event[0] if (event := brute.next_event()) else NEVER_NS)

    @invariant()
    def no_free_slot_idles_while_a_job_waits(self) -> None:
        """INV-15."""
        for node in self.nodes:
            s = node.server
            assert s.waiting == 0 or s.prefilling + s.decoding == s.slots

    @invariant()
    def areas_are_the_sums_of_sojourns_to_the_nanosecond(self) -> None:
        """Little's law."""
        for node, brute in zip(self.nodes, self.brutes, strict=True):
            admitted_ns = [job.admitted_ns for job in brute.jobs if job.admitted_ns is not None]
            assert node.server.area_system_ns == brute.area_system_ns + sum(self.now_ns - job.arrival_ns for job in brute.jobs)
            assert node.server.area_busy_ns == brute.area_busy_ns + sum(self.now_ns - at_ns for at_ns in admitted_ns)

    @invariant()
    def every_job_row_is_used_once(self) -> None:
        state = self.nodes[0].state
        jobs = state.job.view(np.recarray)
        used = Counter(jobs.state)
        assert [used[k] for k in (service.WAITING, service.PREFILL, service.DECODE)] == [
            state.server[name].sum() for name in ("waiting", "prefilling", "decoding")
        ]
        for node in self.nodes:
            assert all(jobs[row].leg == leg and jobs[row].node == node.node for leg, row in node.job.items())
            free, row = 0, node.server.free
            while row != NONE:
                free, row = free + 1, jobs[row].after
            assert free + len(node.job) == node.server.slots + node.server.queue_room


TestNodesAgainstBruteForce = NodesAgainstBruteForce.TestCase


def test_a_single_token_answer_is_done_at_its_first_token() -> None:
    v = new_service(a_ns=7 * MS, b_ns=0, prefill_ns=MS, slots=1, queue_room=0)
    submit(v.handle, 0, 41, 100, 1, 5)
    assert advance(v.handle, 0, 100 * MS + 4) == (NOTHING, NONE)
    assert next_ns(v.handle, 0) == 100 * MS + 5
    assert advance(v.handle, 0, 100 * MS + 5) == (FIRST_TOKEN, 41)
    assert advance(v.handle, 0, 100 * MS + 5) == (DONE, 41)
    assert next_ns(v.handle, 0) == NEVER_NS


def test_a_prompt_slows_decoding_to_its_share_of_each_step() -> None:
    v = new_service(a_ns=10 * MS, b_ns=2 * MS, prefill_ns=MS, slots=2, queue_room=0, chunk_tok=128)
    submit(v.handle, 0, 1, 0, 21, 0)
    assert advance(v.handle, 0, 0) == (FIRST_TOKEN, 1)
    assert next_ns(v.handle, 0) == 20 * 12 * MS
    submit(v.handle, 0, 2, 256, 5, 0)
    assert next_ns(v.handle, 0) == 2 * (12 + 128) * MS
    assert advance(v.handle, 0, NEVER_NS - 1) == (FIRST_TOKEN, 2)
    assert next_ns(v.handle, 0) == 2 * (12 + 128) * MS + 4 * 14 * MS


def test_a_prompt_is_read_at_one_rate_alone_and_at_another_beside_others() -> None:
    v = new_service(a_ns=10 * MS, b_ns=2 * MS, prefill_ns=MS, slots=2, queue_room=0, chunk_tok=32, beside_ns=3 * MS)
    submit(v.handle, 0, 1, 64, 21, 0)
    assert advance(v.handle, 0, 64 * MS) == (FIRST_TOKEN, 1)
    submit(v.handle, 0, 2, 64, 5, 64 * MS)
    assert next_ns(v.handle, 0) == 64 * MS + 2 * (12 + 32 * 3) * MS


def test_an_answer_that_would_outlast_int64_is_not_done_at_once() -> None:
    tok, s = MAX_TOKENS, 1_000 * MS
    v = new_service(a_ns=s, b_ns=s, prefill_ns=s, slots=2, queue_room=0, chunk_tok=tok, beside_ns=s)
    submit(v.handle, 0, 1, tok, tok, 0)
    assert advance(v.handle, 0, tok * s) == (FIRST_TOKEN, 1)
    submit(v.handle, 0, 2, tok, 5, tok * s)
    assert (
        next_ns(v.handle, 0) == tok * s + (tok + 2) * s
    )  # a step with all of the second prompt, of which the first has 2²⁰ to go


def test_a_node_with_neither_slot_nor_queue_room_refuses_and_is_unchanged() -> None:
    v = new_service(a_ns=MS, b_ns=0, prefill_ns=0, slots=1, queue_room=1)
    assert submit(v.handle, 0, 1, 0, 9, 0) != QUEUE_FULL
    assert submit(v.handle, 0, 2, 0, 9, 0) != QUEUE_FULL
    before = pickle.dumps(v)
    assert submit(v.handle, 0, 3, 0, 9, 0) == QUEUE_FULL
    assert pickle.dumps(v) == before


def test_cancelling_frees_the_slot_for_the_first_in_the_queue_at_once() -> None:
    v = new_service(a_ns=MS, b_ns=0, prefill_ns=0, slots=1, queue_room=2)
    jobs = [submit(v.handle, 0, leg, 0, 100, 0) for leg in (1, 2, 3)]
    assert advance(v.handle, 0, 0) == (FIRST_TOKEN, 1)
    assert cancel(v.handle, jobs[0], 40 * MS) == 32
    assert next_ns(v.handle, 0) == 40 * MS
    assert advance(v.handle, 0, 40 * MS) == (FIRST_TOKEN, 2)
    assert cancel(v.handle, jobs[0], 40 * MS) == NONE


@given(st.integers(1, 400), st.integers(0, 400 * MS), st.booleans())
def test_receipts_are_whole_sixteens_of_what_was_delivered_or_the_whole_answer(output_tok: int, t_ns: int, fails: bool) -> None:
    v = new_service(a_ns=MS, b_ns=0, prefill_ns=0, slots=1, queue_room=0)
    job = submit(v.handle, 0, 7, 0, output_tok, 0)
    advance(v.handle, 0, 0)
    delivered_tok = min(1 + t_ns // MS, output_tok)
    receipted_tok = evict(v.handle, 0, t_ns)[1] if fails else cancel(v.handle, job, t_ns)
    assert receipted_tok == (output_tok if delivered_tok == output_tok else delivered_tok - delivered_tok % RECEIPT_TOK)


def test_a_failing_node_gives_up_its_jobs_one_by_one_and_serves_again() -> None:
    v = new_service(a_ns=MS, b_ns=0, prefill_ns=MS, slots=2, queue_room=2)
    for leg in (1, 2, 3, 4):
        submit(v.handle, 0, leg, 10 * (leg - 1), 100, 0)
    assert advance(v.handle, 0, 0) == (FIRST_TOKEN, 1)
    gone = [evict(v.handle, 0, 0) for _ in range(5)]
    assert gone == [(1, 0), (2, 0), (3, 0), (4, 0), (NONE, 0)]
    assert next_ns(v.handle, 0) == NEVER_NS
    submit(v.handle, 0, 5, 0, 2, 9 * MS)
    assert [advance(v.handle, 0, 10 * MS) for _ in range(3)] == [(FIRST_TOKEN, 5), (DONE, 5), (NOTHING, NONE)]


def test_jobs_that_finish_together_leave_in_order_of_submission() -> None:
    v = new_service(a_ns=MS, b_ns=MS, prefill_ns=0, slots=50, queue_room=0)
    for leg in range(50):
        submit(v.handle, 0, leg, 0, 10, 0)
    for leg in range(50):
        assert advance(v.handle, 0, 0) == (FIRST_TOKEN, leg)
    assert [advance(v.handle, 0, NEVER_NS - 1) for _ in range(50)] == [(DONE, leg) for leg in range(50)]


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=20), st.integers(1, 3))
def test_whoever_is_cancelled_the_rest_of_the_queue_is_served_in_order(jobs: list[tuple[int, bool]], slots: int) -> None:
    node = ServiceNode(new_service(a_ns=MS, b_ns=0, prefill_ns=MS, slots=slots, queue_room=len(jobs)))
    for leg, (prompt_tok, _) in enumerate(jobs):
        assert node.submit(leg, prompt_tok, 5, 0)
    cancelled = {leg for leg, (_, cancels) in enumerate(jobs) if cancels and leg in node.job}
    for leg in cancelled:
        node.cancel(leg, 0)
    node.run_to(1_000 * MS)
    first = [leg for _, what, leg in node.events if what == "first token" and leg not in cancelled]
    assert first == [leg for leg in range(len(jobs)) if leg not in cancelled]


@given(st.lists(st.tuples(st.integers(1, 60), st.booleans()), min_size=1, max_size=64))
def test_whoever_is_cancelled_the_rest_of_the_batch_finishes_in_order_of_length(jobs: list[tuple[int, bool]]) -> None:
    node = ServiceNode(new_service(a_ns=MS, b_ns=MS, prefill_ns=0, slots=len(jobs), queue_room=0))
    for leg, (output_tok, _) in enumerate(jobs):
        assert node.submit(leg, 0, output_tok, 0)
    node.run_to(0)
    rest = sorted((output_tok, leg) for leg, (output_tok, cancels) in enumerate(jobs) if leg in node.job and not cancels)
    for leg in sorted(node.job.keys() - {leg for _, leg in rest}):
        node.cancel(leg, 0)
    node.events.clear()
    node.run_to(10_000 * MS)
    assert [leg for _, _, leg in node.events] == [leg for _, leg in rest]


def test_a_long_busy_period_leaves_no_trace_on_an_empty_node() -> None:
    """The virtual clock resets: at 2⁵⁰ steps it would resolve no smaller part of a step than 1/4."""
    node, fresh = (ServiceNode(new_service(a_ns=1, b_ns=1, prefill_ns=64, slots=2, queue_room=0)) for _ in range(2))
    again_ns = 2**51 + 1_000
    node.submit(0, 0, 2**50, 0)
    node.submit(3, 0, 2, 2**51 - 10)
    node.run_to(again_ns)
    assert len(node.events) == 4
    for each, start_ns in ((node, again_ns), (fresh, 0)):
        for leg in (1, 2):
            each.submit(leg, 9, 3, start_ns)
        each.run_to(start_ns + 10**6)
    assert [(at_ns - again_ns, what, leg) for at_ns, what, leg in node.events[4:]] == fresh.events


def test_utilisation_is_the_busy_area_over_slots_and_time() -> None:
    v = new_service(a_ns=MS, b_ns=0, prefill_ns=0, slots=4, queue_room=0)
    submit(v.handle, 0, 1, 0, 501, 0)
    while advance(v.handle, 0, 500 * MS)[0] != NOTHING:
        pass
    accrue(v.handle, 0, 1_000 * MS)
    assert v.server["area_busy_ns"][0] / (4 * 1_000 * MS) == 0.125


def without_compiling(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`lattice_core.service` as plain Python."""
    spec = importlib.util.find_spec("lattice_core.service")
    assert spec is not None
    assert spec.loader is not None
    plain = importlib.util.module_from_spec(spec)
    with monkeypatch.context() as patch:
        for decorator in ("jit", "inlined"):
            patch.setattr(jit, decorator, lambda function: function)
        spec.loader.exec_module(plain)
    assert not hasattr(plain.submit, "py_func")
    made: dict[int, Any] = {}

    def new_service(**pace: Any) -> Any:
        state = service.new_service(**pace)
        made[state.handle] = state
        return state

    def store(V: int, table: int, i: int, value: int) -> None:
        made[V].heap[i] = value

    parts: dict[str, Any] = {
        "new_service": new_service,
        "_server_at": lambda V, i: made[V].server.view(np.recarray)[i],
        "_job_at": lambda V, i: made[V].job.view(np.recarray)[i],
        "load": lambda V, table, i: int(made[V].heap[i]),
        "store": store,
    }
    vars(plain).update(parts)
    return plain


def run_script(node: ServiceNode, seed: int) -> list[object]:
    """Load a node with random jobs, cancellations and a failure; everything it answered."""
    rng = np.random.default_rng(seed)
    answers: list[object] = []
    t_ns = 0
    for leg in range(300):
        t_ns += int(rng.exponential(400 * MS))
        answers.append(node.submit(leg, int(rng.integers(0, 500)), int(rng.geometric(1 / 100)), t_ns))
        if rng.random() < 0.1 and node.job:
            answers.append(node.cancel(min(node.job), t_ns + 1))
        if leg == 200:
            answers.append(node.fail(t_ns + 1))
    node.run_to(t_ns + 10**12)
    return answers + node.events


def test_compiled_rules_equal_plain_python_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = without_compiling(monkeypatch)
    pace = {"a_ns": 7.03e6, "b_ns": 1.45e6, "prefill_ns": 0.997e6, "slots": 4, "queue_room": 8}
    compiled_node = ServiceNode(new_service(**pace))
    plain_node = ServiceNode(plain.new_service(**pace), rules=plain)
    assert run_script(compiled_node, 1) == run_script(plain_node, 1)
    for name, rows in compiled_node.state.tables().items():
        assert rows.tobytes() == getattr(plain_node.state, name).tobytes()


def test_a_pickled_node_goes_on_as_if_nothing_had_happened() -> None:
    node = ServiceNode(new_service(7.03e6, 1.45e6, 0.997e6, slots=4, queue_room=8))
    for leg in range(10):
        node.submit(leg, 50 * leg, 40, leg * 100 * MS)
    again = ServiceNode(pickle.loads(pickle.dumps(node.state)), job=dict(node.job), events=list(node.events))
    for each in (node, again):
        each.run_to(10**12)
    assert again.events == node.events
    assert len(node.events) == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slots": [2, 0]}, "slots of node 1: 0 is not a whole number of at least 1"),
        ({"slots": 1.5}, "slots of node 0: 1.5 is not a whole number of at least 1"),
        ({"queue_room": -1}, "queue_room of node 0: -1 is not a whole number of at least 0"),
        ({"chunk_tok": 0}, "chunk_tok of node 0: 0 is not a whole number of at least 1"),
        ({"prefill_ns": float("nan")}, "prefill_ns of node 0: nan is not a finite number of at least 0"),
        ({"a_ns": -1.0}, "a_ns of node 0: -1.0 is not a finite number of at least 0"),
        ({"a_ns": [1.0, 0.0]}, "a_ns and b_ns of node 1 are both 0"),
        ({"beside_ns": 0.0}, "prefill_ns and beside_ns of node 0: both must be 0, or neither"),
    ],
)
def test_a_pace_that_makes_no_sense_is_refused_by_name(change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        new_service(**({"a_ns": 1.0, "b_ns": 0.0, "prefill_ns": 1.0, "slots": 1, "queue_room": 1} | change))
