"""`python -m lattice_live.node`: serve one tiny model until told to stop.

Prints one JSON line {"port", "pid", "model_hash"} on stdout when it is ready to serve; all else goes to stderr. SIGTERM and
SIGINT leave what it has admitted GRACE_S to end, then the process exits with 0.
"""

import argparse
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable

import uvicorn

from lattice_core.units import MAX_TOKENS
from lattice_live.node.engine import Engine
from lattice_live.node.server import Node, application
from lattice_live.node.tiny_model import build
from lattice_live.node.tokens import END

GRACE_S = 2
KEEP_ALIVE_S = 600
"""Longer than any client keeps an idle connection, so that it is never the node that closes one about to be used."""


def main() -> int:
    """Serve until a signal; 0 after a clean stop, 1 if the address cannot be had, 2 for arguments that are not allowed."""
    arguments = _arguments()
    for number in (signal.SIGTERM, signal.SIGINT):  # explicit: a background job inherits SIGINT ignored
        signal.signal(number, lambda *_: sys.exit(0))  # uvicorn raises the signal again once it has stopped
    if arguments.die_with_parent:
        threading.Thread(target=_stop_at_end_of_stdin, daemon=True).start()

    engine = Engine(build(arguments.seed), context=arguments.context, end=END)
    node = Node(arguments.model, engine, queue=arguments.queue, step_s=arguments.step_ms / 1_000)
    try:
        listener = socket.create_server((arguments.host, arguments.port))
    except OSError as error:
        print(f"lattice node: cannot listen on {arguments.host}:{arguments.port}: {error}", file=sys.stderr)
        return 1

    def announce() -> None:
        line = {"port": listener.getsockname()[1], "pid": os.getpid(), "model_hash": engine.model_hash}
        print(json.dumps(line), flush=True)

    config = uvicorn.Config(
        application(node, announce),
        log_level="warning",
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
    )
    uvicorn.Server(config).run(sockets=[listener])
    return 0


def _stop_at_end_of_stdin() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("lattice_live.node", description="Serve one tiny random-weight model over HTTP.")
    parser.add_argument("--model", required=True, metavar="NAME", help="the name under which it is asked for")
    parser.add_argument("--seed", type=_whole(0, 2**63 - 1), default=1, metavar="N", help="seed of its weights")
    parser.add_argument("--context", type=_whole(16, MAX_TOKENS), default=2048, metavar="N", help="prompt + answer, tokens")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=_whole(0, 65_535), default=0, metavar="N", help="0 picks a free one")
    parser.add_argument("--queue", type=_whole(0, 2**20), default=8, metavar="N", help="requests that may wait")
    parser.add_argument(
        "--step-ms",
        type=_whole(0, 60_000),
        default=0,
        metavar="N",
        help="least time of a token, to keep the pace of a larger model",
    )
    parser.add_argument("--die-with-parent", action="store_true", help="stop when stdin ends")
    return parser.parse_args()


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return parse


if __name__ == "__main__":
    sys.exit(main())
