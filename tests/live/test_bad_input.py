"""Whatever comes in: what the client sees, what it is charged, and what the journal holds.

A full disk is in `test_recovery`, a clock that jumps in `test_clock`, slow readers and writers in `test_service`, too.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from lattice_core.config import revise
from lattice_core.events import Fail
from lattice_core.replay import replay
from lattice_core.service import RECEIPT_TOK
from lattice_core.state import BAD_ANSWER, NODE_LOST, NODE_REFUSED, REASONS
from lattice_live.gateway import wire
from lattice_live.gateway.errors import HTTP_STATUS
from tests.live.front import HELLO, Front, front
from tests.live.stage import Actor, Play, config_of
from tests.live.test_hostile import CANARY, MISDEEDS, token


def before_a_gateway(
    folder: Path, act: Callable[[Play], Any], test: Callable[[Front], Awaitable[None]], **changes: Any
) -> None:
    """A test before a gateway with one node, whose journal must lead to the same decisions again; `a__b=value` sets a.b."""
    config = revise(config_of(1, "100ms", "100ms"), {key.replace("__", "."): value for key, value in changes.items()})

    async def play() -> None:
        async with front(folder, Actor(0, act), config=config) as seen:
            await asyncio.wait_for(test(seen), 30)
            kept, nexus = seen.stage.storage, seen.stage.nexus
        assert replay(kept.lines, kept.decided, nexus.digest().hex(), "journal") is None
        assert CANARY not in "".join((*kept.lines, *kept.decided))

    asyncio.run(play())


def honestly(play: Play) -> Awaitable[None]:
    return play.honestly()


def told(front: Front, since: int) -> list[str]:
    """The names of the events behind so many lines of the journal."""
    return [json.loads(line)[0] for line in front.stage.storage.lines[since:]]


def charged_nlai(front: Front) -> int:
    """What the account owes; nothing may still be held."""
    account = front.stage.nexus.table("accounts")[0]
    assert (account["held_nlai"], account["faucet_held_nlai"], account["in_flight"]) == (0, 0, 0)
    return int(account["debit_nlai"] + account["faucet_debit_nlai"])


def chat(**changes: Any) -> bytes:
    return json.dumps({"model": "a", "messages": HELLO, "max_tokens": 8} | changes).encode()


REFUSED: dict[str, tuple[bytes, int, str, list[str]]] = {
    "no JSON": (b'{"model": "a", ', 400, "invalid_json", []),
    "nothing": (b"", 400, "invalid_json", []),
    "a list": (b"[]", 400, "invalid_value", []),
    "two values": (chat() + chat(), 400, "invalid_json", []),
    "a deep nest": (b"[" * 100_000, 400, "invalid_json", []),
    "a huge number": (chat().replace(b": 8}", b": 1e999}"), 400, "invalid_value", []),
    "invalid UTF-8": (chat().replace(b"hello", b"\xff\xfe\xc3("), 400, "invalid_json", []),
    "half a pair of surrogates": (chat().replace(b"hello", b"\\ud800"), 400, "invalid_json", []),
    "too much": (b" " * (wire.MAX_BODY_BYTES + 1), 413, "body_too_large", []),
    "a field that nobody knows": (chat(wings=2), 400, "unknown_parameter", []),
    "an unknown model": (chat(model="b"), 404, "model_not_found", []),
    "a prompt far beyond the context": (
        chat(messages=[{"role": "user", "content": "word " * 100_000}]), 400, "context_too_long", [],
    ),
    "more tokens than the context has": (chat(max_tokens=600), 400, "context_too_long", ["Arrive"]),
    "a price that no node takes": (chat(lattice={"max_price_nlai": 1}), 402, "price_above_cap", ["Arrive"]),
}  # fmt: skip
"""By what the user sends: status, code, and events in the journal."""


def test_a_user_who_sends_something_wrong_is_told_so_and_pays_nothing(tmp_path: Path) -> None:
    async def test(front: Front) -> None:
        for what, (body, status, code, events) in REFUSED.items():
            since = len(front.stage.storage.lines)
            response = await front.http.post("/v1/chat/completions", content=body)
            assert (response.status_code, response.json()["error"]["code"]) == (status, code), what
            assert told(front, since) == events, what
        assert charged_nlai(front) == 0
        assert not front.stage.actors[0].plays, "no node has heard of it"
        assert (await front.ask()).status_code == 200, "and the next request is served"

    before_a_gateway(tmp_path, honestly, test)


ALONE = MISDEEDS | {"sends an id out of the vocabulary": (token(10**6), {BAD_ANSWER})}
MORE, LAST = "sends more tokens than asked", "vanishes"


@pytest.mark.parametrize("whole_tok", [0, 20])
def test_a_node_that_fails_alone_is_paid_for_its_receipts_and_the_user_is_told(tmp_path: Path, whole_tok: int) -> None:
    doing = honestly

    async def act(play: Play) -> None:
        play.actor.earlier = play.actor.earlier or play.receipt()
        await play.honestly(whole_tok)
        await doing(play)

    async def test(front: Front) -> None:
        nonlocal doing
        kept, offer = front.stage.storage, front.stage.nexus.table("offers")[0]
        for misdeed in sorted(ALONE, key=LAST.__eq__):
            doing, reasons = ALONE[misdeed]
            since, before_nlai = len(kept.lines), charged_nlai(front)
            text = (await front.ask(max_tokens=40, stream=True)).text
            events = [json.loads(part.removeprefix("data: ")) for part in text.split("\n\n") if part.startswith("data: {")]
            fail = front.stage.seen(Fail)[-1]
            assert fail.why in reasons | {NODE_LOST}, misdeed  # a signature may be looked at when all has come
            if misdeed == MORE:
                assert text.endswith("data: [DONE]\n\n"), "the answer is whole"
            else:
                error = (events[-1] if text.startswith("data: ") else json.loads(text))["error"]
                assert (error["code"], error["type"]) == (REASONS[fail.why], "server_error"), misdeed
                assert "[DONE]" not in text, misdeed
            arrive, *names = told(front, since)
            assert (arrive, names[-1]) == ("Arrive", "Fail"), misdeed
            assert set(names) <= {"FirstToken", "Progress", "Fail"}, misdeed
            proved = max((one.progress.to_tok for one in kept.receipts if one.progress.leg == fail.leg), default=0)
            assert proved >= whole_tok - whole_tok % RECEIPT_TOK, misdeed
            prompt_tok = json.loads(kept.lines[since])[5]
            fee = -(-(int(offer["price_in"]) * prompt_tok + int(offer["price_out"]) * proved) // 10**6) if proved else 0
            assert charged_nlai(front) == before_nlai + fee, misdeed

    before_a_gateway(tmp_path, act, test, routing__breaker__failures=1_000)


def test_a_node_that_comes_back_with_another_model_is_asked_for_nothing_and_the_user_is_told(tmp_path: Path) -> None:
    async def test(front: Front) -> None:
        liar = front.stage.actors[0]
        liar.models, liar.joined = {"a": "cd" * 32}, False
        assert not await front.stage.upstream.probe(0)
        since = len(front.stage.storage.lines)
        response = await front.ask()
        assert (response.status_code, response.json()["error"]["code"]) == (HTTP_STATUS["node_refused"], "node_refused")
        assert response.headers["retry-after"]
        assert told(front, since) == ["Arrive", "Fail"]
        assert [event.why for event in front.stage.seen(Fail)] == [NODE_REFUSED]
        assert charged_nlai(front) == 0
        assert not liar.plays

    before_a_gateway(tmp_path, honestly, test)


def test_a_user_who_does_not_send_what_he_announced_pays_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "BODY_S", 0.2)

    async def test(front: Front) -> None:
        since, place = len(front.stage.storage.lines), httpx.URL(front.url)
        reader, writer = await asyncio.open_connection(place.host, place.port)
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {front.key}\r\nContent-Length: 99\r\n\r\n"
        )
        writer.write(head.encode() + chat()[:20])
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
        writer.close()
        assert told(front, since) == []
        assert charged_nlai(front) == 0

    before_a_gateway(tmp_path, honestly, test)
