"""`lattice bench gas`: what each operation costs on the chain, and the model of it that prices every run."""

import argparse
import json
from collections.abc import Iterator
from typing import Any

from lattice_core.config import ConfigError


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("gas", help="gas of every operation on the chain, and the model of it")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--write", action="store_true", help="write the model to contracts/gas.json, in a checkout")
    parser.set_defaults(command=_gas)


def _gas(arguments: argparse.Namespace) -> int:
    from lattice_cli.bench.costs import measure
    from lattice_core.chain.gas import IN_CHECKOUT

    if arguments.write and not IN_CHECKOUT.parent.is_dir():
        raise ConfigError(f"--write: needs a checkout, where {IN_CHECKOUT.parent} is a folder")
    result, model = measure()
    if arguments.write:
        IN_CHECKOUT.write_text(model.text(), encoding="utf-8")
    print(json.dumps(result) if arguments.json else "\n".join(_lines(result)))
    return 0


def _lines(result: dict[str, Any]) -> Iterator[str]:
    yield f"{'operation':<20}{'base':>10}{'per entry':>11}{'per node':>10}{'error':>9}   entries"
    for name, row in result["operations"].items():
        low, high = row["entries"]
        sizes = f"{low:,} to {high:,}" if high > low else f"{low:,}"
        figures = f"{row['base']:>10,}{row['per_entry']:>11,}{row['per_node']:>10,}{row['error_ppm'] / 1e6:>9.2%}"
        yield f"{name:<20}{figures}   {sizes}"
    settle, ratio = result["settle_1000_100"], result["revm_over_py_evm"]
    yield ""
    yield f"{'a settlement':<20}{'per user':>10}{'per node':>11}{'base':>10}"
    user, node, base = (settle["breakdown"][share] for share in ("per_user", "per_node", "base"))
    for part in base:
        yield f"{part.replace('_', ' '):<20}{user[part]:>10,.1f}{node[part]:>11,.1f}{base[part]:>10,}"
    yield f"{'of 1,000 and 100':<20}{settle['gas_per_user']:>10,.1f} per user, {settle['gas']:,} in all"
    faster = f", revm {ratio:,.0f} times as fast" if ratio else ""
    yield f"py-evm settles it in {result['settle_1000_100_s']:.2f} s{faster}"
