"""`lattice run`: simulate a network and write its run directory, or go on with one that was stopped."""

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lattice_cli.interrupt import deferred, interruptible
from lattice_cli.network import add_config, read_config
from lattice_core.config import Config, ConfigError

if TYPE_CHECKING:
    from lattice_sim.rundir import Run

_SURE = ("completed_share", "ttft_p50_s", "ttft_p95_s", "latency_p95_s", "output_tok_per_s", "utilisation", "mean_in_flight")
"""Metrics whose intervals a steady run shows."""

_EXIT_CODES = {"complete": 0, "failed": 1, "interrupted": 130}


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("run", help="simulate a network, or go on with a run that was stopped")
    add_config(parser, required=False)
    parser.add_argument("--out", metavar="DIR", help="run directory to write; runs/NAME-HASH if not given")
    parser.add_argument("--engine", help="which engine runs it, in place of the config's sim.engine")
    parser.add_argument("--chain", help="which EVM settles it (py-evm, revm or rpc), in place of the config's chain.backend")
    parser.add_argument("--force", action="store_true", help="replace an older run in DIR")
    parser.add_argument(
        "--journal", action="store_true", help="also keep every event and decision; the reference engine serves"
    )
    parser.add_argument("--resume", metavar="DIR", help="go on with the run in DIR from its checkpoint, to the whole run there")
    parser.add_argument(
        "--checkpoint", metavar="N", type=_positive, default=0, help="keep a checkpoint after every N epochs, too"
    )  # fmt: skip
    parser.set_defaults(command=_run, refuse=parser.error)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {text}")
    return number


@deferred()
def _run(arguments: argparse.Namespace) -> int:
    if arguments.resume is not None:
        return _resume(arguments)
    if arguments.config is None:
        arguments.refuse("needs CONFIG, or --resume DIR")
    config = _config(arguments)

    from lattice_sim.rundir import default_folder
    from lattice_sim.simulate import run

    out = arguments.out or default_folder(config)
    with _progress(config) as follow:
        done = run(config, out=out, force=arguments.force, journal=arguments.journal, keep_every=arguments.checkpoint, **follow)
    return _told(done, out, arguments.config)


def _resume(arguments: argparse.Namespace) -> int:
    if arguments.out or arguments.force or arguments.journal:
        arguments.refuse("--resume takes none of --out, --force and --journal: it goes on in the run's own directory")
    if arguments.config is None and (arguments.overrides or arguments.engine or arguments.chain):
        arguments.refuse("--resume needs CONFIG beside --set, --engine and --chain, to compare it with the run's own")

    from lattice_sim.checkpoint import Checkpoint
    from lattice_sim.simulate import resume

    out, checkpoint = arguments.resume, Checkpoint.read(arguments.resume)
    given, kept = _config(arguments).sha256() if arguments.config else None, checkpoint.config.sha256()
    if given not in (None, kept):
        raise ConfigError(f"{arguments.config}: must be the config of the run in {out}, of hash {kept}, not {given}")
    with _progress(checkpoint.config, checkpoint.epoch) as follow:
        done = resume(checkpoint, out=out, force=True, keep_every=arguments.checkpoint, **follow)
    return _told(done, out, arguments.config or out)


def _config(arguments: argparse.Namespace) -> Config:
    chosen = {"sim.engine": arguments.engine, "chain.backend": arguments.chain}
    return read_config(arguments, *(f"{path}={value}" for path, value in chosen.items() if value is not None))


@contextmanager
def _progress(config: Config, done: int = 0) -> Iterator[dict[str, Any]]:
    """A bar of epochs, as arguments of `run` and `resume`."""
    from tqdm import tqdm

    with tqdm(total=config.sim.epochs, initial=done, unit="epoch", disable=None, leave=False) as bar:
        yield {"on_epoch": lambda model: bar.update(), "clock": time.perf_counter, "stoppable": interruptible()}


def _told(done: "Run", out: str | Path, source: str) -> int:
    """Print what a run came to; the exit code."""
    from lattice_sim.report import key_figures

    for name, value in key_figures(done.summary()):
        print(f"{name:<32}{value}")
    for line in _certainty(done):
        print(line)
    print(f"{'report':<32}{out}/report.html")
    if done.status != "complete":
        reason = f": {done.manifest['reason']}" if done.manifest["reason"] else ""
        epochs = f"{len(done.epochs)} of {done.manifest['config']['sim']['epochs']} epochs"
        print(f"{source}: {done.status} after {epochs}{reason}", file=sys.stderr)
    return _EXIT_CODES[done.status]


def _certainty(done: "Run") -> Iterator[str]:
    """How sure the figures are, of one run."""
    from lattice_sim import steady

    if not steady.is_steady(done):
        yield f"{'intervals':<32}none: one run says nothing of others; see `lattice sweep`, or sim.horizon: steady"
        return
    left_out, epochs = steady.warm_up_epochs(done.epochs), len(done.epochs)
    yield f"{'warm-up left out':<32}{left_out} of {epochs} epochs"
    found = steady.intervals(done)
    if not found:
        yield f"{'intervals':<32}none: they need {steady.BATCHES} epochs behind the warm-up"
    for name, interval in found.items():
        if name in _SURE:
            yield f"{name:<32}{interval.mean:.4g} ± {interval.half_width:.2g}, 95 %, of {interval.n} batches"
