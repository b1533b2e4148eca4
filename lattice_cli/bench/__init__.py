"""`lattice bench`: how fast it is here, what it costs on the chain, and what pairs save."""

from typing import Any

from lattice_cli.bench import engine, gas, nexus, node, pairs


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("bench", help="measure speed, gas and what pairs save")
    what = parser.add_subparsers(metavar="WHAT", required=True)
    for bench in (engine, gas, node, nexus, pairs):
        bench.add(what)
