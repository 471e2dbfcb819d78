"""Which users are connected to this process, and through which sessions. No I/O.

Keeps invariant 4 from this side: a wake-up for a user reaches that user's sessions and nobody else's.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from notify.errors import Close
from notify.frames import WireCodec


class Offer(Protocol):
    """A message that is not stored, encoded once for each way it is written."""

    def encode(self, codec: WireCodec) -> str | bytes:
        """Return the frame as it goes on the wire."""
        ...


class Listener(Protocol):
    """What the hub needs of a session. The sessions of sockets and of event streams are two of them."""

    @property
    def user(self) -> str:
        """Whose session this is."""
        ...

    @property
    def device(self) -> str:
        """On which device."""
        ...

    def wake(self, head: int) -> None:
        """Learn that the mailbox's head is now at least `head`."""
        ...

    def offer(self, message: Offer) -> None:
        """Send a message that is not stored, if the session can keep up."""
        ...

    def confirm(self, seq: int) -> None:
        """Learn that the device acknowledged `seq` by another way."""
        ...

    def leave(self, close: Close, *, retry_after: float | None = None) -> None:
        """Say goodbye and end. `retry_after` is in seconds."""
        ...

    def inspect(self, now: float) -> None:
        """Do what is due at `now` (seconds of the event loop's clock): ping, expire, give up on a stuck peer."""
        ...


class Hub:
    """The sessions of this process by user, oldest first."""

    def __init__(self, *, max_sessions: int) -> None:
        self._max_sessions = max_sessions
        self._sessions: dict[str, list[Listener]] = {}
        self._count = 0

    def __len__(self) -> int:
        """Open sessions."""
        return self._count

    def __iter__(self) -> Iterator[Listener]:
        """All sessions, as of now: the hub may change meanwhile."""
        return iter([session for sessions in self._sessions.values() for session in sessions])

    def users(self) -> Sequence[str]:
        """Everyone connected here."""
        return list(self._sessions)

    def of(self, user: str) -> Sequence[Listener]:
        """The sessions of one user, oldest first."""
        return tuple(self._sessions.get(user, ()))

    def add(self, session: Listener) -> None:
        """Register a session; beyond the limit of its user the oldest one goes."""
        sessions = self._sessions.setdefault(session.user, [])
        sessions.append(session)
        self._count += 1
        for old in sessions[: max(0, len(sessions) - self._max_sessions)]:
            old.leave(Close.TOO_MANY_SESSIONS)

    def remove(self, session: Listener) -> None:
        """Forget a session. Idempotent."""
        sessions = self._sessions.get(session.user, [])
        if session in sessions:
            sessions.remove(session)
            self._count -= 1
        if not sessions:
            self._sessions.pop(session.user, None)

    def offer(self, user: str, message: Offer) -> None:
        """Offer a message that is not stored to a user's sessions."""
        for session in self._sessions.get(user, ()):
            session.offer(message)

    def confirm(self, user: str, device: str, seq: int) -> None:
        """Tell the sessions of a device that it acknowledged by another way."""
        for session in self._sessions.get(user, ()):
            if session.device == device:
                session.confirm(seq)

    def wake(self, user: str, head: int) -> None:
        """Tell a user's sessions where the head is."""
        for session in self._sessions.get(user, ()):
            session.wake(head)
