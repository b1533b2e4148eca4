"""Ctrl-C and SIGTERM at the right moment: a run stops in the middle of an epoch, never in the middle of a file."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def deferred() -> Iterator[None]:
    """Keep both signals waiting; those that `interruptible` did not take are forgotten at the end."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        before = {number: signal.signal(number, signal.SIG_IGN) for number in _SIGNALS}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interruptible() -> Iterator[None]:
    """Within `deferred`: either signal, one that waits already included, raises KeyboardInterrupt, once.

    The handlers are set explicitly, as a background job inherits SIGINT ignored.
    """
    before = {number: signal.signal(number, _interrupt) for number in _SIGNALS}
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    raise KeyboardInterrupt
