"""The way of a user's request through the gateway, before nodes that act: who may ask, what is asked, what is said of it."""

import asyncio
import gc
import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from lattice_core.config import revise
from lattice_core.events import Arrive, CancelRequest, NodesListed, Status
from lattice_core.state import CLUSTER
from lattice_live.gateway import Gateway, chats, wire
from tests.live.front import HELLO, Front, events_of, front
from tests.live.stage import Actor, Play, config_of

CANARY = "canary-41c7"


def fronted(
    nodes: int = 1, act: Callable[[Play], Any] = lambda play: play.honestly(), **changes: Any
) -> Callable[[Callable[[Front], Awaitable[None]]], Callable[[Path], None]]:
    """A test before a gateway; `a__b=value` sets a.b of its network."""

    def decorated(test: Callable[[Front], Awaitable[None]]) -> Callable[[Path], None]:
        def run(tmp_path: Path) -> None:
            async def play() -> None:
                config = revise(config_of(nodes), {key.replace("__", "."): value for key, value in changes.items()})
                async with front(tmp_path, *(Actor(number, act) for number in range(nodes)), config=config) as seen:
                    await asyncio.wait_for(test(seen), 40)

            asyncio.run(play())

        return run

    return decorated


async def begun(play: Play) -> None:
    """One token, and then nothing more."""
    await play.send(*play.token())
    while not play.cancelled:
        await asyncio.sleep(0.01)
    await play.send(*play.end())


async def slow(play: Play) -> None:
    """An answer that takes so long that the gateway looks whether its client is gone."""
    await play.send(*play.token())
    await asyncio.sleep(2 * wire.LISTEN_S)
    await play.honestly()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def arrived(front: Front) -> Arrive:
    return front.stage.seen(Arrive)[-1]


# What is said of an answer


@fronted(nodes=2)
async def test_an_answer_says_who_served_it_for_how_much_with_which_receipt(front: Front) -> None:
    response = await front.ask(max_tokens=40)
    said, headers = response.json()["lattice"], response.headers
    (status,) = front.stage.seen(Status)
    receipt = front.stage.storage.receipts[-1]
    address = f"0x{front.stage.actors[0].address.hex()}"
    legs = [{"node": 0, "address": address, "from_tok": 0, "to_tok": 40, "receipt": receipt.signature.hex()}]
    assert receipt.progress.to_tok == 40
    price = {"input": 100_000_000, "output": 100_000_000}
    assert said == {"request": 1, "fee_nlai": status.fee_nlai, "price": price, "legs": legs}
    assert (headers["x-lattice-request"], headers["x-lattice-node"]) == ("1", "0")
    streamed = await front.ask(max_tokens=40, stream=True)
    assert [event.get("lattice", {}).get("request") for event in events_of(streamed.text)][-2:] == [None, 2]
    assert streamed.headers["x-lattice-node"] == "0"


@fronted(nodes=2)
async def test_an_answer_that_goes_on_at_another_node_says_so(front: Front) -> None:
    async def break_off(play: Play) -> None:
        await play.honestly(20)
        await play.actor.stop()

    front.stage.actors[0].act = break_off
    whole = (await front.ask(max_tokens=40)).json()
    assert [(leg["node"], leg["from_tok"], leg["to_tok"]) for leg in whole["lattice"]["legs"]] == [(0, 0, 20), (1, 20, 40)]
    assert whole["usage"]["completion_tokens"] == 40
    assert whole["lattice"]["price"]["output"] == 200_000_000


@fronted()
async def test_every_response_has_an_id_and_gives_the_clients_own_back(front: Front) -> None:
    for path in ("/v1/models", "/nowhere", "/healthz"):
        assert (await front.http.get(path)).headers["x-request-id"].startswith("req_")
    for name in ("x-request-id", "x-client-request-id"):
        response = await front.http.get("/v1/models", headers={name: "mine-1"})
        assert response.headers["x-client-request-id"] == "mine-1"
    response = await front.http.get("/v1/models", headers={"x-request-id": "x" * 129})
    assert "x-client-request-id" not in response.headers


