"""The Nexus before a node: it believes what is proved, and no more."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from lattice_core.chain.keys import Key, key_of
from lattice_core.state import BAD_ANSWER, NODE_LOST, NODE_REFUSED, NODE_TIMEOUT
from lattice_live import upstream
from lattice_live.node import tls
from lattice_live.node.identity import Terms, join
from lattice_live.node.receipts import Book, Leg, Signed
from lattice_live.node.sampling import Drawn, Sampling
from lattice_live.upstream import NodeFailure, Order, Peer, Realm, Upstream
from tests.live.abacus import Abacus
from tests.live.served import KEY, node_of, served

NEXUS, STRANGER = key_of(2), key_of(3)
REALM = Realm(nexus=0, chain_id=31337, registry=bytes(range(20)))
ORDER = Order(7, "a", [1, 2], 20, Sampling())
TOKENS = Abacus().answer([1, 2], 20)


def run[T](scenario: Callable[[], Awaitable[T]]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(20):
            return await scenario()

    return asyncio.run(bounded())


@contextmanager
def raises(why: int, words: str) -> Iterator[None]:
    with pytest.raises(NodeFailure, match=words) as raised:
        yield
    assert raised.value.why == why


def ask(
    url: str, owner: bytes = KEY.address, order: Order = ORDER, certificate: Path | None = None, joined: bool = True
) -> tuple[list[Drawn], list[Signed]]:
    """What a node at `url` answers: its tokens and receipts."""

    async def scenario() -> tuple[list[Drawn], list[Signed]]:
        nodes = Upstream([Peer(url, owner)], REALM, {"a": 100}, certificate)
        receipts: list[Signed] = []
        try:
            if joined:
                await nodes.join(0)
            async with aclosing(nodes.answer(0, order, receipts.append)) as tokens:
                return [token async for token in tokens], receipts
        finally:
            await nodes.close()

    return run(scenario)


def test_an_honest_node_joins_answers_and_gives_receipts() -> None:
    with served(node_of({"a": Abacus()})) as url:
        tokens, receipts = ask(url, order=ORDER._replace(sampling=Sampling(logit_bias={5: 1.0}), session="chat"))
    assert [token.token for token in tokens] == TOKENS
    assert [receipt.progress.to_tok for receipt in receipts][-1] == len(TOKENS)


def test_a_node_that_has_not_joined_is_not_asked() -> None:
    with served(node_of({"a": Abacus()})) as url:
        with raises(NODE_REFUSED, "has not joined, or not with 'a'"):
            ask(url, joined=False)
        with raises(NODE_REFUSED, "has not joined, or not with 'b'"):
            ask(url, order=ORDER._replace(model="b"))


def test_a_node_with_another_key_than_its_owners_does_not_join() -> None:
    with served(node_of({"a": Abacus()})) as url, raises(NODE_REFUSED, f"must be signed by 0x{STRANGER.address.hex()}"):
        ask(url, STRANGER.address)


def test_a_node_that_refuses_or_is_not_there_is_a_failure_with_its_reason() -> None:
    with served(node_of({"a": Abacus()})) as url, raises(NODE_REFUSED, "HTTP 400: .* the context"):
        ask(url, order=ORDER._replace(max_tokens=63))
    with raises(NODE_LOST, "."):
        ask(url)


def test_a_probe_joins_a_node_that_has_forgotten_its_nexus() -> None:
    async def scenario(url: str, other: str) -> None:
        nodes = Upstream(
            [Peer(url, KEY.address), Peer(other, STRANGER.address), Peer("http://127.0.0.1:9", KEY.address)], REALM, {"a": 100}
        )
        assert [await nodes.probe(node) for node in range(3)] == [True, False, False]
        async with aclosing(nodes.answer(0, ORDER)) as tokens:
            assert [token.token async for token in tokens] == TOKENS
        await nodes.close()

    with served(node_of({"a": Abacus()})) as url, served(node_of({"a": Abacus()})) as other:
        run(lambda: scenario(url, other))


def test_over_tls_node_and_nexus_prove_their_keys_and_no_stranger_can(tmp_path: Path) -> None:
    def certificate(key: Key) -> Path:
        return tls.open_certificate(key, tmp_path / f"{key.address.hex()}.pem")

    nexus = certificate(NEXUS)
    context = tls.node_context(certificate(KEY), tls.read(nexus))
    with served(node_of({"a": Abacus()}), context) as url:
        assert [token.token for token in ask(url, certificate=nexus)[0]] == TOKENS
        with raises(NODE_LOST, "."):
            ask(url, certificate=certificate(STRANGER))
        with raises(NODE_REFUSED, "shows a certificate of 0x"):
            ask(url, STRANGER.address, certificate=nexus)
        with raises(NODE_REFUSED, "needs a certificate of this Nexus's own"):
            ask(url)


def lines(tokens: Iterable[int], *, key: Key = KEY, receipts: bool = True, **leg: Any) -> list[dict[str, Any]]:
    """An answer as a node sends it."""
    about = Leg(Terms(REALM.nexus, 0, REALM.chain_id, REALM.registry), 7, bytes.fromhex(Abacus.model_hash), 2)
    book, sent = Book(about._replace(**leg), key), []
    for token in tokens:
        sent.append({"n": book.count + 1, "token": token})
        if book.add(token) and receipts:
            sent.append(_receipt(book))
    if receipts and book.count > book.receipted:
        sent.append(_receipt(book))
    return [*sent, {"done": True, "output_tok": book.count, "reason": "length"}]


def _receipt(book: Book) -> dict[str, Any]:
    signed = book.sign(1)
    return {"receipt": signed.progress.to_json(), "signature": signed.signature.hex()}


def acting(answer: Callable[[], Response]) -> Callable[[str], Starlette]:
    """A node that joins as it should and then answers whatever it likes."""

    def make(url: str) -> Starlette:
        async def joined(request: Request) -> JSONResponse:
            asked = await request.json()
            terms = Terms(asked["nexus"], asked["node"], asked["chain_id"], bytes.fromhex(asked["registry"]))
            joining = join(KEY, terms, bytes.fromhex(asked["nonce"]), url, {"a": Abacus.model_hash})
            return JSONResponse({**joining._asdict(), "signature": joining.signature.hex()})

        async def submit(request: Request) -> Response:
            return answer()

        return Starlette(routes=[Route("/v1/join", joined, methods=["POST"]), Route("/v1/submit", submit, methods=["POST"])])

    return make


def saying(parts: Iterable[object]) -> Response:
    return Response("".join(f"{part if isinstance(part, str) else json.dumps(part)}\n" for part in parts))


class Actor:
    """A node that says what it is told to."""

    url: str
    parts: Iterable[object] = ()


@pytest.fixture(scope="module")
def actor() -> Iterator[Actor]:
    actor = Actor()
    with served(acting(lambda: saying(actor.parts))) as actor.url:
        yield actor


GOOD = lines([5, 6, 8])
LONG = lines(range(20))


def test_the_actors_lines_are_a_nodes(actor: Actor) -> None:
    actor.parts = LONG
    assert [token.token for token in ask(actor.url)[0]] == list(range(20))


@pytest.mark.parametrize(
    ("parts", "why", "words"),
    [
        (GOOD[:-1], NODE_LOST, "breaks off"),
        ([*GOOD[:3], {"error": {"code": 500, "message": "no room"}}], NODE_LOST, "no room"),
        ([*GOOD[:-1], {**GOOD[-1], "reason": "cancelled"}], NODE_LOST, "the node ended it: cancelled"),
        ([*GOOD[:-1], {**GOOD[-1], "output_tok": 4}], BAD_ANSWER, "4 tokens said, 3 sent"),
        ([{**GOOD[-1], "output_tok": 0}], BAD_ANSWER, "0 tokens said, 0 sent"),
        ([{"n": 1, "token": 100}], BAD_ANSWER, "must be token ids below 100"),
        ([{"n": 1, "token": True}], BAD_ANSWER, "must be token ids"),
        ([{"n": 2, "token": 5}], BAD_ANSWER, "token 1 came as"),
        ([{"n": 1, "token": 5, "logprob": -1.0, "top": [[100, -1.0]]}], BAD_ANSWER, "must be token ids"),
        (['{"n": 1, "token": 5, "logprob": NaN, "top": []}'], BAD_ANSWER, "must be finite"),
        (["{"], BAD_ANSWER, "not a line of an answer"),
        (["5"], BAD_ANSWER, "not a line of an answer"),
        ([{}], BAD_ANSWER, "not a line of an answer"),
        (lines(range(21)), BAD_ANSWER, "token 21 came as"),
        (lines([5, 6, 8], receipts=False), BAD_ANSWER, "receipt: the answer ends with 3 tokens without a receipt"),
        (lines(range(20), receipts=False), BAD_ANSWER, "receipt: 16 tokens without a receipt"),
        (lines([5], key=STRANGER), BAD_ANSWER, "receipt: signed by 0x"),
        (lines([5], leg=8), BAD_ANSWER, "receipt: leg: must be 7, not 8"),
        (lines([5], prompt_tok=200), BAD_ANSWER, "receipt: prompt_tok: must be 2, not 200"),
        ([GOOD[0], *GOOD[2:]], BAD_ANSWER, "token 2 came as"),
        ([*GOOD[:2], GOOD[3]], BAD_ANSWER, "receipt: to_tok: must be 2, not 3"),
        ([{"n": 1, "token": 4}, *GOOD[1:]], BAD_ANSWER, "receipt: tokens_hash: must be"),
        ([*GOOD[:4], GOOD[3]], BAD_ANSWER, "receipt: from_tok: must be 3, not 0"),
        ([{"receipt": {}, "signature": ""}], BAD_ANSWER, "receipt: not a receipt"),
        (["[" * 2**18], BAD_ANSWER, "not a line of an answer"),
        (["x" * 2**20], BAD_ANSWER, "not a line of an answer"),
    ],
)
def test_an_answer_that_is_wrong_anywhere_fails_its_leg_and_says_where(
    actor: Actor, parts: list[object], why: int, words: str
) -> None:
    actor.parts = parts
    with raises(why, words):
        ask(actor.url)


def test_a_node_that_falls_silent_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "SILENCE_S", 0.1)

    async def silence() -> AsyncIterator[str]:
        yield json.dumps(GOOD[0])
        await asyncio.sleep(5)

    with served(acting(lambda: StreamingResponse(silence()))) as url, raises(NODE_TIMEOUT, "silent for 0.1 s"):
        ask(url)


def test_log_probabilities_come_with_their_tokens(actor: Actor) -> None:
    token = {**GOOD[0], "logprob": -0.5, "top": [[5, -0.5], [6, -1.5]]}
    actor.parts = [token, *GOOD[1:]]
    assert ask(actor.url)[0][0] == Drawn(5, -0.5, ((5, -0.5), (6, -1.5)))
