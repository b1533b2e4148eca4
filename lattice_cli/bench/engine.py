"""`lattice bench engine`: how fast requests are served here, by the whole kernel and everything around it but the chain."""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lattice_core.config import Config

if TYPE_CHECKING:
    from lattice_sim.engine import Engine

LOAD = 0.7
"""Share of the nodes' capacity that the bench asks for."""

RUNS = 3
"""The best of these counts."""

LONG = 10_000_000
"""Of so many requests one run must do."""

CHECKED = 20_000
"""Requests after which the engine's digest is compared with the reference's."""

DEPOSIT_LAI = 300
"""Each user's: enough for 150,000 answers, so that nobody runs out."""

MAX_NODES, MAX_REQUESTS = 100_000, 1_000_000_000

SWITCHED_ON = (
    "policy score_sampled",
    f"load {LOAD}",
    "arrivals and token lengths drawn",
    "network delay",
    "queues",
    "batched decode",
    "patience",
    "deadlines",
    "failures and repairs",
    "node retries",
    "breaker",
    "probes",
    "audits",
    "all observations",
    "fees and reservations",
    "ledgers of accounts and nodes",
    "request log",
    "digest",
)
SWITCHED_OFF = ("chain", "settlement: one chunk that is never closed", "agents", "days and bursts", "journal")


class BenchError(Exception):
    """The engine does not decide as the reference does. One line."""


def add(subparsers: Any) -> None:
    engine = subparsers.add_parser("engine", help="requests per second through an engine and the whole kernel")
    engine.add_argument("--nodes", type=_up_to(MAX_NODES), default=1_000, metavar="N", help="in the baseline's ratio (1000)")
    engine.add_argument(
        "--requests", type=_up_to(MAX_REQUESTS), default=1_000_000, metavar="R", help="requests to serve, about (1000000)"
    )
    engine.add_argument("--engine", choices=("compiled", "reference"), default="compiled", help="which engine (compiled)")
    engine.add_argument("--no-check", action="store_true", help=f"do not have the reference serve the first {CHECKED} as well")
    engine.add_argument("--json", action="store_true", help="print one JSON object")
    engine.add_argument("--table", action="store_true", help="measure the table of docs/benchmarks.md, and print it")
    engine.add_argument("--whole", action="store_true", help="with --table: 100,000 nodes and 100,000,000 requests too")
    engine.add_argument("--write", type=Path, metavar="FILE", help="with --table: put it in its place in FILE")
    engine.set_defaults(command=_engine, refuse=engine.error)


def _up_to(most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if not 1 <= value <= most:
            raise argparse.ArgumentTypeError(f"must be from 1 to {most}, not {value}")
        return value

    return number


def _engine(arguments: argparse.Namespace) -> int:
    if not arguments.table and (arguments.whole or arguments.write):
        arguments.refuse("--whole and --write need --table")
    try:
        return _tables(arguments) if arguments.table else _one(arguments)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1


def _tables(arguments: argparse.Namespace) -> int:
    from lattice_cli.bench.table import table

    return table(arguments)


def _one(arguments: argparse.Namespace) -> int:
    result = measure(arguments.nodes, arguments.requests, arguments.engine)
    if result["digest_20000"] and result["engine"] != "reference" and not arguments.no_check:
        check(result, apart(first_digest, arguments.nodes))
    if arguments.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:<18}{', '.join(value) if isinstance(value, list) else value}")
    return 0


def check(result: dict[str, Any], reference: str) -> None:
    """Raises BenchError if a measured engine did not decide as the reference did, of which this is the digest."""
    digest = result["digest_20000"]
    if digest != reference:
        where = f"over the first {CHECKED} requests at {result['nodes']} nodes"
        raise BenchError(
            f"bench engine: the {result['engine']} engine's digest {where} must be the reference's, {reference}, not {digest}"
        )