@fronted()
async def test_the_official_client_streams_with_usage_and_continues_texts(front: Front) -> None:
    client = front.client()
    stream = await client.chat.completions.create(
        model="a", messages=HELLO, max_tokens=9, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = [chunk async for chunk in stream]
    whole = await client.chat.completions.create(model="a", messages=HELLO, max_tokens=9)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert (last.choices, last.usage) == ([], whole.usage)
    assert last.model_extra["lattice"]["fee_nlai"] == whole.model_extra["lattice"]["fee_nlai"] > 0
    text = await client.completions.create(model="a", prompt=[104, 105], max_tokens=5, logprobs=None)
    assert text.usage.prompt_tokens == 2
    parts = [part async for part in await client.completions.create(model="a", prompt=[[104, 105]], max_tokens=5, stream=True)]
    assert "".join(part.choices[0].text for part in parts) == text.choices[0].text
    assert parts[-1].choices[0].finish_reason == "length"
    assert (await client.completions.create(model="a", prompt=["hi"])).usage.completion_tokens == 16
    assert [model.id for model in (await client.models.list()).data] == ["a"]
    assert (await client.models.retrieve("a")).id == "a"
    await client.close()


# What is asked


REFUSED = {
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "functions": [{"name": "f"}],
    "audio": {"voice": "x", "format": "wav"},
    "prediction": {"type": "content", "content": "x"},
    "web_search_options": {"user_location": {}},
    "reasoning_effort": "low",
    "verbosity": "low",
}
WRONG = {
    "n": 2,
    "response_format": {"type": "json_object"},
    "modalities": ["audio"],
    "store": True,
    "service_tier": "flex",
    "tool_choice": "required",
    "frequency_penalty": 0.5,
    "stream_options": {"include_obfuscation": True},
}
HARMLESS = {
    "user": "u",
    "metadata": {"a": "b"},
    "store": False,
    "service_tier": "auto",
    "response_format": {"type": "text"},
    "modalities": ["text"],
    "tools": [],
    "tool_choice": "none",
    "parallel_tool_calls": True,
    "n": 1,
    "presence_penalty": 0,
    "frequency_penalty": None,
    "safety_identifier": "s",
    "prompt_cache_key": "k",
    "stop": None,
    "logprobs": False,
    "stream_options": None,
}


@fronted()
async def test_what_no_node_can_honour_is_refused_by_name_and_what_asks_for_nothing_is_not(front: Front) -> None:
    for name, value in REFUSED.items():
        error = (await front.ask(**{name: value})).json()["error"]
        assert (error["code"], error["param"]) == ("unsupported_parameter", name)
    for name, value in WRONG.items():
        response = await front.ask(**{name: value})
        assert (response.status_code, response.json()["error"]["param"].split(".")[0]) == (400, name)
    said = {"role": "assistant", "content": "hi", "refusal": None, "audio": None, "tool_calls": None, "annotations": []}
    response = await front.ask(**HARMLESS, messages=[*HELLO, said, *HELLO])
    assert response.status_code == 200, response.text
    client = front.client()
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(model="a", messages=HELLO, tools=REFUSED["tools"])
    assert refused.value.code == "unsupported_parameter"
    await client.close()
    for body in ({"prompt": []}, {"prompt": ["a", "b"]}, {"prompt": [-1]}, {"prompt": [10**6]}, {"prompt": "x", "suffix": "y"}):
        response = await front.http.post("/v1/completions", json={"model": "a", **body})
        assert response.status_code == 400, body
    assert len(front.stage.seen(Arrive)) == 1


@fronted()
async def test_what_a_node_would_choke_on_never_reaches_one(front: Front) -> None:
    response = await front.ask(logit_bias={"999999": 1})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "logit_bias")
    long = await front.ask(messages=[{"role": "user", "content": "x" * 100_000}])
    assert (long.status_code, long.json()["error"]["code"]) == (400, "context_too_long")
    assert front.stage.seen(Arrive) == []


