"""WebSocket connections: uvicorn's protocol, whose close can't be held up by a peer that doesn't read.

Promises that nothing a peer sends or leaves unread grows in memory, and that nothing of it ends in a traceback.
"""

from asyncio import TimerHandle
from typing import Any

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from notify.errors import InvalidRequest
from notify.server.limits import Config
from notify.server.transport import Transport, say_goodbye, write_response

MAX_PARTS = 64
"""Fragments of a message kept apart: one of two bytes costs forty."""


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, whose close can't be held up by a peer that doesn't read, and which is quiet."""

    config: Config

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._deaf = False

    def data_received(self, data: bytes) -> None:
        """Parse, until it is over. A handshake that can't be read gets an answer."""
        if self._deaf:
            return
        super().data_received(data)
        if not self.handshake_initiated:
            problem = InvalidRequest("the WebSocket handshake can't be read")
            self._leave(write_response(problem, self.default_headers))

    def handle_connect(self, event: Any) -> None:
        """Offer the transport to the application."""
        super().handle_connect(event)
        if not self.close_sent:
            self.scope["extensions"]["notify.transport"] = Transport(self.transport, self._forget_handshake)  # type: ignore[assignment]  # ours

    def _forget_handshake(self) -> None:
        self.scope = None  # type: ignore[assignment]  # the application has read it

    def handle_cont(self, event: Any) -> None:
        """Add a fragment. Their size is limited by the parser, their number here."""
        if len(self.frames) >= MAX_PARTS:
            self.frames = [b"".join(self.frames)]
        super().handle_cont(event)

    def handle_ping(self) -> None:
        """Answer a ping, unless the peer doesn't read the answers (RFC 6455, section 5.5.3, wants only the latest)."""
        pong = b"".join(self.conn.data_to_send())
        if self.writable.is_set():
            self.transport.write(pong)

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
        """Send. A close gets a deadline after which the connection is dropped. Raises ClientDisconnected."""
        # The deadline comes first: a close has to wait until the peer has read what was sent before it.
        timer = self._drop_later() if message["type"] == "websocket.close" else None
        await self.writable.wait()
        if self.disconnected or self._deaf or self.transport.is_closing():
            raise ClientDisconnected
        await super().send(message)
        if timer is not None and self.close_timer is not None and self.close_timer is not timer:
            self.close_timer.cancel()  # uvicorn's own, which waits for the peer
            self.close_timer = timer
        if message["type"] == "websocket.accept":
            self.request = self.response = None  # type: ignore[assignment]  # 3 KiB that nobody needs again

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
