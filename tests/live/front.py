"""A gateway before a stage: real HTTP on both sides, on the test's own event loop, with nodes that act."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import uvicorn

from lattice_core.config import Config
from lattice_live.gateway import Gateway, application
from lattice_live.server import listen
from lattice_live.sqlite import Sqlite
from lattice_live.upstream import Peer
from tests.live.networks import tiny
from tests.live.stage import MODEL, Actor, Stage, config_of, stage

HELLO = [{"role": "user", "content": "hello"}]


class Front:
    """A gateway that serves. `http` has the first key, which opens everything."""

    def __init__(self, stage: Stage, gateway: Gateway, url: str, key: str) -> None:
        self.stage = stage
        self.gateway = gateway
        self.url = url
        self.key = key
        self.http = self.browser(key)

    def browser(self, key: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, headers={"authorization": f"Bearer {key}"}, timeout=20)

    def client(self, key: str | None = None) -> openai.AsyncOpenAI:
        """The official client, which does not try again."""
        return openai.AsyncOpenAI(api_key=key or self.key, base_url=f"{self.url}/v1", max_retries=0, timeout=20)

    async def ask(self, key: str | None = None, **body: Any) -> httpx.Response:
        """A short chat."""
        asked = {"model": "a", "messages": HELLO, "max_tokens": 8, **body}
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return await self.http.post("/v1/chat/completions", json=asked, headers=headers)

    async def issue(self, **terms: Any) -> str:
        """A further key."""
        response = await self.http.post("/v1/keys", json={"name": "another", **terms})
        assert response.status_code == 200, response.text
        key: str = response.json()["key"]
        return key


@asynccontextmanager
async def front(folder: Path, *actors: Actor, config: Config | None = None) -> AsyncIterator[Front]:
    """A gateway before the actors, with the documents that are in `folder`."""
    config = config or config_of(len(actors))
    model = SimpleNamespace(model_hash=MODEL.model_hash, vocabulary=tiny().manifest.vocabulary, end=MODEL.end)
    documents = Sqlite(folder / "nexus.sqlite")
    try:
        async with stage(config, *actors, model=model) as scene:
            peers = {node: Peer(actor.url, actor.address) for node, actor in enumerate(actors)}
            network = SimpleNamespace(
                config=config,
                driver=scene.driver,
                settlement=None,
                storage=documents,
                fees_nlai={},
                texts={"a": tiny().text},
                members=SimpleNamespace(models={"a": model}, peers=peers),
            )
            gateway = Gateway(network)  # type: ignore[arg-type]
            key = gateway.principals.found(0) or ""
            listener = listen("127.0.0.1:0")
            settings = uvicorn.Config(application(gateway), lifespan="off", log_level="critical", timeout_graceful_shutdown=1)
            server = uvicorn.Server(settings)
            serving = asyncio.create_task(server._serve([listener]))
            seen = Front(scene, gateway, f"http://127.0.0.1:{listener.getsockname()[1]}", key)
            try:
                async with seen.http:
                    yield seen
            finally:
                server.should_exit = True
                await serving
    finally:
        await documents.close()


def run(test: Callable[[], Any]) -> None:
    """Run a test on a loop of its own."""
    asyncio.run(asyncio.wait_for(test(), 60))


def events_of(text: str) -> list[dict[str, Any]]:
    """The events of a whole stream."""
    *events, done = [part.removeprefix("data: ") for part in text.split("\n\n") if part]
    assert done == "[DONE]"
    return [json.loads(event) for event in events]