def apart[T](function: Callable[..., T], *arguments: Any) -> T:
    """Call a module's function in a fresh process, whose memory and compiled code are its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def measure(nodes: int, requests: int, engine: str) -> dict[str, Any]:
    """Have `engine` serve about `requests` at `nodes` nodes, after a first, short run that compiles."""
    began = time.perf_counter()
    found(network(1, engine)).run_until(1)
    compile_s = time.perf_counter() - began
    config = network(nodes, engine)
    end_ns, checked_ns = length_ns(config, requests), first_ns(config)
    served_s, digest_20000 = [], None
    for _ in range(RUNS if requests < LONG else 1):
        running = found(config)
        began = time.perf_counter()
        if checked_ns <= end_ns:
            running.run_until(checked_ns)
            digest_20000 = running.nexus.digest().hex()
        running.run_until(end_ns)
        served_s.append(time.perf_counter() - began)
        arrived, completed, digest = running.nexus.count("arrived"), running.nexus.count("completed"), running.nexus.digest()
        events = getattr(running, "events", None)
        del running  # before the next one needs its room
    return {
        "engine": engine,
        "nodes": nodes,
        "requests": arrived,
        "requests_per_s": round(arrived / min(served_s)),
        "compile_s": round(compile_s, 2),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "digest": digest.hex(),
        "digest_20000": digest_20000,
        "completed": completed,
        "events": events,
        "runs": len(served_s),
        "switched_on": list(SWITCHED_ON),
        "switched_off": list(SWITCHED_OFF),
    }


def first_digest(nodes: int) -> str:
    """The reference's digest before the arrival of request CHECKED + 1."""
    config = network(nodes, "reference")
    engine = found(config)
    engine.run_until(first_ns(config))
    return engine.nexus.digest().hex()


def found(config: Config) -> "Engine":
    """The network at t = 0 under its engine, founded without a chain."""
    from lattice_core.founding import founding
    from lattice_core.nexus import Nexus
    from lattice_core.records import Records
    from lattice_sim.engine import engine_of

    engine = engine_of(config, Nexus(config), Records(config))
    for fact in founding(config):
        engine.tell(fact)
    return engine


def network(nodes: int, engine: str) -> Config:
    """The baseline with its populations scaled to `nodes` nodes that are always there, and a steady load."""
    from lattice_core.capacity import utilisation
    from lattice_core.config import revise
    from lattice_sim import networks

    config = networks.read("baseline.yaml")
    whole = sum(population.count for population in config.nodes)
    servers = max(1, round(nodes * config.nodes[0].count / whole))
    document = config.document()
    kept = [
        {**population, "count": count, "availability": {}}
        for population, count in zip(document["nodes"], (servers, nodes - servers), strict=True)
        if count
    ]
    (users,) = document["users"]
    users |= {
        "count": max(1, users["count"] * nodes // whole),
        "workload": {"poisson": {"requests_per_day": 1.0}},
        "budget": users["budget"] | {"deposit": DEPOSIT_LAI},
    }
    config = revise(
        config,
        {
            "nodes": kept,
            "users": [users],
            "routing.policy": "score_sampled",
            "sim.engine": engine,
            "chain.chunk_users": users["count"],  # a chunk's table has a row for each node
            "economics.registration.rise": 0,  # else a thousand joins at once burn the supply
        },
    )
    (model,) = config.models
    return revise(config, {"users.0.workload.poisson.requests_per_day": LOAD / utilisation(config, model)[0]})


def length_ns(config: Config, requests: int) -> int:
    """The time in which so many requests are expected."""
    from lattice_core.units import DAY_NS

    rhythm = config.users[0].workload.poisson
    assert rhythm is not None
    return round(requests / rhythm.requests_per_day * DAY_NS)


def first_ns(config: Config) -> int:
    """When request CHECKED + 1 arrives: before that, exactly CHECKED do."""
    from lattice_core.units import NEVER_NS
    from lattice_sim.workload import workload

    return int(workload(config, config.users[0]).block(NEVER_NS, CHECKED + 1).t_ns[-1])