@fronted(nodes=2)
async def test_a_user_says_what_he_wants_of_the_network(front: Front) -> None:
    await front.ask(lattice={"prefer": "fast", "session": "chat-1"})
    first = arrived(front)
    assert (first.prefer, first.privacy, first.max_fee_nlai) == (2, 0, 0)
    assert first.session > 0
    (play,) = front.stage.actors[0].plays
    assert "chat-1" not in json.dumps(play.order)
    await front.ask(lattice={"session": "chat-1"})
    assert (arrived(front).session, arrived(front).prefer) == (first.session, 0)
    assert front.stage.actors[0].plays[1].order["session"] == play.order["session"]
    private = await front.ask(lattice={"private": True})
    assert (private.status_code, private.json()["error"]["code"]) == (403, "boundary")
    assert arrived(front).privacy == CLUSTER
    dear = await front.ask(lattice={"max_price_nlai": 1})
    assert (dear.status_code, dear.json()["error"]["code"]) == (402, "price_above_cap")
    for wrong in ({"allow": [0], "deny": [1]}, {"history": "stored"}, {"session": "a/b"}, {"prefer": "slow"}, {"allow": []}):
        assert (await front.ask(lattice=wrong)).status_code == 400, wrong


@fronted(nodes=3)
async def test_a_user_says_which_nodes_may_serve_him_and_which_may_not(front: Front) -> None:
    async def node(**wishes: Any) -> str:
        response = await front.ask(lattice=wishes)
        return response.headers.get("x-lattice-node") or response.json()["error"]["code"]

    assert [await node(allow=[2, 1]), await node(deny=[0, 1]), await node(allow=[1, 2, 2])] == ["1", "2", "1"]
    assert await node(allow=[7]) == "not_listed"
    assert await node(deny=[0, 1, 2]) == "not_listed"
    assert await node(deny=[]) == "0"
    assert [(listed.list, listed.allow, listed.nodes) for listed in front.stage.seen(NodesListed)] == [
        (1, True, (1, 2)),
        (2, False, (0, 1)),
        (3, True, (7,)),
        (4, False, (0, 1, 2)),
    ]
    again = Gateway(front.gateway.network)
    assert again._lists == front.gateway._lists


# Who asks


@fronted()
async def test_keys_are_given_out_listed_and_taken_back(front: Front) -> None:
    key = await front.issue(scopes=["chat"], requests_per_min=2)
    assert (await front.ask(key)).status_code == 200
    for path in ("/v1/models", "/v1/keys", "/v1/members"):
        response = await front.http.get(path, headers={"authorization": f"Bearer {key}"})
        assert (response.status_code, response.json()["error"]["code"]) == (403, "missing_scope")
    assert (await front.ask(key)).status_code == 200
    limited = await front.ask(key)
    assert (limited.status_code, limited.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 25 <= int(limited.headers["retry-after"]) <= 30
    listed = (await front.http.get("/v1/keys")).json()["data"]
    assert key not in json.dumps(listed)
    (entry,) = [entry for entry in listed if entry["name"] == "another"]
    assert (await front.http.delete(f"/v1/keys/{entry['id']}")).json() == {"id": entry["id"], "deleted": True}
    assert (await front.ask(key)).status_code == 401
    (last,) = (await front.http.get("/v1/keys")).json()["data"]
    assert (await front.http.delete(f"/v1/keys/{last['id']}")).status_code == 409
    assert (await front.http.get("/v1/organisation")).json() == {"name": "local", "account": 0}


@fronted()
async def test_members_come_and_go(front: Front) -> None:
    assert (await front.http.post("/v1/members", json={"name": "ada"})).json() == {"name": "ada", "role": "member"}
    assert (await front.http.post("/v1/members", json={"name": "ada"})).status_code == 409
    assert (await front.http.post("/v1/members", json={"name": "a/b"})).status_code == 400
    key = await front.issue(member="ada")
    refused = await front.http.post("/v1/keys", json={"name": "k", "member": "ada", "scopes": ["admin"]})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "missing_role")
    assert [member["name"] for member in (await front.http.get("/v1/members")).json()["data"]] == ["ada", "owner"]
    assert (await front.http.delete("/v1/members/ada")).status_code == 200
    assert (await front.ask(key)).status_code == 401


