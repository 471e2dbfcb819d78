"""The other side of a connection, as a session needs it. Knows no framework."""

from collections.abc import Callable
from typing import Protocol

from notify.errors import Close, NotifyError


class PeerGone(NotifyError):
    """The other side closed or lost the connection: nothing more can be sent or received."""


class Socket(Protocol):
    """The connection as a session needs it; a WebSocket and an event stream are two of them."""

    async def send(self, *messages: str | bytes) -> None:
        """Write messages, in one go; waits while the peer reads slower than this. Raises PeerGone."""
        ...

    def send_now(self, message: str | bytes) -> bool:
        """Write a message if that needs no waiting; tell whether it was done."""
        ...

    def listen(self, take: Callable[[str | bytes], bool]) -> None:
        """Have messages looked at as soon as they come; what `take` takes is not received any more."""
        ...

    async def receive(self) -> str | bytes:
        """Return the next message of the peer. Raises PeerGone."""
        ...

    async def close(self, close: Close) -> None:
        """Close politely."""
        ...

    def abort(self) -> None:
        """Drop the connection at once, unsent bytes and all."""
        ...
