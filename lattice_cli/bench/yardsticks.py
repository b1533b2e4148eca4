"""What else serves customers on this machine, to compare the engine with: queues far simpler than a network, and a bare score.

Each function takes a number of customers and returns the seconds that they took, and their mean wait in services where it is a
queue: M/M/4 at the bench's load, for which Erlang's formula says what that must be.
"""

import math
import time
from collections.abc import Callable, Generator
from heapq import heappop, heappush
from random import Random
from typing import Any

import numba
import numpy as np

from lattice_cli.bench.engine import LOAD
from lattice_core.config.network import Exponents
from lattice_core.routing import latency_factor, utility
from lattice_core.state import OFFER_VIEW, REQUEST_VIEW, WEIGHTS
from lattice_core.streams import mix, unit

SERVERS = 4

KNEE_S = 1.0
"""Where the latency factor falls off."""

_ARRIVAL, _DEPARTURE = 1, 2


def simpy_processes(customers: int) -> tuple[float, float]:
    """SimPy, each customer a process."""
    import simpy

    chance, waited = Random(1), 0.0
    environment = simpy.Environment()
    station = simpy.Resource(environment, SERVERS)

    def customer() -> Generator[Any, None, None]:
        nonlocal waited
        arrived = environment.now
        with station.request() as turn:
            yield turn
            waited += environment.now - arrived
            yield environment.timeout(chance.expovariate(1.0))

    def arrivals() -> Generator[Any, None, None]:
        for _ in range(customers):
            yield environment.timeout(chance.expovariate(SERVERS * LOAD))
            environment.process(customer())

    environment.process(arrivals())
    began = time.perf_counter()
    environment.run()
    return time.perf_counter() - began, waited / customers


def ciw_network(customers: int) -> tuple[float, float]:
    """Ciw, a library for networks of queues. ImportError where it is not installed."""
    import ciw

    ciw.seed(1)
    network = ciw.create_network(
        arrival_distributions=[ciw.dists.Exponential(rate=SERVERS * LOAD)],
        service_distributions=[ciw.dists.Exponential(rate=1.0)],
        number_of_servers=[SERVERS],
    )
    simulation = ciw.Simulation(network)
    began = time.perf_counter()
    simulation.simulate_until_max_customers(customers, method="Finish")
    took_s = time.perf_counter() - began
    return took_s, float(np.mean([record.waiting_time for record in simulation.get_all_records()]))


def event_heap(customers: int) -> tuple[float, float]:
    """A compiled loop over a heap of arrivals and departures, with a queue in order of arrival."""
    return _timed(_event_heap, customers, SERVERS, LOAD)


def four_scores(customers: int) -> tuple[float, None]:
    """A compiled loop that draws four of 1,000 offers for each customer and finds the highest score by `score_sampled`."""
    chance = np.random.default_rng(1)
    offers, asked, weights = np.zeros(1_000, OFFER_VIEW), np.zeros(1, REQUEST_VIEW), np.zeros(1, WEIGHTS)
    for name in OFFER_VIEW.names or ():
        offers[name] = chance.uniform(0.1, 1.0, len(offers))
    for name, weight in Exponents():
        weights[name] = weight
    took_s, _ = _timed(_four_scores, customers, offers, asked, weights)
    return took_s, None


def _timed(compiled: Any, customers: int, *arguments: Any) -> tuple[float, float]:
    compiled(1, *arguments)
    began = time.perf_counter()
    result = compiled(customers, *arguments)
    return time.perf_counter() - began, result


@numba.njit
def _event_heap(customers: int, servers: int, load: float) -> float:
    queue, gaps, services = np.empty(customers), mix(1, _ARRIVAL), mix(1, _DEPARTURE)
    events = [(0.0, _ARRIVAL)]
    arrived, waiting_from, waiting_to, idle, waited = 0, 0, 0, servers, 0.0
    while len(events) > 0:
        now, kind = heappop(events)
        if kind == _ARRIVAL:
            queue[waiting_to] = now
            waiting_to += 1
            arrived += 1
            if arrived < customers:
                heappush(events, (now - math.log(unit(mix(gaps, arrived))) / (servers * load), _ARRIVAL))
        else:
            idle += 1
        if idle > 0 and waiting_from < waiting_to:
            idle -= 1
            waited += now - queue[waiting_from]
            waiting_from += 1
            heappush(events, (now - math.log(unit(mix(services, waiting_from))), _DEPARTURE))
    return waited / customers


@numba.njit
def _four_scores(customers: int, offers: Any, asked: Any, weights: Any) -> float:
    total, words = 0.0, mix(1, 1)
    for customer in range(customers):
        best = 0.0
        for draw in range(4):
            offer = offers[int(unit(mix(words, 4 * customer + draw)) * len(offers))]
            offer.latency = latency_factor(offer.eta_s, KNEE_S)
            best = max(best, utility(offer, asked[0], weights[0]))
        total += best
    return total


EVENT_HEAP = "numba, M/M/4"

YARDSTICKS: dict[str, tuple[Callable[[int], tuple[float, float | None]], int]] = {
    "SimPy, M/M/4": (simpy_processes, 100_000),
    "Ciw, M/M/4": (ciw_network, 20_000),
    EVENT_HEAP: (event_heap, 5_000_000),
    "numba, four scores": (four_scores, 5_000_000),
}
"""And with how many customers each is measured."""