@fronted()
async def test_a_budget_is_never_passed_however_many_ask_at_once(front: Front) -> None:
    fee_nlai = (await front.ask()).json()["lattice"]["fee_nlai"]
    key = await front.issue(budget_nlai=fee_nlai * 7 // 2)
    responses = await asyncio.gather(*(front.ask(key) for _ in range(6)))
    paid = [response.json()["lattice"]["fee_nlai"] for response in responses if response.status_code == 200]
    assert {response.status_code for response in responses} == {200, 402}
    assert {response.json()["error"]["code"] for response in responses if response.status_code == 402} <= {
        "price_above_cap",
        "budget_exhausted",
    }
    assert len(paid) == 3
    (entry,) = [entry for entry in (await front.http.get("/v1/keys")).json()["data"] if entry["name"] == "another"]
    assert entry["spent_nlai"] == sum(paid) <= entry["budget_nlai"]


@fronted()
async def test_only_the_owner_of_a_request_is_told_why_it_went_where(front: Front) -> None:
    await front.http.post("/v1/members", json={"name": "ada"})
    ada, bob = await front.issue(member="ada"), await front.issue()
    number = (await front.ask(ada)).headers["x-lattice-request"]
    told = (await front.http.get(f"/v1/explain/{number}")).json()  # his organisation's owner
    assert (told["outcome"], told["reason"], len(told["legs"])) == ("completed", "", 1)
    (candidate,) = told["candidates"]
    assert (candidate["node"], candidate["chosen"], candidate["dropped"]) == (0, True, "")
    own = await front.http.get(f"/v1/explain/{number}", headers={"authorization": f"Bearer {ada}"})
    assert own.json() == told
    number = (await front.ask(bob)).headers["x-lattice-request"]
    other = await front.http.get(f"/v1/explain/{number}", headers={"authorization": f"Bearer {ada}"})
    unknown = await front.http.get("/v1/explain/77", headers={"authorization": f"Bearer {ada}"})
    assert (other.status_code, other.json()) == (404, unknown.json())


# What is kept


@fronted()
async def test_nothing_is_kept_of_a_chat_unless_its_user_asks_for_it(front: Front) -> None:
    ask = {"messages": [{"role": "user", "content": CANARY}], "max_tokens": 3}
    await front.ask(**ask)
    assert "history" not in (await front.ask(**ask, lattice={"session": "s"})).json()["lattice"]
    assert (await front.ask(**ask, lattice={"history": "device"})).json()["lattice"]["history"] == "device"
    await front.gateway.storage.durable()
    kept = b"".join(path.read_bytes() for path in Path(front.gateway.storage.path).parent.iterdir())
    assert CANARY.encode() not in kept
    answer = (await front.ask(**ask, lattice={"history": "stored", "session": "s"})).json()
    assert answer["lattice"]["history"] == "stored"
    stored = (await front.http.get("/v1/chats/s")).json()
    said = {"role": "assistant", "content": answer["choices"][0]["message"]["content"]}
    assert stored["messages"] == [{"role": "user", "content": CANARY}, said]
    (head,) = (await front.http.get("/v1/chats")).json()["data"]
    assert (head["session"], head["messages"]) == ("s", 2)
    await front.http.post("/v1/members", json={"name": "ada"})
    ada = {"authorization": f"Bearer {await front.issue(member='ada')}"}
    assert (await front.http.get("/v1/chats/s", headers=ada)).status_code == 404
    assert (await front.http.get("/v1/chats", headers=ada)).json()["data"] == []
    assert (await front.http.delete("/v1/chats/s")).status_code == 200
    assert (await front.http.delete("/v1/chats/s")).status_code == 404


@fronted()
async def test_a_member_may_store_so_many_chats_and_no_more(front: Front) -> None:
    async def keep(session: str) -> int:
        ask = {"messages": HELLO, "max_tokens": 1, "lattice": {"history": "stored", "session": session}}
        return (await front.ask(**ask)).status_code

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chats, "MAX_CHATS", 2)
        assert [await keep(session) for session in "aba"] == [200, 200, 200]
        asked = front.gateway.nexus.count("arrived")
        assert await keep("c") == 409
        assert front.gateway.nexus.count("arrived") == asked, "before it costs anything"
        await front.http.delete("/v1/chats/a")
        assert [await keep(session) for session in "cd"] == [200, 409]


