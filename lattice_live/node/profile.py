"""How fast this machine serves a model: a decode step of n sequences takes a + b·n, and prompts are read at r tokens a second,
or at r' in the time that chunks of them add to steps of others.

Rounds over the batch sizes are interleaved, so that a slow minute of the machine falls on all of them, and the median of the
rounds counts. The spread says how far the rounds were apart.

A step takes the longer the more it has to attend to, so steps are timed behind prompts of a usual length.
"""

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from lattice_live.node.engine import Engine, Job
from lattice_live.node.sampling import Sampling

FORMAT, VERSION = "lattice-hardware", 1

ROUNDS = 5
STEPS = 24
"""Decode steps timed in a round, by batch size."""

PROMPT_TOK = 128
"""Prompt tokens timed in a round and held while steps are, if the context has room for them."""

CONTEXT_TOK = 512
"""Ample for what is measured: while the prompts of the largest batch are read, its first answers go on."""


class Line(NamedTuple):
    """a + b·n through what was measured, in seconds, and the largest relative distance of a point from it."""

    a_s: float
    b_s: float
    misfit: float


class Speed(NamedTuple):
    """What was measured: medians over the rounds, and (slowest − fastest)/median of each."""

    slots: int
    chunk_tok: int
    """Prompt tokens read between two steps of others."""
    step_s: dict[int, float]
    step_spread: dict[int, float]
    alone_tok_s: float
    """Rate at which a prompt is read while nobody decodes,"""
    alone_spread: float
    beside_tok_s: float
    """and while somebody does, but for the time that takes."""
    beside_spread: float

    @property
    def line(self) -> Line:
        return fit(list(self.step_s), list(self.step_s.values()))


def fit(batch: Sequence[int], step_s: Sequence[float]) -> Line:
    """The line of least relative squares with a ≥ 0 and b ≥ 0; a single batch size says nothing of b, which is then 0."""
    n, y = np.asarray(batch, float), np.asarray(step_s, float)
    ones, weight = np.ones_like(n), 1.0 / np.asarray(step_s, float)
    a_s, b_s = float(np.average(y, weights=weight * weight)), 0.0  # b = 0
    if len(set(batch)) > 1:
        (a, b), *_ = np.linalg.lstsq(np.stack([ones, n], 1) * weight[:, None], y * weight, rcond=None)
        if a < 0.0:
            a, b = 0.0, float(np.sum(n * y * weight**2) / np.sum((n * weight) ** 2))
        if b >= 0.0:
            a_s, b_s = float(a), float(b)
    return Line(a_s, b_s, float(np.max(np.abs(a_s + b_s * n - y) / y)))


