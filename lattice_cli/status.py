"""`lattice status`: how a live network is, and each of its nodes."""

import argparse
import json
from typing import Any

from lattice_cli.client import Client
from lattice_cli.member import print_nodes


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("status", help="say how a live network is: its Nexus, its chain, its nodes")
    parser.add_argument("nexus", metavar="URL", help="where the Nexus listens, such as http://127.0.0.1:8080")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(command=_status)


def _status(arguments: argparse.Namespace) -> int:
    client = Client(arguments.nexus)
    network, health = client.ask("GET", "/v1/network"), client.ask("GET", "/healthz")
    nodes = client.ask("GET", "/v1/nodes")["data"]
    if arguments.json:
        print(json.dumps({"network": network, "health": health, "nodes": nodes}))
        return 0
    chain = network["chain"]
    print(f"{network['name']}: {health['status']}, epoch {network['epoch']} of {chain['epoch_s']:g} s")
    print(f"chain {chain['id']} on {chain['backend']}" + (f", away: {chain['away']}" if chain["away"] else ""))
    print(f"models {', '.join(network['models']) or 'none'}")
    counts = ("arrived", "completed", "failed", "rejected", "in_flight")
    print("requests " + ", ".join(f"{health[name]} {name.replace('_', ' ')}" for name in counts))
    print_nodes(nodes)
    return 0
