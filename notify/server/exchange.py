"""One request and its answer.

Keeps uvicorn's promises with less work: an answer whose length is known, as nearly all are, leaves in one piece, head and body,
in one system call. The checks of its head are one pass over all of its lines.

    started ──▶ held ──▶ written with a whole body, at once
       │         └─────▶ written before a body in parts, or one that a slow client has to make room for
       └───────────────▶ written, when nobody knows how long the body will be
"""

import re
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from notify.api.answers import Headers

FIT = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+: [^\x00-\x08\x0a-\x1f\x7f]*\r\n)*")
"""Header lines (RFC 9110, section 5): a name is a token, a value has no control character but the tab."""

LINE_PARTS = 4
"""A name, a colon, a value, and the one end of line that may be in all of them."""

FRAMING = frozenset({b"connection", b"transfer-encoding", b"content-length"})
"""Headers that say where an answer ends, and whether another follows."""


class Exchange(RequestResponseCycle):
    """uvicorn's cycle of a request and its answer, which holds the head of an answer back until its body comes."""

    def answer(self, status: int, lines: Headers, body: bytes) -> None:
        """Write a whole answer, for who took the request by a shortcut; `lines` has its content-length.

        What its client has yet to read of answers before is within the transport's bound. Does nothing when the client is
        gone. Raises ValueError, and drops the connection, for an answer of unknown length or with lines that do not fit.
        """
        if not self.disconnected:
            head = self._write_head({"status": status, "headers": lines})
            if head is None:
                self.release()
                self.transport.abort()  # nobody else would end the wait of its client
                raise ValueError("answers to a shortcut are our own: of a known length, on lines that fit")
            self._finish(head, body)
        self.release()

    def release(self) -> None:
        """Let go of the connection, as uvicorn does at the end of a task: they refer to each other."""
        self.on_response = ignore

    _head: bytes | None = None
    _started: Any = None
    _length = 0

    async def send(self, message: Any) -> None:
        """Take a part of the answer (ASGI)."""
        if self.response_started or self.disconnected:
            await super().send(message)
        elif message["type"] == "http.response.start":
            self._head = self._write_head(message)
            self._started = message
            if self._head is None:
                await super().send(message)
        elif self._head is not None and self._is_whole(message):
            self._finish(self._head, message.get("body", b""))
        else:
            if self._started is not None:
                await super().send(self._started)
            await super().send(message)

    def _write_head(self, message: Any) -> bytes | None:
        """Return the head of an answer that can wait for its body; None for any that is uvicorn's business."""
        if self.access_log or self.scope["method"] == "HEAD":
            return None
        lines: list[bytes] = []
        length = None
        for name, value in message.get("headers", ()):
            lines += (name, b": ", value, b"\r\n")
            if (low := name.lower()) in FRAMING:
                if low != b"content-length" or length is not None or not value.isdigit():
                    return None
                length = int(value)
        head = b"".join(lines)
        if length is None or FIT.fullmatch(head) is None or head.count(b"\r\n") * LINE_PARTS != len(lines):
            return None
        self._length = length
        defaults = [name + b": " + value + b"\r\n" for name, value in self.default_headers]
        return b"".join((STATUS_LINE[message["status"]], *defaults, head))

    def _is_whole(self, message: Any) -> bool:
        """Whether this is all of the body, as long as the head says, and the client reads."""
        return (
            message["type"] == "http.response.body"
            and not message.get("more_body", False)
            and len(message.get("body", b"")) == self._length
            and not self.flow.write_paused
        )

    def _finish(self, head: bytes, body: bytes) -> None:
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        self.transport.write(b"".join((head, b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n", body)))
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


def ignore() -> None:
    """Do nothing: the response was complete before."""
