"""`lattice up`: launch a network and serve it until Ctrl-C."""

import argparse
import asyncio
import dataclasses
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lattice_cli.network import add_config, read_config
from lattice_core.config import Config, ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lattice_live.folder import Folder
    from lattice_live.models.folder import ModelFolder
    from lattice_live.network import Network


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("up", help="launch a network: its nodes, its chain and its Nexus, until Ctrl-C")
    add_config(parser)
    parser.add_argument("--out", metavar="DIR", help="keep its journal here, or go on with what is here")
    parser.set_defaults(command=_up)


def _up(arguments: argparse.Namespace) -> int:
    import uvloop

    from lattice_cli.model import progress_bar
    from lattice_live.folder import Folder, FolderError
    from lattice_live.launcher import NodeError
    from lattice_live.network import launched, models
    from lattice_live.server import listen
    from lattice_sim.rundir import MANIFEST, default_folder

    config = read_config(arguments)
    launched(config)
    folders = models(config, progress_bar)
    try:
        listener = listen(config.live.listen)
    except OSError as error:
        raise ConfigError(
            f"{arguments.config}: live.listen: cannot listen on {config.live.listen}: {error.strerror}"
        ) from error
    try:
        folder = Folder(Path(arguments.out) if arguments.out else default_folder(config), config)
        (folder.path / MANIFEST).unlink(missing_ok=True)  # until it ends, it is not a whole run
        key = folder.issue_key(account=0)
        print(f"API key {key}" if key else f"goes on in {folder.path}, with the API key it has given out", flush=True)
        asyncio.run(_serve(config, folder, listener, folders), loop_factory=uvloop.new_event_loop)
        folder.close()
    except FolderError as error:
        raise ConfigError(str(error)) from error
    except NodeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


async def _serve(config: Config, folder: "Folder", listener: socket.socket, folders: "Mapping[str, ModelFolder]") -> None:
    """Launch, serve until a signal, settle and write the run's files."""
    from lattice_live.network import running
    from lattice_live.server import serve

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # explicit: a background job inherits SIGINT ignored
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    host, port = config.live.listen.rpartition(":")[0], listener.getsockname()[1]
    async with running(config, folder, folders=folders) as network:
        await serve(network, listener, lambda: print(f"listening on http://{host}:{port}", flush=True), stop)
    _write(network)


def _write(network: "Network") -> None:
    """The files of a run directory, as a simulation leaves them."""
    from lattice_sim.rundir import COMPLETE, Run

    run = Run.of(network.config, network.history.records, COMPLETE)
    manifest = {**run.manifest, "engine": "live", "digest": network.driver.nexus.digest().hex()}
    dataclasses.replace(run, manifest=manifest).write(network.folder.path)
