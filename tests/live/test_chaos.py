"""Nodes killed in the middle of answers: each answer goes on elsewhere as if nothing had happened, and all have their part."""

import asyncio
import json
import os
import random
import signal
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from lattice_cli.main import main
from lattice_core.state import CLOSED, COMPLETED, UP
from lattice_live.launcher import start_node
from tests.live.kills import held
from tests.live.networks import Live, live, local, tiny

TOKENS = 80
SEEDS = (1, 2, 3)


class Told(NamedTuple):
    """What a user has of an answer: its text, and its `usage` and `lattice`."""

    text: str
    tokens: int
    about: dict[str, Any]


def stream(network: Live, seed: int) -> Told:
    """An answer as it streams, whole."""
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Tell me of the sea."}],
        "max_tokens": TOKENS,
        "seed": seed,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    headers = {"Authorization": f"Bearer {network.key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{network.url}/v1/chat/completions", json.dumps(body).encode(), headers)
    text, last = "", None
    with urllib.request.urlopen(request, timeout=60) as reply:
        for event in events(reply):
            text += "".join(choice["delta"].get("content") or "" for choice in event["choices"])
            last = event
    assert last is not None
    return Told(text, last["usage"]["completion_tokens"], last["lattice"])


def events(reply: Any) -> Iterator[dict[str, Any]]:
    for line in reply:
        if line.startswith(b"data: {"):
            yield json.loads(line.removeprefix(b"data: "))


def serving(network: Live) -> list[int]:
    """The nodes in the middle of an answer."""
    return network.ask(lambda n: [leg.node for leg in n.driver._legs.values() if leg.to_tok > leg.from_tok])


def kill(network: Live, node: int) -> None:
    os.kill(network.network.processes[node].pid, signal.SIGKILL)


def restart(network: Live, node: int) -> None:
    """The same node again, at the same port, until the network asks it again."""
    processes = network.network.processes
    killed = processes[node]

    async def start() -> None:
        await killed.process.wait()
        processes[node] = await start_node(
            {"tiny": tiny().path},
            slots=2,
            queue=9,
            threads=1,
            step_ms=10,
            port=urlsplit(killed.url).port or 0,
            key=network.network.folder.keys / f"node-{node}.key",
        )

    asyncio.run_coroutine_threadsafe(start(), network._loop).result(60)
    wait_for(lambda: network.ask(lambda n: all(n.driver.nexus.table("nodes")[:2]["status"] == UP)), "a node is down")
    wait_for(lambda: network.ask(lambda n: all(n.driver.nexus.table("nodes")[:2]["breaker"] == CLOSED)), "a breaker is open")


def wait_for(condition: Any, what: str, timeout_s: float = 30) -> None:
    for _ in range(round(timeout_s / 0.01)):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError(what)


@pytest.mark.parametrize("kills", [2, pytest.param(50, marks=pytest.mark.thorough)])
def test_when_nodes_are_killed_every_stream_goes_on_and_each_node_is_paid_what_it_receipted(tmp_path: Path, kills: int) -> None:
    random_, folder = random.Random(kills), tmp_path / "run"
    config = local(chain__epoch="1s", reputation__probe_interval="200ms", routing__breaker__open="100ms")
    told: list[Told] = []
    resumed = 0
    with live(config, folder, step_ms=10) as network, ThreadPoolExecutor(len(SEEDS)) as users:
        truth = {seed: stream(network, seed) for seed in SEEDS}
        for _ in range(kills):
            answers = {seed: users.submit(stream, network, seed) for seed in SEEDS}
            wait_for(lambda: serving(network), "no answer begins")
            time.sleep(random_.random() * 0.3)
            victim = random_.choice(serving(network) or [0])
            kill(network, victim)
            for seed, answer in answers.items():
                whole = answer.result(60)
                assert (whole.text, whole.tokens) == (truth[seed].text, truth[seed].tokens)
                ends = [0, *(leg["to_tok"] for leg in whole.about["legs"])]
                assert [leg["from_tok"] for leg in whole.about["legs"]] == ends[:-1], "contiguous, none repeated"
                assert ends[-1] == whole.tokens
                resumed += len(whole.about["legs"]) > 1
                told.append(whole)
            restart(network, victim)
    assert resumed >= kills / 2
    found = held(folder)
    for whole in told:
        status = found.statuses[whole.about["request"]]
        assert (status.outcome, status.output_tok, status.fee_nlai) == (COMPLETED, whole.tokens, whole.about["fee_nlai"])
    paid: dict[int, int] = {}
    for leg, one in found.paid.items():
        proved = found.receipts[leg].progress.to_tok if leg in found.receipts else 0
        assert proved == one.output_tok
        paid[one.request] = paid.get(one.request, 0) + one.nlai + one.faucet_nlai
    assert paid == {request: status.fee_nlai for request, status in found.statuses.items() if status.fee_nlai}
    assert found.sent == found.settled
    assert main(["replay", str(folder)]) == 0
