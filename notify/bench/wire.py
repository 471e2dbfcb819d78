"""The loader's two connections: HTTP/1.1 for sending, WebSocket for receiving. Both as cheap as Python allows.

A loader shares its machine with the service it measures, so whatever it costs is missing there. Hence no library
between the socket and the counters: one request at a time on a connection, whole answers with a Content-Length,
unfragmented text frames; what the service sends beyond that ends the connection and is counted as a failure.
"""

import asyncio
import base64
import os
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

CLIENT_TEXT = 0x81
CLIENT_CLOSE = 0x88
CLIENT_PONG = 0x8A
MASKED = 0x80
NO_MASK = b"\0\0\0\0"
"""A mask that changes nothing (RFC 6455, section 5.3): masks protect proxies from scripts in browsers."""

TEXT, CLOSE, PING = 0x1, 0x8, 0x9
LENGTH_16, LENGTH_64 = 126, 127
SMALL = 126
"""Bytes from which a frame's length needs more room; nothing that the loader sends is as long."""

SWITCHED = b"HTTP/1.1 101 "
END_OF_HEAD = b"\r\n\r\n"
LOST = 0
"""The status of a request whose connection ended before its answer."""


class Payload(msgspec.Struct, gc=False):
    """The `data` of the loader's notifications: its number, and when it was due in ns of the monotonic clock."""

    n: int
    due: int


class Received(msgspec.Struct, gc=False):
    """As much of a server's frame as the loader looks at."""

    op: str
    seq: int = 0
    data: Payload | None = None
    after: int = 0
    head: int = 0


_decode = msgspec.json.Decoder(Received).decode


class Witness(Protocol):
    """Who hears of what a device receives."""

    def deliver(self, number: int, due: int, now: int, *, in_order: bool) -> None:
        """Take a delivery. Times in ns of the monotonic clock; `in_order`: its seq is above all before it."""
        ...


def request_head(path: str, host: str, token: str) -> bytes:
    """Return a POST's head up to its Content-Length."""
    return (
        f"POST {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\n"
        "content-type: application/json\r\ncontent-length: "
    ).encode()


def upgrade_request(path: str, host: str, token: str) -> bytes:
    """Return the opening handshake (RFC 6455, section 4.1)."""
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {path} HTTP/1.1\r\nhost: {host}\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        f"sec-websocket-key: {key}\r\nsec-websocket-version: 13\r\nsec-websocket-protocol: notify.v1\r\n"
        f"authorization: Bearer {token}\r\n\r\n"
    ).encode()


class Sender(asyncio.Protocol):
    """A keep-alive HTTP connection that carries one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answered: Callable[[int, bytes], None] | None = None
        self._received = b""
        self._head_end = -1
        self._length = 0

    @property
    def connected(self) -> bool:
        """Whether a request can be sent."""
        return self._transport is not None

    def post(self, head: bytes, body: bytes, answered: Callable[[int, bytes], None]) -> None:
        """Send a request; `answered` gets the status and the body of its answer, or LOST."""
        if self._transport is None:
            answered(LOST, b"")
            return
        self._answered = answered
        self._transport.write(b"%b%d\r\n\r\n%b" % (head, len(body), body))

    def close(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin (asyncio)."""
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]  # uvloop's transports are no subclasses of asyncio's

    def data_received(self, data: bytes) -> None:
        """Take a part of an answer (asyncio)."""
        received = self._received + data if self._received else data
        if self._head_end < 0:
            self._head_end = received.find(END_OF_HEAD)
            if self._head_end < 0:
                self._received = received
                return
            at = received[: self._head_end].lower().find(b"content-length:")
            self._length = int(received[at + 15 : received.find(b"\r\n", at)]) if at >= 0 else 0
        start = self._head_end + 4
        if len(received) < start + self._length:
            self._received = received
            return
        self._received, self._head_end = b"", -1
        answered, self._answered = self._answered, None
        if answered is not None:
            answered(int(received[9:12]), received[start:])

    def connection_lost(self, _error: Exception | None) -> None:
        """End (asyncio); an answer that was awaited does not come any more."""
        self._transport = None
        self._received, self._head_end = b"", -1
        answered, self._answered = self._answered, None
        if answered is not None:
            answered(LOST, b"")


