"""Node processes: start one, learn where it listens and who it is, stop it."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DRAIN_S = 2
"""How long a node's answers may take to end once it is told to stop."""


class NodeError(RuntimeError):
    """A node process that did not become ready."""


@dataclass(frozen=True)
class NodeProcess:
    """A node that serves. `address` is that of its key, `models` are its model hashes in hex, by name."""

    process: Process
    url: str
    address: bytes
    models: Mapping[str, str]

    @property
    def pid(self) -> int:
        """The process id, which is also its process group's."""
        return self.process.pid

    async def stop(self, grace_s: float = 5.0) -> int:
        """Ask the process to end, kill it if it has not within `grace_s`; its exit status, also if it has ended already."""
        if self.process.returncode is None:
            self.process.terminate()
            try:
                await asyncio.wait_for(self.process.wait(), grace_s)
            except TimeoutError:
                self.process.kill()
        return await self.process.wait()


async def start_node(
    models: Mapping[str, Path | None],
    *,
    random_seed: int = 1,
    slots: int = 8,
    queue: int = 8,
    context: int | None = None,
    threads: int | None = None,
    provider: str = "cpu",
    step_ms: int = 0,
    host: str = "127.0.0.1",
    port: int = 0,
    url: str | None = None,
    key: Path | None = None,
    nexus_cert: Path | None = None,
    timeout_s: float = 120.0,
) -> NodeProcess:
    """Start a node that serves the model folders `models`, by name, and wait until it is ready; its log goes to our stderr.

    None instead of a folder: the random model of `random_seed`. `url` is where the Nexus reaches it, if not at host and port;
    `key` is the node's key file; with `nexus_cert` it speaks TLS, to the holder of that certificate only. It stands in a
    process group of its own, so that a terminal's Ctrl-C lets us drain before it stops, and it ends when we do, however we end:
    its stdin is a pipe from us. Raises NodeError if it ends or `timeout_s` passes before it is ready.
    """
    said: dict[str, object] = {
        "random-seed": random_seed,
        "slots": slots,
        "queue": queue,
        "context": context,
        "threads": threads,
        "provider": provider,
        "step-ms": step_ms,
        "host": host,
        "port": port,
        "url": url,
        "key": key,
        "nexus-cert": nexus_cert,
        "drain-s": DRAIN_S,
    }
    options = [f"--{name}={value}" for name, value in said.items() if value is not None]
    options += [f"--model={name}" if folder is None else f"--model={name}={folder}" for name, folder in models.items()]
    if nexus_cert is not None:
        options.append("--tls")
    names = ", ".join(map(repr, models))
    command = [sys.executable, "-m", "lattice_live.node", "--die-with-parent", *options]
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, start_new_session=True)
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), timeout_s)
    except BaseException as error:
        if process.returncode is None:
            process.kill()
        await process.wait()
        if isinstance(error, TimeoutError):
            raise NodeError(f"node of {names} was not ready within {timeout_s:g} s") from None
        raise
    if not line:
        raise NodeError(f"node of {names} ended with status {await process.wait()} before it was ready; its log says why")
    ready = json.loads(line)
    return NodeProcess(process, ready["url"], bytes.fromhex(ready["address"]), ready["models"])
