"""The pump of a session: the one task that owns what is written to a connection; it exists only while there is something.

A cursor chasing a head: while the position is behind the head, fetch the next page, send it, move on; otherwise sleep
until woken. Replay, live delivery, retraction and read marks are this one loop. An entry that came along with its wake-up
needs neither a fetch nor the task, if it is the next one and nothing is in the way.

    opening ──▶ replaying ──▶ live ⇄ replaying (woken, or the window opened)
                     └──────────┴──▶ leaving ──▶ closed

Keeps invariant 2 (strictly rising seqs), invariant 3 (an unacknowledged entry is sent again at the next connection)
and invariant 6 (what is in memory is bounded by the window; a peer that does not read costs nothing but its socket).
"""

import asyncio
import time
from collections.abc import Sequence
from uuid import UUID

import msgspec
import structlog

from notify import clock, metrics, tracing
from notify.errors import Close, NotifyError
from notify.frames import CaughtUp, Disconnect, Ping, ServerFrame, Truncated, WireCodec
from notify.hub import Delivery, Offer
from notify.limits import Limits
from notify.model import Entry, Kind, Page
from notify.offers import Offers
from notify.pages import Pace, Part, frame_entries
from notify.peer import PeerGone, Socket
from notify.store import Store
from notify.window import Window

log = structlog.get_logger()

STUCK_SECONDS = 10.0
"""A single write that takes longer means that the peer does not read: the session is given up."""

GOODBYE_SECONDS = 2.0
"""How long a leaving session may take to get its last frames out."""

MAX_ANSWERS = 32
"""Answers (pongs, errors) that wait for a slow peer; then its frames are not read until some are out."""


