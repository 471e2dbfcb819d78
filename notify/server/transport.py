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