@fronted()
async def test_journal_and_receipts_hold_no_prompt_and_no_answer(front: Front) -> None:
    answer = (await front.ask(messages=[{"role": "user", "content": CANARY}], max_tokens=60)).json()
    text = answer["choices"][0]["message"]["content"]
    kept = "".join(front.stage.storage.lines + front.stage.storage.decided) + repr(front.stage.storage.receipts)
    assert CANARY not in kept
    assert json.dumps(text)[1:20] not in kept


def test_the_log_has_a_line_of_each_request_and_no_content(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    @fronted()
    async def served(front: Front) -> None:
        await front.ask(messages=[{"role": "user", "content": CANARY}], user=CANARY)
        await front.http.get(f"/v1/chats/{CANARY}", headers={"x-request-id": "mine"})
        await front.http.get(f"/{CANARY}")

    served(tmp_path)
    lines = capsys.readouterr().err
    assert CANARY not in lines
    chat, read, nowhere = map(json.loads, lines.splitlines())
    assert (chat["route"], chat["status"], chat["outcome"], chat["request"]) == ("/v1/chat/completions", 200, "completed", 1)
    assert (read["route"], read["status"], read["client_request_id"]) == ("/v1/chats/{session}", 404, "mine")
    assert (nowhere["route"], nowhere["status"]) == (None, 404)


@fronted()
async def test_metrics_count_and_name_nobody(front: Front) -> None:
    await front.ask(max_tokens=5)
    await front.ask(tools=REFUSED["tools"])
    text = (await front.http.get("/metrics", headers={"authorization": ""})).text
    fee_nlai = front.stage.seen(Status)[0].fee_nlai
    for line in (
        'lattice_nexus_requests_total{model="a",outcome="completed"} 1.0',
        'lattice_nexus_tokens_total{kind="output",model="a"} 5.0',
        f'lattice_nexus_charges_nlai_total{{model="a"}} {float(fee_nlai)}',
        'lattice_nexus_ttft_seconds_count{model="a"} 1.0',
        'lattice_nexus_itl_seconds_count{model="a"} 1.0',
        "lattice_nexus_decision_seconds_count 1.0",
        'lattice_nexus_nodes{breaker="closed"} 1.0',
        'lattice_nexus_http_responses_total{status="400"} 1.0',
        "lattice_nexus_queue 0.0",
        "lattice_nexus_open 0.0",
    ):
        assert line in text
    for name in ("owner", "local", "key-", "visitor"):
        assert name not in text


# When there is too much, too slow, or too late


@fronted(act=begun, live__max_open=1)
async def test_more_requests_than_may_be_open_are_told_to_come_back(front: Front) -> None:
    async with front.http.stream("POST", "/v1/chat/completions", json={"model": "a", "messages": HELLO, "stream": True}):
        refused = await front.ask()
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_open")
        assert refused.headers["retry-after"] == "1"
    await until(lambda: front.gateway.open == 0)
    front.stage.actors[0].act = lambda play: play.honestly()
    assert (await front.ask()).status_code == 200


@fronted(act=begun)
async def test_a_gateway_that_drains_takes_no_more_and_finishes_what_it_has(front: Front) -> None:
    async with front.http.stream(
        "POST", "/v1/chat/completions", json={"model": "a", "messages": HELLO, "stream": True}
    ) as stream:
        front.gateway.draining = True
        refused = await front.ask()
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert refused.headers["retry-after"] == "1"
        health = await front.http.get("/healthz")
        assert (health.status_code, health.json()["status"]) == (503, "draining")
        assert not front.gateway.idle.is_set()
        front.stage.actors[0].plays[0].cancelled = True
        assert b"finish_reason" in await stream.aread()
    await until(front.gateway.idle.is_set)


@fronted(act=begun)
async def test_a_client_that_leaves_ends_its_request_whether_it_streams_or_waits(front: Front) -> None:
    for stream in (True, False):
        with pytest.raises(httpx.ReadTimeout):
            await front.http.post("/v1/chat/completions", json={"model": "a", "messages": HELLO, "stream": stream}, timeout=0.2)
        await until(lambda: front.gateway.open == 0 and front.stage.nexus.count("in_flight") == 0)
        assert front.stage.seen(CancelRequest)[-1].request == arrived(front).request
    await until(lambda: len(front.gateway.ended) == 2)


@fronted(act=slow)
async def test_a_request_leaves_no_circle_that_only_a_collector_would_find(front: Front) -> None:
    asked = [{"max_tokens": 4, "stream": stream} for stream in (True, False)]
    await asyncio.gather(*(front.ask(**what) for what in asked))
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        await asyncio.gather(*(front.ask(**what) for what in asked))
        gc.collect()
        circles = {type(left) for left in gc.garbage if type(left).__module__.startswith("lattice_live.")}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert circles == set()


def test_a_client_that_sends_its_body_too_slowly_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "BODY_S", 0.2)

    @fronted()
    async def served(front: Front) -> None:
        place = httpx.URL(front.url)
        reader, writer = await asyncio.open_connection(place.host, place.port)
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {front.key}\r\nContent-Length: 99\r\n\r\n"
        )
        writer.write(head.encode() + b"{")
        reply = await reader.read()  # and the connection ends
        assert reply.startswith(b"HTTP/1.1 408 ")
        assert b"request_timeout" in reply
        writer.close()
        assert front.gateway.open == 0

    served(tmp_path)


