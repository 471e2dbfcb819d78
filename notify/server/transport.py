"""What is done to a connection beyond its protocol: dropping it, and last words to somebody who may not be reading."""

import asyncio

import msgspec

from notify.api.answers import describe
from notify.errors import Problem


class Transport:
    """What an application may do to its connection beyond ASGI, as `scope["extensions"]["notify.transport"]`."""

    __slots__ = ("_transport",)

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def abort(self) -> None:
        """Drop the connection at once, unsent bytes and all."""
        self._transport.abort()

    def write_buffer_size(self) -> int:
        """Return how many bytes the peer's slowness keeps in this process."""
        return self._transport.get_write_buffer_size()


class Cork:
    """An answer's transport, which holds back its head until its body comes: one system call instead of two.

    A body that does not come at once, as a stream's, holds up nothing: the head goes out with the loop's next turn.
    """

    __slots__ = ("_held", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: bytes | None = None

    def write(self, data: bytes) -> None:
        """Write; the first part waits for the second, for a turn at most."""
        if self._held is None:
            self._held = data
            self._loop.call_soon(self._flush)
        elif self._held:
            held, self._held = self._held, b""
            self._transport.write(held + data)
        else:
            self._transport.write(data)

    def _flush(self) -> None:
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held)

    def is_closing(self) -> bool:
        """Tell whether nothing more can be written."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Close once all of it is out."""
        self._flush()
        self._transport.close()


def say_goodbye(transport: asyncio.Transport, last_words: bytes) -> None:
    """Write the last bytes and end the stream, still reading.

    Closing with something unread would send a reset, which overtakes what was written (RFC 1122, section 4.2.2.13).
    """
    transport.write(last_words)
    if not transport.is_closing() and transport.can_write_eof():
        transport.write_eof()


def write_response(problem: Problem, default_headers: list[tuple[bytes, bytes]]) -> bytes:
    """Return a whole HTTP answer to somebody whose request never reached the application."""
    body = msgspec.json.encode(describe(problem))
    lines = [
        f"HTTP/1.1 {problem.status} {problem.title}",
        *(f"{name.decode('latin-1')}: {value.decode('latin-1')}" for name, value in default_headers),
        "content-type: application/problem+json",
        f"content-length: {len(body)}",
        "connection: close",
        *(f"{name}: {value}" for name, value in problem.headers.items()),
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
