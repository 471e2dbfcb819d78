"""The server's edge: whatever a peer sends, or fails to send or to read, costs a bounded time and disturbs nobody.

A tiny application on a real uvicorn, a real port and raw sockets; the limits are small ones.
"""

import asyncio
import functools
import json
import logging
import os
import resource
import signal
import socket
import struct
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop
import websockets
from websockets.asyncio.client import ClientConnection

from notify.errors import ConfigurationError
from notify.server import Server, ServerLimits, Transport, build_server, open_listener, raise_file_limit
from notify.settings import KIB, MIB, Settings

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
TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9

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
    """The server in the test's event loop. `handle` serves each connection; `drain` is what a drain does."""

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
        self.server: Server = build_server(self, drain=self.run_drain, settings=settings, limits=limits)
        self.serving: asyncio.Task[None] | None = None

    async def do_nothing(self) -> None:
        pass

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
        await test
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
        return asyncio.get_running_loop().time() - begun

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections) + len(self.server.config.refused)

    @asynccontextmanager
    async def connect(self, *, receive_buffer: int | None = None) -> AsyncIterator["Raw"]:
        """Open a plain TCP connection, with so small a receive buffer if given."""
        connection = socket.socket()
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.setblocking(False)  # noqa: FBT003 - how the standard library has it
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", self.port))
        with connection:
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
        with suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE):
                while part := await self._loop.sock_recv(self._connection, 65_536):
                    data += part
        return data

    async def shake_hands(self) -> None:
        await self.send(HANDSHAKE + b"\r\n")
        assert (await self.read(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what has no event of its own."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - it has none
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


@pytest.fixture
def settings() -> Settings:
    return Settings(_env_file=None)  # type: ignore[call-arg]  # pydantic's own


@pytest.fixture
def limits() -> ServerLimits:
    return LIMITS


@pytest.fixture(params=[uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def edge(
    request: pytest.FixtureRequest, limits: ServerLimits, settings: Settings, caplog: pytest.LogCaptureFixture
) -> Iterator[Edge]:
    """Make a server for each event loop; closing and half-closing is where they differ. Faults may not be logged."""
    caplog.set_level(logging.INFO)
    edge = Edge(limits, settings, request.param)
    with edge.listener:
        yield edge
    assert [record.getMessage() for record in caplog.records if record.name != "asyncio" or record.exc_info] == []


def served(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test while its edge serves, in the edge's kind of event loop."""

    @functools.wraps(test)
    def run(edge: Edge, **others: Any) -> None:
        with asyncio.Runner(loop_factory=edge.loop_factory) as runner:
            runner.run(edge.live(test(edge, **others)))

    return run


# ---------------------------------------------------------------- requests that don't arrive


@pytest.mark.parametrize("beginning", [b"", b"GET / HTTP/1.1\r\nHost", HANDSHAKE, b"\r\n"])
@served
async def test_headers_that_stop_half_way_are_cut_off(edge: Edge, beginning: bytes) -> None:
    async with edge.connect() as raw:
        await raw.send(beginning)
        assert await raw.read_all() == b""
    assert edge.connections == 0


@served
async def test_headers_of_a_further_request_have_their_time_too(edge: Edge) -> None:
    async with edge.connect() as raw:
        await raw.send(REQUEST + b"\r\n")
        await raw.read(b"\r\n\r\n0")
        await raw.send(b"GET / HT")
        assert await raw.read_all() == b""


@served
async def test_a_body_that_stops_half_way_is_cut_off(edge: Edge) -> None:
    async with edge.connect() as raw:
        await raw.send(POST + b"Content-Length: 10\r\n\r\nabc")
        assert await raw.read_all() == b""


@served
async def test_a_request_that_takes_long_to_answer_is_not_cut_off(edge: Edge) -> None:
    release = asyncio.Event()

    async def wait(peer: Peer) -> None:
        await release.wait()
        await answer(peer, b"late")

    edge.handle = wait
    async with edge.connect() as raw:
        await raw.send(REQUEST + b"\r\n")
        asyncio.get_running_loop().call_later(LIMITS.header_seconds + LIMITS.body_seconds + 0.1, release.set)
        assert (await raw.read(b"late")).startswith(b"HTTP/1.1 200 ")


# ---------------------------------------------------------------- requests that are too much


@pytest.mark.parametrize(
    "request_",
    [REQUEST + b"X: " + b"a" * 20 * KIB, REQUEST + b"X: aaaaa\r\n" * 2_000, HANDSHAKE + b"X: " + b"a" * 100 * KIB],
)
@served
async def test_headers_over_the_limit_get_431_and_the_end(edge: Edge, request_: bytes) -> None:
    async with edge.connect() as raw:
        await raw.send(request_ + b"\r\n\r\n")
        response = await raw.read_all()
    assert read_status(response) == 431
    assert read_problem(response)["type"] == "headers-too-large"


@served
async def test_headers_that_come_byte_by_byte_are_counted_all_the_same(edge: Edge) -> None:
    async with edge.connect() as raw:
        await raw.send(REQUEST + b"X: ")
        for _ in range(17):
            await raw.send(b"a" * KIB)
        assert read_status(await raw.read_all()) == 431


@pytest.mark.parametrize("lines", [b"X: " + b"a" * 9_000 + b"\r\n", b"X: a\r\n" * 200], ids=["long", "many"])
@served
async def test_handshake_lines_that_the_websockets_library_would_not_read_get_431(edge: Edge, lines: bytes) -> None:
    async with edge.connect() as raw:
        await raw.send(HANDSHAKE + lines + b"\r\n")
        assert read_status(await raw.read_all()) == 431


@pytest.mark.parametrize("header", [b"Authorization: Bearer ", b"Sec-WebSocket-Protocol: notify.v1, bearer."])
@served
async def test_a_token_of_4096_bytes_passes_beside_a_browsers_largest_headers(edge: Edge, header: bytes) -> None:
    async with edge.connect() as raw:
        await raw.send(HANDSHAKE + header + b"a" * 4_096 + b"\r\nCookie: " + b"c" * 7_900 + b"\r\n\r\n")
        assert read_status(await raw.read(b"\r\n\r\n")) == 101


@served
async def test_a_large_body_in_the_packet_of_its_headers_is_no_header(edge: Edge) -> None:
    async with edge.connect() as raw:
        await raw.send(POST + b"Content-Length: 40000\r\n\r\n" + b"a" * 40_000)
        assert (await raw.read(b"40000")).startswith(b"HTTP/1.1 200 ")


@served
async def test_trailers_are_no_headers_and_have_the_same_limit(edge: Edge) -> None:
    async with edge.connect() as raw:
        await raw.send(POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nAuthorization: Bearer x\r\n\r\n")
        await raw.read(b"\r\n\r\n1")
        await raw.send(POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: ")
        with suppress(ConnectionError):
            for _ in range(64):
                await raw.send(b"a" * KIB)
        assert await raw.read_all() == b""


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        "GET /é HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        HANDSHAKE.replace(b"/v1", "/é".encode()) + b"\r\n",
        HANDSHAKE + b"Content-Length: 5\r\n\r\nabcde",
        HANDSHAKE + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
@served
async def test_what_is_no_http_gets_400_and_no_line_in_the_log(edge: Edge, request_: bytes) -> None:
    async with edge.connect() as raw:
        await raw.send(request_)
        response = await raw.read_all()
    assert read_status(response) == 400
    assert read_problem(response)["type"] == "invalid-request"


@served
async def test_an_upgrade_to_something_else_is_answered_as_if_it_were_not_there(edge: Edge) -> None:
    async with edge.connect() as raw:
        await raw.send(REQUEST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n")
        response = await raw.read_all()
    assert read_status(response) == 200
    assert b"connection: close" in response


@pytest.mark.parametrize("limits", [replace(LIMITS, max_connections=2)])
@served
async def test_one_connection_too_many_gets_503_at_once_and_a_free_place_is_taken(edge: Edge) -> None:
    async with edge.dial(), edge.connect() as second:
        await second.send(REQUEST + b"\r\n")
        await second.read(b"\r\n\r\n0")
        async with edge.connect() as third:
            await third.send(HANDSHAKE + b"\r\n")
            response = await third.read_all()
        assert read_status(response) == 503
        assert b"Retry-After: " in response
        assert read_problem(response)["type"] == "unavailable"
    await until(lambda: edge.connections == 0)
    async with edge.dial() as connection:
        await connection.send("there")
        assert await connection.recv() == "there"


# ---------------------------------------------------------------- sockets that don't read


@served
async def test_a_close_drops_a_peer_that_does_not_read(edge: Edge) -> None:
    ended = asyncio.Event()

    async def fill_and_close(peer: Peer) -> None:
        await peer.accept()
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                while True:
                    await peer.send({"type": "websocket.send", "bytes": b"x" * 65_536})
        assert peer.transport.write_buffer_size() > 0
        try:
            await peer.send({"type": "websocket.close", "code": 4508})
        except OSError:
            ended.set()

    edge.handle = fill_and_close
    async with edge.connect(receive_buffer=4_096) as raw:
        await raw.shake_hands()
        async with asyncio.timeout(PATIENCE):
            await ended.wait()
        await until(lambda: edge.connections == 0)


@served
async def test_an_abort_ends_a_send_that_waits_for_a_peer_that_does_not_read(edge: Edge) -> None:
    peers: asyncio.Queue[Peer] = asyncio.Queue()
    ended = asyncio.Event()

    async def fill(peer: Peer) -> None:
        await peer.accept()
        peers.put_nowait(peer)
        try:
            while True:
                await peer.send({"type": "websocket.send", "bytes": b"x" * 65_536})
        finally:
            ended.set()

    edge.handle = fill
    async with edge.connect(receive_buffer=4_096) as raw:
        await raw.shake_hands()
        peer = await peers.get()
        await until(lambda: peer.transport.write_buffer_size() > 64 * KIB)
        peer.transport.abort()
        async with asyncio.timeout(PATIENCE):
            await ended.wait()


@served
async def test_pings_of_a_peer_that_does_not_read_the_pongs_take_no_memory(edge: Edge) -> None:
    peers: asyncio.Queue[Peer] = asyncio.Queue()

    async def listen(peer: Peer) -> None:
        await peer.accept()
        await peer.receive()
        peers.put_nowait(peer)
        await peer.receive()

    edge.handle = listen
    pings = frame(PING, b"p" * 125) * 1_000
    async with edge.connect(receive_buffer=4_096) as raw:
        await raw.shake_hands()
        for _ in range(100):  # 12.7 MB of pongs, more than the kernel takes
            await raw.send(pings)
        await raw.send(frame(TEXT, b"all sent"))
        async with asyncio.timeout(PATIENCE):
            peer = await peers.get()
        assert peer.transport.write_buffer_size() < MIB
        peer.transport.abort()


@served
async def test_a_peer_that_answers_a_close_but_reads_nothing_is_dropped(edge: Edge) -> None:
    full = asyncio.Event()

    async def fill(peer: Peer) -> None:
        await peer.accept()
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                while True:
                    await peer.send({"type": "websocket.send", "bytes": b"x" * 65_536})
        full.set()
        await peer.receive()

    edge.handle = fill
    async with edge.connect(receive_buffer=4_096) as raw:
        await raw.shake_hands()
        async with asyncio.timeout(PATIENCE):
            await full.wait()
        await raw.send(frame(CLOSE, b"\x03\xe8"))
        await until(lambda: edge.connections == 0)


# ---------------------------------------------------------------- frames that are wrong


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(TEXT, b"a" * MIB), 1009),
        (frame(TEXT, b"a" * 10_000, final=False) + frame(0, b"a" * 10_000), 1009),
        (frame(TEXT, b"\xff\xfe") + frame(TEXT, b"more"), 1007),
        (frame(TEXT, b"\xed\xa0\x80"), 1007),
        (frame(3, b""), 1002),
    ],
    ids=["one MiB", "in two parts", "no UTF-8", "a lone surrogate", "unknown opcode"],
)
@served
async def test_a_frame_that_is_wrong_closes_with_its_code_and_the_peer_hears_it(
    edge: Edge, sent: bytes, code: int
) -> None:
    async with edge.connect() as raw:
        await raw.shake_hands()
        await raw.send(sent)
        received = await raw.read_all()
    assert received[0] == 0x80 | CLOSE
    assert struct.unpack("!H", received[2:4])[0] == code


@served
async def test_a_message_in_thousands_of_parts_arrives_whole(edge: Edge) -> None:
    async with edge.connect() as raw:
        await raw.shake_hands()
        await raw.send(frame(TEXT, b"ab", final=False) + frame(0, b"cd", final=False) * 5_000 + frame(0, b"ef"))
        await raw.read(b"ab" + b"cd" * 5_000 + b"ef")


@pytest.mark.parametrize("early", [b"\xff\xff\xff\xff", frame(CLOSE, b"\x03\xe8")], ids=["garbage", "close"])
@served
async def test_frames_before_the_handshake_is_over_end_it_quietly(edge: Edge, early: bytes) -> None:
    come = asyncio.Event()

    async def accept_late(peer: Peer) -> None:
        await come.wait()
        await peer.accept()
        await peer.send({"type": "websocket.send", "text": "never"})

    edge.handle = accept_late
    async with edge.connect() as raw:
        await raw.send(HANDSHAKE + b"\r\n")
        await raw.send(early)
        assert await raw.read_all() == b""
        come.set()


@served
async def test_a_message_and_a_close_in_one_packet_are_both_heard(edge: Edge) -> None:
    async with edge.connect() as raw:
        await raw.shake_hands()
        await raw.send(frame(BINARY, b"hi") + frame(CLOSE, b"\x03\xe8"))
        assert (await raw.read_all()).endswith(b"\x88\x02\x03\xe8")


# ---------------------------------------------------------------- leaving


@served
async def test_the_drain_comes_before_any_socket_is_closed_and_after_the_last_is_accepted(edge: Edge) -> None:
    goodbye = asyncio.Event()
    heard: list[str] = []

    async def say_goodbye() -> None:
        with pytest.raises(OSError, match=r"[Cc]onnect"):
            async with edge.connect():
                pass
        goodbye.set()
        await until(lambda: edge.connections == 0)

    async def wait(peer: Peer) -> None:
        await peer.accept()
        await goodbye.wait()
        await peer.send({"type": "websocket.send", "text": "goodbye"})
        await peer.send({"type": "websocket.close", "code": 4503})

    edge.handle, edge.drain = wait, say_goodbye
    async with edge.dial() as connection, edge.connect() as idle:
        await idle.send(b"GET")
        stopping = asyncio.create_task(edge.stop())
        heard.append(str(await connection.recv()))
        await connection.wait_closed()
        assert connection.close_code == 4503
        assert await idle.read_all() == b""
        assert await stopping < LIMITS.drain_seconds, "nobody had to be waited for"
    assert heard == ["goodbye"]
    assert edge.stopped


@served
async def test_a_drain_that_does_not_end_is_cut_off_and_who_is_left_hears_1012(edge: Edge) -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    edge.drain = never
    async with edge.dial() as connection:
        took = await edge.stop()
        await connection.wait_closed()
        assert connection.close_code == 1012
    assert LIMITS.drain_seconds <= took < LIMITS.drain_seconds + 1.0
    assert edge.stopped


@served
async def test_a_drain_that_fails_does_not_keep_the_rest_from_leaving(edge: Edge) -> None:
    async def fail() -> None:
        raise RuntimeError("broken")

    edge.drain = fail
    await edge.stop()
    assert edge.stopped


@served
async def test_a_socket_that_does_not_read_holds_up_nobody_who_leaves(edge: Edge) -> None:
    full = asyncio.Event()

    async def fill(peer: Peer) -> None:
        await peer.accept()
        while True:
            asyncio.get_running_loop().call_later(0.5, full.set)
            await peer.send({"type": "websocket.send", "bytes": b"x" * 65_536})

    edge.handle = fill
    async with edge.connect(receive_buffer=4_096) as raw:
        await raw.shake_hands()
        async with asyncio.timeout(PATIENCE):
            await full.wait()
        assert await edge.stop() < 1.0


@served
async def test_a_request_in_flight_is_answered_before_the_end(edge: Edge) -> None:
    begun, release = asyncio.Event(), asyncio.Event()

    async def wait(peer: Peer) -> None:
        begun.set()
        await release.wait()
        await answer(peer, b"late")

    edge.handle = wait
    async with edge.connect() as raw:
        await raw.send(REQUEST + b"\r\n")
        await begun.wait()
        stopping = asyncio.create_task(edge.stop())
        await until(lambda: not edge.listener._closed)  # noqa: SLF001 - nothing else tells that it has begun
        release.set()
        assert (await raw.read_all()).endswith(b"connection: close\r\n\r\nlate")
        await stopping


@served
async def test_a_request_that_does_not_end_is_cancelled_without_a_word(edge: Edge) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def hang(_peer: Peer) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    edge.handle = hang
    async with edge.connect() as raw:
        await raw.send(REQUEST + b"\r\n")
        await begun.wait()
        took = await edge.stop()
    assert cancelled.is_set()
    assert took < LIMITS.request_seconds + 1.0


async def test_an_application_that_does_not_start_is_not_served(limits: ServerLimits, settings: Settings) -> None:
    edge = Edge(limits, settings)
    edge.failing = True
    with edge.listener:
        await edge.start()
        assert edge.serving is not None
        await edge.serving
    assert not edge.server.started


PROGRAM = """
import asyncio, sys, uvloop
from notify.server import build_server, open_listener
from notify.settings import Settings
from tests.integration.test_server import LIMITS, Edge

async def stay():
    if sys.argv[1] == "stubborn":
        await asyncio.Event().wait()

edge = Edge(LIMITS, Settings(_env_file=None))
edge.drain = stay

async def main():
    serving = asyncio.create_task(edge.server.serve(sockets=[edge.listener]))
    while not edge.server.started:
        await asyncio.sleep(0.01)
    print(edge.port, flush=True)
    await serving

uvloop.run(main())
"""


@asynccontextmanager
async def run_program(manner: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """Serve in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        manner,
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            yield process, int(await process.stdout.readline())
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_process_with_0_and_nothing_on_standard_error(number: int) -> None:
    async with run_program("polite") as (process, port):
        async with websockets.connect(f"ws://127.0.0.1:{port}/v1/ws", proxy=None) as connection:
            process.send_signal(number)
            await connection.wait_closed()
            assert connection.close_code == 1012
        _, errors = await process.communicate()
    assert errors.decode() == ""
    assert process.returncode == 0


async def test_a_second_ctrl_c_waits_for_nothing_any_more() -> None:
    async with run_program("stubborn") as (process, port):
        async with websockets.connect(f"ws://127.0.0.1:{port}/v1/ws", proxy=None) as connection:
            process.send_signal(signal.SIGINT)
            await wait_for_refusal(port)
            process.send_signal(signal.SIGINT)
            await connection.wait_closed()
        _, errors = await process.communicate()
    assert errors.decode() == ""
    assert process.returncode == 0


async def wait_for_refusal(port: int) -> None:
    """Wait until nobody listens on the port any more."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return
            writer.close()
            await asyncio.sleep(0.005)


# ---------------------------------------------------------------- listening


def test_a_port_that_is_taken_is_reported_in_the_operators_words() -> None:
    with open_listener("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port}.*--port"):
            open_listener("127.0.0.1", port)


def test_a_host_that_is_none_is_reported() -> None:
    with pytest.raises(ConfigurationError, match="can't listen on"):
        open_listener("256.256.256.256", 8000)


def test_a_connection_inherits_the_timeout_for_peers_that_vanish() -> None:
    with open_listener("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()) as _client:
        listener.setblocking(True)  # noqa: FBT003 - how the standard library has it
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_the_file_limit_goes_as_far_up_as_it_can() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
        assert raise_file_limit() == (min(hard, 1024 * 1024) if hard != resource.RLIM_INFINITY else 1024 * 1024)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
