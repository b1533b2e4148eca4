"""A real node process with a real engine, served over loopback."""

import asyncio
import json
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from lattice_core.chain.keys import key_of
from lattice_core.config.network import Timeouts
from lattice_live.launcher import NodeError, start_node
from lattice_live.models.folder import ModelFolder
from lattice_live.models.random import build
from lattice_live.node import tls
from lattice_live.node.__main__ import main
from lattice_live.node.engine import Engine, Job
from lattice_live.node.identity import open_key, save_key
from lattice_live.node.sampling import Sampling
from lattice_live.upstream import NodeFailure, Order, Peer, Realm, Upstream

REALM = Realm(nexus=0, chain_id=31337, registry=bytes(range(20)))
PROMPT = list(b"Tell me a story.")
SAMPLINGS = [
    Sampling(temperature=0.0),
    Sampling(seed=9),
    Sampling(seed=5, top_k=20, top_p=0.9, min_p=0.01, repetition_penalty=1.1, logit_bias={65: 3.0}),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return build(tmp_path_factory.mktemp("models") / "tiny", 1)


@pytest.fixture(scope="module")
def engine(folder: ModelFolder) -> Engine:
    return Engine(folder, slots=1, context=512)


def expected(engine: Engine, prompt: list[int], max_tokens: int, sampling: Sampling) -> list[int]:
    """The answer of the engine alone."""
    engine.submit(Job(1, prompt, sampling, max_tokens))
    tokens = []
    while not tokens or tokens[-1].finish is None:
        tokens += engine.step()
    return [token.token for token in tokens]


def order(**changes: Any) -> dict[str, Any]:
    return {"leg": 1, "model": "tiny", "prompt": PROMPT, "max_tokens": 8, "sampling": {"seed": 9}} | changes


def join(url: str) -> None:
    invitation = {**REALM._asdict(), "registry": REALM.registry.hex(), "node": 0, "nonce": "ab" * 32}
    httpx.post(f"{url}/v1/join", json=invitation).raise_for_status()


def tokens_of(text: str) -> list[int]:
    *lines, last = map(json.loads, text.splitlines())
    tokens = [line["token"] for line in lines if "token" in line]
    assert (last["done"], last["output_tok"]) == (True, len(tokens))
    return tokens


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "lattice_live.node", "--model=tiny", "--threads=1", "--context=512", *options]


