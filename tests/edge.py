"""The server's edge as its tests see it: a tiny application on a real uvicorn, raw sockets, and limits that are small."""

import asyncio
import functools
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import uvloop
import websockets
from websockets.asyncio.client import ClientConnection

from notify.api.answers import Answering, Fields
from notify.server import Server, ServerLimits, Shortcut, Transport, build_server, open_listener
from notify.settings import Settings

PATIENCE = 5.0
"""Seconds after which what should happen never will."""

LIMITS = ServerLimits(
    max_connections=50, header_seconds=0.3, body_seconds=0.4, close_seconds=0.3, drain_seconds=1.0, request_seconds=0.5
)

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
HANDSHAKE = (
    b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10

Handler = Callable[["Peer"], Awaitable[None]]


class Peer:
    """A connection as the application sees it."""

    def __init__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send

    @property
    def transport(self) -> Transport:
        found: Transport = self.scope["extensions"]["notify.transport"]
        return found

    async def accept(self) -> None:
        await self.receive()
        await self.send({"type": "websocket.accept"})


async def echo(peer: Peer) -> None:
    """Answer a request with the number of its bytes, and each message with itself."""
    if peer.scope["type"] == "http":
        size, more = 0, True
        while more:
            message = await peer.receive()
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
        await answer(peer, str(size).encode())
        return
    await peer.accept()
    while (message := await peer.receive())["type"] == "websocket.receive":
        await peer.send({**message, "type": "websocket.send"})


async def answer(peer: Peer, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await peer.send({"type": "http.response.start", "status": 200, "headers": headers})
    await peer.send({"type": "http.response.body", "body": body})


class Edge:
    """The server in the test's event loop.

    `handle` serves each connection, `take` is offered what is posted to /short, `drain` is what a drain does.
    """

    def __init__(
        self,
        limits: ServerLimits,
        settings: Settings,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop,
    ) -> None:
        self.loop_factory = loop_factory
        self.handle: Handler = echo
        self.drain: Callable[[], Awaitable[None]] = self.do_nothing
        self.failing = False
        self.stopped = False
        self.listener = open_listener("127.0.0.1", 0)
        self.port: int = self.listener.getsockname()[1]
        self.take: Callable[[Fields, bytes, Answering], bool] = lambda _headers, _body, _answer: False
        shortcut = Shortcut(b"/short", self.offer)
        self.server: Server = build_server(
            self, drain=self.run_drain, settings=settings, limits=limits, shortcut=shortcut
        )
        self.serving: asyncio.Task[None] | None = None

    async def do_nothing(self) -> None:
        pass

    def offer(self, headers: Fields, body: bytes, answer: Answering) -> bool:
        return self.take(headers, body, answer)

    async def run_drain(self) -> None:
        await self.drain()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await self.handle(Peer(scope, receive, send))
            return
        await receive()
        if self.failing:
            await send({"type": "lifespan.startup.failed", "message": "no database"})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.stopped = True
        await send({"type": "lifespan.shutdown.complete"})

    async def live(self, test: Coroutine[Any, Any, None]) -> None:
        """Serve while a test runs; nothing may be left of it."""
        await self.start()
        try:
            await test
        finally:
            await self.stop()
        assert not self.server.server_state.tasks

    async def start(self) -> None:
        self.serving = asyncio.create_task(self.server.serve(sockets=[self.listener]))
        await until(lambda: self.server.started or (self.serving is not None and self.serving.done()))

    async def stop(self) -> float:
        """Leave as on SIGTERM; return the seconds it took."""
        assert self.serving is not None
        begun = asyncio.get_running_loop().time()
        self.server.should_exit = True
        async with asyncio.timeout(PATIENCE * 2):
            await self.serving
        return round(asyncio.get_running_loop().time() - begun, 3)  # which is how exact uvloop's clock is

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections) + len(self.server.config.refused)

    @asynccontextmanager
    async def connect(self, *, receive_buffer: int | None = None) -> AsyncIterator["Raw"]:
        """Open a plain TCP connection, with so small a receive buffer if given."""
        with socket.socket() as connection:
            if receive_buffer is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            connection.setblocking(False)  # noqa: FBT003 - how the standard library has it
            await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", self.port))
            yield Raw(connection)

    @asynccontextmanager
    async def dial(self, **options: Any) -> AsyncIterator[ClientConnection]:
        """Open a WebSocket."""
        async with websockets.connect(
            f"ws://127.0.0.1:{self.port}/v1/ws",
            ping_interval=None,
            compression=None,
            proxy=None,
            close_timeout=1,
            **options,
        ) as connection:
            yield connection


class Raw:
    """A TCP connection that reads only when told to."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.reset = False
        """Whether the stream ended with a reset, which may overtake what was sent before it."""
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(PATIENCE):
            await self._loop.sock_sendall(self._connection, data)

    async def read(self, until: bytes) -> bytes:
        """Read up to and with some bytes."""
        data = b""
        async with asyncio.timeout(PATIENCE):
            while not data.endswith(until):
                part = await self._loop.sock_recv(self._connection, 1)
                assert part, data
                data += part
        return data

    async def read_all(self) -> bytes:
        """Read to the end of the stream, however it comes."""
        data = b""
        try:
            async with asyncio.timeout(PATIENCE):
                while part := await self._loop.sock_recv(self._connection, 65_536):
                    data += part
        except ConnectionError:
            self.reset = True
        return data

    async def shake_hands(self) -> None:
        await self.send(HANDSHAKE + b"\r\n")
        assert (await self.read(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what has no event of its own."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


def frame(op: int, payload: bytes, *, final: bool = True) -> bytes:
    """Write a client's frame, masked with zeros (RFC 6455, section 5.2)."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 65_536:
        length = bytes([0x80 | 126]) + struct.pack("!H", size)
    else:
        length = bytes([0x80 | 127]) + struct.pack("!Q", size)
    return bytes([final << 7 | op]) + length + bytes(4) + payload


def read_status(response: bytes) -> int:
    return int(response.split(b" ", 2)[1])


def read_problem(response: bytes) -> dict[str, Any]:
    head, _, body = response.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head, response
    assert b"connection: close" in head
    problem: dict[str, Any] = json.loads(body)
    return problem


def served(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test while its edge serves, in the edge's kind of event loop."""

    @functools.wraps(test)
    def run(edge: Edge, **others: Any) -> None:
        with asyncio.Runner(loop_factory=edge.loop_factory) as runner:
            runner.run(edge.live(test(edge, **others)))

    return run
