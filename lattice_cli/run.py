"""`lattice run`: simulate a network and write its run directory."""

import argparse
import sys
import time
from typing import Any

from lattice_cli.interrupt import deferred, interruptible
from lattice_cli.network import add_config, read_config

_EXIT_CODES = {"complete": 0, "failed": 1, "interrupted": 130}


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("run", help="simulate a network")
    add_config(parser)
    parser.add_argument("--out", metavar="DIR", help="run directory to write; runs/NAME-HASH if not given")
    parser.add_argument("--engine", help="which engine runs it, in place of the config's sim.engine")
    parser.add_argument("--chain", help="which EVM settles it (py-evm, revm or rpc), in place of the config's chain.backend")
    parser.add_argument("--force", action="store_true", help="replace an older run in DIR")
    parser.add_argument("--journal", action="store_true", help="also keep every input event and decision")
    parser.set_defaults(command=_run)


@deferred()
def _run(arguments: argparse.Namespace) -> int:
    chosen = {"sim.engine": arguments.engine, "chain.backend": arguments.chain}
    config = read_config(arguments, *(f"{path}={value}" for path, value in chosen.items() if value is not None))

    from tqdm import tqdm

    from lattice_sim.report import key_figures
    from lattice_sim.rundir import default_folder
    from lattice_sim.simulate import run

    out = arguments.out or default_folder(config)
    with tqdm(total=config.sim.epochs, unit="epoch", disable=None, leave=False) as bar:
        done = run(
            config,
            out=out,
            force=arguments.force,
            journal=arguments.journal,
            on_epoch=lambda model: bar.update(),
            clock=time.perf_counter,
            stoppable=interruptible(),
        )
    for name, value in key_figures(done.summary()):
        print(f"{name:<32}{value}")
    print(f"{'report':<32}{out}/report.html")
    if done.status != "complete":
        reason = f": {done.manifest['reason']}" if done.manifest["reason"] else ""
        epochs = f"{len(done.epochs)} of {config.sim.epochs} epochs"
        print(f"{arguments.config}: {done.status} after {epochs}{reason}", file=sys.stderr)
    return _EXIT_CODES[done.status]
