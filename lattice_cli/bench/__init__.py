"""`lattice bench`: how fast it is here, and what it costs on the chain."""

from typing import Any

from lattice_cli.bench import engine, gas, nexus, node


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("bench", help="measure speed and gas")
    what = parser.add_subparsers(metavar="WHAT", required=True)
    for bench in (engine, gas, node, nexus):
        bench.add(what)
