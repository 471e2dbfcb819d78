"""One connection of a device: the pump, the reader, the window. Knows no framework.

A cursor chasing a head: while the session's position is behind the head, fetch the next page, send it, move on;
otherwise sleep until woken. Replay, live delivery, retraction and read marks are this one loop.

    opening ──▶ replaying ──▶ live ⇄ replaying (woken, or the window opened)
                     └──────────┴──▶ leaving ──▶ closed

Keeps invariant 2 (strictly rising seqs), invariant 3 (an unacknowledged entry is sent again at the next connection)
and invariant 6 (what is in memory is bounded by the window; a peer that does not read costs nothing but its socket).
One task owns the socket's writes, the pump; it exists only while there is something to write.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

import msgspec
import structlog
from msgspec import UNSET, UnsetType

from notify import clock, metrics, tracing
from notify.auth import Identity, Scope
from notify.batch import Interrupted
from notify.errors import Close, InvalidToken, NotifyError, Problem, SessionClosed
from notify.frames import (
    Ack,
    Auth,
    Authenticated,
    CaughtUp,
    ClientFrame,
    Disconnect,
    ErrorFrame,
    FrameError,
    Ping,
    Pong,
    Read,
    ServerFrame,
    Truncated,
    Welcome,
    WireCodec,
)
from notify.hub import Delivery, Hub, Offer
from notify.model import Entry, Kind, Page
from notify.store import Store
from notify.window import Window

log = structlog.get_logger()

LEEWAY_SECONDS = 30.0
"""How long a session outlives its token's `exp` (contract, section 5)."""

STUCK_SECONDS = 10.0
"""A single write that takes longer means that the peer does not read: the session is given up."""

GOODBYE_SECONDS = 2.0
"""How long a leaving session may take to get its last frames out."""

OPEN_SECONDS = 15.0
"""How long opening may wait for the database before the client is sent away to try again."""

MAX_ANSWERS = 32
"""Answers (pongs, errors) that wait for a slow peer; then its frames are not read until some are out."""

WRITE_BYTES = 32 * 1024
"""Of a page, what is written in one go: most pages whole, and half of what a transport takes before it makes us wait."""

MAX_FRAMES_PER_SECOND = 200
"""Frames that are read of one peer in a second; what comes beyond waits in its own socket.

An ack of something new is not counted: there are no more of those than entries sent, and a device that acknowledges each
one by itself would else be replayed no faster than this.
"""

MAX_OFFERS = 64
MAX_OFFERED_BYTES = 256 * 1024
"""Messages that are not stored, and their bytes (but always one), that wait for a peer; more are skipped (`ttl: 0`)."""


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

    async def receive(self) -> str | bytes:
        """Return the next message of the peer. Raises PeerGone."""
        ...

    async def close(self, close: Close) -> None:
        """Close politely."""
        ...

    def abort(self) -> None:
        """Drop the connection at once, unsent bytes and all."""
        ...


@dataclass(frozen=True, slots=True)
class Resume:
    """Where a client says it was: `after` in `epoch`."""

    after: int
    epoch: str | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """The numbers a session keeps to; see Settings."""

    max_unacked: int
    max_unacked_bytes: int
    ping_interval: float


@dataclass(slots=True)
class _Part:
    """What is written in one go: up to which seq it goes, the messages, and the entries they tell of."""

    passed: int = 0
    messages: list[str | bytes] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    size: int = 0


