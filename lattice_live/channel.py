"""HTTP/1.1 to a node: kept connections, one exchange at a time on each, a reply's body handed on as it comes.

A node is a stranger. Its heads have a greatest size, no redirect is followed, no cookie kept, nothing decoded; what a body may
hold is for whoever takes it. Written for this one purpose, as a request through a general client costs several times as much.
"""

import asyncio
import ipaddress
import ssl
from collections.abc import Callable
from typing import cast
from urllib.parse import urlsplit

import httptools

MAX_HEAD_BYTES = 1 << 14


class NotHTTPError(Exception):
    """What came is no reply."""


class RefusedError(Exception):
    """A reply with another status than 200, whose body is not read."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


class ConnectTimeoutError(TimeoutError):
    """No connection in time."""


class Channel:
    """The way to the node at `url`. Raises OSError if it is none."""

    def __init__(self, url: str, connect_s: float, tls: ssl.SSLContext | None = None) -> None:
        self._host, self._port = place_of(url)
        self._headers = f"host: {urlsplit(url).netloc}\r\ncontent-type: application/json"
        self._connect_s = connect_s
        self._tls = tls
        self._kept: list[_Connection] = []
        self._closed = False

    async def exchange(self, method: str, path: str, body: bytes, take: Callable[[bytes], bool]) -> None:
        """Send a request and hand its reply's body to `take`, until it ends, or `take` returns true, or raises.

        A kept connection that the node has closed meanwhile is no failure: the request goes out once more, on a fresh one.
        Raises RefusedError, NotHTTPError, ConnectTimeoutError and OSError; once cancelled, the node hears nothing more of it.
        """
        head = f"{method} {path} HTTP/1.1\r\n{self._headers}\r\ncontent-length: {len(body)}\r\n\r\n"
        request = head.encode() + body
        del body  # which is in there now, and may take long to answer
        while True:
            kept = self._take_kept()
            connection = kept or await self._connect()
            try:
                await connection.exchange(request, take)
                return
            except ConnectionError:
                if kept is None or connection.heard:
                    raise
            finally:
                if connection.free and not self._closed:
                    self._kept.append(connection)
                else:
                    connection.abort()

    def close(self) -> None:
        """Close all connections; those under way, at the end of their exchange."""
        self._closed = True
        for connection in self._kept:
            connection.abort()

    def _take_kept(self) -> "_Connection | None":
        while self._kept:
            connection = self._kept.pop()
            if connection.free:
                return connection
        return None

    async def _connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_s):
                return (await loop.create_connection(_Connection, self._host, self._port, ssl=self._tls))[1]
        except TimeoutError as error:
            raise ConnectTimeoutError(f"no connection within {self._connect_s:g} s") from error
        except ValueError as error:
            raise OSError("its URL names no host") from error


def place_of(url: str) -> tuple[str, int]:
    """Host and port of a URL. Raises OSError."""
    try:
        place = urlsplit(url)
        return place.hostname or "", place.port or (443 if place.scheme == "https" else 80)
    except ValueError as error:
        raise OSError("its URL names no host") from error


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`, so that a node there needs no TLS."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Connection(asyncio.Protocol):
    """`free`: it may take a request; `heard`: something has come since the last one."""

    def __init__(self) -> None:
        self.free = True
        self.heard = False
        self._parser = httptools.HttpResponseParser(self)
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._over.set_result(None)
        self._in_head = False
        self._head_bytes = 0
        self._take: Callable[[bytes], bool]
        self._transport: asyncio.Transport

    async def exchange(self, request: bytes, take: Callable[[bytes], bool]) -> None:
        self._over = asyncio.get_running_loop().create_future()
        self._take = take
        self.free, self.heard, self._in_head, self._head_bytes = False, False, True, 0
        self._transport.write(request)
        await self._over

    def abort(self) -> None:
        self.free = False
        self._transport.abort()

    def _fail(self, error: Exception) -> None:
        if not self._over.done():
            self._over.set_exception(error)
        self.abort()

    # From asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by type

    def data_received(self, data: bytes) -> None:
        self.heard = True
        if self._over.done():  # nobody has asked
            self.abort()
            return
        if self._in_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(NotHTTPError(str(error)))
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._fail(NotHTTPError(f"a head of more than {MAX_HEAD_BYTES} bytes"))

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(ConnectionResetError("the connection is lost"))

    # From the parser

    def on_message_begin(self) -> None:
        self.free = False  # if this is a second reply to one request

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._parser.get_status_code() != 200:
            self._fail(RefusedError(self._parser.get_status_code()))

    def on_body(self, data: bytes) -> None:
        if not self._over.done():
            try:
                if self._take(data):
                    self._over.set_result(None)
            except Exception as error:
                self._fail(error)

    def on_message_complete(self) -> None:
        self.free = self._parser.should_keep_alive() and not self._transport.is_closing()
        if not self._over.done():
            self._over.set_result(None)
