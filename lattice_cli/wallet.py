"""`lattice wallet`: where the money of an API key's account is."""

import argparse
import json
from typing import Any

from lattice_cli.client import Client, add_api_key, add_nexus, lai
from lattice_core.config import ConfigError


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("wallet", help="say how much an account has, and where it is")
    add_nexus(parser)
    add_api_key(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(command=_wallet)


def _wallet(arguments: argparse.Namespace) -> int:
    if not arguments.api_key:
        raise ConfigError("--api-key: must be a key of the account, here or in $LATTICE_API_KEY")
    said = Client(arguments.nexus, arguments.api_key).ask("GET", "/v1/wallet")
    if arguments.json:
        print(json.dumps(said))
        return 0
    print(f"account {said['account']}, LAI{'purchased':>28} {'faucet':>20}")
    for name in ("free", "held", "debit", "unsettled", "overdue", "spent"):
        purchased, faucet = (lai(said[kind][f"{name}_nlai"]) for kind in ("purchased", "faucet"))
        print(f"{_WORDS[name]:<24} {purchased:>20} {faucet:>20}")
    return 0


_WORDS = {
    "free": "free",
    "held": "held for requests",
    "debit": "charged this epoch",
    "unsettled": "on its way to the chain",
    "overdue": "left to vouchers",
    "spent": "spent",
}
