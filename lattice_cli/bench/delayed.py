"""`lattice bench node --long-prompt`: how long a long prompt keeps those waiting whose answers are being written.

Chats decode, a prompt is submitted, and until its first token the time between two steps is what each of the chats waits for
a token.
"""

from collections.abc import Callable, Iterator
from statistics import median
from time import perf_counter
from typing import Any

CHATS, PROMPT_TOK = 4, 4_000

_BEFORE = 24
"""Steps without the prompt, to compare with."""

_ROOM_TOK = 320
"""Of each row, for what the chats write meanwhile."""


def measure(folder: Any, *, threads: int, rounds: int, clock: Callable[[], float] = perf_counter) -> dict[str, Any]:
    """Seconds that the chats wait for a token, over all `rounds`: `usual_s`, the median without the prompt; with it the median,
    the 99th percentile and the longest; and `delay_s`, by which that one is longer than usual.
    """
    from lattice_live.node.engine import Engine

    engine = Engine(folder, slots=CHATS + 1, context=PROMPT_TOK + _ROOM_TOK, threads=threads)
    usual: list[float] = []
    beside: list[float] = []
    for number in range(rounds + 1):  # the first round allocates
        alone, waited = _round(engine, clock)
        if number:
            usual += alone
            beside += waited
    ranked = sorted(beside)
    return {
        "chats": CHATS,
        "prompt_tok": PROMPT_TOK,
        "steps": len(ranked),
        "usual_s": round(median(usual), 6),
        "median_s": round(median(ranked), 6),
        "p99_s": round(ranked[-1 - len(ranked) // 100], 6),
        "longest_s": round(ranked[-1], 6),
        "delay_s": round(ranked[-1] - median(usual), 6),
    }


def _round(engine: Any, clock: Callable[[], float]) -> tuple[list[float], list[float]]:
    """The time of each step, without the prompt and with it, up to its first token."""
    from lattice_live.node.engine import Job
    from lattice_live.node.profile import prompt_of
    from lattice_live.node.sampling import Sampling

    sampling = Sampling(temperature=0.0, logit_bias=dict.fromkeys(engine.end, -100.0))
    begun: set[int] = set()
    for chat in range(CHATS):
        engine.submit(Job(chat, prompt_of(engine.vocabulary, 16, chat), sampling, PROMPT_TOK))
    while len(begun) < CHATS:
        begun |= {token.job for token in engine.step()}

    def step() -> tuple[float, bool]:
        began_s = clock()
        tokens = engine.step()
        return clock() - began_s, any(token.job == CHATS for token in tokens)

    alone = [step()[0] for _ in range(_BEFORE)]
    engine.submit(Job(CHATS, prompt_of(engine.vocabulary, PROMPT_TOK, CHATS), sampling, 2))
    waited, read = [], False
    while not read:
        took_s, read = step()
        waited.append(took_s)
    for job in range(CHATS + 1):
        engine.cancel(job)
    return alone, waited


def markdown(found: dict[str, Any]) -> Iterator[str]:
    """That in a line."""
    ms = {name: f"{1e3 * found[f'{name}_s']:,.0f} ms" for name in ("usual", "median", "p99", "longest", "delay")}
    yield (
        f"{found['chats']} chats wait {ms['usual']} for a token; while a prompt of {found['prompt_tok']:,} tokens is read, "
        f"{ms['median']} in the median, {ms['p99']} at the 99th percentile and {ms['longest']} at most: "
        f"a delay of {ms['delay']} ({found['steps']} steps)"
    )