class Session:
    """One open connection of one device of one user."""

    __slots__ = (
        "_acked",
        "_answers",
        "_answers_room",
        "_auto_ack",
        "_caught_up",
        "_closing",
        "_codec",
        "_frames",
        "_frames_since",
        "_head",
        "_identity",
        "_limits",
        "_offered_bytes",
        "_offers",
        "_opened",
        "_over",
        "_position",
        "_pump_task",
        "_quiet_since",
        "_retry_after",
        "_skipped_to",
        "_socket",
        "_store",
        "_verify",
        "_window",
        "_writing_since",
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
        self._auto_ack = auto_ack
        self._position = 0  # the last seq sent or passed
        self._acked = 0  # what the device's cursor is, or will be once the acks on their way are down
        self._skipped_to = 0  # so far a client resumed ahead of its cursor: only its own ack says that it has all that
        self._head = 0
        self._window = Window(limits.max_unacked, limits.max_unacked_bytes)
        self._answers: list[ServerFrame] = []
        self._answers_room: asyncio.Event | None = None
        self._offers: list[str | bytes] = []  # messages that are not stored, waiting to be written
        self._offered_bytes = 0
        self._caught_up = False
        self._opened = False
        self._over = False  # the goodbye is said, or the peer is gone: nothing is written any more
        self._closing: Close | None = None
        self._retry_after: float | None = None
        self._pump_task: asyncio.Task[None] | None = None
        self._quiet_since = self._frames_since = time.monotonic()
        self._frames = 0
        self._writing_since: float | None = None

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
        if head > self._head:
            self._head = head
            self._start_pump()

    def deliver(self, delivery: Delivery) -> None:
        """Send the entry that came with its wake-up, if it is the next one and nothing is in the way; else fetch it."""
        if delivery.seq <= self._head:
            return
        self._head = delivery.seq
        if not (self._is_idle and self._position == delivery.seq - 1 and self._pass_on(delivery)):
            self._start_pump()

    @property
    def _is_idle(self) -> bool:
        """Whether all that there was to say is written, and nothing is in the way of more."""
        waiting = self._pump_task is not None or self._answers or self._offers or self._window.is_full
        return self._caught_up and self._closing is None and not self._over and not waiting

    def _pass_on(self, delivery: Delivery) -> bool:
        """Write an entry at once. Returns False, and nothing happened, when that would need waiting or can't be done."""
        try:
            message = delivery.encode(self._codec)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return False  # the pump will count it, and pass over it
        if not self._socket.send_now(message):
            return False
        self._quiet_since = time.monotonic()
        self._pass(_Part(delivery.seq, [message], [delivery.entry]))
        self._count((delivery.entry,))
        if not self._window:
            self._settle()
        return True

    def leave(self, close: Close, *, retry_after: float | None = None) -> None:
        """Say goodbye with a `disconnect` frame, close, end. The first reason counts."""
        if self._closing is None:
            self._closing = close
            self._retry_after = retry_after
            self._writing_since = self._writing_since or time.monotonic()
            self._start_pump(force=True)

    def inspect(self, now: float) -> None:
        """Do what is due: ping after silence, leave after the token's end, give up on a peer that does not read."""
        if self._closing is None and self._opened and clock.now() > self._identity.expires_at + LEEWAY_SECONDS:
            self.leave(Close.TOKEN_EXPIRED)
        elif self._writing_since is not None:
            patience = STUCK_SECONDS if self._closing is None else GOODBYE_SECONDS
            if now - self._writing_since > patience:
                if self._closing is None:
                    self.leave(Close.SLOW_CONSUMER)
                    self._writing_since = now
                else:
                    self._socket.abort()
        elif self._opened and now - self._quiet_since >= self._limits.ping_interval and not self._answers:
            self._answer(Ping())

    def offer(self, message: Offer) -> None:
        """Send a message that is not stored, unless this session is not yet caught up, or slower than they come."""
        if self._caught_up and self._closing is None and len(self._offers) < MAX_OFFERS:
            encoded = message.encode(self._codec)
            if not self._offers or self._offered_bytes + len(encoded) <= MAX_OFFERED_BYTES:
                self._offers.append(encoded)
                self._offered_bytes += len(encoded)
                self._start_pump()

    def confirm(self, seq: int) -> None:
        """Learn that the device acknowledged by another way: what that covers need not be acknowledged here."""
        if seq <= self._position:
            self._acked = max(self._acked, seq)
            self._acknowledge(seq)

    # The life of it

    async def run(self, hub: Hub, resume: Resume | None) -> None:
        """Serve the connection until it ends. Cancelling it drops the connection."""
        hub.add(self)
        try:
            await self._open(resume)
            while True:
                await self._handle(await self._socket.receive())
                await self._moderate()
        except PeerGone:
            pass
        except SessionClosed as closed:
            self.leave(closed.close)
        finally:
            hub.remove(self)
            await self._finish()

    async def _finish(self) -> None:
        """Let the pump say goodbye if it has to, and take it down."""
        task = self._pump_task
        if task is None:
            return
        if self._closing is None:
            task.cancel()
        done, _pending = await asyncio.wait({task}, timeout=GOODBYE_SECONDS)
        if not done:
            self._socket.abort()
            task.cancel()
            await asyncio.wait({task})

    async def _open(self, resume: Resume | None) -> None:
        # The hub already knows this session: a head that moves from here on is heard of, whatever is read below.
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                standing = await self._store.mailboxes.open(self.user, self.device)
        except TimeoutError:
            raise SessionClosed(Close.RESTART, "the database does not answer") from None
        self._acked = self._position = standing.cursor
        recovered = True
        if resume is not None:
            recovered = resume.after <= standing.head and resume.epoch in {None, standing.epoch}
            if recovered:
                self._position = resume.after
                if resume.after > standing.cursor and not self._auto_ack:
                    self._skipped_to = resume.after
        self._head = max(self._head, standing.head)
        self._opened = True
        self._answer(
            Welcome(
                session=str(self.id),
                user=self.user,
                device=self.device,
                epoch=standing.epoch,
                after=self._position,
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

    async def _handle(self, message: str | bytes) -> None:
        try:
            frame = self._codec.decode(message)
        except FrameError as error:
            await self._reply(ErrorFrame(code="bad_frame", detail=str(error)))
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
            self._acknowledge(frame.seq)
        elif isinstance(frame, Ping):
            await self._reply(Pong())
        elif isinstance(frame, Auth):
            await self._refresh(frame.token)
        else:
            await self._mark_read(frame)

    async def _mark_read(self, frame: Read) -> None:
        """Mark notifications read. All devices hear of it through their mailbox, this one included."""
        try:
            if isinstance(frame.up_to, int) and frame.seqs is UNSET:
                await self._store.inbox.mark_up_to(self.user, frame.up_to)
            elif not isinstance(frame.seqs, UnsetType) and frame.up_to is UNSET:
                await self._store.inbox.mark(self.user, frame.seqs)
            else:
                await self._reply(ErrorFrame(code="bad_frame", detail="read: give either `up_to` or `seqs`"))
        except (Problem, Interrupted) as error:
            await self._reply(ErrorFrame(code="unavailable", detail=f"the mark was not stored: {error}"))

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
        await self._reply(Authenticated(expires_in=self._expires_in()))

    async def _reply(self, frame: ServerFrame) -> None:
        """Queue an answer; while too many wait, whoever asks for them waits too."""
        while len(self._answers) >= MAX_ANSWERS:
            if self._over:
                raise PeerGone
            self._answers_room = asyncio.Event()
            await self._answers_room.wait()
        self._answer(frame)

    def _answer(self, frame: ServerFrame) -> None:
        self._answers.append(frame)
        self._start_pump()

    def _acknowledge(self, seq: int) -> None:
        """Take a cumulative ack. Beyond what was sent, or behind what is acknowledged, it means nothing."""
        if seq > self._position:
            return
        if acknowledged := self._window.acknowledge(seq):
            self._frames -= 1
            self._store.activity.count_acks(len(acknowledged))
            now = clock.now()
            for accepted in acknowledged:
                if accepted:
                    self._store.activity.count_ack_latency(now - accepted)
        if seq >= self._skipped_to:
            self._skipped_to = 0
        self._settle(seq)
        if self._position < self._head:
            self._start_pump()

    def _settle(self, acked: int = 0) -> None:
        """Move the cursor over all that is acknowledged or over: up to the first entry still awaiting its ack."""
        settled = self._window.settled(self._position)
        if self._skipped_to:
            settled = min(settled, acked)
        if settled > self._acked:
            self._acked = settled
            self._store.mailboxes.ack(self.user, self.device, settled)

    # The pump

    def _start_pump(self, *, force: bool = False) -> None:
        if self._pump_task is None and not self._over and (self._opened or force):
            self._pump_task = asyncio.get_running_loop().create_task(self._pump(), name="session pump")

    async def _pump(self) -> None:
        """Write until there is nothing left to write."""
        over = True
        try:
            while await self._pump_once():
                pass
            over = self._closing is not None
        except PeerGone:
            self._socket.abort()
        except NotifyError as error:
            log.warning("session.failed", session=str(self.id), reason=str(error))
            self._socket.abort()
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("session.broken", session=str(self.id))
            self._socket.abort()
        finally:
            self._pump_task = None
            self._over = over
            if over and self._answers_room is not None:
                self._answers_room.set()

    async def _pump_once(self) -> bool:
        """Do the most urgent thing there is to do. Returns whether there was one."""
        if self._answers:
            await self._write_answers()
            return True
        if self._closing is not None:
            await self._say_goodbye(self._closing)
            return False
        if self._offers:
            message = self._offers.pop(0)
            self._offered_bytes -= len(message)
            await self._write(message)
            return True
        if self._position < self._head:
            return await self._chase()
        if not self._caught_up:
            self._caught_up = True
            await self._write(self._codec.encode(CaughtUp(seq=self._position)))
            return True
        return False

    async def _chase(self) -> bool:
        """Fetch the next page and send it. Returns False when the window is full: an ack starts the pump again."""
        if self._window.is_full:
            return False
        told = self._head
        page = await self._store.mailboxes.fetch(self.user, self._position, *self._window.room)
        if self._head == told:
            self._head = page.head  # a wake-up that promised more was wrong; believing it would never end
        await self._send_page(page)
        return True

    async def _send_page(self, page: Page) -> None:
        self._head = max(self._head, page.head)
        if self._position < page.floor:
            metrics.TRUNCATED.inc()
            await self._write(self._codec.encode(Truncated(from_=self._position + 1, to=page.floor)))
            self._position = page.floor
        for part in self._frame_entries(page.entries):
            await self._write_answers()
            if self._closing is not None:
                return
            await self._write_part(part)
        if page.complete and not page.entries:
            self._position = max(self._position, page.head)
        if not self._window:
            self._settle()

    def _frame_entries(self, entries: Sequence[Entry]) -> Iterator[_Part]:
        """Yield a page in parts that are written in one go."""
        part = _Part()
        for entry in entries:
            part.passed = entry.seq
            if entry.live and (message := self._frame(entry)) is not None:
                part.messages.append(message)
                part.entries.append(entry)
                part.size += len(message)
                if part.size >= WRITE_BYTES:
                    yield part
                    part = _Part(entry.seq)
        yield part

    def _frame(self, entry: Entry) -> str | bytes | None:
        """Return an entry as it goes on the wire; None, counted, when no codec can encode it."""
        try:
            return self._codec.encode_entry(entry)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            metrics.UNREADABLE.inc()
            log.error(  # noqa: TRY400 - its traceback could hold the payload
                "entry.unreadable", notification=str(entry.notification_id), reason=type(error).__name__
            )
            return None

    async def _write_part(self, part: _Part) -> None:
        self._pass(part)
        if part.messages:
            await self._write(*part.messages)
            self._count(part.entries)

    def _pass(self, part: _Part) -> None:
        """Move on past what is now written, or is over."""
        self._position = max(self._position, part.passed)
        if not self._auto_ack:
            for message, entry in zip(part.messages, part.entries, strict=True):
                self._window.add(entry.seq, len(message), self._accepted_at(entry))

    def _accepted_at(self, entry: Entry) -> float:
        """Return when a notification was accepted, or 0 for one of the backlog: its wait says nothing about this service."""
        if not self._caught_up or entry.kind is not Kind.NOTIFICATION or entry.queued_at is None:
            return 0.0
        return entry.queued_at.timestamp()

    def _count(self, entries: Sequence[Entry]) -> None:
        now, took = clock.now(), time.monotonic() - self._quiet_since
        for entry in entries:
            if entry.context is not None and tracing.active is not None:
                tracing.active.deliver(entry.context, entry.notification_id, entry.seq, took)
            if entry.kind is Kind.NOTIFICATION and entry.queued_at is not None:
                accepted = self._accepted_at(entry)
                self._store.activity.count_delivery(now - accepted if accepted else None)
                if self._auto_ack:
                    self._store.activity.count_acks(1)

    async def _write_answers(self) -> None:
        while self._answers:
            frame = self._answers.pop(0)
            if self._answers_room is not None:
                self._answers_room.set()
            await self._write(self._codec.encode(frame))

    async def _write(self, *messages: str | bytes) -> None:
        self._quiet_since = self._writing_since = time.monotonic()
        await self._socket.send(*messages)
        self._writing_since = None

    async def _say_goodbye(self, close: Close) -> None:
        metrics.CLOSED.labels(int(close)).inc()
        frame = Disconnect(code=close, reason=close.reason, reconnect=close.reconnect)
        if self._retry_after is not None:
            frame = msgspec.structs.replace(frame, retry_after_ms=int(self._retry_after * 1000))
        if self._opened:
            await self._write(self._codec.encode(frame))
        self._writing_since = time.monotonic()
        await self._socket.close(close)
