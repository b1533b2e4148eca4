"""The entry point: read the command line, run one command, say in one line what was wrong."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from lattice_cli import (
    backup,
    bench,
    check,
    compare,
    contracts,
    load,
    model,
    node,
    replay,
    run,
    schema,
    status,
    study,
    trace,
    up,
    verify,
    view,
    wallet,
)
from lattice_core.config import ConfigError

COMMANDS = (
    *(check, run, study, view, up, load, compare, status, wallet, node, model, replay, verify, backup),
    *(trace, contracts, schema, bench),
)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `lattice` with these arguments; the exit code is 0, or 1 for a bad result, 2 for bad input, 130 for Ctrl-C."""
    parser = _Parser(prog="lattice", description="Simulate, study and launch a decentralised AI-inference network.")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(subparsers)
    chosen = parser.parse_args(arguments)
    sys.path.insert(0, os.getcwd())  # where `module:Name` in a config is looked for
    try:
        code: int = chosen.command(chosen)
        return code
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read the output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
