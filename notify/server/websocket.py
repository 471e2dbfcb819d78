"""WebSocket connections: uvicorn's protocol, whose close can't be held up by a peer that doesn't read.

Promises that nothing a peer sends or leaves unread grows in memory, and that nothing of it ends in a traceback.
"""

import asyncio
from asyncio import TimerHandle
from collections.abc import Callable, Sequence
from typing import Any

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.datastructures import Headers
from websockets.http11 import Request
from websockets.protocol import Protocol, State

from notify.api.answers import write_lines
from notify.server.framing import read_frames, write_frame, write_frames
from notify.server.limits import Config
from notify.server.transport import Transport, say_goodbye

MAX_PARTS = 64
"""Fragments of a message kept apart: one of two bytes costs forty."""

PLAIN_BYTES = 8_192
"""Of what is received at once, how much may be read without the parser, in one go: 300 acks, two milliseconds."""

SLICE_BYTES = 1_024
"""Of anything else, how much is parsed at a time: 170 of the smallest frames, a millisecond."""

MAX_LESSER = 100
"""Frames that are no message (pings, pongs, fragments) read of a peer without a rest; messages are the session's to pace."""

REST_SECONDS = 0.1
"""How long those last: 1,000 to 1,700 a second, a hundredth of a core for each who does so."""

MAX_WAITING = 16
"""Small messages that wait for the application before no more are read: reading is stopped and begun again at a cost."""


