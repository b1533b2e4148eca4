"""The Nexus before a node: it believes what is proved, and no more."""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from lattice_core.chain.keys import Key, key_of
from lattice_core.config.network import Timeouts
from lattice_core.state import BAD_ANSWER, NODE_LOST, NODE_REFUSED, NODE_TIMEOUT
from lattice_live.channel import MAX_HEAD_BYTES, Channel
from lattice_live.node import tls
from lattice_live.node.identity import Terms, join
from lattice_live.node.receipts import Book, Leg, Signed
from lattice_live.node.sampling import Drawn, Sampling
from lattice_live.upstream import MAX_LINE_BYTES, NodeFailure, Order, Peer, Realm, Upstream
from tests.live.abacus import Abacus
from tests.live.served import KEY, node_of, served

NEXUS, STRANGER = key_of(2), key_of(3)
REALM = Realm(nexus=0, chain_id=31337, registry=bytes(range(20)))
ORDER = Order(7, "a", [1, 2], 20, Sampling())
TOKENS = Abacus().answer([1, 2], 20)
MODEL: Any = SimpleNamespace(model_hash=Abacus.model_hash, vocabulary=Abacus.vocabulary, end=Abacus.end)


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


def upstream(*peers: Peer, certificate: Path | None = None, **timeouts: Any) -> Upstream:
    """Before these nodes; timeouts as in the YAML."""
    return Upstream(dict(enumerate(peers)), REALM, {"a": MODEL}, Timeouts(**timeouts), certificate)


async def answer(nodes: Upstream, node: int = 0, order: Order = ORDER) -> tuple[list[Drawn], list[Signed]]:
    """What a node answers: its tokens and receipts."""
    tokens: list[Drawn] = []
    receipts: list[Signed] = []
    await nodes.answer(node, order, tokens.append, receipts.append)
    return tokens, receipts


def ask(
    url: str,
    owner: bytes = KEY.address,
    order: Order = ORDER,
    certificate: Path | None = None,
    joined: bool = True,
    **timeouts: Any,
) -> tuple[list[Drawn], list[Signed]]:
    """What a node at `url` answers, once it has joined."""

    async def scenario() -> tuple[list[Drawn], list[Signed]]:
        nodes = upstream(Peer(url, owner), certificate=certificate, **timeouts)
        try:
            if joined:
                await nodes.join(0)
            return await answer(nodes, order=order)
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
    with served(node_of({"a": Abacus()})) as url, raises(NODE_REFUSED, "HTTP 400 to an order"):
        ask(url, order=ORDER._replace(max_tokens=63))
    with raises(NODE_LOST, "."):
        ask(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:99999",
        "http://[::1",
        f"http://{'a' * 70}.b",
        "http://",
        "https://127.0.0.1:x",
        "http://\x00",
        "https://\x00",
    ],
)
def test_a_node_whose_url_is_none_is_not_reached(url: str, tmp_path: Path) -> None:
    with raises(NODE_LOST, "."):
        ask(url, certificate=tls.open_certificate(NEXUS, tmp_path / "nexus.pem"))


def test_a_probe_joins_a_node_that_has_forgotten_its_nexus() -> None:
    async def scenario(url: str, other: str) -> None:
        nodes = upstream(Peer(url, KEY.address), Peer(other, STRANGER.address), Peer("http://127.0.0.1:9", KEY.address))
        assert [await nodes.probe(node) for node in range(3)] == [True, False, False]
        assert [token.token for token in (await answer(nodes))[0]] == TOKENS
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
    return [*sent, {"done": True, "output_tok": book.count, "reason": "length" if book.count == 20 else "stop"}]


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


GOOD = lines([5, 6, 7])
LONG = lines(range(10, 30))


def test_the_actors_lines_are_a_nodes(actor: Actor) -> None:
    actor.parts = LONG
    assert [token.token for token in ask(actor.url)[0]] == list(range(10, 30))
    actor.parts = GOOD
    assert [token.token for token in ask(actor.url)[0]] == [5, 6, 7]


