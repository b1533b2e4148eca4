"""A TCP peer that stands before a node and counts who connects to it."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Peer:
    """Passes on what comes to `target`, once that is known; `connections` have come since the last `forget`."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.target = 0
        self.connections = 0
        self._open: list[socket.socket] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def forget(self) -> None:
        """Close what is open, and count from zero."""
        for end in self._open:
            end_of(end)
        self._open.clear()
        self.connections = 0

    def close(self) -> None:
        self._listener.close()
        self.forget()

    def _listen(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            try:
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                near.close()
                continue
            self._open += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_pass, args=[source, sink], daemon=True).start()


def _pass(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
    end_of(sink)


def end_of(end: socket.socket) -> None:
    """End a connection, whoever else is about to."""
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


@contextmanager
def counting() -> Iterator[Peer]:
    """A peer until the block ends."""
    peer = Peer()
    try:
        yield peer
    finally:
        peer.close()
