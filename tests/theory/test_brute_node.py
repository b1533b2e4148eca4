"""The virtual clock agrees with nodes that carry every job's work by hand."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from lattice_core.service import RECEIPT_TOK, new_service
from lattice_core.units import NEVER_NS
from tests.theory.brute_node import BruteNode, step_by_step
from tests.theory.service_node import ServiceNode

LATER_NS = 10**15

paces = st.fixed_dictionaries(
    {
        "a_ns": st.integers(1_000, 20_000_000),
        "b_ns": st.integers(0, 5_000_000),
        "prefill_ns": st.integers(0, 3_000_000),
        "beside_ns": st.integers(1, 3_000_000),
        "slots": st.integers(1, 5),
        "chunk_tok": st.sampled_from([1, 100, 128]),
    }
).map(lambda pace: {**pace, "beside_ns": pace["beside_ns"] if pace["prefill_ns"] else 0})
gaps_ns = st.integers(0, 4 * 10**9)
submissions = st.tuples(st.just("submit"), st.integers(0, 700), st.integers(1, 200))
cancellations = st.tuples(st.just("cancel"), st.integers(0, 20))
failures = st.tuples(st.just("fail"))
scripts = st.lists(st.tuples(gaps_ns, submissions | submissions | cancellations | failures), min_size=1, max_size=25)


def receipted(delivered_tok: Fraction, output_tok: int) -> int:
    return output_tok if delivered_tok >= output_tok else int(delivered_tok) // RECEIPT_TOK * RECEIPT_TOK


@given(paces, scripts)
def test_every_first_token_and_completion_falls_within_a_token_time_of_exact_fluid(pace, script) -> None:
    brute = BruteNode(**pace, queue_room=len(script), whole_ns=False)
    node = ServiceNode(new_service(**pace, queue_room=len(script)))
    token_ns = pace["a_ns"] + pace["b_ns"] * pace["slots"] + pace["chunk_tok"] * max(pace["prefill_ns"], pace["beside_ns"])
    output_tok: dict[int, int] = {}
    ended_ns: dict[int, int] = {}
    t_ns = 0
    for gap_ns, (verb, *numbers) in script:
        t_ns += gap_ns
        brute.run_to(t_ns)
        node.run_to(t_ns)
        if verb == "submit":
            leg = len(output_tok)
            output_tok[leg] = numbers[1]
            assert brute.submit(leg, *numbers, t_ns)
            assert node.submit(leg, *numbers, t_ns)
            continue
        both = sorted({job.leg for job in brute.jobs} & node.job.keys())
        if verb == "cancel":
            if not both:
                continue
            leg = both[numbers[0] % len(both)]
            delivered_tok, receipted_tok = {leg: brute.cancel(leg, t_ns)}, {leg: node.cancel(leg, t_ns)}
        else:
            delivered_tok, receipted_tok = brute.fail(t_ns), node.fail(t_ns)
        ended_ns |= dict.fromkeys(delivered_tok | receipted_tok, t_ns)
        for leg in delivered_tok.keys() & receipted_tok.keys():
            exact, blur_tok = delivered_tok[leg], Fraction(1, 1_000)
            assert receipted_tok[leg] in {receipted(exact + blur, output_tok[leg]) for blur in (-blur_tok, 0, blur_tok)}
    brute.run_to(LATER_NS)
    node.run_to(LATER_NS)

    exact_ns = {(what, leg): float(at_ns) for at_ns, what, leg in brute.events}
    served_ns = {(what, leg): at_ns for at_ns, what, leg in node.events}
    for what, leg in exact_ns.keys() | served_ns.keys():
        # An event so close to the job's cancellation that one model saw it and the other did not counts as seen then.
        end_ns = ended_ns.get(leg)
        assert abs(served_ns.get((what, leg), end_ns) - exact_ns.get((what, leg), end_ns)) <= token_ns


@given(
    st.integers(0, 9),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 4),
    st.sampled_from([1, 3, 128]),
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 30)), min_size=1, max_size=12),
)
def test_whole_chunks_that_arrive_together_are_served_as_a_batch_scheduler_steps(
    a_ns, b_ns, prefill_ns, beside_ns, slots, chunk_tok, sizes
) -> None:
    jobs = [(chunks * chunk_tok, output_tok) for chunks, output_tok in sizes]
    node = ServiceNode(new_service(a_ns, b_ns, prefill_ns, slots, len(jobs), chunk_tok, beside_ns))
    for leg, (prompt_tok, output_tok) in enumerate(jobs):
        assert node.submit(leg, prompt_tok, output_tok, 0)
    node.run_to(NEVER_NS - 1)
    first_ns, done_ns = step_by_step(a_ns, b_ns, prefill_ns, beside_ns, slots, chunk_tok, jobs)
    served_ns = {(what, leg): at_ns for at_ns, what, leg in node.events}
    assert [served_ns["first token", leg] for leg in range(len(jobs))] == first_ns
    assert [served_ns["done", leg] for leg in range(len(jobs))] == done_ns