class Device(asyncio.Protocol):
    """A user's WebSocket, acknowledging what it gets: once a read, cumulatively, as a client would.

    One object survives its connections: it knows the last seq, so that a reconnect can be checked against it.
    """

    __slots__ = (
        "_acked",
        "_buffer",
        "_open",
        "_ponged",
        "_request",
        "_transport",
        "caught_up",
        "frames",
        "gone",
        "seq",
        "user",
        "witness",
    )

    def __init__(self, user: str, request: bytes, witness: Witness | None) -> None:
        self.user = user
        self.witness = witness
        self.seq = 0
        """The greatest seq received."""
        self.frames = 0
        """Text frames received on the current connection."""
        self.caught_up: Callable[[bool], None] | None = None
        """Called once: when the service says that the backlog is through, or with False when the connection ends."""
        self.gone: Callable[[], None] | None = None
        """Called when a connection that was open ends."""
        self._request = request
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._open = False
        self._acked = 0
        self._ponged: asyncio.Future[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether the handshake is through and the connection up."""
        return self._open

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with the handshake (asyncio)."""
        self._transport = transport  # type: ignore[assignment]  # uvloop's transports are no subclasses of asyncio's
        self._buffer = b""
        self._open = False
        self.frames = 0
        self._write(self._request)

    def data_received(self, data: bytes) -> None:
        """Take the handshake's answer, then frames (asyncio)."""
        if self._buffer:
            data = self._buffer + data
        if not self._open:
            end = data.find(END_OF_HEAD)
            if end < 0:
                self._buffer = data
                return
            if not data.startswith(SWITCHED):
                self.drop()
                return
            self._open = True
            data = data[end + 4 :]
            if self.witness is None:
                self._tell(caught_up=True)  # a floor's socket says nothing more
        self._read_frames(data)
        if self.seq > self._acked:
            self._acked = self.seq
            self.send(b'{"op":"ack","seq":%d}' % self.seq)

    def _read_frames(self, data: bytes) -> None:
        """Split what arrived into frames (RFC 6455, section 5.2); keep what is not complete."""
        now = time.monotonic_ns()
        place, total = 0, len(data)
        while total - place >= 2:  # noqa: PLR2004 - the two bytes every frame begins with
            length, start = data[place + 1], place + 2
            if length == LENGTH_16:
                start += 2
                length = int.from_bytes(data[place + 2 : start], "big")
            elif length == LENGTH_64:
                start += 8
                length = int.from_bytes(data[place + 2 : start], "big")
            end = start + length
            if end > total:
                break
            opcode = data[place] & 0x0F
            if opcode == TEXT:
                self.frames += 1
                if self.witness is not None:
                    self._read_text(data[start:end], now)
            elif opcode == PING:
                self._write(bytes((CLIENT_PONG, MASKED | length)) + NO_MASK + data[start:end])
            elif opcode == CLOSE:
                self.drop()
            place = end
        self._buffer = data[place:]

    def _read_text(self, text: bytes, now: int) -> None:
        frame = _decode(text)
        if frame.op == "notification":
            in_order = frame.seq > self.seq
            if in_order:
                self.seq = frame.seq
            if frame.data is not None and self.witness is not None:
                self.witness.deliver(frame.data.n, frame.data.due, now, in_order=in_order)
        elif frame.op == "caught_up":
            self._tell(caught_up=True)
        elif frame.op == "pong" and self._ponged is not None and not self._ponged.done():
            self._ponged.set_result(None)

    async def settle(self) -> None:
        """Return when the service has read all that was said so far, or the connection has ended."""
        self._ponged = asyncio.get_running_loop().create_future()
        self.send(b'{"op":"ping"}')
        await self._ponged

    def _tell(self, *, caught_up: bool) -> None:
        told, self.caught_up = self.caught_up, None
        if told is not None:
            told(caught_up)

    def send(self, text: bytes) -> None:
        """Send a text frame of less than 126 bytes."""
        assert len(text) < SMALL
        self._write(bytes((CLIENT_TEXT, MASKED | len(text))) + NO_MASK + text)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def drop(self) -> None:
        """Close the connection without a goodbye, as a network does."""
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, _error: Exception | None) -> None:
        """End (asyncio)."""
        was_open, self._open = self._open, False
        self._transport = None
        self._buffer = b""
        if self._ponged is not None and not self._ponged.done():
            self._ponged.set_result(None)
        self._tell(caught_up=False)
        if was_open and self.gone is not None:
            self.gone()
