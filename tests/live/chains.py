"""anvil as a chain that may go away and come back, with all that it knew."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chain.anvil import CONTRACTS, GAS_LIMIT, _await, _free_port
from tests.require import require


class Anvil:
    """A node at a port of its own, whose state outlives it."""

    def __init__(self, state: Path, chain_id: int) -> None:
        binary = next(iter(sorted(CONTRACTS.glob("node_modules/@foundry-rs/anvil-*/bin/anvil*"))), None)
        require(binary is not None, "anvil: npm ci in contracts/")
        self._port = _free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        options = {
            "--port": self._port,
            "--state": state,
            "--chain-id": chain_id,
            "--base-fee": 0,
            "--gas-limit": GAS_LIMIT,
            "--hardfork": "prague",
            "--accounts": 0,
        }
        self._command = [str(word) for word in [binary, "--quiet", *(word for option in options.items() for word in option)]]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        _await(self._process, self.url)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None


@contextmanager
def restartable(folder: Path, chain_id: int = 31_337) -> Iterator[Anvil]:
    """A node that runs, and is stopped at the end; what it knows lies in `folder`."""
    node = Anvil(folder / "chain.json", chain_id)
    node.start()
    try:
        yield node
    finally:
        node.stop()
