"""`lattice verify`: compute each settlement of a run again from its journal, and compare it with what the chain did."""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lattice_cli.replay import lines
from lattice_core.config import ConfigError

if TYPE_CHECKING:
    from lattice_core.settlement import Settlement


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("verify", help="recompute each settlement of a run and compare it with the chain's")
    parser.add_argument("run", metavar="RUN", help="directory of a live run, or of one simulated with --journal")
    parser.add_argument("--rpc", metavar="URL", help="ask the node whose chain settled it, not the run's record of its events")
    parser.add_argument("--epoch", type=int, metavar="N", help="this epoch only")
    parser.set_defaults(command=_verify)


def _verify(arguments: argparse.Namespace) -> int:
    from lattice_core.journal import JournalError
    from lattice_core.verification import settlements
    from lattice_sim.rundir import load_run

    run = load_run(arguments.run)
    found = _logged(arguments.rpc, run.manifest) if arguments.rpc else _recorded(run.settlements)
    try:
        with lines(Path(arguments.run), "journal") as (journal, source):
            expected = list(settlements(journal, source))
    except JournalError as error:
        print(error, file=sys.stderr)
        return 1
    if arguments.epoch is not None:
        expected, found = ([s for s in rows if s.epoch == arguments.epoch] for rows in (expected, found))
    differences = list(_differences(expected, found))
    for difference in differences:
        print(f"{arguments.run}: {difference}", file=sys.stderr)
    if not differences:
        print(f"{len(expected)} settlements of {len({s.epoch for s in expected})} epochs are as they must be")
    return 1 if differences else 0


def _differences(expected: Iterable["Settlement"], found: Iterable["Settlement"]) -> Iterable[str]:
    must, did = ({(s.epoch, s.chunk): s for s in rows} for rows in (expected, found))
    for key in sorted(must.keys() | did.keys()):
        at = f"epoch {key[0]}, chunk {key[1]}"
        if key not in did:
            yield f"{at}: the journal says that it was settled, the chain does not"
        elif key not in must:
            yield f"{at}: the chain settled it, the journal does not say so"
        else:
            for name, a, b in zip(must[key]._fields, must[key], did[key], strict=True):
                if a != b:
                    yield f"{at}: {name}: must be {a}, the chain has {b}"


def _recorded(frame: Any) -> list["Settlement"]:
    """What the run wrote down of the chain's events."""
    from lattice_core.settlement import Settlement

    return [Settlement(*(int(value) for value in row)) for row in frame[list(Settlement._fields)].itertuples(index=False)]


def _logged(url: str, manifest: dict[str, Any]) -> list["Settlement"]:
    """What the node's logs say of the contracts that the run deployed."""
    from web3 import HTTPProvider, Web3

    from lattice_core.chain.backends import open_chain
    from lattice_core.chain.contracts import Network
    from lattice_core.chain.logs import settlements

    book = manifest.get("address_book")
    if manifest.get("chain") != "rpc" or not book:
        raise ConfigError(f"--rpc: must be left out for a run on {manifest.get('chain')}, whose chain ended with it")
    try:
        network = Network(open_chain("rpc", url), bytes.fromhex(book.removeprefix("0x")))
    except (ValueError, ConnectionError) as error:
        raise ConfigError(f"--rpc {url}: {error}") from error
    return settlements(Web3(HTTPProvider(url)), network)
