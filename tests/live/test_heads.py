"""A client that never ends its request's head is cut off, and nobody else."""

import socket
import time
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from lattice_live import heads
from tests.live.served import served

REST = b"host: here\r\ncontent-length: 2\r\n\r\nok"


async def echo(scope: Any, receive: Any, send: Any) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    monkeypatch.setattr(heads, "HEAD_S", 0.5)
    with served(lambda url: echo) as url:
        place = urlsplit(url)
        with socket.create_connection((place.hostname, place.port or 0), 20) as connection:
            yield connection


def is_cut_off(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def is_cut_off_while_sending(client: socket.socket, pieces: Iterable[bytes]) -> bool:
    try:
        for piece in pieces:
            client.sendall(piece)
            time.sleep(0.01)
    except OSError:
        return True
    return is_cut_off(client)


def is_answered(client: socket.socket) -> bool:
    answer = b""
    while not answer.endswith(b"ok") and (piece := client.recv(1 << 16)):
        answer += piece
    return answer.endswith(b"ok")


def test_one_that_says_nothing(client: socket.socket) -> None:
    assert is_cut_off(client)


def test_one_whose_head_trickles_in(client: socket.socket) -> None:
    assert is_cut_off_while_sending(client, [b"POST / HTTP/1.1\r\n", *[b"x: y\r\n"] * 1_000, REST])


def test_one_whose_head_is_larger_than_any(client: socket.socket) -> None:
    piece = b"y" * (heads.MAX_HEAD_BYTES // 4)
    assert is_cut_off_while_sending(client, [b"POST / HTTP/1.1\r\nx: ", *[piece] * 8, REST])


def test_one_whose_second_head_does_not_end(client: socket.socket) -> None:
    client.sendall(b"POST / HTTP/1.1\r\n" + REST + b"POST / HT")
    assert is_answered(client)
    assert is_cut_off(client)


def test_a_body_may_take_longer_and_a_connection_be_used_again(client: socket.socket) -> None:
    for _ in range(2):
        client.sendall(b"POST / HTTP/1.1\r\n" + REST[:-1])
        time.sleep(0.8)
        client.sendall(REST[-1:])
        assert is_answered(client)
