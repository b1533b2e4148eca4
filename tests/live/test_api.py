"""The gateway speaks OpenAI's language: to the official client, and to whoever sends it something else."""

import json

import httpx
import openai
import pytest

from lattice_live.gateway import Chat
from tests.live.networks import live, local, tiny

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    with live(local(), tmp_path_factory.mktemp("api") / "run") as network:
        yield network


@pytest.fixture(scope="module")
def http(network):
    headers = {"authorization": f"Bearer {network.key}"}
    with httpx.Client(base_url=network.url, headers=headers, timeout=30) as client:
        yield client


def events_of(response):
    """The parsed events of a stream, whose last is [DONE] unless it failed."""
    return [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]


def test_the_official_client_gets_a_whole_answer_with_its_usage(network):
    answer = network.client().chat.completions.create(model="tiny", messages=HELLO, max_tokens=20, seed=3)
    prompt_tok = len(tiny().text.chat([{"role": "user", "content": "hello"}]))
    choice, usage = answer.choices[0], answer.usage
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason == ("length" if usage.completion_tokens == 20 else "stop")
    assert (usage.prompt_tokens, usage.total_tokens) == (prompt_tok, prompt_tok + usage.completion_tokens)


def test_a_stream_holds_the_same_answer_in_pieces_and_its_usage_when_asked(network):
    ask = {"model": "tiny", "messages": HELLO, "max_tokens": 20, "seed": 3}
    whole = network.client().chat.completions.create(**ask)
    *chunks, last = network.client().chat.completions.create(**ask, stream=True, stream_options={"include_usage": True})
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert [reason for reason in reasons if reason] == [whole.choices[0].finish_reason]
    assert (last.choices, last.usage) == ([], whole.usage)
    *_, plain = network.client().chat.completions.create(**ask, stream=True)
    assert plain.usage is None
    assert plain.choices[0].finish_reason


def test_a_stream_is_server_sent_events_that_end_with_done(http):
    response = http.post("/v1/chat/completions", json={"model": "tiny", "messages": HELLO, "max_tokens": 3, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, done = events_of(response)
    assert done == "[DONE]"
    assert {json.loads(event)["object"] for event in events} == {"chat.completion.chunk"}
    assert json.loads(events[0])["choices"][0]["delta"] == {"role": "assistant", "content": ""}


def test_content_may_come_in_parts_and_be_any_text(network):
    parts = [{"type": "text", "text": "naïve "}, {"type": "text", "text": "café \U0001f600 \x00"}]
    answer = network.client().chat.completions.create(model="tiny", messages=[{"role": "user", "content": parts}], max_tokens=1)
    assert answer.usage.prompt_tokens == len(tiny().text.chat([{"role": "user", "content": "naïve café \U0001f600 \x00"}]))


def test_models_are_those_that_nodes_serve(network):
    assert [model.id for model in network.client().models.list()] == ["tiny"]


def test_health_needs_no_key_and_counts_what_happened(network):
    health = httpx.get(f"{network.url}/healthz").json()
    assert (health["status"], health["nodes_up"]) == ("ok", 2)
    assert health["arrived"] == sum(health[end] for end in ("completed", "failed", "rejected", "in_flight"))


@pytest.mark.parametrize("header", [None, "Bearer", "Bearer sk-lattice-unknown", "Basic eDp5"])
@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/chat/completions"), ("GET", "/v1/models")])
def test_without_a_key_of_this_network_nothing_is_answered(network, header, method, path):
    response = httpx.request(method, f"{network.url}{path}", headers={"authorization": header} if header else {})
    assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")


def test_the_official_client_knows_its_errors(network):
    chat = network.client().chat.completions
    with pytest.raises(openai.AuthenticationError):
        network.client("sk-lattice-unknown").models.list()
    with pytest.raises(openai.NotFoundError, match="must be one of tiny"):
        chat.create(model="huge", messages=HELLO)
    with pytest.raises(openai.BadRequestError) as refused:
        chat.create(model="tiny", messages=HELLO, max_tokens=512)
    assert refused.value.code == "context_too_long"


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (b"{", 400, "invalid_json", None),
        (b"", 400, "invalid_json", None),
        (b'"\xff"', 400, "invalid_json", None),
        (b"[]", 400, "invalid_value", None),
        ({"model": "tiny"}, 400, "invalid_value", "messages"),
        ({"model": "tiny", "messages": []}, 400, "invalid_value", "messages"),
        ({"model": "tiny", "messages": [{"role": "user"}]}, 400, "invalid_value", "messages.0.content"),
        ({"model": "tiny", "messages": [{"role": "robot", "content": "x"}]}, 400, "invalid_value", "messages.0.role"),
        ({"model": "tiny", "messages": HELLO, "max_tokens": 0}, 400, "invalid_value", "max_tokens"),
        ({"model": "tiny", "messages": HELLO, "max_tokens": 10**30}, 400, "invalid_value", "max_tokens"),
        ({"model": "tiny", "messages": HELLO, "temperature": 3}, 400, "invalid_value", "temperature"),
        ({"model": "tiny", "messages": HELLO, "n": 2}, 400, "invalid_value", "n"),
        ({"model": "tiny", "messages": HELLO, "tools": [{}]}, 400, "unsupported_parameter", "tools"),
        ({"model": "tiny", "messages": HELLO, "top_logprobs": 2}, 400, "invalid_value", None),
        ({"model": "tiny", "messages": HELLO, "stop": ["a", "b", "c", "d", "e"]}, 400, "invalid_value", "stop"),
        ({"model": "tiny", "messages": HELLO, "top_p": 0}, 400, "invalid_value", "top_p"),
        ({"model": "huge", "messages": HELLO}, 404, "model_not_found", "model"),
        ({"model": "tiny", "messages": HELLO, "max_tokens": 2**31 - 1}, 400, "bad_request", None),
        ({"model": "tiny", "messages": HELLO, "max_tokens": 512, "stream": True}, 400, "context_too_long", None),
        (b" " * (8 * 2**20 + 1), 413, "body_too_large", None),
    ],
)
def test_what_cannot_be_served_is_refused_in_openais_shape(http, body, status, code, param):
    response = http.post("/v1/chat/completions", content=body if isinstance(body, bytes) else json.dumps(body).encode())
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (status, code, param)
    assert error["message"]
    assert error["type"]


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/chat/completions", 405), ("GET", "/v1/engines", 404)])
def test_a_wrong_path_or_method_is_refused_in_openais_shape(http, method, path, status):
    response = http.request(method, path)
    assert (response.status_code, response.json()["error"]["code"]) == (status, "unknown_url")