def measure(
    engine: Engine,
    *,
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
    beside: Callable[[], object] = lambda: None,
) -> Speed:
    """Time an idle engine at batch sizes 1, 2, 4, … up to its slots. Takes about `rounds` times a few seconds.

    `beside` is done once a round, and leaves the engine idle: what is to be compared with the rounds shares their minutes.
    """
    sizes = [size for size in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64) if size <= engine.slots]
    steps: dict[int, list[float]] = {size: [] for size in sizes}
    prompt_tok = max(1, min(PROMPT_TOK, engine.context // 2))
    alone: list[float] = []
    busy: list[float] = []
    prefill_s(engine, prompt_tok, clock)  # the first run of a shape allocates
    for _ in range(rounds):
        alone.append(prompt_tok / prefill_s(engine, prompt_tok, clock))
        for size in sizes:
            steps[size].append(median(step_s(engine, size, clock, prompt_tok)))
        if engine.slots > 1:
            busy.append(prompt_tok / beside_s(engine, prompt_tok, steps[1][-1], clock))
        beside()
    busy = busy or alone
    return Speed(
        engine.slots,
        engine.prefill_tok,
        {size: median(times) for size, times in steps.items()},
        {size: _spread(times) for size, times in steps.items()},
        median(alone),
        _spread(alone),
        median(busy),
        _spread(busy),
    )


def _spread(values: Sequence[float]) -> float:
    return (max(values) - min(values)) / median(values)


def prefill_s(engine: Engine, prompt_tok: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds from submission to the first token of a lone prompt."""
    engine.submit(_job(engine, 0, prompt_tok, max_tokens=2))
    began = clock()
    while not engine.step():
        pass
    took_s = clock() - began
    engine.cancel(0)
    return took_s


def beside_s(engine: Engine, prompt_tok: int, lone_step_s: float, clock: Callable[[], float] = time.perf_counter) -> float:
    """As `prefill_s` while another sequence decodes, whose steps take `lone_step_s` each, which do not count."""
    engine.submit(_job(engine, 0, 4, max_tokens=engine.context - 4))
    while not engine.step():
        pass
    engine.submit(_job(engine, 1, prompt_tok, max_tokens=2))
    began, steps = clock(), 1
    while all(token.job == 0 for token in engine.step()):
        steps += 1
    took_s = clock() - began
    for number in range(2):
        engine.cancel(number)
    return max(took_s - steps * lone_step_s, took_s / 10)  # a clock or a machine that jumps must not make it infinite


def step_s(engine: Engine, size: int, clock: Callable[[], float] = time.perf_counter, prompt_tok: int = 4) -> list[float]:
    """Seconds of each step with `size` sequences decoding behind prompts of `prompt_tok`."""
    steps = min(STEPS, engine.context - prompt_tok - 4)
    most_tok = engine.context - prompt_tok
    for number in range(size):
        engine.submit(_job(engine, number, prompt_tok, max_tokens=most_tok))
    begun: set[int] = set()
    while len(begun) < size:
        begun |= {token.job for token in engine.step()}
    times = []
    for _ in range(steps):
        began = clock()
        engine.step()
        times.append(clock() - began)
    for number in range(size):
        engine.cancel(number)
    return times


def _job(engine: Engine, number: int, prompt_tok: int, max_tokens: int) -> Job:
    """A prompt of no meaning whose answer does not end before it is long enough."""
    prompt = prompt_of(engine.vocabulary, prompt_tok, number)
    return Job(number, prompt, Sampling(temperature=0.0, logit_bias=dict.fromkeys(engine.end, -100.0)), max_tokens)


def prompt_of(vocabulary: int, prompt_tok: int, number: int = 0) -> list[int]:
    """Token ids of no meaning, others for each number."""
    return [(7919 * i + 104_729 * number) % vocabulary for i in range(1, prompt_tok + 1)]


def document(name: str, variant: str, provider: str, machine: str, speed: Speed) -> dict[str, Any]:
    """The hardware profile as `hardware: {profile: FILE}` of a config reads it, with what it rests on."""
    line = speed.line
    return {
        "format": FORMAT,
        "version": VERSION,
        "machine": machine,
        "models": {
            name: {
                "a": _ms(line.a_s),
                "b": _ms(line.b_s),
                "prefill_tok_s": round(speed.alone_tok_s, 1),
                "prefill_beside_tok_s": round(speed.beside_tok_s, 1),
                "chunk_tok": speed.chunk_tok,
                "variant": variant,
                "provider": provider,
                "slots": speed.slots,
                "misfit": round(line.misfit, 4),
                "measured": {
                    "step": {str(size): _ms(step_s) for size, step_s in speed.step_s.items()},
                    "step_spread": {str(size): round(spread, 4) for size, spread in speed.step_spread.items()},
                    "prefill_spread": {"alone": round(speed.alone_spread, 4), "beside": round(speed.beside_spread, 4)},
                },
            }
        },
    }


def brief(figures: dict[str, Any]) -> str:
    """A model's figures of a profile in a line."""
    alone, beside = (f"{figures[name]:,.0f}" for name in ("prefill_tok_s", "prefill_beside_tok_s"))
    return f"a {figures['a']}, b {figures['b']}, prompts {alone} tokens/s alone, {beside} beside others"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.4f}ms"