@pytest.mark.parametrize(
    ("parts", "why", "words"),
    [
        (GOOD[:-1], NODE_LOST, "breaks off"),
        ([*GOOD[:3], {"error": {"code": 500, "message": "no room"}}], NODE_LOST, "the node ended it with an error"),
        ([*LONG[:5], {"done": True, "output_tok": 5, "reason": "length"}], BAD_ANSWER, "ended after 5 tokens without a reason"),
        ([*GOOD[:-1], {**GOOD[-1], "output_tok": 4}], BAD_ANSWER, "another count of tokens than the 3 sent"),
        ([{**GOOD[-1], "output_tok": 0}], BAD_ANSWER, "ended after 0 tokens"),
        ([{"n": 1, "token": 100}], BAD_ANSWER, "not a line of an answer: ValueError"),
        ([{"n": 1, "token": True}], BAD_ANSWER, "not a line of an answer: ValueError"),
        ([{"n": 2, "token": 5}], BAD_ANSWER, "token 1 came with another number"),
        ([*lines([5, 7])[:2], {"n": 3, "token": 5}], BAD_ANSWER, "token 3 came after the end"),
        (["{"], BAD_ANSWER, "not a line of an answer"),
        (["5"], BAD_ANSWER, "not a line of an answer"),
        ([{}], BAD_ANSWER, "not a line of an answer"),
        (["{} {}"], BAD_ANSWER, "not a line of an answer"),
        (lines(range(10, 31)), BAD_ANSWER, "token 21 came after the end"),
        (lines([5, 6, 7], receipts=False), BAD_ANSWER, "receipt: the answer ends with 3 tokens without a receipt"),
        (lines(range(10, 30), receipts=False), BAD_ANSWER, "receipt: 16 tokens without a receipt"),
        (lines([5, 6, 7], key=STRANGER), BAD_ANSWER, "receipt: signed by 0x"),
        (lines(range(10, 30), key=STRANGER)[:17], BAD_ANSWER, "receipt: signed by 0x"),
        (lines([5], leg=8), BAD_ANSWER, "receipt: leg: must be 7, not 8"),
        (lines([5], prompt_tok=200), BAD_ANSWER, "receipt: prompt_tok: must be 2, not 200"),
        ([GOOD[0], *GOOD[2:]], BAD_ANSWER, "token 2 came with another number"),
        ([*GOOD[:2], GOOD[3]], BAD_ANSWER, "receipt: to_tok: must be 2, not 3"),
        ([{"n": 1, "token": 4}, *GOOD[1:]], BAD_ANSWER, "receipt: tokens_hash: must be"),
        ([*GOOD[:4], GOOD[3]], BAD_ANSWER, "receipt: from_tok: must be 3, not 0"),
        ([{"receipt": {}, "signature": ""}], BAD_ANSWER, "receipt: not a receipt"),
        (["[" * 2**15], BAD_ANSWER, "not a line of an answer: JSONDecodeError"),
        (["x" * 2**20], BAD_ANSWER, f"not a line of an answer: (more than {MAX_LINE_BYTES} bytes|JSONDecodeError)"),
    ],
)
def test_an_answer_that_is_wrong_anywhere_fails_its_leg_and_says_where(
    actor: Actor, parts: list[object], why: int, words: str
) -> None:
    actor.parts = parts
    with raises(why, words):
        ask(actor.url)


def test_a_node_that_says_nothing_or_falls_silent_has_failed_and_the_failure_names_the_limit() -> None:
    said: list[object] = []

    async def silence() -> AsyncIterator[str]:
        for part in said:
            yield f"{json.dumps(part)}\n"
        await asyncio.sleep(5)

    with served(acting(lambda: StreamingResponse(silence()))) as url:
        with raises(NODE_TIMEOUT, "no token within 0.1 s"):
            ask(url, first_token="100ms")
        said.append(GOOD[0])
        with raises(NODE_TIMEOUT, "silent for 0.1 s"):
            ask(url, idle="100ms")


