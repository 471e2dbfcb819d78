"""One connection of a device: what it says is obeyed here, what it is told goes through its pump. Knows no framework.

    connecting ──▶ open: the reader obeys, the pump writes ──▶ leaving (a goodbye) ──▶ closed

Keeps invariant 6 from the reader's side: a peer is read no faster than is fair, and not at all while its answers wait.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

from msgspec import UNSET, UnsetType

from notify import clock
from notify.auth import Identity, Scope
from notify.batch import Interrupted
from notify.errors import Close, InvalidToken, NotifyError, Problem, SessionClosed
from notify.frames import (
    Ack,
    Auth,
    Authenticated,
    ClientFrame,
    ErrorFrame,
    FrameError,
    Ping,
    Pong,
    Read,
    Welcome,
    WireCodec,
)
from notify.hub import Delivery, Hub, Offer
from notify.limits import Limits
from notify.peer import PeerGone, Socket
from notify.pump import Pump
from notify.store import Store

LEEWAY_SECONDS = 30.0
"""How long a session outlives its token's `exp` (contract, section 5)."""

OPEN_SECONDS = 15.0
"""How long opening may wait for the database before the client is sent away to try again."""

MAX_FRAMES_PER_SECOND = 200
"""Frames that are read of one peer in a second; what comes beyond waits in its own socket.

An ack of something new is not counted: there are no more of those than entries sent, and a device that acknowledges each
one by itself would else be replayed no faster than this.
"""

MARK_FRAMES = 10
"""Of those, what a read mark counts for: it is a transaction, and the others' sends wait for the same database."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Where a client says it was: `after` in `epoch`."""

    after: int
    epoch: str | None = None


