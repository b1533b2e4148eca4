"""The service model, simplified, is the queue that theory solved."""

import numpy as np
import pytest

from lattice_core.service import new_service
from tests.theory.queues import (
    Column,
    erlang_c_wait,
    exponential_tok,
    kiefer_wolfowitz,
    poisson_arrivals_ns,
    processor_sharing,
    serve,
)

TOKEN_NS = 7_000_000
MEAN_TOK = 300.0


def answer_only(
    arrival_ns: Column, service_tok: Column, *, a_ns: int, b_ns: int, slots: int
) -> tuple[Column, Column, int, int]:
    """First-token and completion times, ∫ jobs dt and ∫ slots dt, of answers that take `service_tok` tokens and no prompt."""
    v = new_service(a_ns, b_ns, prefill_ns=1_000_000, slots=slots, queue_room=len(arrival_ns))
    first_ns, done_ns = serve(v.handle, 0, arrival_ns, np.zeros_like(arrival_ns), service_tok + 1)
    return first_ns, done_ns, int(v.server["area_system_ns"][0]), int(v.server["area_busy_ns"][0])


@pytest.mark.parametrize("load", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("servers", [1, 4, 64])
def test_waits_equal_the_kiefer_wolfowitz_recursion_customer_by_customer(servers: int, load: float) -> None:
    arrival_ns = poisson_arrivals_ns(servers, 10_000, MEAN_TOK * TOKEN_NS / servers / load)
    service_tok = exponential_tok(servers, 10_000, MEAN_TOK)
    wait_ns = kiefer_wolfowitz(arrival_ns, service_tok * TOKEN_NS, servers)
    first_ns, done_ns, _, _ = answer_only(arrival_ns, service_tok, a_ns=TOKEN_NS, b_ns=0, slots=servers)
    np.testing.assert_array_equal(first_ns - arrival_ns, wait_ns)
    np.testing.assert_array_equal(done_ns - first_ns, service_tok * TOKEN_NS)


@pytest.mark.parametrize("servers", [1, 4, 64])
def test_the_integral_of_jobs_on_a_node_is_the_sum_of_their_sojourns_to_the_nanosecond(servers: int) -> None:
    arrival_ns = poisson_arrivals_ns(5, 10_000, MEAN_TOK * TOKEN_NS / servers / 0.9)
    first_ns, done_ns, area_system_ns, area_busy_ns = answer_only(
        arrival_ns, exponential_tok(5, 10_000, MEAN_TOK), a_ns=TOKEN_NS, b_ns=0, slots=servers
    )
    assert area_system_ns == (done_ns - arrival_ns).sum()
    assert area_busy_ns == (done_ns - first_ns).sum()


@pytest.mark.parametrize(("servers", "load"), [(1, 0.5), (4, 0.7), (16, 0.8)])
def test_exponential_answers_of_fixed_pace_wait_as_erlang_says(servers: int, load: float) -> None:
    arrival_ns = poisson_arrivals_ns(2, 200_000, MEAN_TOK * TOKEN_NS / servers / load)
    first_ns, _, _, _ = answer_only(
        arrival_ns, exponential_tok(2, 200_000, MEAN_TOK), a_ns=TOKEN_NS, b_ns=0, slots=servers
    )  # fmt: skip
    assert (first_ns - arrival_ns).mean() / (MEAN_TOK * TOKEN_NS) == pytest.approx(erlang_c_wait(servers, load), rel=0.04)


@pytest.mark.parametrize("load", [0.5, 0.9])
def test_a_node_without_fixed_step_time_shares_its_processor(load: float) -> None:
    arrival_ns = poisson_arrivals_ns(3, 5_000, MEAN_TOK * TOKEN_NS / load)
    service_tok = exponential_tok(3, 5_000, MEAN_TOK)
    first_ns, done_ns, _, _ = answer_only(arrival_ns, service_tok, a_ns=0, b_ns=TOKEN_NS, slots=10_000)
    np.testing.assert_array_equal(first_ns, arrival_ns)
    np.testing.assert_allclose(done_ns, processor_sharing(arrival_ns, service_tok * TOKEN_NS), rtol=0, atol=100)


@pytest.mark.parametrize("shape", ["all alike", "one in ten long"])
def test_under_processor_sharing_the_mean_sojourn_depends_on_the_mean_answer_only(shape: str) -> None:
    count, load = 200_000, 0.6
    arrival_ns = poisson_arrivals_ns(4, count, MEAN_TOK * TOKEN_NS / load)
    long = exponential_tok(4, count, 1_000.0) % 10 == 0
    service_tok = np.full(count, int(MEAN_TOK)) if shape == "all alike" else np.where(long, 2_100, 100)
    _, done_ns, _, _ = answer_only(arrival_ns, service_tok, a_ns=0, b_ns=TOKEN_NS, slots=10_000)
    expected_ns = service_tok.mean() * TOKEN_NS / (1 - load * service_tok.mean() / MEAN_TOK)
    assert (done_ns - arrival_ns).mean() == pytest.approx(expected_ns, rel=0.04)
