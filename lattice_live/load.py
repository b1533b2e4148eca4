"""A generator of load: asks a live network as a plan says, when it says, and notes what a client can see of the answers.

The loop is open: nobody waits for an answer before the next one asks, and what a request took counts from when it was due.
A prompt is words drawn by (seed, request), as many as make the tokens asked for; how many those are, two requests before the
start tell for each model.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from random import Random
from typing import Any, NamedTuple

import aiohttp

from lattice_core.state import NONE
from lattice_core.units import NANO

WORDS = (
    "able", "area", "back", "blue", "call", "city", "dark", "down", "each", "east", "face", "fine", "game", "gold", "half",
    "home", "idea", "join", "kind", "land", "make", "name", "once", "page", "rain", "same", "take", "unit", "very", "wait",
)  # fmt: skip
"""All of a length, so that a tokeniser of bytes takes the same for each."""

_FEW, _MANY = 4, 24
"""Words of the two requests that find out what a word costs."""

LEAD_S = 0.2
"""From the end of these requests to time 0."""

UNREACHABLE = "unreachable"
"""Why a request failed to which no whole answer came."""

_CLIENT_LEFT = "client_left"
_DISPATCHED = frozenset(
    ("deadline", "reservation_expired", _CLIENT_LEFT, "node_lost", "node_refused", "node_timeout", "bad_answer")
)
"""Errors of requests that were taken first; those with another code were rejected."""


class LoadError(Exception):
    """A network that cannot be asked at all; one line."""


class Asked(NamedTuple):
    """A request: when it is due from time 0, of whom, for how much. A user leaves `patience_s` after that without a token."""

    t_ns: int
    model: str
    prompt_tok: int
    max_tok: int
    patience_s: float | None
    give_up_s: float
    """When nobody waits for the end any more, after it was due."""


class Told:
    """What the client saw of one request; times are ns from time 0, NONE for none, and so are node and fee if nobody said.

    `outcome` stays empty until it has ended.
    """

    __slots__ = ("end_ns", "fee_nlai", "first_ns", "node", "outcome", "output_tok", "prompt_tok", "reason", "sent_ns")

    def __init__(self, prompt_tok: int) -> None:
        self.sent_ns = self.first_ns = self.end_ns = NONE
        self.prompt_tok, self.output_tok = prompt_tok, 0
        self.node, self.fee_nlai = NONE, NONE
        self.outcome = self.reason = ""


class Load:
    """The requests `asked`, in order of their times, of the network at `url`; `told` grows as they go out."""

    def __init__(self, url: str, key: str, seed: int, asked: Sequence[Asked]) -> None:
        self.told: list[Told] = []
        self.gaps_ns: list[int] = []
        """Between any two pieces of text of one answer."""
        self._url = url.rstrip("/").removesuffix("/v1")
        self._key = key
        self._seed = seed
        self._asked = asked
        self._cost: dict[str, tuple[float, float]] = {}
        self._zero_s = 0.0
        self._session: aiohttp.ClientSession

    async def play(self) -> None:
        """Ask, and wait for all answers. Raises LoadError; once cancelled, what is open is left as it is."""
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            headers={"Authorization": f"Bearer {self._key}"},
        ) as self._session:
            for model in dict.fromkeys(asked.model for asked in self._asked):
                self._cost[model] = await self._measure(model)
            loop = asyncio.get_running_loop()
            self._zero_s = loop.time() + LEAD_S
            tasks: set[asyncio.Task[None]] = set()
            try:
                for number, asked in enumerate(self._asked):
                    if (wait_s := self._zero_s + asked.t_ns / NANO - loop.time()) > 0:
                        await asyncio.sleep(wait_s)
                    task = asyncio.create_task(self._ask(number, asked))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def now_ns(self) -> int:
        """Time since time 0; 0 before it."""
        return max(0, round((asyncio.get_running_loop().time() - self._zero_s) * NANO)) if self._zero_s else 0

    async def _ask(self, number: int, asked: Asked) -> None:
        told = Told(asked.prompt_tok)
        self.told.append(told)
        told.sent_ns = self.now_ns()
        try:
            told.outcome, told.reason = await self._answered(number, asked, told)
        except TimeoutError:
            left = told.first_ns == NONE and asked.patience_s is not None and asked.patience_s < asked.give_up_s
            told.outcome, told.reason = "failed", _CLIENT_LEFT if left else UNREACHABLE
        except (aiohttp.ClientError, OSError, ValueError):
            told.outcome, told.reason = "failed", UNREACHABLE
        told.end_ns = self.now_ns()

    async def _answered(self, number: int, asked: Asked, told: Told) -> tuple[str, str]:
        """Read the answer as it comes; how the request ended."""
        body = {
            **_body(asked.model, self._prompt(number, asked), asked.max_tok),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        due_s = self._zero_s + asked.t_ns / NANO
        last_ns = NONE
        async with (
            asyncio.timeout_at(due_s + min(asked.give_up_s, asked.patience_s or asked.give_up_s)) as timeout,
            self._session.post(f"{self._url}/v1/chat/completions", json=body) as reply,
        ):
            if reply.status != 200:
                return _ended(told, await reply.json())
            async for event in _events(reply.content):
                if event is None:
                    return "completed", ""
                if "error" in event:
                    return _ended(told, event)
                _note(told, event)
                if any(choice["delta"].get("content") for choice in event.get("choices", ())):
                    now_ns = self.now_ns()
                    if last_ns == NONE:
                        told.first_ns = now_ns
                        timeout.reschedule(due_s + asked.give_up_s)
                    else:
                        self.gaps_ns.append(now_ns - last_ns)
                    last_ns = now_ns
        return "failed", UNREACHABLE

    def _prompt(self, number: int, asked: Asked) -> str:
        fixed, each = self._cost[asked.model]
        return _words(Random(f"{self._seed}/{number}"), max(1, round((asked.prompt_tok - fixed) / each)))

    async def _measure(self, model: str) -> tuple[float, float]:
        """Tokens of a prompt of no word, and of each word."""
        counts = []
        for words in (_FEW, _MANY):
            body = _body(model, _words(Random(0), words), 1)
            try:
                async with self._session.post(f"{self._url}/v1/chat/completions", json=body) as reply:
                    said = await reply.json()
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise LoadError(f"{self._url}: must be a network that answers: {error or type(error).__name__}") from error
            if reply.status != 200:
                raise LoadError(f"{self._url}: {model}: {_error(said)[1] or f'HTTP {reply.status}'}")
            counts.append(int(said["usage"]["prompt_tokens"]))
        each = max((counts[1] - counts[0]) / (_MANY - _FEW), 0.01)
        return counts[0] - _FEW * each, each


def _body(model: str, prompt: str, max_tok: int) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": max_tok}


def _words(chance: Random, count: int) -> str:
    return " ".join(chance.choice(WORDS) for _ in range(count))


async def _events(content: aiohttp.StreamReader) -> AsyncIterator[dict[str, Any] | None]:
    """Server-sent events as JSON, None for the end mark."""
    async for line in content:
        if line.startswith(b"data:"):
            data = line[5:].strip()
            yield None if data == b"[DONE]" else json.loads(data)


def _note(told: Told, said: dict[str, Any]) -> None:
    """What an answer says of itself beside its text."""
    if usage := said.get("usage"):
        told.prompt_tok, told.output_tok = int(usage["prompt_tokens"]), int(usage["completion_tokens"])
    if lattice := said.get("lattice"):
        told.fee_nlai = int(lattice["fee_nlai"])
        if legs := lattice["legs"]:
            told.node = int(legs[-1]["node"])


def _ended(told: Told, said: Any) -> tuple[str, str]:
    """How a request ended that got an error."""
    if isinstance(said, dict):
        _note(told, said)
    code = _error(said)[0] or UNREACHABLE
    return ("failed" if code in _DISPATCHED or code == UNREACHABLE else "rejected"), code


def _error(said: Any) -> tuple[str, str]:
    """Code and message of an error in OpenAI's shape; empty for none."""
    error = said.get("error") if isinstance(said, dict) else None
    if not isinstance(error, dict):
        return "", ""
    return str(error.get("code") or ""), str(error.get("message") or "")
