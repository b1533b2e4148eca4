"""The Nexus's side of a node's HTTP interface: an answer's tokens as they come, and probes."""

import json
from collections.abc import AsyncGenerator
from typing import NamedTuple

import aiohttp

from lattice_core.state import BAD_ANSWER, NODE_LOST, NODE_REFUSED, NODE_TIMEOUT
from lattice_live.node.tokens import VOCABULARY

CONNECT_S = 2.0
SILENCE_S = 30.0
"""A node that sends nothing for this long has failed: ample for a full queue before a small model. Chosen."""


class NodeFailure(Exception):  # noqa: N818 (a failure is an answer)
    """A leg that came to no good end; `why` is a reason of `Fail`."""

    def __init__(self, why: int, detail: str) -> None:
        super().__init__(detail)
        self.why = why


class Order(NamedTuple):
    """What a node is asked: fields as in its `POST /v1/submit`."""

    leg: int
    model: str
    prompt: list[int]
    max_tokens: int
    seed: int
    temperature: float


class Upstream:
    """The nodes, by URL, over kept connections."""

    def __init__(self, urls: list[str]) -> None:
        self._urls = urls
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))

    async def answer(self, node: int, order: Order) -> AsyncGenerator[int]:
        """Token ids as they come. Raises NodeFailure; close it to let the node stop."""
        count = 0
        try:
            async with self._session.post(f"{self._urls[node]}/v1/submit", json=order._asdict()) as response:
                if response.status != 200:
                    raise NodeFailure(NODE_REFUSED, f"HTTP {response.status}")
                async for line in response.content:
                    part = json.loads(line)
                    if part.get("done"):
                        if count == 0 or part["output_tok"] != count:
                            raise NodeFailure(BAD_ANSWER, f"{part['output_tok']} tokens said, {count} sent")
                        return
                    count += 1
                    token = part["token"]
                    if part["n"] != count or count > order.max_tokens or not 0 <= token < VOCABULARY:
                        raise NodeFailure(BAD_ANSWER, f"token {count} came as {part}")
                    yield token
            raise NodeFailure(NODE_LOST, "the answer breaks off")
        except TimeoutError as error:
            raise NodeFailure(NODE_TIMEOUT, f"silent for {SILENCE_S:g} s") from error
        except aiohttp.ClientError as error:
            raise NodeFailure(NODE_LOST, str(error)) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise NodeFailure(BAD_ANSWER, f"not a line of an answer: {error}") from error

    async def probe(self, node: int) -> bool:
        """Whether the node answers a probe."""
        try:
            async with self._session.get(f"{self._urls[node]}/v1/probe") as response:
                return response.status == 200 and (await response.json()).get("ok") is True
        except (TimeoutError, aiohttp.ClientError, ValueError, AttributeError):
            return False

    async def close(self) -> None:
        await self._session.close()