class SocketTransport(Transport):
    """What an application may do to a WebSocket beyond ASGI."""

    __slots__ = ("_protocol",)

    def __init__(self, transport: asyncio.Transport, protocol: "WebSocketProtocol") -> None:
        super().__init__(transport)
        self._protocol = protocol

    def forget_handshake(self) -> None:
        """Let go of what only the beginning of a connection needed: a quarter of what an idle socket costs."""
        self._protocol.forget_handshake()

    def listen(self, take: Callable[[str | bytes], bool]) -> None:
        """Have small messages looked at as soon as they come; what `take` takes, `receive` never tells of."""
        if not self._transport.is_closing():  # else nothing comes any more, and they would hold on to each other
            self._protocol.take = take

    async def send_messages(self, messages: Sequence[str | bytes]) -> None:
        """Write messages in one go, once the peer has read enough of what was sent before. Raises ClientDisconnected."""
        await self._protocol.send_messages(messages)

    def send_now(self, message: str | bytes) -> bool:
        """Write a message if that needs no waiting; tell whether it was done."""
        return self._protocol.send_now(message)


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, whose close can't be held up by a peer that doesn't read, and which is quiet."""

    config: Config

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._deaf = False
        self._accept_key = ""
        self._in_step = True  # what is received begins with a frame: the parser holds no part of one
        self._unread = b""  # what came at once and is not parsed yet; while there is any, no more is read
        self._lesser = 0
        self._lesser_since = 0.0
        self._resting: TimerHandle | None = None
        self.take: Callable[[str | bytes], bool] | None = None
        """Who looks at small messages before they are queued for `receive`."""

    def data_received(self, data: bytes) -> None:
        """Parse, as far as it is fair to everybody else."""
        if self._deaf:
            return
        if self._unread or self._resting is not None:
            self._in_step = False
            self._unread += data
        elif not self._read_plain(data):
            self._unread = data
            self._parse_on()

    def _read_plain(self, data: bytes) -> bool:
        """Hand on what needs no parser. Returns whether it was that."""
        if not self._in_step:
            return False
        if len(data) > PLAIN_BYTES:
            self._in_step = False
            return False
        messages, self._in_step = read_frames(data)
        if messages is None or not self.handshake_complete or self.close_sent or self.conn.state is not State.OPEN:
            return False
        self._hand_on(messages)
        return True

    def _parse_on(self) -> None:
        """Parse slice after slice, until a message waits for the application or the peer has to rest."""
        while self._unread and not self.read_paused and not self._deaf:
            if self._lesser >= MAX_LESSER and self._rest():
                return
            part, self._unread = self._unread[:SLICE_BYTES], self._unread[SLICE_BYTES:]
            super().data_received(part)

    def _rest(self) -> bool:
        """Read no more for a moment, if the peer sent too much that is no message too fast. Returns whether it did."""
        now = self.loop.time()
        left = self._lesser_since + REST_SECONDS - now
        self._lesser, self._lesser_since = 0, now + max(0.0, left)
        if left <= 0 or self.transport.is_closing():
            return False
        self.transport.pause_reading()
        self._resting = self.loop.call_later(left, self._go_on)
        return True

    def _go_on(self) -> None:
        self._resting = None
        self._parse_on()
        if self._resting is None and not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        if self._resting is not None:
            self._resting.cancel()
        self.take = None
        super().connection_lost(exc)

    async def receive(self) -> Any:
        """Return the next message; what came together with it is parsed now that there is room for it."""
        message = await super().receive()
        if self._resting is None:
            self._parse_on()
        elif not self.transport.is_closing():
            self.transport.pause_reading()  # which uvicorn has resumed
        return message

    def _hand_on(self, messages: Sequence[str | bytes]) -> None:
        """Hand on small messages that needed no parser: at once what is taken so, in the order they came."""
        for message in messages:
            if self.take is not None and self.queue.empty() and self.take(message):
                continue
            kind = "text" if isinstance(message, str) else "bytes"
            self.queue.put_nowait({"type": "websocket.receive", kind: message})  # type: ignore[arg-type]  # either kind
        if not self.read_paused and self.queue.qsize() >= MAX_WAITING:
            self.read_paused = True
            self.transport.pause_reading()

    def take_over(self, transport: asyncio.Transport, scope: Any) -> None:
        """Begin where HTTP ends: check the handshake that was read as a request (`scope`), and call the application.

        uvicorn has its protocols read it twice, from text put together anew: a tenth of what a connection costs.
        """
        self.connections.add(self)
        self.transport = transport
        self.conn.parser = Protocol.parse(self.conn)  # from the first frame on: the handshake is read
        next(self.conn.parser)
        headers = Headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]])
        request = Request(scope["path"], headers, method=scope.pop("method"), protocol=f"HTTP/{scope['http_version']}")
        try:
            self._accept_key = self.conn.process_request(request)[0]
        except Exception:  # noqa: BLE001 - answered and, if it is nothing that a client can cause, logged by the library
            self._refuse(request)
        else:
            self._begin(scope, headers.get_all("Sec-WebSocket-Protocol"))

    def _refuse(self, request: Request) -> None:
        """Say what is wrong with a handshake, in the library's words."""
        self.handshake_complete = True
        self.conn.send_response(self.conn.accept(request))
        self._leave(b"".join(self.conn.data_to_send()))

    def _begin(self, scope: Any, offered: Sequence[str]) -> None:
        """Call the application, as uvicorn does (https://asgi.readthedocs.io/en/latest/specs/www.html)."""
        self.scope = scope | {
            "type": "websocket",
            "asgi": {"version": self.asgi_version, "spec_version": "2.4"},
            "scheme": "wss" if scope["scheme"] == "https" else "ws",
            "subprotocols": [name.strip() for line in offered for name in line.split(",")],
            "extensions": {"websocket.http.response": {}, "notify.transport": SocketTransport(self.transport, self)},
        }
        self.queue.put_nowait({"type": "websocket.connect"})
        task = self.loop.create_task(self.run_asgi())
        task.add_done_callback(self.on_task_complete)
        self.tasks.add(task)

    def forget_handshake(self) -> None:
        """Let go of the scope: idle sockets are many."""
        self.scope = None  # type: ignore[assignment]  # the application has read it

    def handle_cont(self, event: Any) -> None:
        """Add a fragment. Their size is limited by the parser, their number here."""
        self._lesser += 1
        if len(self.frames) >= MAX_PARTS:
            self.frames = [b"".join(self.frames)]
        super().handle_cont(event)

    def handle_ping(self) -> None:
        """Answer a ping, unless the peer doesn't read the answers (RFC 6455, section 5.5.3, wants only the latest)."""
        self._lesser += 1
        pong = b"".join(self.conn.data_to_send())
        if self.writable.is_set():
            self.transport.write(pong)

    def handle_pong(self, event: Any) -> None:  # noqa: ARG002 - uvicorn's signature
        """Take a pong that nobody asked for: this server sends no pings of the protocol."""
        self._lesser += 1

    def send_receive_event_to_app(self) -> None:
        """Hand on a message. Text that is no UTF-8 ends the connection (RFC 6455, section 8.1)."""
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self.frames = []
                self.conn.fail(1007, "text is UTF-8")
                self.handle_parser_exception()
                return
        super().send_receive_event_to_app()

    def handle_parser_exception(self) -> None:
        """Close on what can't be parsed (1002, 1007, 1009)."""
        sent = self.conn.close_sent
        code, reason = (sent.code, sent.reason) if sent is not None else (1006, "")  # none before the handshake is over
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self._leave(b"".join(self.conn.data_to_send()))

    def handle_close(self, event: Any) -> None:
        """Answer a close, or take its answer: what is unsent after that gets a deadline too."""
        super().handle_close(event)
        self._drop_later()

    async def send(self, message: Any) -> None:
        """Send. A close gets a deadline after which the connection is dropped.

        Raises ClientDisconnected, and ValueError for a header that does not fit on its line.
        """
        # The deadline comes first: a close has to wait until the peer has read what was sent before it.
        timer = self._drop_later() if message["type"] == "websocket.close" else None
        await self.writable.wait()
        if self.disconnected or self._deaf or self.transport.is_closing():
            raise ClientDisconnected
        if message["type"] == "websocket.accept" and not self.handshake_complete and self.initial_response is None:
            self._accept(message)
            return
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and self.close_sent:
            self.handshake_complete = True  # uvicorn would report an application that did not answer
        if timer is not None and self.close_timer is not None and self.close_timer is not timer:
            self.close_timer.cancel()  # uvicorn's own, which waits for the peer
            self.close_timer = timer
            if self._resting is None:
                self._parse_on()  # the peer's own close may be among what is unread

    def _accept(self, message: Any) -> None:
        """Answer the handshake (RFC 6455, section 4.2.2), in a fraction of the time that the library and uvicorn take.

        Raises ValueError for a header that does not fit on its line.
        """
        lines = [
            *self.default_headers,
            *message.get("headers", ()),
            (b"Upgrade", b"websocket"),
            (b"Connection", b"Upgrade"),
            (b"Sec-WebSocket-Accept", self._accept_key.encode()),
        ]
        if subprotocol := message.get("subprotocol"):
            lines.append((b"Sec-WebSocket-Protocol", subprotocol.encode("ascii")))
        self.transport.write(b"HTTP/1.1 101 Switching Protocols\r\n%b\r\n" % write_lines(lines))
        self.conn.state = State.OPEN
        self.handshake_complete = True

    async def send_messages(self, messages: Sequence[str | bytes]) -> None:
        """Write whole messages, each a frame, in one system call; waits while the peer reads slower than this."""
        await self.writable.wait()
        if not self._is_open():
            raise ClientDisconnected
        self.transport.write(write_frames(messages))

    def send_now(self, message: str | bytes) -> bool:
        """Write a whole message if the peer keeps up with reading; tell whether it was done."""
        if not (self.writable.is_set() and self._is_open()):
            return False
        self.transport.write(write_frame(message))
        return True

    def _is_open(self) -> bool:
        return not (self.disconnected or self.close_sent or self._deaf or self.transport.is_closing())

    def _leave(self, last_words: bytes) -> None:
        """Close without the application, listening no more."""
        self._deaf = self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self._drop_later()
        say_goodbye(self.transport, last_words)

    def _drop_later(self) -> TimerHandle:
        if self.close_timer is not None:
            self.close_timer.cancel()
        self.close_timer = self.loop.call_later(self.config.limits.close_seconds, self.transport.abort)
        return self.close_timer


def dismiss(connection: WebSocketProtocol) -> None:
    """Close a socket that the drain didn't reach with 1012; drop it if it would have to be waited for."""
    if connection.transport.is_closing() or connection.transport.get_write_buffer_size():
        connection.transport.abort()
    else:
        connection.shutdown()
