"""Which users are connected to this process, and through which sessions. No I/O.

Keeps invariant 4 from this side: a wake-up for a user reaches that user's sessions and nobody else's.
"""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Protocol
from uuid import UUID

from notify import metrics
from notify.auth import Identity
from notify.errors import Close
from notify.frames import WireCodec
from notify.model import Entry


class Offer(Protocol):
    """A message that is not stored, encoded once for each way it is written."""

    def encode(self, codec: WireCodec) -> str | bytes:
        """Return the frame as it goes on the wire."""
        ...


class Delivery(Protocol):
    """An entry that came along with its wake-up, encoded once for each way it is written."""

    seq: int
    queued_at: float
    """When it was numbered, in unix seconds."""

    @property
    def entry(self) -> Entry:
        """All there is to it."""
        ...

    def encode(self, codec: WireCodec) -> str | bytes:
        """Return the frame as it goes on the wire. Raises what the codec raises."""
        ...


class Listener(Protocol):
    """What the hub needs of a session. The sessions of sockets and of event streams are two of them."""

    @property
    def id(self) -> UUID:
        """Its name in the whole cluster."""
        ...

    @property
    def identity(self) -> Identity:
        """What its token says."""
        ...

    @property
    def protocol(self) -> str:
        """How its frames are written: a WebSocket subprotocol, or `text/event-stream`."""
        ...

    @property
    def opened_at(self) -> float:
        """When it opened, in seconds of time.monotonic()."""
        ...

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

    def deliver(self, delivery: Delivery) -> None:
        """Learn that the head moved, and what by: an entry that need not be fetched if it is the next one."""
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


class Watcher(Protocol):
    """Who wants to know which sessions come and go."""

    def note_opened(self, session: Listener) -> None:
        """Learn that a session is here."""
        ...

    def note_closed(self, session: Listener) -> None:
        """Learn that it is gone."""
        ...


class Hub:
    """The sessions of this process by user, oldest first."""

    def __init__(self, *, max_sessions: int) -> None:
        self._max_sessions = max_sessions
        self._sessions: dict[str, list[Listener]] = {}
        self._count = 0
        self.watcher: Watcher | None = None
        self.emptied = asyncio.Event()
        """Set while no session is open."""
        self.emptied.set()

    def __len__(self) -> int:
        """Open sessions."""
        return self._count

    def __iter__(self) -> Iterator[Listener]:
        """All sessions, as of now: the hub may change meanwhile."""
        return iter([session for sessions in self._sessions.values() for session in sessions])

    def __contains__(self, user: object) -> bool:
        """Whether a user has a session here."""
        return user in self._sessions

    @property
    def user_count(self) -> int:
        """Users connected here."""
        return len(self._sessions)

    def users(self) -> Sequence[str]:
        """Everyone connected here."""
        return list(self._sessions)

    def of(self, user: str) -> Sequence[Listener]:
        """Return the sessions of one user, oldest first."""
        return tuple(self._sessions.get(user, ()))

    def add(self, session: Listener) -> None:
        """Register a session; beyond the limit of its user the oldest one goes."""
        sessions = self._sessions.setdefault(session.user, [])
        sessions.append(session)
        self._count += 1
        metrics.OPENED.inc()
        metrics.SESSIONS.inc()
        self.emptied.clear()
        if self.watcher is not None:
            self.watcher.note_opened(session)
        for old in sessions[: max(0, len(sessions) - self._max_sessions)]:
            old.leave(Close.TOO_MANY_SESSIONS)

    def remove(self, session: Listener) -> None:
        """Forget a session. Idempotent."""
        sessions = self._sessions.get(session.user, [])
        if session in sessions:
            sessions.remove(session)
            self._count -= 1
            metrics.SESSIONS.dec()
            if not self._count:
                self.emptied.set()
            if self.watcher is not None:
                self.watcher.note_closed(session)
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

    def deliver(self, user: str, delivery: Delivery) -> None:
        """Hand a user's sessions the entry by which the head moved."""
        for session in self._sessions.get(user, ()):
            session.deliver(delivery)
