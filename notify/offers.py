"""Messages that are not stored (`ttl: 0`), waiting for a session's turn to write them. Pure: no I/O, no clock.

Keeps invariant 6 for one session: they are bounded in count and in bytes, and a peer that is slow misses some.
"""

from collections import deque

MAX_OFFERS, MAX_OFFERED_BYTES = 64, 256 * 1024
"""What waits for a slow peer at most (but always one message)."""

BURST_OFFERS, BURST_OFFERED_BYTES = 1_000, 2 * 1024 * 1024
"""The same while nothing waits for the peer: a whole batch may come before the session has its turn."""


class Offers:
    """A short queue of encoded messages."""

    __slots__ = ("_bytes", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[str | bytes] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        """Messages that wait."""
        return len(self._waiting)

    def put(self, message: str | bytes, *, slow: bool) -> bool:
        """Queue a message, unless that is too many for a peer that is slow or not. Returns whether it was."""
        most, room = (MAX_OFFERS, MAX_OFFERED_BYTES) if slow else (BURST_OFFERS, BURST_OFFERED_BYTES)
        if self._waiting and (len(self._waiting) >= most or self._bytes + len(message) > room):
            return False
        self._waiting.append(message)
        self._bytes += len(message)
        return True

    def take(self) -> str | bytes:
        """Return the oldest message."""
        message = self._waiting.popleft()
        self._bytes -= len(message)
        return message