ASKED = ORDER._replace(sampling=Sampling(top_logprobs=2))


def test_log_probabilities_come_with_their_tokens_if_asked_for(actor: Actor) -> None:
    rivals = {"logprob": -0.5, "top": [[5, -0.5], [6, -1.5]]}
    actor.parts = [{**part, **rivals} if "token" in part else part for part in GOOD]
    assert ask(actor.url, order=ASKED)[0][0] == Drawn(5, -0.5, ((5, -0.5), (6, -1.5)))
    assert ask(actor.url)[0][0] == Drawn(5)


@pytest.mark.parametrize(
    "line",
    [
        '{"n": 1, "token": 5}',
        '{"n": 1, "token": 5, "logprob": NaN, "top": []}',
        '{"n": 1, "token": 5, "logprob": -1.0, "top": [[100, -1.0]]}',
        '{"n": 1, "token": 5, "logprob": -1.0, "top": [[5, -1.0], [6, -2.0], [8, -3.0]]}',
        '{"n": 1, "token": 5, "logprob": -1.0, "top": [[5, -1e999]]}',
    ],
)
def test_log_probabilities_that_are_none_fail_the_leg(actor: Actor, line: str) -> None:
    actor.parts = [line]
    with raises(BAD_ANSWER, "not a line of an answer"):
        ask(actor.url, order=ASKED)


def test_a_node_that_serves_another_model_or_variant_by_a_known_name_does_not_join() -> None:
    other = Abacus()
    other.model_hash = "cd" * 32
    with served(node_of({"a": other})) as url, raises(NODE_REFUSED, "what it serves as 'a' is another model"):
        ask(url)


@contextmanager
def speaking(reply: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A listener that says the same to every request, and the requests that came."""
    requests: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                requests.append(connection.recv(1 << 16))
                with suppress(OSError):
                    connection.sendall(reply)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", requests
        finally:
            listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


@pytest.mark.parametrize(
    ("reply", "why", "words"),
    [
        (b"", NODE_LOST, "the connection is lost"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", BAD_ANSWER, "not a reply to a challenge"),
        (b"HTTP/1.1 200 OK\r\na: " + b"b" * MAX_HEAD_BYTES * 2, BAD_ANSWER, "a head of more than"),
        (b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n", NODE_REFUSED, "HTTP 302"),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", NODE_REFUSED, "HTTP 101"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{", NODE_LOST, "the connection is lost"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", BAD_ANSWER, "not an answer to a challenge"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n\xff\xff", BAD_ANSWER, "a reply that is not JSON"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", BAD_ANSWER, "not a reply to a challenge"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9999999\r\n\r\n" + b" " * 2**21, BAD_ANSWER, "more than 1048576 bytes"),
    ],
)
def test_what_is_no_reply_is_a_failure(reply: bytes, why: int, words: str) -> None:
    with speaking(reply) as (url, _), raises(why, words):
        ask(url)


def test_a_kept_connection_that_the_node_has_closed_is_no_failure() -> None:
    content = b'{"ok": true, "joined": true}'
    reply = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(content), content)  # keep-alive, and then closed

    async def scenario() -> None:
        channel = Channel(url, 1.0)
        heard: list[bytes] = []

        def take(data: bytes) -> bool:
            heard.append(data)
            return False

        for _ in range(3):
            await channel.exchange("GET", "/v1/probe", b"", take)
        assert heard == [content] * 3
        channel.close()

    with speaking(reply) as (url, requests):
        run(scenario)
    assert len(requests) == 3


def test_a_connection_that_is_not_made_in_time_is_a_failure_that_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        others = [socket.socket() for _ in range(4)]
        for other in others:  # nobody accepts them, and there is no room for more
            other.setblocking(False)
            other.connect_ex(address)
        with raises(NODE_TIMEOUT, "no connection within 0.1 s"):
            ask(f"http://127.0.0.1:{address[1]}", connect="100ms")
        for other in others:
            other.close()
