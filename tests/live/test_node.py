"""A real node process, served over loopback."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from lattice_live.launcher import NodeError, start_node
from lattice_live.node import tiny_model
from lattice_live.node.engine import Engine
from lattice_live.node.tokens import END, encode

PROMPT = encode("Tell me a story.")
ENGINE = Engine(tiny_model.build(1), context=1024, end=END)


def order(**changes):
    return {"leg": 1, "model": "tiny", "prompt": PROMPT, "max_tokens": 4, "seed": 9, "temperature": 1.0} | changes


def expected(order):
    return list(
        ENGINE.generate(order["prompt"], max_tokens=order["max_tokens"], seed=order["seed"], temperature=order["temperature"])
    )


LONG = order(max_tokens=1000, temperature=0.0)
"""Fifty seconds at the pace of the node below, longer than any test waits: only a client that leaves ends it."""


def spawn(*options):
    command = [sys.executable, "-m", "lattice_live.node", "--model=tiny", "--seed=1", "--context=1024", *options]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@contextmanager
def ended(process):
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def node():
    with ended(spawn("--queue=1", "--step-ms=50", "--die-with-parent")) as process:
        ready = json.loads(process.stdout.readline())
        assert ready == {"port": ready["port"], "pid": process.pid, "model_hash": ENGINE.model_hash}
        with httpx.Client(base_url=f"http://127.0.0.1:{ready['port']}", timeout=20) as client:
            yield client


def tokens_of(response):
    """The tokens of a whole answer, after checking the form of its lines."""
    *lines, last = [json.loads(line) for line in response.text.splitlines()]
    tokens = [line["token"] for line in lines]
    assert lines == [{"n": n, "token": token} for n, token in enumerate(tokens, 1)]
    assert last == {"done": True, "output_tok": len(tokens), "reason": "stop" if tokens[-1] == END else "length"}
    return tokens


@contextmanager
def begun(node, order):
    """An answer whose first token has come and which runs until the block ends, when its client leaves."""
    with node.stream("POST", "/v1/submit", json=order) as response:
        lines = response.iter_lines()
        next(lines)
        yield lines


def await_load(node, in_flight, queued):
    """Wait until the node says it has so many; the reader of a failure sees what it said last."""
    deadline = time.monotonic() + 20
    while (load := node.get("/v1/capabilities").json())["in_flight"] != in_flight or load["queued"] != queued:
        assert time.monotonic() < deadline, load
        time.sleep(0.01)


def test_a_node_streams_the_answer_that_its_engine_gives(node):
    response = node.post("/v1/submit", json=order())
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/x-ndjson"
    assert tokens_of(response) == expected(order())
    assert tokens_of(node.post("/v1/submit", json=order())) == expected(order())


def test_an_answer_that_the_model_ends_says_stop_and_counts_its_end_mark(node):
    short = next(short for seed in range(1000) if len(expected(short := order(max_tokens=8, seed=seed))) < 8)
    assert tokens_of(node.post("/v1/submit", json=short))[-1] == END


def test_a_node_says_what_it_serves(node):
    await_load(node, in_flight=0, queued=0)
    assert node.get("/v1/capabilities").json() == {
        "model": "tiny",
        "context": 1024,
        "vocabulary": 258,
        "model_hash": ENGINE.model_hash,
        "provider": "CPUExecutionProvider",
        "queue": 1,
        "in_flight": 0,
        "queued": 0,
    }


def test_a_probe_is_a_prompt_and_takes_the_time_of_one(node):
    probe = node.get("/v1/probe").json()
    assert probe == {"ok": True, "latency_s": probe["latency_s"], "models": ["tiny"]}
    assert probe["latency_s"] >= 3 * 0.05


def test_tokens_arrive_one_by_one_and_not_with_the_last(node):
    assert len(expected(LONG)) == 1000
    with node.stream("POST", "/v1/submit", json=LONG) as response:
        lines = response.iter_lines()
        assert [json.loads(next(lines)) for _ in range(2)] == [{"n": n + 1, "token": expected(LONG)[n]} for n in range(2)]
        assert node.get("/v1/capabilities").json()["in_flight"] == 1
    await_load(node, in_flight=0, queued=0)


def test_a_client_that_leaves_frees_its_place_for_the_next(node):
    with begun(node, LONG):
        pass
    assert tokens_of(node.post("/v1/submit", json=order())) == expected(order())
    await_load(node, in_flight=0, queued=0)


def test_a_client_that_leaves_the_queue_frees_its_place_without_running(node):
    with begun(node, LONG):
        with node.stream("POST", "/v1/submit", json=LONG):
            await_load(node, in_flight=1, queued=1)
        await_load(node, in_flight=1, queued=0)
    await_load(node, in_flight=0, queued=0)


def test_a_full_queue_refuses_prompts_and_probes_and_serves_the_one_that_waits_next(node):
    with ThreadPoolExecutor(1) as other:
        with begun(node, LONG):
            waiting = other.submit(node.post, "/v1/submit", json=order())
            await_load(node, in_flight=1, queued=1)
            for refused in (node.post("/v1/submit", json=order()), node.get("/v1/probe")):
                message = "queue full: 1 waiting, which is all this node allows"
                assert (refused.status_code, refused.json()) == (429, {"error": {"code": 429, "message": message}})
        assert tokens_of(waiting.result()) == expected(order())
    await_load(node, in_flight=0, queued=0)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, "body: Invalid JSON"),
        (b"[]", 400, "body:"),
        (b"{}", 400, "leg: Field required"),
        (order(model="huge"), 404, "model: 'huge' is not served here; expected 'tiny'"),
        (order(prompt=[]), 400, "prompt: expected one or more token ids from 0 to 257"),
        (order(prompt=[258]), 400, "prompt: expected"),
        (order(prompt=[1, "a"]), 400, "prompt.1: Input should be a valid integer"),
        (order(prompt="abc"), 400, "prompt: Input should be a valid"),
        (order(max_tokens=0), 400, "max_tokens: 0"),
        (order(max_tokens=1020), 400, "at most 1024, the context"),
        (order(seed=-1), 400, "seed: Input should be greater than or equal to 0"),
        (order(seed=2**63), 400, "seed:"),
        (order(temperature=2.5), 400, "temperature: Input should be less than or equal to 2"),
        (json.dumps(order(temperature=float("nan"))).encode(), 400, "temperature:"),
        (order(top_p=0.5), 400, "top_p: Extra inputs are not permitted"),
        (b" " * (16 * 2**20 + 1), 413, "body: expected at most"),
    ],
)
def test_a_malformed_order_is_refused_with_the_key_and_what_is_allowed(node, body, status, words):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = node.post("/v1/submit", content=content)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, status)
    assert words in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/submit", 405), ("POST", "/v1/probe", 405), ("GET", "/v2", 404)]
)
def test_a_wrong_path_or_method_is_refused_as_json(node, method, path, status):
    response = node.request(method, path)
    assert (response.status_code, response.json()["error"]["code"]) == (status, status)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_node_cleanly_after_the_answer_that_runs(number):
    with ended(spawn("--step-ms=20")) as process:
        port = json.loads(process.stdout.readline())["port"]
        with httpx.stream("POST", f"http://127.0.0.1:{port}/v1/submit", json=order(max_tokens=16), timeout=60) as response:
            process.send_signal(number)
            response.read()
        assert tokens_of(response) == expected(order(max_tokens=16))
        assert process.wait(30) == 0
        assert process.stdout.read() == ""


def test_a_node_ends_with_the_parent_that_held_its_stdin():
    with ended(spawn("--die-with-parent")) as process:
        process.stdout.readline()
        process.stdin.close()
        assert process.wait(30) == 0
        process.stdin = None


@pytest.mark.parametrize(
    ("option", "words"),
    [("--seed=-1", "'-1' is not a whole number from 0"), ("--context=x", "argument --context"), ("--port=70000", "65535")],
)
def test_an_option_that_is_not_allowed_is_one_line_and_status_2(option, words):
    command = [sys.executable, "-m", "lattice_live.node", "--model=tiny", option]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr.splitlines()[-1]


def test_a_launched_node_serves_until_it_is_stopped():
    async def scenario():
        node = await start_node("tiny", seed=1, context=1024)
        assert node.model_hash == ENGINE.model_hash
        async with httpx.AsyncClient(base_url=node.url) as client:
            assert tokens_of(await client.post("/v1/submit", json=order())) == expected(order())
        assert [await node.stop(), await node.stop()] == [0, 0]

    asyncio.run(scenario())


def test_a_node_that_cannot_start_is_an_error_with_its_status():
    async def scenario():
        with pytest.raises(NodeError, match="'tiny' ended with status 2"):
            await start_node("tiny", seed=-1)
        with pytest.raises(NodeError, match="not ready within 0 s"):
            await start_node("tiny", seed=1, timeout_s=0.0)

    asyncio.run(scenario())
