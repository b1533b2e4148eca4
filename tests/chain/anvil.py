"""anvil, a real node, for as long as a test needs it: on loopback, with the chain id, the time and the prices of `PyEvm`."""

import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.require import require

CONTRACTS = Path(__file__).parents[2] / "contracts"
GAS_LIMIT = 2**32
"""So high that no block is half full: the base fee stays what it is."""


@contextmanager
def anvil(chain_id: int = 31_337, genesis_s: int = 1_700_000_000, base_fee_wei: int = 0) -> Iterator[str]:
    """The URL of a fresh node, which is stopped at the end."""
    binary = next(iter(sorted(CONTRACTS.glob("node_modules/@foundry-rs/anvil-*/bin/anvil*"))), None)
    require(binary is not None, "anvil: npm ci in contracts/")
    options = {
        "--port": _free_port(),
        "--chain-id": chain_id,
        "--timestamp": genesis_s,
        "--base-fee": base_fee_wei,
        "--gas-limit": GAS_LIMIT,
        "--hardfork": "prague",
        "--accounts": 0,
    }
    words = [str(word) for option in options.items() for word in option]
    node = subprocess.Popen([str(binary), "--quiet", *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{options['--port']}"
        _await(node, url)
        yield url
    finally:
        node.terminate()
        try:
            node.wait(5)
        except subprocess.TimeoutExpired:
            node.kill()
            node.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _await(node: "subprocess.Popen[bytes]", url: str) -> None:
    question = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "web3_clientVersion", "params": []}).encode()
    for _ in range(500):
        assert node.poll() is None, f"anvil ended with {node.returncode} before it answered"
        try:
            with urllib.request.urlopen(urllib.request.Request(url, question, {"Content-Type": "application/json"})):
                return
        except OSError:
            time.sleep(0.02)
    raise TimeoutError(f"anvil did not answer at {url}")
