"""A proxy that only passes on, made of the Nexus's own libraries: what is left for a Nexus is what this does not take."""

import asyncio
import os
import signal
import socket
from multiprocessing.connection import Connection
from typing import Any


def serve(openai: str, core: int, pipe: Connection) -> None:
    """The proxy's process: say the URL, pass on to the server at `openai` until the pipe closes."""
    import uvloop

    os.sched_setaffinity(0, {core})
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this ends it
    asyncio.run(_serve(openai, pipe), loop_factory=uvloop.new_event_loop)


async def _serve(openai: str, pipe: Connection) -> None:
    import uvicorn

    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(_proxy(openai), lifespan="off", log_level="warning", access_log=False, proxy_headers=False)
        server = uvicorn.Server(config)
        asyncio.get_running_loop().add_reader(pipe.fileno(), lambda: setattr(server, "should_exit", True))
        pipe.send(f"http://127.0.0.1:{listener.getsockname()[1]}")
        await server.serve([listener])


def _proxy(openai: str) -> Any:
    """An ASGI application that sends each body on, and what comes back as it comes."""
    from lattice_live.channel import Channel

    channel = Channel(openai, connect_s=10.0)

    async def proxy(scope: Any, receive: Any, send: Any) -> None:
        body = bytearray()
        more = True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        pieces: asyncio.Queue[bytes | None] = asyncio.Queue()

        def take(piece: bytes) -> bool:
            pieces.put_nowait(piece)
            return False

        async def ask() -> None:
            try:
                await channel.exchange("POST", scope["path"], bytes(body), take)
            finally:
                pieces.put_nowait(None)

        asking = asyncio.create_task(ask())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (piece := await pieces.get()) is not None:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        await asking

    return proxy
