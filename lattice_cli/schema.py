"""`lattice schema`: the JSON schema of a config, for editors."""

import argparse
import json
from typing import Any

from lattice_core.config import schema


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("schema", help="print the JSON schema of a config")
    parser.set_defaults(command=_schema)


def _schema(arguments: argparse.Namespace) -> int:
    print(json.dumps(schema(), indent=2, ensure_ascii=False))
    return 0