def test_a_refused_request_leaves_no_money_reserved(network, http):
    http.post("/v1/chat/completions", json={"model": "tiny", "messages": HELLO, "max_tokens": 512})
    account = network.account()
    assert (account["in_flight"], account["held_nlai"], account["faucet_held_nlai"]) == (0, 0, 0)
    assert account["rejected"] > 0


def test_funds_that_run_out_are_a_402_with_that_reason(tmp_path):
    budget = {"deposit": 0.00001, "faucet": 0}  # pays for 50 output tokens
    with live(local(users__visitor__budget=budget, live__launch={"laptop": 1}), tmp_path / "run") as poor:
        with pytest.raises(openai.APIStatusError) as refused:
            poor.client().chat.completions.create(model="tiny", messages=HELLO, max_tokens=100)
        assert (refused.value.status_code, refused.value.code) == (402, "no_funds")
        assert poor.client().chat.completions.create(model="tiny", messages=HELLO, max_tokens=10).usage


def test_what_a_developer_says_is_the_systems_to_a_chat_template():
    chat = Chat.model_validate({"model": "m", "messages": [{"role": "developer", "content": "be"}, *HELLO]})
    assert chat.turns == [{"role": "system", "content": "be"}, {"role": "user", "content": "hello"}]


def test_a_stop_string_ends_the_answer_and_never_goes_out(network):
    asked = {"model": "tiny", "messages": HELLO, "max_tokens": 60, "seed": 11}
    whole = network.client().chat.completions.create(**asked).choices[0].message.content
    stop = whole[20:23]
    stopped = network.client().chat.completions.create(**asked, stop=["nowhere in it at all", stop])
    (choice,) = stopped.choices
    assert choice.message.content == whole[: whole.index(stop)]
    assert choice.finish_reason == "stop"
    assert stopped.usage.completion_tokens >= len(choice.message.content)
    streamed = network.client().chat.completions.create(**asked, stop=stop, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == choice.message.content


def test_log_probabilities_are_of_the_tokens_that_make_the_text(network):
    asked = {"model": "tiny", "messages": HELLO, "max_tokens": 12, "seed": 3, "logprobs": True, "top_logprobs": 3}
    (choice,) = network.client().chat.completions.create(**asked).choices
    entries = choice.logprobs.content
    assert b"".join(bytes(entry.bytes) for entry in entries).decode() == choice.message.content
    assert all(len(entry.top_logprobs) == 3 for entry in entries)
    assert all(entry.logprob <= entry.top_logprobs[0].logprob <= 0.0 for entry in entries)
    chunks = [chunk.choices[0] for chunk in network.client().chat.completions.create(**asked, stream=True)]
    assert [entry for chunk in chunks if chunk.logprobs for entry in chunk.logprobs.content] == entries


def test_of_one_candidate_the_draw_is_the_likeliest(network):
    def answer(**how):
        asked = {"model": "tiny", "messages": HELLO, "max_tokens": 20, **how}
        return network.client().chat.completions.create(**asked).choices[0].message.content

    greedy = answer(temperature=0)
    assert answer(seed=1, extra_body={"top_k": 1}) == greedy
    assert answer(seed=1, top_p=1e-9) == greedy
    assert answer(seed=1, extra_body={"min_p": 1.0}) == greedy
    assert answer(seed=1) != greedy
    assert answer(temperature=0, logit_bias={str(ord("#")): 100}) == 20 * "#"
