"""Replications on Ray: on a cluster, or on one that is started on this machine and ends with the `with` block.

A replication is a Ray task, as a worker process keeps what it has imported and founded from one task to the next. Ray is not
asked to try again what is lost: how often that is done is one rule for all executors.
"""

import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from threading import current_thread, main_thread
from typing import Any, Self

from lattice_core.config import ConfigError
from lattice_core.journal import rules_hash
from lattice_sim.study.executors import Tries, available_workers
from lattice_sim.study.task import Plan, Row, Task, replicate

_CONNECT_S, _ANSWER_S = 4.0, 12.0
"""How long an address may take to be connected to, and then to show that it is a cluster's."""

_STORE_BYTES = 100 * 2**20
"""Of shared memory for a cluster of our own. Rows are small."""

_QUIET: Any = {"logging_level": "CRITICAL", "log_to_driver": False}

_JOIN = "import sys, ray; ray.init(sys.argv[1], logging_level='CRITICAL', log_to_driver=False)"


class RayWorkers:
    """Workers of a Ray cluster, one for each of its processors unless said otherwise. A lost node costs what it was at."""

    def __init__(self, workers: int | None, address: str | None) -> None:
        """Raises ConfigError if Ray is not installed, or at `address`, HOST:PORT or auto, is no cluster."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray  # noqa: F401
        except ModuleNotFoundError as error:
            raise ConfigError("--executor ray: needs Ray: install lattice[ray]") from error
        if address is not None:
            _check(address)
        self._workers = workers
        self._address = address
        self._open = ExitStack()

    def run(self, plan: Plan, tasks: Sequence[Task]) -> Iterator[tuple[Task, Row]]:
        import ray

        remote = ray.remote(num_cpus=1, max_retries=0)(_replicate)
        shared, rules = ray.put(plan), rules_hash()
        waiting, tries = deque(tasks), Tries()
        flying: dict[Any, Task] = {}
        # What flies when this ends early is left to end by itself, or with Ray: to cancel a task that is just ending kills Ray.
        while waiting or flying:
            most = self._workers or 2 * _processors()  # some are ready when others end
            while waiting and len(flying) < most:
                flying[remote.remote(shared, waiting[0], rules)] = waiting[0]
                waiting.popleft()
            ended, _ = ray.wait(list(flying), timeout=10.0)  # a cluster may have grown by then
            for reference in ended:
                task = flying.pop(reference)
                try:
                    row = ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from None
                except ray.exceptions.RayError:  # the worker's end, whatever it was
                    tries.lose(task)
                    waiting.appendleft(task)
                else:
                    yield task, row

    def __enter__(self) -> Self:
        import ray

        with ExitStack() as opened:
            cluster: Any = {"address": self._address}
            if self._address is None:
                # In a folder of its own, which goes with it. Its name is short, as sockets' names must be.
                folder = TemporaryDirectory(prefix="ray", dir=_short_folder(), ignore_cleanup_errors=True)
                cluster = {
                    "address": "local",
                    "num_cpus": self._workers or available_workers(),
                    "object_store_memory": _STORE_BYTES,
                    "include_dashboard": False,
                    "_temp_dir": opened.enter_context(folder),
                }
            opened.callback(ray.shutdown)
            with _our_signals():
                ray.init(**cluster, **_QUIET)
            self._open = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()


@contextmanager
def _our_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself; who called says what it means."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if current_thread() is main_thread():
        signal.signal(signal.SIGTERM, before)


def _replicate(plan: Plan, task: Task, rules: str) -> Row:
    """In a worker. Raises ConfigError if its rules are not those of the process that asks."""
    if rules_hash() != rules:
        raise ConfigError(f"{socket.gethostname()}: this node of the cluster has another version of lattice")
    _warm()
    return replicate(plan, task)


@cache
def _warm() -> None:
    """Compile what a replication needs, one worker of a node after the other: `warm` says why."""
    import fcntl

    with (Path(gettempdir()) / f"lattice-warm-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        import lattice_sim.study.warm  # noqa: F401


def _processors() -> int:
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _short_folder() -> str | None:
    return "/tmp" if Path("/tmp").is_dir() else None


def _check(address: str) -> None:
    """Raises ConfigError unless a Ray cluster answers, as Ray itself waits for minutes, and then ends the process."""
    if address != "auto":
        host, colon, port = address.rpartition(":")
        if not (colon and host and "/" not in host and port.isdecimal() and 0 < int(port) < 65536):
            raise ConfigError(f"--address: must be HOST:PORT of a Ray cluster, or auto, not {address}")
        try:
            socket.create_connection((host, int(port)), _CONNECT_S).close()
        except OSError as error:
            raise ConfigError(f"--address {address}: no Ray cluster answers: {error.strerror or error}") from error
    try:
        joined = subprocess.run([sys.executable, "-c", _JOIN, address], capture_output=True, text=True, timeout=_ANSWER_S)
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"--address {address}: no Ray cluster answers within {_ANSWER_S:g} s") from error
    if joined.returncode:
        *_, reason = joined.stderr.strip().splitlines() or ["no reason is given"]
        raise ConfigError(f"--address {address}: cannot be joined: {reason}")
