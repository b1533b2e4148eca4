"""A node that joins a network by itself, from the command line, as one on another machine would."""

import json
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.live.networks import tiny


class Started:
    """`lattice node start`, as it runs; `said` are the lines that it has printed."""

    def __init__(self, url: str, key: Path, *options: str) -> None:
        arguments = ["node", "start", "--nexus", url, "--model", f"tiny={tiny().path}", "--key", str(key), "--threads", "1"]
        command = [sys.executable, "-m", "lattice_cli.main", *arguments, *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.said: list[str] = []
        self._news = threading.Condition()
        self._over = False
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait_for(self, words: str, timeout_s: float = 60) -> str:
        """The first line with these words. Fails if the command ends without it."""
        with self._news:
            self._news.wait_for(lambda: self._over or any(words in line for line in self.said), timeout_s)
        found = next((line for line in self.said if words in line), None)
        assert found is not None, (words, self.said, self.process.poll())
        return found

    def stop(self) -> int:
        """Ctrl-C; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        status = self.process.wait(60)
        self._reader.join()
        assert self.process.stderr is not None
        self.errors = self.process.stderr.read()
        return status

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.said.append(line)
                self._news.notify_all()
        with self._news:
            self._over = True
            self._news.notify_all()


@contextmanager
def started(url: str, key: Path, *options: str) -> Iterator[Started]:
    """A node that takes requests, and is stopped at the end."""
    node = Started(url, key, *options)
    try:
        node.wait_for("takes requests")
        yield node
    finally:
        if node.process.poll() is None:
            node.stop()
        node.process.kill()


def get(url: str, path: str) -> Any:
    """What a GET of the Nexus answers."""
    with urllib.request.urlopen(f"{url}{path}", timeout=20) as reply:
        return json.load(reply)


def row_of(url: str, node: int) -> dict[str, Any]:
    """A node as `GET /v1/nodes` lists it."""
    return next(row for row in get(url, "/v1/nodes")["data"] if row["node"] == node)