class Session:
    """One open connection of one device of one user."""

    __slots__ = (
        "_codec",
        "_frames",
        "_frames_since",
        "_identity",
        "_limits",
        "_pump",
        "_socket",
        "_store",
        "_verify",
        "device",
        "id",
        "opened_at",
        "user",
    )

    def __init__(  # noqa: PLR0913 - what a session is made of, each named by its caller
        self,
        session_id: UUID,
        socket: Socket,
        codec: WireCodec,
        identity: Identity,
        device: str,
        *,
        store: Store,
        limits: Limits,
        verify: Callable[[str], Awaitable[Identity]],
        auto_ack: bool = False,
    ) -> None:
        self.id = session_id
        self.user = identity.subject
        self.device = device
        self.opened_at = time.monotonic()
        self._socket = socket
        self._codec = codec
        self._identity = identity
        self._store = store
        self._limits = limits
        self._verify = verify
        self._pump = Pump(session_id, socket, codec, self.user, device, store=store, limits=limits, auto_ack=auto_ack)
        self._frames_since = time.monotonic()
        self._frames = 0

    @property
    def identity(self) -> Identity:
        """What the token of the moment says."""
        return self._identity

    @property
    def protocol(self) -> str:
        """How its frames are written."""
        return self._codec.subprotocol

    # From the hub

    def wake(self, head: int) -> None:
        """Learn that the head moved."""
        self._pump.wake(head)

    def deliver(self, delivery: Delivery) -> None:
        """Learn that the head moved, and what by."""
        self._pump.deliver(delivery)

    def offer(self, message: Offer) -> None:
        """Send a message that is not stored, unless this session is not yet caught up, or slower than they come."""
        self._pump.offer(message)

    def confirm(self, seq: int) -> None:
        """Learn that the device acknowledged by another way: what that covers need not be acknowledged here."""
        self._pump.confirm(seq)

    def leave(self, close: Close, *, retry_after: float | None = None) -> None:
        """Say goodbye with a `disconnect` frame, close, end. The first reason counts."""
        self._pump.leave(close, retry_after=retry_after)

    def inspect(self, now: float) -> None:
        """Do what is due: leave after the token's end; ping after silence, give up on a peer that does not read."""
        if self._pump.is_live and clock.now() > self._identity.expires_at + LEEWAY_SECONDS:
            self.leave(Close.TOKEN_EXPIRED)
        else:
            self._pump.inspect(now)

    # The life of it

    async def run(self, hub: Hub, resume: Resume | None) -> None:
        """Serve the connection until it ends. Cancelling it drops the connection."""
        hub.add(self)
        try:
            await self._open(resume)
            self._socket.listen(self._take)
            while True:
                await self._handle(await self._socket.receive())
                await self._moderate()
        except PeerGone:
            pass
        except SessionClosed as closed:
            self.leave(closed.close)
        finally:
            hub.remove(self)
            try:
                await self._pump.finish()
            finally:
                self._store.mailboxes.acking.hurry(self.user, self.device)

    async def _open(self, resume: Resume | None) -> None:
        # The hub already knows this session: a head that moves from here on is heard of, whatever is read below.
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                standing = await self._store.mailboxes.open(self.user, self.device)
        except TimeoutError:
            raise SessionClosed(Close.RESTART, "the database does not answer") from None
        position, recovered = standing.cursor, True
        if resume is not None:
            recovered = resume.after <= standing.head and resume.epoch in {None, standing.epoch}
            if recovered:
                position = resume.after
        self._pump.open(standing.cursor, position, standing.head, standing.database)
        self._pump.answer(
            Welcome(
                session=str(self.id),
                user=self.user,
                device=self.device,
                epoch=standing.epoch,
                after=position,
                head=standing.head,
                recovered=recovered,
                unread=standing.unread,
                ping_interval=self._limits.ping_interval,
                expires_in=self._expires_in(),
            )
        )

    def _expires_in(self) -> int:
        return max(0, int(self._identity.expires_at - clock.now()))

    # The reader

    def _take(self, message: str | bytes) -> bool:
        """Do what needs no waiting, and no moderation: an ack of something new. Tells whether it was one."""
        try:
            frame = self._codec.decode(message)
        except NotifyError:
            return False  # the reader answers it
        return isinstance(frame, Ack) and self._pump.acknowledge(frame.seq)

    async def _handle(self, message: str | bytes) -> None:
        try:
            frame = self._codec.decode(message)
        except FrameError as error:
            await self._pump.reply(ErrorFrame(code="bad_frame", detail=str(error)))
            return
        await self._obey(frame)

    async def _moderate(self) -> None:
        """Read no faster than is fair to everybody else's sockets."""
        now = time.monotonic()
        if now - self._frames_since >= 1.0:
            self._frames_since, self._frames = now, 0
        self._frames += 1
        if self._frames > MAX_FRAMES_PER_SECOND:
            await asyncio.sleep(self._frames_since + 1.0 - now)

    async def _obey(self, frame: ClientFrame) -> None:
        if isinstance(frame, Ack):
            if self._pump.acknowledge(frame.seq):
                self._frames -= 1
        elif isinstance(frame, Ping):
            await self._pump.reply(Pong())
        elif isinstance(frame, Auth):
            await self._refresh(frame.token)
        else:
            self._frames += MARK_FRAMES - 1
            await self._mark_read(frame)

    async def _mark_read(self, frame: Read) -> None:
        """Mark notifications read. All devices hear of it through their mailbox, this one included."""
        try:
            if isinstance(frame.up_to, int) and frame.seqs is UNSET:
                await self._store.inbox.mark_up_to(self.user, frame.up_to)
            elif not isinstance(frame.seqs, UnsetType) and frame.up_to is UNSET:
                await self._store.inbox.mark(self.user, frame.seqs)
            else:
                await self._pump.reply(ErrorFrame(code="bad_frame", detail="read: give either `up_to` or `seqs`"))
        except (Problem, Interrupted) as error:
            await self._pump.reply(ErrorFrame(code="unavailable", detail=f"the mark was not stored: {error}"))

    async def _refresh(self, token: str) -> None:
        """Take a fresh token for the same user."""
        try:
            identity = await self._verify(token)
        except InvalidToken as error:
            raise SessionClosed(Close.UNAUTHENTICATED, str(error)) from None
        if identity.subject != self.user:
            raise SessionClosed(Close.FORBIDDEN, "the token is for another user")
        if not identity.may(Scope.RECEIVE):
            raise SessionClosed(Close.FORBIDDEN, f"the token lacks the scope {Scope.RECEIVE}")
        self._identity = identity
        await self._pump.reply(Authenticated(expires_in=self._expires_in()))
