"""What the same machine does without us: a bare ASGI application and a Litestar one, under the same uvicorn.

    python -m notify.bench.floor_server bare|litestar

prints the port it listens on, and ends with its standard input.
"""

import asyncio
import socket
import sys
from typing import Any

import uvicorn
import uvloop
from litestar import Litestar, WebSocket, post, websocket

FRAME = '{"op":"notification","seq":1,"id":"01234567-89ab-7def-8123-456789abcdef","data":"' + "x" * 220 + '"}'
"""About what a notification of 200 bytes is on the wire."""

TURN = 64
"""Frames sent before the event loop gets a turn, as in a pump that yields."""


class Bare:
    """Sockets that wait, and `POST /push?FRAMES`, which sends so many frames to them in turn."""

    def __init__(self) -> None:
        self._sends: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a connection (ASGI)."""
        if scope["type"] == "lifespan":
            return
        if scope["type"] == "http":
            await self._push(int(scope["query_string"]))
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        await receive()
        await send({"type": "websocket.accept", "subprotocol": "notify.v1", "headers": []})
        self._sends.append(send)
        try:
            while (await receive())["type"] != "websocket.disconnect":
                pass
        finally:
            self._sends.remove(send)

    async def _push(self, frames: int) -> None:
        sends = list(self._sends)
        for number in range(frames):
            await sends[number % len(sends)]({"type": "websocket.send", "text": FRAME})
            if number % TURN == 0:
                await asyncio.sleep(0)


@post("/")
async def answer_nothing(data: dict[str, Any]) -> dict[str, str]:  # noqa: ARG001 - a POST brings something; it is read
    """Do nothing with what came, as a handler of the framework does it."""
    return {"id": "01234567-89ab-7def-8123-456789abcdef"}


@websocket("/")
async def hold(socket: WebSocket[Any, Any, Any]) -> None:
    """Wait for the end of the connection, as a handler of the framework does it."""
    await socket.accept(subprotocols="notify.v1")
    async for _ in socket.iter_data("text"):
        pass


async def serve(app: Any) -> None:
    """Serve until standard input ends."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    config = uvicorn.Config(
        app,
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        http="httptools",
        loop="uvloop",
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    print(listener.getsockname()[1], flush=True)  # noqa: T201 - what the parent waits for
    await asyncio.to_thread(sys.stdin.read)
    server.should_exit = True
    await serving


if __name__ == "__main__":
    uvloop.run(serve(Bare() if sys.argv[1] == "bare" else Litestar([answer_nothing, hold], openapi_config=None)))
