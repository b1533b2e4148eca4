"""`python -m lattice_live.node`: serve models until told to stop.

Prints one JSON line {"port", "pid", "url", "address", "models": {name: hash}} on stdout when it has served a prompt of each
model; all else goes to stderr. SIGTERM and SIGINT leave what has been taken `--drain-s` to end, then ends the rest, each
with its last receipt, and exits with 0.

Without TLS, which needs the Nexus's certificate, it listens on this machine only: whoever reaches it is taken for its Nexus.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import uvicorn

from lattice_core.chain.keys import Key
from lattice_core.units import MAX_TOKENS
from lattice_live.channel import is_loopback
from lattice_live.heads import Bounded
from lattice_live.models.folder import ModelFolder
from lattice_live.models.random import build
from lattice_live.node import tls
from lattice_live.node.engine import Engine
from lattice_live.node.identity import new_key, open_key
from lattice_live.node.metrics import Metrics
from lattice_live.node.purse import Purse, purse_of
from lattice_live.node.server import STALLED_S, Node, application
from lattice_live.node.worker import EngineError, Worker

KEEP_ALIVE_S = 600
"""Longer than any client keeps an idle connection, so that it is never the node that closes one about to be used."""

PROBE = "Say something."


def main() -> int:
    """Serve until a signal; 0 after a clean stop, 1 if a model, key or address cannot be had, 2 for wrong arguments."""
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.tls and not (arguments.key and arguments.nexus_cert):
        parser.error("--tls needs --key and --nexus-cert")
    if not arguments.tls and not is_loopback(arguments.host):
        parser.error(f"--host: without --tls must be an address of this machine's loopback, not {arguments.host}")
    for number in (signal.SIGTERM, signal.SIGINT):  # explicit: a background job inherits SIGINT ignored
        signal.signal(number, lambda *_: sys.exit(0))  # uvicorn raises the signal again once it has stopped
    if arguments.die_with_parent:
        threading.Thread(target=_stop_at_end_of_stdin, daemon=True).start()
    try:
        with _folders(arguments) as folders:
            _serve(arguments, folders)
    except (EngineError, MemoryError, OSError, RuntimeError, ValueError) as error:
        print(f"lattice node: {error or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


@contextmanager
def _folders(arguments: argparse.Namespace) -> Iterator[dict[str, ModelFolder]]:
    """The folder of each model; random ones are gone afterwards."""
    with TemporaryDirectory(prefix="lattice-node-") as scratch:
        random: list[ModelFolder] = []
        folders = {}
        for argument in arguments.model:
            name, _, path = argument.partition("=")
            if path:
                folders[name] = ModelFolder.open(path)
            else:
                random = random or [build(Path(scratch) / "model", arguments.random_seed)]
                folders[name] = random[0]
        yield folders


def _serve(arguments: argparse.Namespace, folders: dict[str, ModelFolder]) -> None:
    key = open_key(arguments.key) if arguments.key else new_key()
    context = _tls_context(arguments, key) if arguments.tls else None
    metrics = Metrics()
    workers, prompts = [], {}
    for name, folder in folders.items():
        engine = Engine(
            folder,
            slots=arguments.slots,
            context=min(arguments.context, folder.manifest.context),
            threads=arguments.threads,
            provider=arguments.provider,
        )
        workers.append(Worker(name, engine, metrics, queue=arguments.queue, step_s=arguments.step_ms / 1_000))
        prompts[name] = folder.text.encode(PROBE)
    try:
        listener = socket.create_server((arguments.host, arguments.port))
    except OSError as error:
        raise OSError(f"cannot listen on {arguments.host}:{arguments.port}: {error}") from None
    port = listener.getsockname()[1]
    url = arguments.url or f"{'https' if context else 'http'}://{arguments.host}:{port}"
    purse = Purse(purse_of(arguments.key)) if arguments.key else None
    node = Node(key, url, workers, prompts, metrics, purse)
    config = uvicorn.Config(
        application(node),
        http=Bounded,
        lifespan="off",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=arguments.drain_s + int(STALLED_S),
        ssl_context_factory=(lambda *_: context) if context else None,
    )

    async def run() -> None:
        try:
            await node.start()
            ready = {"port": port, "pid": os.getpid(), "url": url, "address": key.address.hex(), "models": node.models}
            print(json.dumps(ready), flush=True)
            await _Server(config, node, arguments.drain_s).serve([listener])
        finally:
            node.close()

    asyncio.run(run(), loop_factory=config.get_loop_factory())


class _Server(uvicorn.Server):
    """Ends its node's answers, with their last receipts, before it closes their connections."""

    def __init__(self, config: uvicorn.Config, node: Node, drain_s: float) -> None:
        super().__init__(config)
        self._node = node
        self._drain_s = drain_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        async with asyncio.TaskGroup() as both:
            both.create_task(self._node.finish(self._drain_s))
            both.create_task(super().shutdown(sockets))


def _tls_context(arguments: argparse.Namespace, key: Key) -> ssl.SSLContext:
    nexus = tls.read(arguments.nexus_cert)
    tls.owner(nexus)  # or it proves no identity
    return tls.node_context(tls.open_certificate(key, arguments.key.with_suffix(".pem")), nexus)


def _stop_at_end_of_stdin() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("lattice_live.node", description="Serve models over HTTP.")
    add = parser.add_argument
    add("--model", action="append", required=True, metavar="NAME[=FOLDER]", help="serve a model; random weights if no folder")
    add("--random-seed", type=_whole(0, 2**63 - 1), default=1, metavar="N", help="seed of random weights")
    add("--slots", type=_whole(1, 1024), default=8, metavar="N", help="requests served at once, by model")
    add("--queue", type=_whole(0, 2**20), default=8, metavar="N", help="requests that may wait, by model")
    add(
        "--context",
        type=_whole(16, MAX_TOKENS),
        default=MAX_TOKENS,
        metavar="N",
        help="prompt + answer, tokens; never more than a model's own",
    )
    add("--threads", type=_whole(1, 1024), default=len(os.sched_getaffinity(0)), metavar="N", help="CPU threads, by model")
    add("--provider", choices=["cpu", "cuda"], default="cpu")
    add("--host", default="127.0.0.1")
    add("--port", type=_whole(0, 65_535), default=0, metavar="N", help="0 picks a free one")
    add("--url", help="where the Nexus reaches this node, if not at host and port")
    add("--key", type=Path, metavar="FILE", help="the node's key, made if missing; one for this run only if not given")
    add("--tls", action="store_true", help="mutual TLS; the certificate lies beside the key, as .pem and .crt")
    add("--nexus-cert", type=Path, metavar="FILE", help="certificate of the Nexus, who alone is let in")
    add(
        "--step-ms", type=_whole(0, 10_000), default=0, metavar="N", help="least time of a token, to keep a larger model's pace"
    )
    add("--drain-s", type=_whole(0, 86_400), default=30, metavar="N", help="how long answers may take to end after a signal")
    add("--die-with-parent", action="store_true", help="stop when stdin ends")
    return parser


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return parse


if __name__ == "__main__":
    sys.exit(main())