def test_a_client_that_stops_reading_is_left_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "STALLED_S", 0.4)

    @fronted(models__a__context=8192)
    async def served(front: Front) -> None:
        place = httpx.URL(front.url)
        body = json.dumps({"model": "a", "messages": HELLO, "max_tokens": 8000, "stream": True}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {front.key}\r\n"
        with socket.socket() as mute:
            mute.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            mute.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(mute, (place.host, place.port))
            await loop.sock_sendall(mute, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            await until(lambda: front.gateway.open == 1)
            await until(lambda: front.gateway.open == 0)

    served(tmp_path)


# When a node fails


@fronted(nodes=1)
async def test_the_official_client_knows_what_went_wrong(front: Front) -> None:
    async def vanish(play: Play) -> None:
        await play.actor.stop()

    client = front.client()
    for changes, kind, code in (
        ({"model": "b"}, openai.NotFoundError, "model_not_found"),
        ({"max_tokens": 600}, openai.BadRequestError, "context_too_long"),
        ({"extra_body": {"lattice": {"private": True}}}, openai.PermissionDeniedError, "boundary"),
    ):
        with pytest.raises(kind) as refused:
            await client.chat.completions.create(**{"model": "a", "messages": HELLO, **changes})
        assert refused.value.code == code
    with pytest.raises(openai.AuthenticationError):
        await front.client("sk-lattice-nobody").models.list()
    limited = front.client(await front.issue(requests_per_min=1))
    await limited.chat.completions.create(model="a", messages=HELLO, max_tokens=1)
    with pytest.raises(openai.RateLimitError):
        await limited.chat.completions.create(model="a", messages=HELLO, max_tokens=1)
    front.stage.actors[0].act = vanish
    with pytest.raises(openai.InternalServerError) as failed:
        await client.chat.completions.create(model="a", messages=HELLO)
    assert failed.value.status_code in (502, 503)
    await client.close()


@fronted()
async def test_a_stream_that_fails_on_the_way_ends_with_an_error(front: Front) -> None:
    async def break_off(play: Play) -> None:
        await play.honestly(3)
        await play.actor.stop()

    front.stage.actors[0].act = break_off
    text = (await front.ask(stream=True)).text
    *events, last = [json.loads(part.removeprefix("data: ")) for part in text.split("\n\n") if part]
    assert len(events) >= 2
    assert last["error"]["type"] == "server_error"
    assert "[DONE]" not in text
