"""Peers of the Python client that do on purpose what a service does only on a bad day. Real sockets throughout."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.server import ServerConnection, serve

ID = "01a20b7d-0b6e-7830-8233-7fe7b371fc8f"


class Answering:
    """A service that gives prepared answers; an answer that is None cuts the connection after the whole request."""

    def __init__(self, *answers: tuple[int, dict[str, str], object] | None) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.url = ""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[1:-2]
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head)}
        self.requests.append((headers, await reader.readexactly(int(headers["content-length"]))))
        answer = self.answers.pop(0)
        if answer is not None:
            status, extra, content = answer
            body = json.dumps(content).encode()
            lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", "connection: close"]
            lines += [f"{name}: {value}" for name, value in extra.items()]
            writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        writer.close()
        await writer.wait_closed()

    @property
    def keys(self) -> list[str | None]:
        return [headers.get("idempotency-key") for headers, _ in self.requests]


@asynccontextmanager
async def answering(*answers: tuple[int, dict[str, str], object] | None) -> AsyncIterator[Answering]:
    peer = Answering(*answers)
    server = await asyncio.start_server(peer, "127.0.0.1", 0)
    async with server:
        peer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield peer


def problem(status: int, slug: str, **members: object) -> tuple[int, dict[str, str], object]:
    return status, {"content-type": "application/problem+json"}, {"type": slug, "detail": "no", **members}


Script = Callable[[ServerConnection], Awaitable[None]]


class Peer:
    """A service whose connections each follow a script; it remembers who asked for what."""

    def __init__(self, *scripts: Script) -> None:
        self.scripts = list(scripts)
        self.paths: list[str] = []
        self.tokens: list[str] = []
        self.sockets: list[ServerConnection] = []
        self.said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        """What clients said, each with the number of the connection (`on`)."""
        self.url = ""

    async def __call__(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        self.sockets.append(socket)
        self.paths.append(socket.request.path)
        self.tokens.append(socket.request.headers["Authorization"])
        reading = asyncio.create_task(self.read(socket, len(self.paths)))
        try:
            await self.scripts.pop(0)(socket)
            await socket.wait_closed()
        finally:
            reading.cancel()

    async def read(self, socket: ServerConnection, number: int) -> None:
        async for message in socket:
            self.said.put_nowait({**json.loads(message), "on": number})


@asynccontextmanager
async def peer(*scripts: Script) -> AsyncIterator[Peer]:
    service = Peer(*scripts)
    async with serve(service, "127.0.0.1", 0, compression=None, subprotocols=["notify.v1"]) as server:  # type: ignore[list-item]  # a NewType of str
        service.url = f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        yield service


def welcome(after: int = 0, *, epoch: str = "e", **changes: object) -> str:
    frame = {
        "op": "welcome", "session": "s", "user": "alice", "device": "default", "epoch": epoch, "after": after,
        "head": after, "recovered": True, "unread": 0, "ping_interval": 25, "expires_in": 3600,
    }  # fmt: skip
    return json.dumps(frame | changes)


def entry(seq: int) -> str:
    times = {"source": "shop", "created_at": "2030-01-01T00:00:00Z"}
    return json.dumps({"op": "notification", "seq": seq, "id": ID, "type": "x", "data": {"n": seq}, **times})


def say(*frames: str, then: Script | None = None) -> Script:
    async def script(socket: ServerConnection) -> None:
        for frame in frames:
            await socket.send(frame)
        if then is not None:
            await then(socket)

    return script


async def cut(socket: ServerConnection) -> None:
    socket.transport.close()


def close(code: int, reason: str = "") -> Script:
    async def script(socket: ServerConnection) -> None:
        await socket.close(code, reason)

    return script
