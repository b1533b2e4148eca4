"""Queues whose answers are known: customers, the recursions that serve them, and a driver for one node of the service model."""

import math

import numba
import numpy as np
from numpy.typing import NDArray

from lattice_core.directory import Handle
from lattice_core.service import DONE, FIRST_TOKEN, advance, next_ns, submit
from lattice_core.streams import ARRIVALS, TOKENS, exponential
from lattice_core.units import NEVER_NS

type Column = NDArray[np.int64]


def poisson_arrivals_ns(seed: int, count: int, mean_gap_ns: float) -> Column:
    """`count` arrival times of a Poisson process, on whole nanoseconds."""
    gaps = (math.ceil(mean_gap_ns * exponential(seed, ARRIVALS, 0, i)) for i in range(count))
    return np.cumsum(np.fromiter(gaps, np.int64, count))


def exponential_tok(seed: int, count: int, mean_tok: float) -> Column:
    """`count` exponential draws rounded up to whole tokens: service times when a token takes a fixed time."""
    return np.fromiter((math.ceil(mean_tok * exponential(seed, TOKENS, 0, i)) for i in range(count)), np.int64, count)


@numba.njit
def kiefer_wolfowitz(arrival_ns: Column, service_ns: Column, servers: int) -> Column:
    """Each customer's wait at a first-come first-served station, exactly (Kiefer & Wolfowitz 1955).

    W holds the servers' unfinished work as the next customer finds it, in order; he waits for the least, adds his own
    service to it, and all of it runs down until the customer after him comes.
    """
    work_ns = np.zeros(servers, np.int64)
    wait_ns = np.empty(len(arrival_ns), np.int64)
    for i in range(len(arrival_ns)):
        if i > 0:
            work_ns = np.sort(np.maximum(work_ns - (arrival_ns[i] - arrival_ns[i - 1]), 0))
        wait_ns[i] = work_ns[0]
        work_ns[0] += service_ns[i]
    return wait_ns


def processor_sharing(arrival_ns: Column, service_ns: Column) -> NDArray[np.float64]:
    """Each customer's departure in ns when one server shares itself equally among all present."""
    departure_ns = np.empty(len(arrival_ns))
    left_ns: dict[int, float] = {}
    now_ns = 0.0
    for i in range(len(arrival_ns) + 1):
        until_ns = float(arrival_ns[i]) if i < len(arrival_ns) else math.inf
        while left_ns:
            first = min(left_ns, key=lambda j: left_ns[j])
            end_ns = now_ns + left_ns[first] * len(left_ns)
            if end_ns > until_ns:
                break
            used_ns = left_ns.pop(first)
            left_ns = {j: left - used_ns for j, left in left_ns.items()}
            departure_ns[first] = now_ns = end_ns
        left_ns = {j: left - (until_ns - now_ns) / len(left_ns) for j, left in left_ns.items()}
        now_ns = until_ns
        if i < len(arrival_ns):
            left_ns[i] = float(service_ns[i])
    return departure_ns


def erlang_c_wait(servers: int, load: float) -> float:
    """The mean wait in M/M/c over the mean service time, at `load` = λ/(c·μ) < 1 (Erlang 1917)."""
    offered = servers * load
    term, idle = 1.0, 0.0
    for k in range(servers):
        idle += term
        term *= offered / (k + 1)
    queued = term / (1 - load)
    return queued / (idle + queued) / (servers * (1 - load))


@numba.njit
def serve(V: Handle, node: int, arrival_ns: Column, prompt_tok: Column, output_tok: Column) -> tuple[Column, Column]:
    """Run customers through an empty node whose queue holds them all: first-token and completion times in ns.

    At one time the node's own events go first. Not cached on disk: a cached caller would not see a change of the service model.
    """
    first_ns = np.zeros(len(arrival_ns), np.int64)
    done_ns = np.zeros(len(arrival_ns), np.int64)
    arrived = 0
    while True:
        due_ns = next_ns(V, node)
        if arrived < len(arrival_ns) and arrival_ns[arrived] < due_ns:
            submit(V, node, arrived, prompt_tok[arrived], output_tok[arrived], arrival_ns[arrived])
            arrived += 1
        elif due_ns < NEVER_NS:
            code, leg = advance(V, node, due_ns)
            if code == FIRST_TOKEN:
                first_ns[leg] = due_ns
            elif code == DONE:
                done_ns[leg] = due_ns
        else:
            return first_ns, done_ns
