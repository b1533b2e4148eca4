"""`lattice bench node --requests N`: many short requests to a node process over HTTP, and whether its memory grows."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

EVERY = 1_000
"""The node's memory is read after each so many requests; what the last reading adds to the first is its growth."""

AT_ONCE = 12
SLOTS = QUEUE = 8

MIN_PROMPT_TOK, MAX_PROMPT_TOK, LONG_PROMPT_TOK = 2, 9, 80
"""Prompts are short, but for one in LONG_EVERY."""
LONG_EVERY, SESSION_EVERY = 50, 4
OUTPUT_TOK = 2


def serve(
    folder: Any,
    requests: int,
    *,
    threads: int,
    every: int = EVERY,
    told: Callable[[int, float], object] = lambda done, mib: None,
) -> dict[str, Any]:
    """Serve `requests` ≥ `every` of them; `told` hears after each `every` how many are done and the node's memory, MiB.

    Raises NodeError and NodeFailure.
    """
    return asyncio.run(_serve(folder, requests, threads, every, told))


async def _serve(folder: Any, requests: int, threads: int, every: int, told: Callable[[int, float], object]) -> dict[str, Any]:
    from lattice_core.config.network import Timeouts
    from lattice_live.launcher import start_node
    from lattice_live.upstream import Peer, Realm, Upstream

    context = min(folder.manifest.context, 256)
    process = await start_node({"model": folder.path}, slots=SLOTS, queue=QUEUE, context=context, threads=threads)
    nodes = Upstream({0: Peer(process.url, process.address)}, Realm(0, 1, bytes(20)), {"model": folder.manifest}, Timeouts())
    try:
        await nodes.join(0)
        mib: dict[str, float] = {}
        numbers = iter(range(1, requests + 1))
        done = 0

        async def client() -> None:
            nonlocal done
            for number in numbers:
                await nodes.answer(0, _order(number, folder.manifest), lambda token: None, lambda signed: None)
                done += 1
                if done % every == 0 or done == requests:
                    mib[str(done)] = resident_mib(process.pid)
                    told(done, mib[str(done)])

        began_s = perf_counter()
        async with asyncio.TaskGroup() as clients:
            for _ in range(AT_ONCE):
                clients.create_task(client())
        seconds = perf_counter() - began_s
    finally:
        await nodes.close()
        await process.stop()
    first, *_, last = mib[str(every)], *mib.values()
    return {"requests": requests, "seconds": round(seconds, 1), "resident_mib": mib, "growth": round(last / first - 1.0, 4)}


def _order(number: int, model: Any) -> Any:
    """The request of a number: equal numbers ask the same. Answers do not end before their length."""
    from lattice_live.node.profile import prompt_of
    from lattice_live.node.sampling import Sampling
    from lattice_live.upstream import Order

    spread = MAX_PROMPT_TOK - MIN_PROMPT_TOK + 1
    prompt_tok = LONG_PROMPT_TOK if number % LONG_EVERY == 0 else MIN_PROMPT_TOK + number % spread
    sampling = Sampling(temperature=1.0, seed=number, logit_bias=dict.fromkeys(model.end, -100.0))
    session = f"chat {number}" if number % SESSION_EVERY == 0 else None
    return Order(number, "model", prompt_of(model.vocabulary, prompt_tok, number), OUTPUT_TOK, sampling, session)


def resident_mib(pid: int) -> float:
    """Memory of a process, on Linux."""
    text = Path(f"/proc/{pid}/status").read_text()
    return round(int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024, 1)


def markdown(found: dict[str, Any]) -> Iterator[str]:
    """What was found, as a table."""
    readings = list(found["resident_mib"].items())
    yield f"{found['requests']:,} requests in {found['seconds']:,.0f} s"
    yield ""
    yield "| requests | node's memory, MiB |"
    yield "|---:|---:|"
    shown = readings[:: max(1, len(readings) // 10)]
    for done, mib in shown if shown[-1] == readings[-1] else [*shown, readings[-1]]:
        yield f"| {int(done):,} | {mib:,.1f} |"
    yield ""
    yield f"growth: {found['growth']:+.1%}"
