"""`lattice view`: a page on this machine with a network to step through, sliders and charts."""

import argparse
import os
import socket
import sys
from pathlib import Path
from typing import Any

from lattice_cli.network import add_config
from lattice_core.config import Config, ConfigError

HOST = "127.0.0.1"


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("view", help="open a page with a network to step through, sliders and charts")
    add_config(parser)
    parser.add_argument("--port", type=int, default=8765, metavar="P", help="to listen at on this machine (8765)")
    parser.add_argument("--no-browser", action="store_true", help="do not open the page, only say where it is")
    parser.set_defaults(command=_view)


def _view(arguments: argparse.Namespace) -> int:
    config, run = _shown(arguments)
    _check_port(arguments.port)
    try:
        import solara  # noqa: F401
    except ImportError as error:
        raise ConfigError("lattice view: needs the extra view, as in pip install 'lattice[view]'") from error
    # Read when the server is imported: what it shows, and that its scripts and fonts come from here, not from elsewhere.
    os.environ |= {"SOLARA_APP": "lattice_sim.view", "SOLARA_TELEMETRY_MIXPANEL_ENABLE": "False", "SOLARA_MODE": "production"}

    import uvicorn

    from lattice_sim.view import show

    show(config, run)
    from solara.server.starlette import app

    class Server(uvicorn.Server):
        """Says where it listens once it does."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            url = f"http://{HOST}:{arguments.port}"
            print(f"{url}  (Ctrl-C ends it)", file=sys.stderr, flush=True)
            if not arguments.no_browser:
                import webbrowser

                webbrowser.open(url)

    Server(uvicorn.Config(app, host=HOST, port=arguments.port, log_level="error")).run()
    return 0


def _shown(arguments: argparse.Namespace) -> tuple[Config, Any]:
    """The network, and the run whose charts stand beside its own, if it is a run directory's."""
    from lattice_cli.network import read_config
    from lattice_core.config import parse
    from lattice_sim.rundir import load_run

    if not Path(arguments.config).is_dir():
        return read_config(arguments), None
    import json

    run = load_run(arguments.config)
    return parse(json.dumps(run.manifest["config"]), f"{arguments.config}: config", arguments.overrides), run


def _check_port(port: int) -> None:
    if not 1 <= port <= 65_535:
        raise ConfigError(f"--port: must be from 1 to 65535, not {port}")
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((HOST, port))
        except OSError as error:
            raise ConfigError(f"--port {port}: {error.strerror}; choose another") from error