class Pump:
    """What is written to one connection of one device of one user."""

    __slots__ = (
        "_acked",
        "_answers",
        "_answers_room",
        "_auto_ack",
        "_caught_up",
        "_closing",
        "_codec",
        "_database",
        "_device",
        "_head",
        "_limits",
        "_offers",
        "_opened",
        "_over",
        "_pace",
        "_position",
        "_quiet_since",
        "_retry_after",
        "_session_id",
        "_skipped_to",
        "_socket",
        "_store",
        "_task",
        "_user",
        "_window",
        "_writing_since",
    )

    def __init__(  # noqa: PLR0913 - what it is made of, each named by its caller
        self,
        session_id: UUID,
        socket: Socket,
        codec: WireCodec,
        user: str,
        device: str,
        *,
        store: Store,
        limits: Limits,
        auto_ack: bool,
    ) -> None:
        self._session_id = session_id
        self._socket = socket
        self._codec = codec
        self._user = user
        self._device = device
        self._store = store
        self._limits = limits
        self._auto_ack = auto_ack
        self._position = 0  # the last seq sent or passed
        self._acked = 0  # what the device's cursor is, or will be once the acks on their way are down
        self._skipped_to = 0  # so far a client resumed ahead of its cursor: only its own ack says that it has all that
        self._head = 0
        self._database = ""  # whose numbers these are
        self._window = Window(limits.max_unacked, limits.max_unacked_bytes)
        self._answers: list[ServerFrame] = []
        self._answers_room: asyncio.Event | None = None
        self._offers = Offers()
        self._pace = Pace()
        self._caught_up = False
        self._opened = False
        self._over = False  # the goodbye is said, or the peer is gone: nothing is written any more
        self._closing: Close | None = None
        self._retry_after: float | None = None
        self._task: asyncio.Task[None] | None = None
        self._quiet_since = time.monotonic()
        self._writing_since: float | None = None

    @property
    def is_live(self) -> bool:
        """Whether it is open and not about to leave."""
        return self._opened and self._closing is None

    def open(self, cursor: int, position: int, head: int, database: str) -> None:
        """Begin after `position`, where the device's cursor is at `cursor` and the head at `head` in an epoch of the database."""
        self._acked = cursor
        self._position = position
        if position > cursor and not self._auto_ack:
            self._skipped_to = position
        self._head = max(self._head, head)
        self._database = database
        self._opened = True

    # From the hub

    def wake(self, head: int) -> None:
        """Learn that the head moved."""
        if head > self._head:
            self._head = head
            self._start()

    def deliver(self, delivery: Delivery) -> None:
        """Send the entry that came with its wake-up, if it is the next one and nothing is in the way; else fetch it."""
        if delivery.seq <= self._head:
            return
        self._head = delivery.seq
        if not (self._is_idle and self._position == delivery.seq - 1 and self._pass_on(delivery)):
            self._start()

    @property
    def _is_idle(self) -> bool:
        """Whether all that there was to say is written, and nothing is in the way of more."""
        waiting = self._task is not None or self._answers or self._offers or self._window.is_full
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
        self._position = delivery.seq
        self._store.activity.count_delivery(clock.now() - delivery.queued_at)
        if self._auto_ack:
            self._store.activity.count_acks(1)
        else:
            self._window.add(delivery.seq, len(message), delivery.queued_at)
        if tracing.active is not None:
            tracing.trace_delivery(delivery.entry, 0.0)
        if not self._window:
            self._settle()
        return True

    def offer(self, message: Offer) -> None:
        """Send a message that is not stored, unless this session is not yet caught up, or slower than they come."""
        ready, slow = self._caught_up and self._closing is None, self._writing_since is not None
        if ready and self._offers.put(message.encode(self._codec), slow=slow):
            self._start()

    def confirm(self, seq: int) -> None:
        """Learn that the device acknowledged by another way: what that covers need not be acknowledged here."""
        if seq <= self._position:
            self._acked = max(self._acked, seq)
            self.acknowledge(seq)

    def leave(self, close: Close, *, retry_after: float | None = None) -> None:
        """Say goodbye with a `disconnect` frame, close, end. The first reason counts."""
        if self._closing is None:
            self._closing = close
            self._retry_after = retry_after
            self._writing_since = time.monotonic()  # a write that is stuck already gets as long as any other
            self._start(force=True)

    def inspect(self, now: float) -> None:
        """Do what is due: ping after silence, give up on a peer that does not read."""
        if self._writing_since is not None:
            patience = STUCK_SECONDS if self._closing is None else GOODBYE_SECONDS
            if now - self._writing_since > patience:
                if self._closing is None:
                    self.leave(Close.SLOW_CONSUMER)
                else:
                    self._socket.abort()
        elif self._opened and now - self._quiet_since >= self._limits.ping_interval and not self._answers:
            self.answer(Ping())

    # From the reader

    async def reply(self, frame: ServerFrame) -> None:
        """Queue an answer; while too many wait, whoever asks for them waits too."""
        while len(self._answers) >= MAX_ANSWERS:
            if self._over:
                raise PeerGone
            self._answers_room = asyncio.Event()
            await self._answers_room.wait()
        self.answer(frame)

    def answer(self, frame: ServerFrame) -> None:
        """Write a frame as soon as nothing is in the way."""
        self._answers.append(frame)
        self._start()

    def acknowledge(self, seq: int) -> bool:
        """Take a cumulative ack, and tell whether it said anything new. Beyond what was sent it means nothing."""
        if seq > self._position:
            return False
        if acknowledged := self._window.acknowledge(seq):
            self._store.activity.count_acks(len(acknowledged))
            now = clock.now()
            for accepted in acknowledged:
                if accepted:
                    self._store.activity.count_ack_latency(now - accepted)
        if seq >= self._skipped_to:
            self._skipped_to = 0
        if not self._auto_ack:  # what is written settles itself then, and what still waits to be is not settled by this
            self._settle(seq)
        if self._position < self._head:
            self._start()
        return bool(acknowledged)

    def _settle(self, acked: int = 0) -> None:
        """Move the cursor over all that is acknowledged or over: up to the first entry still awaiting its ack."""
        settled = self._window.settled(self._position)
        if self._skipped_to:
            settled = min(settled, acked)
        if settled > self._acked:
            self._acked = settled
            self._store.mailboxes.acking.put(self._user, self._device, settled, self._database)

    # The task

    async def finish(self) -> None:
        """Say goodbye if that is still to be done, and end."""
        task = self._task
        if task is None:
            self._over = True  # an ack may still come, and must not start what nobody waits for
            return
        if self._closing is None:
            task.cancel()
        done, _pending = await asyncio.wait({task}, timeout=GOODBYE_SECONDS)
        if not done:
            self._socket.abort()
            task.cancel()
            await asyncio.wait({task})

    def _start(self, *, force: bool = False) -> None:
        if self._task is None and not self._over and (self._opened or force):
            self._task = asyncio.get_running_loop().create_task(self._run(), name="session pump")

    async def _run(self) -> None:
        """Write until there is nothing left to write."""
        over = True
        try:
            while await self._do_next():
                pass
            over = self._closing is not None
        except PeerGone:
            self._socket.abort()
        except NotifyError as error:
            log.warning("session.failed", session=str(self._session_id), reason=str(error))
            self._socket.abort()
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("session.broken", session=str(self._session_id))
            self._socket.abort()
        finally:
            self._task = None
            self._over = over
            if over and self._answers_room is not None:
                self._answers_room.set()

    async def _do_next(self) -> bool:
        """Do the most urgent thing there is to do. Returns whether there was one."""
        if self._answers:
            await self._write_answers()
            return True
        if self._closing is not None:
            await self._say_goodbye(self._closing)
            return False
        if self._offers:
            await self._write(self._offers.take())
            return True
        if self._position < self._head:
            return await self._chase()
        if announcement := self._announce():
            await self._write(*announcement)
            return True
        return False

    def _announce(self) -> Sequence[str | bytes]:
        """Return `caught_up`, once, as soon as nothing is behind: it travels with what is written last before it."""
        if self._caught_up or self._closing is not None or self._position < self._head:
            return ()
        self._caught_up = True
        return (self._codec.encode(CaughtUp(seq=self._position)),)

    async def _chase(self) -> bool:
        """Fetch the next page and send it. Returns False when the window is full: an ack starts the pump again."""
        if self._window.is_full:
            return False
        await self._pace.wait()
        told = self._head
        page = await self._store.mailboxes.fetch(self._user, self._position, *self._window.room)
        if self._head == told:
            self._head = page.head  # a wake-up that promised more was wrong; believing it would never end
        await self._send_page(page)
        if self._position >= self._head:
            self._pace.end()
        return True

    async def _send_page(self, page: Page) -> None:
        self._head = max(self._head, page.head)
        if self._position < page.floor:
            metrics.TRUNCATED.inc()
            await self._write(self._codec.encode(Truncated(from_=self._position + 1, to=page.floor)))
            self._position = page.floor
        for part in frame_entries(page.entries, self._codec):
            await self._write_answers()
            if self._closing is not None:
                return
            accepted = self._pass(part)
            if part.messages:
                await self._write(*part.messages, *self._announce())
                self._count(part.entries, accepted)
        if page.complete and not page.entries:
            self._position = max(self._position, page.head)
        if not self._window:
            self._settle()

    def _pass(self, part: Part) -> Sequence[float]:
        """Move on past what is now written, or is over. Returns when each of the entries was accepted."""
        accepted = [self._accepted_at(entry) for entry in part.entries]
        self._position = max(self._position, part.passed)
        if not self._auto_ack:
            for message, entry, moment in zip(part.messages, part.entries, accepted, strict=True):
                self._window.add(entry.seq, len(message), moment)
        return accepted

    def _accepted_at(self, entry: Entry) -> float:
        """Return when a notification was accepted, or 0 for one of the backlog: its wait says nothing about this service."""
        if not self._caught_up or entry.kind is not Kind.NOTIFICATION or entry.queued_at is None:
            return 0.0
        return entry.queued_at.timestamp()

    def _count(self, entries: Sequence[Entry], accepted: Sequence[float]) -> None:
        now, took = clock.now(), time.monotonic() - self._quiet_since
        for entry, moment in zip(entries, accepted, strict=True):
            tracing.trace_delivery(entry, took)
            if entry.kind is Kind.NOTIFICATION and entry.queued_at is not None:
                self._store.activity.count_delivery(now - moment if moment else None)
                if self._auto_ack:
                    self._store.activity.count_acks(1)

    async def _write_answers(self) -> None:
        if count := len(self._answers):
            await self._write(*map(self._codec.encode, self._answers), *self._announce())
            del self._answers[:count]
            if self._answers_room is not None:
                self._answers_room.set()

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
