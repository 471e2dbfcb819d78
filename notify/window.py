"""What was sent to a device and not yet acknowledged: the window of a session. Pure: no I/O, no clock.

Keeps invariant 6 for one session: it is bounded in entries and in bytes, whatever the device does or doesn't say.
"""

from collections import deque


class Window:
    """Entries in the order of their seqs, up to `max_entries` and `max_bytes` of frames (the last one may go beyond)."""

    __slots__ = ("_bytes", "_max_bytes", "_max_entries", "_sent")

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._sent: deque[tuple[int, int, float]] = deque()  # (seq, bytes, when it was accepted; see `add`)
        self._bytes = 0

    def __len__(self) -> int:
        """Entries that await their ack."""
        return len(self._sent)

    @property
    def room(self) -> tuple[int, int]:
        """How many more entries and bytes may be sent; full when either is not above 0."""
        return self._max_entries - len(self._sent), self._max_bytes - self._bytes

    @property
    def is_full(self) -> bool:
        """Whether the rest has to wait for an ack."""
        return len(self._sent) >= self._max_entries or self._bytes >= self._max_bytes

    def add(self, seq: int, size: int, accepted: float) -> None:
        """Note that an entry goes out; `accepted` is when (unix seconds), or 0 where that says nothing about us."""
        self._sent.append((seq, size, accepted))
        self._bytes += size

    def acknowledge(self, seq: int) -> list[float]:
        """Let go of everything up to `seq`; return when each of those was accepted."""
        sent, acknowledged = self._sent, []
        while sent and sent[0][0] <= seq:
            _seq, size, accepted = sent.popleft()
            self._bytes -= size
            acknowledged.append(accepted)
        return acknowledged

    def settled(self, position: int) -> int:
        """Return up to where everything is acknowledged or over, of what was sent up to `position`."""
        return self._sent[0][0] - 1 if self._sent else position
