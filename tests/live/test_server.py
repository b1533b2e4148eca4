"""A node's HTTP interface, served over loopback, with engines whose every step is at the test's command."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from lattice_live.node import server
from lattice_live.node.identity import Joining, Terms, join
from lattice_live.node.receipts import Auditor, Leg, Progress, Signed
from tests.live.abacus import Abacus
from tests.live.served import KEY, node_of, served

TERMS = Terms(nexus=2, node=3, chain_id=31337, registry=bytes(range(20)))
INVITATION = {**TERMS._asdict(), "registry": TERMS.registry.hex(), "nonce": "ab" * 32}


class Served:
    """A node of two models, `a` with a slot and a place to wait, `b` with two slots."""

    def __init__(self, client: httpx.Client, a: Abacus, b: Abacus) -> None:
        self.client, self.a, self.b = client, a, b

    def post(self, path: str, body: object = None) -> httpx.Response:
        return self.client.post(path, json=body)

    def submit(self, **changes: Any) -> httpx.Response:
        return self.post("/v1/submit", order(**changes))

    def load(self, model: str = "a") -> tuple[int, int, int]:
        said = self.client.get("/v1/capabilities").json()["models"][model]
        return said["in_flight"], said["queued"], said["free"]

    @contextmanager
    def begun(self, **changes: Any) -> Iterator[Iterator[str]]:
        """An answer that has been taken; its client leaves when the block ends."""
        with self.client.stream("POST", "/v1/submit", json=order(**changes)) as response:
            yield response.iter_lines()


@contextmanager
def serving() -> Iterator[Served]:
    a, b = Abacus(slots=1), Abacus(slots=2)
    with served(node_of({"a": a, "b": b})) as url, httpx.Client(base_url=url, timeout=20) as client:
        yield Served(client, a, b)
        a.gate.set()
        b.gate.set()


@pytest.fixture
def node() -> Iterator[Served]:
    with serving() as node:
        node.post("/v1/join", INVITATION)
        yield node


@pytest.fixture(scope="module")
def idle() -> Iterator[Served]:
    """A node for requests that it refuses."""
    with serving() as node:
        node.post("/v1/join", INVITATION)
        yield node


def order(**changes: Any) -> dict[str, Any]:
    return {"leg": 1, "model": "a", "prompt": [1, 2], "max_tokens": 4} | changes


def answer_of(response: httpx.Response, **changes: Any) -> list[int]:
    """The tokens of a whole answer, once its lines and receipts are checked."""
    assert (response.status_code, response.headers["content-type"]) == (200, "application/x-ndjson")
    asked = order(**changes)
    auditor = Auditor(Leg(TERMS, asked["leg"], bytes.fromhex(Abacus.model_hash), len(asked["prompt"])), KEY.address)
    *parts, last = map(json.loads, response.text.splitlines())
    tokens = []
    for part in parts:
        if "receipt" in part:
            auditor.check(Signed(Progress.from_json(part["receipt"]), bytes.fromhex(part["signature"])))
        else:
            tokens.append(part["token"])
            auditor.add(part["token"])
            assert part == {"n": len(tokens), "token": tokens[-1]}
    auditor.finish()
    assert last == {"done": True, "output_tok": len(tokens), "reason": "stop" if tokens[-1] in Abacus.end else "length"}
    return tokens


def await_that(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_each_model_gives_the_answer_of_its_engine_with_receipts_for_all_of_it(node: Served) -> None:
    for model, max_tokens in (("a", 4), ("b", 16), ("a", 50)):
        answer = answer_of(node.submit(model=model, max_tokens=max_tokens), max_tokens=max_tokens)
        assert answer == node.a.answer([1, 2], max_tokens)


def test_a_token_waits_no_longer_for_its_receipt_than_a_moment(node: Served) -> None:
    with node.begun() as lines:
        token = json.loads(next(lines))
        node.a.gate.clear()
        assert "token" in token
        parts = [token]
        while "receipt" not in parts[-1]:
            parts.append(json.loads(next(lines)))
        assert parts[-1]["receipt"]["to_tok"] == len(parts) - 1
        node.a.gate.set()
        assert json.loads(list(lines)[-1])["done"]


def test_a_node_serves_a_nexus_that_it_has_joined_and_puts_its_numbers_into_receipts() -> None:
    with serving() as node:
        refused = node.submit()
        message = "this node has joined no Nexus: see /v1/join"
        assert (refused.status_code, refused.json()) == (409, {"error": {"code": 409, "message": message}})
        assert node.client.get("/v1/probe").json()["joined"] is False
        said = node.post("/v1/join", INVITATION).json()
        assert said["address"] == KEY.address.hex()
        joining = Joining(said["url"], said["models"], bytes.fromhex(said["signature"]))
        models = dict.fromkeys("ab", Abacus.model_hash)
        assert joining == join(KEY, TERMS, bytes.fromhex("ab" * 32), str(node.client.base_url), models)
        assert node.client.get("/v1/probe").json()["joined"] is True
        assert answer_of(node.submit()) == node.a.answer([1, 2], 4)


def test_a_node_says_who_it_is_and_what_it_serves(node: Served) -> None:
    said = node.client.get("/v1/capabilities").json()
    priors = [model.pop("prior") for model in said["models"].values()]
    model = {
        "model_hash": Abacus.model_hash,
        "context": 64,
        "vocabulary": 100,
        "provider": Abacus.provider,
        "memory_bytes": 0,
        "queue": 1,
        "in_flight": 0,
        "queued": 0,
    }
    assert said == {
        "address": KEY.address.hex(),
        "url": str(node.client.base_url),
        "joined": True,
        "models": {"a": {**model, "slots": 1, "free": 2}, "b": {**model, "slots": 2, "free": 3}},
    }
    for prior in priors:
        assert prior["prompt_tok"] == 56
        assert prior["ttft_s"] > 0.0


def test_a_probe_is_a_prompt_of_each_model(node: Served) -> None:
    before = len(node.a.submitted), len(node.b.submitted)
    said = node.client.get("/v1/probe").json()
    assert said == {"ok": True, "joined": True, "latency_s": {"a": said["latency_s"]["a"], "b": said["latency_s"]["b"]}}
    assert (len(node.a.submitted), len(node.b.submitted)) == (before[0] + 1, before[1] + 1)


def test_a_full_model_refuses_prompts_and_probes_and_another_does_not(node: Served) -> None:
    node.a.gate.clear()
    with ThreadPoolExecutor(2) as others:
        waiting = [others.submit(node.submit, leg=leg) for leg in (1, 2)]
        await_that(lambda: node.load() == (1, 1, 0))
        for refused in (node.submit(leg=3), node.client.get("/v1/probe")):
            message = "queue full: 1 served and 1 waiting, which is all that this node allows for 'a'"
            assert (refused.status_code, refused.json()) == (429, {"error": {"code": 429, "message": message}})
        assert answer_of(node.submit(model="b", leg=4), leg=4) == node.b.answer([1, 2], 4)
        node.a.gate.set()
        assert {tuple(answer_of(call.result(), leg=leg)) for leg, call in enumerate(waiting, 1)} == {
            tuple(node.a.answer([1, 2], 4))
        }
    assert node.load() == (0, 0, 2)


def test_a_leg_under_way_is_not_taken_twice(node: Served) -> None:
    node.a.gate.clear()
    with node.begun():
        refused = node.submit()
        assert (refused.status_code, refused.json()["error"]["message"]) == (409, "leg: 1 is under way already")
        node.a.gate.set()


def test_a_cancelled_leg_ends_its_stream_and_frees_its_place(node: Served) -> None:
    node.a.gate.clear()
    with node.begun(max_tokens=60) as running, node.begun(leg=2) as waiting:
        await_that(lambda: node.load() == (1, 1, 0))
        for leg in (2, 1):
            assert node.post("/v1/cancel", {"leg": leg}).json() == {"cancelled": True}
        assert node.load() == (0, 0, 2)
        assert [json.loads(line) for line in waiting] == [{"done": True, "output_tok": 0, "reason": "cancelled"}]
        assert json.loads(list(running)[-1])["reason"] == "cancelled"
        node.a.gate.set()
    gone = node.post("/v1/cancel", {"leg": 1})
    assert (gone.status_code, gone.json()["error"]["message"]) == (404, "leg: 1 is not under way")


def test_a_client_that_leaves_frees_its_place(node: Served) -> None:
    node.a.gate.clear()
    with node.begun(max_tokens=60):
        with node.begun(leg=2):
            await_that(lambda: node.load() == (1, 1, 0))
        await_that(lambda: node.load() == (1, 0, 1))
    await_that(lambda: node.load() == (0, 0, 2))


def test_a_client_that_stops_reading_delays_nobody_and_is_left_after_a_while(
    node: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "STALLED_S", 0.5)
    node.b.context, node.b.end = 20_000, ()
    asked = order(model="b", max_tokens=15_000, sampling={"top_logprobs": 20})  # some megabytes, which no buffer holds
    body = json.dumps(asked).encode()
    head = f"POST /v1/submit HTTP/1.1\r\nHost: node\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.socket() as mute:
        mute.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        mute.connect((node.client.base_url.host, node.client.base_url.port or 80))
        mute.sendall(head + body)  # and never reads
        await_that(lambda: node.load("b")[0] == 1)
        for leg in range(2, 12):
            assert answer_of(node.submit(leg=leg, model="b"), leg=leg) == node.b.answer([1, 2], 4)
        await_that(lambda: node.load("b") == (0, 0, 3))
        await_that(lambda: node.submit(model="b").status_code == 200)  # its leg is no longer under way


def test_a_failing_engine_ends_its_answers_with_an_error_and_harms_no_other_model(node: Served) -> None:
    node.a.gate.clear()
    with node.begun(max_tokens=60) as lines:
        await_that(lambda: len(node.a.jobs) == 1)
        node.a.fault = MemoryError("no room")
        node.a.gate.set()
        message = "the engine of 'a' failed: MemoryError('no room')"
        assert json.loads(list(lines)[-1]) == {"error": {"code": 500, "message": message}}
    assert answer_of(node.submit(model="b")) == node.b.answer([1, 2], 4)
    assert answer_of(node.submit()) == node.a.answer([1, 2], 4)
    node.a.fault = MemoryError("no room")
    refused = node.client.get("/v1/probe")
    assert (refused.status_code, refused.json()) == (500, {"error": {"code": 500, "message": message}})


def test_a_draining_node_takes_no_more_and_finishes_what_it_has(node: Served) -> None:
    node.a.gate.clear()
    with node.begun() as lines:
        assert node.post("/v1/drain").json() == {"draining": True, "in_flight": 1, "queued": 0}
        for refused in (node.submit(leg=2), node.submit(leg=2, model="b"), node.client.get("/v1/probe")):
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, 503)
        node.a.gate.set()
        assert json.loads(list(lines)[-1])["output_tok"] == 4


def test_metrics_are_for_prometheus_and_count_what_happened(node: Served) -> None:
    node.submit()
    response = node.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'lattice_node_requests_total{model="a",outcome="length"}' in response.text


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, "body: Invalid JSON"),
        (b"[]", 400, "body:"),
        (b"{}", 400, "leg: Field required"),
        (order(leg=-1), 400, "leg: Input should be greater than or equal to 0"),
        (order(model="huge"), 404, "model: 'huge' is not served here; expected 'a', 'b'"),
        (order(prompt=[1, "a"]), 400, "prompt.1: Input should be a valid integer"),
        (order(prompt="abc"), 400, "prompt: Input should be a valid"),
        (order(max_tokens=63), 400, "at most 64, the context"),
        (order(sampling={"top_p": "x"}), 400, "sampling.top_p: Input should be a valid number"),
        (order(sampling={"top_q": 1}), 400, "sampling.top_q: Extra inputs are not permitted"),
        (order(sampling={"logit_bias": {"x": 1.0}}), 400, "sampling.logit_bias.x"),
        (order(session="x" * 129), 400, "session: String should have at most 128 characters"),
        (order(extra=1), 400, "extra: Extra inputs are not permitted"),
        (b" " * (16 * 2**20 + 1), 413, "body: expected at most"),
    ],
)
def test_a_malformed_order_is_refused_with_the_key_and_what_is_allowed(
    idle: Served, body: bytes | dict[str, Any], status: int, words: str
) -> None:
    response = idle.client.post("/v1/submit", content=body if isinstance(body, bytes) else json.dumps(body).encode())
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, status)
    assert words in error["message"]


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("cancel", {}, "leg: Field required"),
        ("join", {}, "nexus: Field required"),
        ("join", {**TERMS._asdict(), "registry": "ab", "nonce": "ab" * 32}, "registry: String should match"),
        ("join", {**TERMS._asdict(), "registry": "ab" * 20, "nonce": "AB" * 32}, "nonce: String should match"),
        ("join", {**TERMS._asdict(), "nexus": 2**16, "registry": "ab" * 20, "nonce": "ab" * 32}, "nexus: Input should be less"),
    ],
)
def test_a_malformed_request_of_another_kind_is_refused_likewise(idle: Served, path: str, body: Any, words: str) -> None:
    response = idle.post(f"/v1/{path}", body)
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/submit", 405), ("POST", "/v1/probe", 405), ("GET", "/v2", 404)]
)
def test_a_wrong_path_or_method_is_refused_as_json(idle: Served, method: str, path: str, status: int) -> None:
    response = idle.client.request(method, path)
    assert (response.status_code, response.json()["error"]["code"]) == (status, status)
