"""`lattice up`: launch a network and serve it until Ctrl-C."""

import argparse
import asyncio
import dataclasses
import signal
import socket
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lattice_cli import table
from lattice_cli.network import add_config, read_config
from lattice_cli.replay import DECISIONS, JOURNAL, MANIFEST
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
    from lattice_live.storage import StorageError

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
        folder = Folder(Path(arguments.out) if arguments.out else _default_folder(config), config)
        for name in (MANIFEST, JOURNAL, DECISIONS):
            (folder.path / name).unlink(missing_ok=True)  # until it ends, it is not a whole run
        asyncio.run(_serve(config, folder, listener, folders), loop_factory=uvloop.new_event_loop)
        folder.close()
    except FolderError as error:
        raise ConfigError(str(error)) from error
    except (NodeError, StorageError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _default_folder(config: Config) -> Path:
    from lattice_sim.rundir import default_folder  # with pandas, which a restart need not wait for

    return default_folder(config)


async def _serve(config: Config, folder: "Folder", listener: socket.socket, folders: "Mapping[str, ModelFolder]") -> None:
    """Launch, serve until a signal, settle and write the run's files."""
    from lattice_live.gateway.principals import first_key
    from lattice_live.network import running
    from lattice_live.server import serve

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # explicit: a background job inherits SIGINT ignored
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    host, port = config.live.listen.rpartition(":")[0], listener.getsockname()[1]
    showing: list[asyncio.Task[None]] = []
    async with running(config, folder, folders=folders) as network, asyncio.TaskGroup() as group:
        key = await first_key(network.storage)
        print(f"API key {key}" if key else f"goes on in {folder.path}, with the API key it has given out", flush=True)

        def ready() -> None:
            print(f"listening on http://{host}:{port}", flush=True)
            if sys.stdout.isatty():
                showing.append(group.create_task(table.keep(network, sys.stdout)))

        await serve(network, listener, ready, stop)
        for task in showing:
            task.cancel()
    _write(network)


def _write(network: "Network") -> None:
    """The files of a run directory, as a simulation leaves them."""
    from lattice_live.sqlite import Reader
    from lattice_sim.rundir import COMPLETE, Run

    with closing(Reader(network.folder.storage)) as reader:
        for name, table in ((JOURNAL, "events"), (DECISIONS, "decisions")):
            with (network.folder.path / name).open("w", encoding="ascii", newline="\n") as file:
                file.writelines(reader.lines(table))
    book = network.settlement.listing.book if network.settlement.remote else None
    run = Run.of(network.config, network.history.records, COMPLETE, address_book=book)
    manifest = {**run.manifest, "engine": "live", "digest": network.driver.nexus.digest().hex()}
    dataclasses.replace(run, manifest=manifest).write(network.folder.path)