@contextmanager
def spawned(*options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A node process and what it says when it is ready."""
    process = subprocess.Popen(command(*options), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process, json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def test_launched_nodes_prove_their_keys_over_tls_and_answer_as_their_engine_does(
    folder: ModelFolder, engine: Engine, tmp_path: Path
) -> None:
    """Two models, one of them given as a folder, the other made by the node, and more chats than slots."""
    key, nexus = tmp_path / "node.key", tls.open_certificate(key_of(2), tmp_path / "nexus.pem")
    save_key(key, key_of(1))

    async def scenario() -> None:
        models = {"given": folder.path, "made": None}
        node = await start_node(
            models, slots=2, queue=4, context=512, threads=1, key=key, nexus_cert=tls.public(nexus), random_seed=1
        )
        assert node.address == key_of(1).address
        assert node.models == dict.fromkeys(models, folder.manifest.model_hash)
        assert tls.owner(tls.read(key.with_suffix(".crt"))) == node.address
        served = dict.fromkeys(models, folder.manifest)
        nodes = Upstream({0: Peer(node.url, node.address)}, REALM, served, Timeouts(), nexus)
        assert await nodes.join(0) == node.models

        async def answer(leg: int, asked: Order) -> list[int]:
            tokens: list[int] = []
            await nodes.answer(0, asked, lambda drawn: tokens.append(drawn.token), lambda signed: None)
            return tokens

        orders = [
            Order(leg, model, [*PROMPT, 48 + leg], 24, sampling)
            for leg, (model, sampling) in enumerate((model, sampling) for model in models for sampling in SAMPLINGS)
        ]
        answers = await asyncio.gather(*(answer(leg, asked) for leg, asked in enumerate(orders)))
        assert answers == [expected(engine, asked.prompt, 24, asked.sampling) for asked in orders]
        assert await nodes.probe(0)
        await nodes.close()

        strangers = Upstream(
            {0: Peer(node.url, node.address)},
            REALM,
            {},
            Timeouts(),
            tls.open_certificate(key_of(3), tmp_path / "stranger.pem"),
        )
        with pytest.raises(NodeFailure):
            await strangers.join(0)
        await strangers.close()
        assert [await node.stop(), await node.stop()] == [0, 0]

    asyncio.run(scenario())


def test_a_ready_node_on_loopback_needs_no_tls_and_says_how_fast_it_was(engine: Engine, tmp_path: Path) -> None:
    key = tmp_path / "node.key"
    with spawned(f"--key={key}", "--slots=3", "--queue=2") as (process, ready):
        assert ready == {
            "port": ready["port"],
            "pid": process.pid,
            "url": f"http://127.0.0.1:{ready['port']}",
            "address": open_key(key).address.hex(),
            "models": {"tiny": engine.model_hash},
        }
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        with httpx.Client(base_url=ready["url"], timeout=20) as client:
            join(ready["url"])
            asked = order(sampling={"seed": 9, "top_logprobs": 3}, session="chat")
            answer = client.post("/v1/submit", json=asked).text
            assert tokens_of(answer) == expected(engine, PROMPT, 8, SAMPLINGS[1])
            first = json.loads(answer.splitlines()[0])
            assert (len(first["top"]), first["logprob"] <= 0.0) == (3, True)
            refused = client.post("/v1/submit", json=order(leg=2, sampling={"top_p": 2.0}))
            assert (refused.status_code, "top_p: must be" in refused.text) == (400, True)
            biased = client.post("/v1/submit", json=order(leg=3, sampling={"temperature": 0.0, "logit_bias": {"65": 90.0}}))
            assert tokens_of(biased.text) == [65] * 8
            said = client.get("/v1/capabilities").json()["models"]["tiny"]
            assert (said["slots"], said["queue"], said["context"], said["provider"]) == (3, 2, 512, "cpu")
            assert said["prior"]["prompt_tok"] == 64
            assert min(said["prior"].values()) > 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_node_cleanly_after_the_answer_that_runs(engine: Engine, number: int) -> None:
    with spawned("--step-ms=20") as (process, ready):
        asked = order(max_tokens=16)
        join(ready["url"])
        with httpx.stream("POST", f"{ready['url']}/v1/submit", json=asked, timeout=60) as response:
            process.send_signal(number)
            response.read()
        assert tokens_of(response.text) == expected(engine, PROMPT, 16, SAMPLINGS[1])
        assert process.wait(30) == 0
        assert process.stdout is not None
        assert process.stdout.read() == ""


def test_a_node_ends_with_its_parent_and_gives_an_answer_its_last_receipt_when_it_may_wait_no_longer() -> None:
    with spawned("--step-ms=20", "--drain-s=1", "--die-with-parent") as (process, ready):
        asked = order(max_tokens=400, sampling={"temperature": 0.0})
        join(ready["url"])
        with httpx.stream("POST", f"{ready['url']}/v1/submit", json=asked, timeout=60) as response:
            assert process.stdin is not None
            process.stdin.close()
            process.stdin = None
            response.read()
        *_, receipt, done = map(json.loads, response.text.splitlines())
        assert 0 < receipt["receipt"]["to_tok"] == done["output_tok"] < 400
        assert done["reason"] == "cancelled"
        assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--random-seed=-1"], 2, "'-1' is not a whole number from 0"),
        (["--context=x"], 2, "argument --context"),
        (["--port=70000"], 2, "65535"),
        (["--tls"], 2, "--tls needs --key and --nexus-cert"),
        (["--host=0.0.0.0"], 2, "--host: without --tls must be an address of this machine's loopback, not 0.0.0.0"),
        (["--model=other=nowhere"], 1, "lattice node: nowhere/model.json: cannot be read: No such file or directory"),
        (["--key=nowhere/node.key"], 1, "lattice node: nowhere/node.key: cannot be written: No such file or directory"),
        (["--provider=cuda"], 1, "lattice node: provider: "),
    ],
)
def test_a_node_that_cannot_start_says_why_in_its_last_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], status: int, words: str
) -> None:
    monkeypatch.setattr(sys, "argv", command(*options)[2:])
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # this process is not the node's
    try:
        ended = main()
    except SystemExit as exit:
        ended = exit.code
    assert ended == status
    assert words in capsys.readouterr().err.splitlines()[-1]


def test_a_node_process_loads_no_chain() -> None:
    code = "import sys, lattice_live.node.__main__; print({'eth', 'web3', 'pyrevm'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_node_process_that_is_not_ready_in_time_or_ends_before_is_an_error() -> None:
    async def scenario() -> None:
        with pytest.raises(NodeError, match="node of 'tiny' ended with status 2"):
            await start_node({"tiny": None}, random_seed=-1)
        with pytest.raises(NodeError, match="node of 'tiny' was not ready within 0 s"):
            await start_node({"tiny": None}, timeout_s=0.0)

    asyncio.run(scenario())
