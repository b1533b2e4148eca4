"""Node processes: start one, learn where it listens, stop it."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from dataclasses import dataclass


class NodeError(RuntimeError):
    """A node process that did not become ready."""


@dataclass(frozen=True)
class NodeProcess:
    """A node that serves. `model_hash` is the SHA-256 of its model, in hex."""

    process: Process
    url: str
    model_hash: str

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
    model: str,
    *,
    seed: int,
    context: int = 2048,
    queue: int = 8,
    step_ms: int = 0,
    host: str = "127.0.0.1",
    port: int = 0,
    timeout_s: float = 30.0,
) -> NodeProcess:
    """Start a node that serves the tiny model of `seed` as `model`, and wait until it is ready; its log goes to our stderr.

    It stands in a process group of its own, so that a terminal's Ctrl-C lets us drain before it stops, and it ends when we do,
    however we end: its stdin is a pipe from us. Raises NodeError if it ends or `timeout_s` passes before it is ready.
    """
    numbers = {"seed": seed, "context": context, "queue": queue, "step-ms": step_ms, "port": port}
    options = [f"--{name}={value}" for name, value in {"model": model, "host": host, **numbers}.items()]
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
            raise NodeError(f"node {model!r} was not ready within {timeout_s:g} s") from None
        raise
    if not line:
        raise NodeError(f"node {model!r} ended with status {await process.wait()} before it was ready; its log says why")
    ready = json.loads(line)
    return NodeProcess(process, f"http://{host}:{ready['port']}", ready["model_hash"])
