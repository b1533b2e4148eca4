"""`lattice bench engine`: how fast requests are served here."""

import argparse
import json
import resource
import time
from typing import Any

LOAD = 0.7
"""Share of the nodes' capacity that the bench asks for."""

RUNS = 3
"""The best of these counts."""


def add(subparsers: Any) -> None:
    engine = subparsers.add_parser("engine", help="requests per second through an engine and the whole kernel")
    engine.add_argument("--nodes", type=_some, default=72, metavar="N", help="nodes, in the baseline's proportions (72)")
    engine.add_argument("--requests", type=_some, default=50_000, metavar="R", help="requests to serve, about (50000)")
    engine.add_argument("--engine", default="reference", help="which engine (reference)")
    engine.add_argument("--json", action="store_true", help="print one JSON object")
    engine.set_defaults(command=_engine)


def _some(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 10_000_000:
        raise argparse.ArgumentTypeError(f"must be from 1 to 10000000, not {number}")
    return number


def _engine(arguments: argparse.Namespace) -> int:
    result = measure(arguments.nodes, arguments.requests, arguments.engine)
    if arguments.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:<16}{', '.join(value) if isinstance(value, list) else value}")
    return 0


def measure(nodes: int, requests: int, engine: str) -> dict[str, Any]:
    """Serve about `requests` at `nodes` nodes after a first, short run that compiles; the chain only opens the accounts."""
    from lattice_sim.model import LatticeModel

    began = time.perf_counter()
    LatticeModel(network(nodes, 200, engine)).serve()
    compile_s = time.perf_counter() - began
    config = network(nodes, requests, engine)
    served_s = []
    for _ in range(RUNS):
        model = LatticeModel(config)
        began = time.perf_counter()
        model.serve()
        served_s.append(time.perf_counter() - began)
    arrived = model.nexus.count("arrived")
    return {
        "engine": config.sim.engine,
        "nodes": nodes,
        "requests": arrived,
        "requests_per_s": round(arrived / min(served_s)),
        "compile_s": round(compile_s, 2),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "digest": model.nexus.digest().hex(),
        "switched_on": [
            f"policy {config.routing.policy}",
            f"load {LOAD}",
            "failures",
            "network delay",
            "queues",
            "patience",
            "deadlines",
            "node retries",
            "breaker",
            "probes",
            "audits",
            "reservations",
        ],
    }


def network(nodes: int, requests: int, engine: str) -> Any:
    """The baseline with its populations scaled to `nodes` nodes that are always there, and one epoch of steady load."""
    from lattice_core.capacity import utilisation
    from lattice_core.config import revise
    from lattice_core.units import DAY_NS
    from lattice_sim import networks

    config = networks.read("baseline.yaml")
    whole = sum(population.count for population in config.nodes)
    servers = max(1, round(nodes * config.nodes[0].count / whole))
    counts = [servers, nodes - servers]
    document = config.document()
    kept = [
        {**population, "count": count, "availability": {}}
        for population, count in zip(document["nodes"], counts, strict=True)
        if count
    ]
    (users,) = document["users"]
    users = {**users, "count": max(1, users["count"] * nodes // whole), "workload": {"poisson": {"requests_per_day": 1.0}}}
    config = revise(
        config,
        {
            "nodes": kept,
            "users": [users],
            "routing.policy": "score_sampled",
            "sim.engine": engine,
            "economics.registration.rise": 0,  # else a thousand joins at once burn the supply
        },
    )
    (model,) = config.models
    requests_per_day = LOAD / utilisation(config, model)[0]
    return revise(
        config,
        {
            "users.0.workload.poisson.requests_per_day": requests_per_day,
            "chain.epoch": f"{round(requests / requests_per_day * DAY_NS)}ns",
            "sim.epochs": 1,
        },
    )
