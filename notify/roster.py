"""Who is here: this node and its sessions, told to the database for everybody to see.

Keeps the promise that sessions and nodes are known across processes for a batched write every second or two: what opened and
closed since the last report goes out in the next. A node that was taken for dead (frozen for long, or after a crash of
PostgreSQL) learns from the answer that it has to report all its sessions again. Also drives what else is due every second:
this node's part in the backlog, and every ten its activity.
"""

import asyncio
import os
import socket
import time
from contextlib import suppress
from itertools import islice
from typing import Protocol
from uuid import UUID

import structlog

from notify import __version__, clock, metrics
from notify.errors import NotifyError
from notify.hub import Hub, Listener
from notify.store import Store
from notify.store.acks import Device
from notify.store.sessions import NodeReport, OpenedSession

log = structlog.get_logger()

LOOK_SECONDS = 1.0
"""Pause between two looks at what was touched."""

REPORT_SECONDS = 2.0
"""Longest pause between two reports: a node not heard of for 30 s counts as dead."""

SETTLE_SECONDS = 0.05
BUSY_SECONDS = 1.0
"""Pause after a report, before what came since is reported: short while little happens, so that an admin sees it at once."""

FEW_CHANGES = 20
"""Up to this many sessions that opened or closed is little."""

MAX_CHANGES = 5_000
"""Sessions in one report."""

ACTIVITY_SECONDS = 10.0
"""Between two samples of what this node does."""


class Link(Protocol):
    """What the roster tells of the LISTEN link; see Bridge."""

    listening: asyncio.Event
    lag: float
    reconnects: int


class Roster:
    """Writes down this node and its sessions, and what is due every second. `draining` tells whether it is leaving."""

    def __init__(self, node: UUID, hub: Hub, store: Store, link: Link) -> None:
        self.node = node
        self.draining = False
        self._hub = hub
        self._store = store
        self._link = link
        self._started = time.monotonic()
        self._summed = self._started
        self._opened: dict[UUID, Listener] = {}
        self._closed: dict[UUID, Device] = {}  # whose they were, in the order they did
        self._watched: set[str] = set()
        self._changed = asyncio.Event()
        self._reporting = asyncio.Lock()
        self._known = False
        hub.watcher = self

    def note_opened(self, session: Listener) -> None:
        """Report a session with the next report."""
        self._opened[session.id] = session
        self._changed.set()

    def note_closed(self, session: Listener) -> None:
        """Report that it is gone, once what its device acknowledged is down; one that nobody heard of yet never was.

        Who is away is sent a push of what is pending, and what is acknowledged must not be.
        """
        if self._opened.pop(session.id, None) is None:
            self._closed[session.id] = (session.user, session.device)
            self._changed.set()

    async def run(self) -> None:
        """Report until cancelled; then take this node off the list."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._report_always(), name="roster report")
                tasks.create_task(self._look_always(), name="roster look")
                tasks.create_task(self._record_always(), name="roster activity")
        finally:
            await self._leave()

    async def report(self) -> None:
        """Report now, so that what follows sees this node's sessions as they are. Raises NotifyError; nothing is lost then.

        What changes meanwhile is not waited for: in a storm something always does.
        """
        async with self._reporting:
            left = max(1, len(self._opened), len(self._closed))
            while left > 0:
                known = await self._report_once()
                left = left - MAX_CHANGES if known else len(self._opened)

    async def _report_once(self) -> bool:
        """Report some changes. Returns False when all sessions are to be reported again: the node was taken for dead."""
        self._changed.clear()
        opened = dict(islice(self._opened.items(), MAX_CHANGES))
        acking = self._store.mailboxes.acking
        ready = ((session, device) for session, device in self._closed.items() if device not in acking)
        closed = dict(islice(ready, MAX_CHANGES))
        for session in opened:
            del self._opened[session]
        for session in closed:
            del self._closed[session]
        users = {session.user for session in opened.values()}
        now = time.monotonic()
        try:
            known = await self._store.sessions.report(
                NodeReport(
                    node=self.node,
                    host=socket.gethostname(),
                    pid=os.getpid(),
                    version=__version__,
                    age=now - self._started,
                    sum_age=now - self._summed,
                    sessions=len(self._hub),
                    users=self._hub.user_count,
                    draining=self.draining,
                    listening=self._link.listening.is_set(),
                    lag=self._link.lag,
                    reconnects=self._link.reconnects,
                ),
                [
                    OpenedSession(
                        s.id, s.user, s.device, s.protocol, s.identity.token_id, clock.now() - now + s.opened_at
                    )
                    for s in opened.values()
                ],
                list(closed),
                # Twice: two nodes that report at the same moment don't see each other's sessions the first time.
                users | self._watched,
            )
        except BaseException:
            # Those that closed meanwhile were noted as closed; telling of a session twice does no harm.
            self._opened = {id_: s for id_, s in opened.items() if id_ not in self._closed} | self._opened
            self._closed |= closed
            self._changed.set()
            raise
        self._watched = users
        if users or self._closed:
            self._changed.set()  # a second look at them, or at whose ack was not down, waits for nothing else to happen
        forgotten = self._known and not known
        self._known = True
        if forgotten:
            log.warning("node.forgotten", sessions=len(self._hub))
            self._opened = {session.id: session for session in self._hub}
        return not forgotten

    async def _report_always(self) -> None:
        with suppress(TimeoutError):  # a node that has only just started is not one whose link is down
            async with asyncio.timeout(REPORT_SECONDS):
                await self._link.listening.wait()
        while True:
            changes = len(self._opened) + len(self._closed)
            try:
                await self.report()
            except NotifyError as error:
                log.warning("roster.interrupted", reason=str(error))
                await asyncio.sleep(BUSY_SECONDS)
            await asyncio.sleep(SETTLE_SECONDS if changes <= FEW_CHANGES else BUSY_SECONDS)
            try:
                async with asyncio.timeout(REPORT_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _look_always(self) -> None:
        while True:
            began = time.monotonic()
            try:
                await self._store.backlog.look(self.node, listening=self._link.listening.is_set())
                self._summed = began
            except NotifyError as error:
                log.warning("backlog.interrupted", reason=str(error))
            await asyncio.sleep(LOOK_SECONDS)

    async def _record_always(self) -> None:
        since = time.monotonic()
        while True:
            await asyncio.sleep(ACTIVITY_SECONDS)
            now = time.monotonic()
            try:
                await self._store.activity_log.record(self.node, now - since, self._store.activity.take())
                await self.measure()
            except NotifyError as error:
                log.warning("activity.lost", reason=str(error))
            since = now

    async def measure(self) -> None:
        """Tell Prometheus how deep the queues are. Raises NotifyError."""
        total = await self._store.backlog.sum()
        metrics.PENDING.set(total.pending)
        metrics.PENDING_MAILBOXES.set(total.mailboxes)

    async def _leave(self) -> None:
        """Take this node off the list, if the database answers at once."""
        try:
            async with asyncio.timeout(1):
                await self._store.backlog.leave(self.node)
                await self._store.sessions.leave(self.node)
        except (NotifyError, TimeoutError) as error:
            log.info("roster.left_behind", reason=f"{type(error).__name__}: {error}")
