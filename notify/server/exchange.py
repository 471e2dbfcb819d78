"""One request and its answer.

Keeps uvicorn's promises with less work: an answer whose length is known, as nearly all are, leaves in one piece, head and body,
in one system call. The checks of its head are one pass over all of its lines.

    started ──▶ held ──▶ written with a whole body, at once
       │         └─────▶ written before a body in parts, or one that a slow client has to make room for
       └───────────────▶ written, when nobody knows how long the body will be
"""

from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from notify.api.answers import Headers, write_lines

FRAMING = frozenset({b"connection", b"transfer-encoding", b"content-length"})
"""Headers that say where an answer ends, and whether another follows."""

_defaults: tuple[Headers, bytes] = ((), b"")


class Exchange(RequestResponseCycle):
    """uvicorn's cycle of a request and its answer, which holds the head of an answer back until its body comes."""

    def answer(self, status: int, lines: bytes, body: bytes) -> None:
        """Write a whole answer, for who took the request by a shortcut; `lines` are its headers but for its length.

        What its client has yet to read of answers before is within the transport's bound. Does nothing when the client is
        gone.
        """
        if not self.disconnected:
            head = (
                STATUS_LINE[status],
                write_defaults(self.default_headers),
                lines,
                b"content-length: %d\r\n" % len(body),
            )
            self._finish(b"".join(head), body)
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
        headers = list(message.get("headers", ()))  # any iterable will do (ASGI)
        length = None
        for name, value in headers:
            if (low := name.lower()) in FRAMING:
                if low != b"content-length" or length is not None or not value.isdigit():
                    return None
                length = int(value)
        if length is None:
            return None
        try:
            lines = write_lines(headers)
        except ValueError:
            return None
        self._length = length
        return b"".join((STATUS_LINE[message["status"]], write_defaults(self.default_headers), lines))

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


def write_defaults(headers: Headers) -> bytes:
    """Return the lines that every answer has. uvicorn makes a new list of them each second; the last one used is remembered."""
    global _defaults  # noqa: PLW0603 - a process has one
    if _defaults[0] is not headers:
        _defaults = headers, write_lines(headers)
    return _defaults[1]
