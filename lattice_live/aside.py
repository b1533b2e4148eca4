"""Threads for what nobody waits for: they have the processor while the event loop and the storage leave it."""

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

NICE = 10
"""On one core, a tenth of the time where the loop wants all of it."""


def _give_way() -> None:
    if sys.platform == "linux":  # where a thread has a priority of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


def thread(name: str, count: int = 1) -> ThreadPoolExecutor:
    """So many threads that give way."""
    return ThreadPoolExecutor(count, name, initializer=_give_way)


_POOL = thread("aside", 4)


async def aside[**P, T](work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `work` gives, done on such a thread."""
    return await asyncio.get_running_loop().run_in_executor(_POOL, lambda: work(*args, **kwargs))
