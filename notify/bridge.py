"""LISTEN: how the nodes hear of each other's commits.

Keeps invariant 5: wake-ups may be lost. The bridge listens, *then* catches everyone up, so nothing falls between; its
own heartbeat travels the way of the notifications, so a link that looks alive and carries nothing is found out.

    connecting ──▶ listening ──▶ catching up ──▶ beating ─┐
        ▲                                          ▲      │ each beat comes back in time
        │                                          └──────┘
        └── backoff ◀── terminated (refused, broken, or a beat that did not come back)

https://www.postgresql.org/docs/current/sql-listen.html
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import asyncpg
import structlog

from notify import clock, metrics
from notify.errors import NotifyError
from notify.sql import query

log = structlog.get_logger()

CHANNEL_BEAT = "notify_beat"

BEAT_SECONDS = 3.0
"""Pause between heartbeats: together with the wait below a dead link is noticed well within 20 s."""

BEAT_WAIT_SECONDS = 5.0
"""How long a beat may take to come back; more than any pause of a healthy database or event loop."""

OFFSET_SECONDS = 5.0
"""A clock further off than this is worth a line in the log; the database's time is used either way."""

CONNECT_SECONDS = 5.0
BACKOFF_SECONDS = (0.1, 3.0)
"""First and longest pause between two attempts, before jitter."""

FAILURES = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a beat after PostgreSQL said that it ends the link, before it is closed
    NotifyError,
)
"""What ends a link; it is made again."""

Handler = Callable[[str], None]


class Bridge:
    """One direct connection of this process that listens.

    `handlers` take the payloads of the channels; `catch_up` is awaited after each LISTEN, before the link counts as
    healthy. `node` names this process in its heartbeats. Use `run` as a task: it never returns by itself.
    """

    def __init__(
        self, url: str, node: str, *, handlers: Mapping[str, Handler], catch_up: Callable[[], Awaitable[None]]
    ) -> None:
        self._url = url
        self._node = node
        self._handlers = handlers
        self._catch_up = catch_up
        self._returned = asyncio.Event()
        self._lost = asyncio.Event()
        self.listening = asyncio.Event()
        """Set while the link is up and caught up with."""
        self._told_offset = 0.0
        self.reconnects = 0
        self.lag = 0.0
        """Seconds the last heartbeat took."""

    async def run(self) -> None:
        """Keep the link up until cancelled."""
        low, high = BACKOFF_SECONDS
        pause = low
        while True:
            try:
                await self._listen_once()
            except FAILURES as error:
                log.warning("bridge.failed", reason=f"{type(error).__name__}: {error}")
            finally:
                if self.listening.is_set():
                    pause = low  # it had worked, however it ended
                self.listening.clear()
                metrics.BRIDGE_UP.set(0)
            self.reconnects += 1
            metrics.BRIDGE_RECONNECTS.inc()
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
            pause = min(pause * 2, high)

    async def _listen_once(self) -> None:
        """Connect, listen, catch up, beat until the link fails."""
        connection = await asyncpg.connect(
            self._url,
            timeout=CONNECT_SECONDS,
            command_timeout=BEAT_WAIT_SECONDS,
            server_settings={
                "application_name": "notify bridge",
                "tcp_keepalives_idle": "10",
                "tcp_user_timeout": "10s",
            },
        )
        self._lost.clear()
        try:
            connection.add_termination_listener(lambda _connection: self._lose())
            await connection.add_listener(CHANNEL_BEAT, self._receive)
            for channel in self._handlers:
                await connection.add_listener(channel, self._receive)
            await self._catch_up()
            self.listening.set()
            metrics.BRIDGE_UP.set(1)
            log.info("bridge.listening", reconnects=self.reconnects)
            while not self._lost.is_set():
                await self._beat(connection)
                with suppress(TimeoutError):
                    async with asyncio.timeout(BEAT_SECONDS):
                        await self._lost.wait()
            log.warning("bridge.lost")
        finally:
            connection.terminate()

    def _lose(self) -> None:
        """Learn that the connection is gone, and wake whoever waits for it or for its beat."""
        self._lost.set()
        self._returned.set()

    async def _beat(self, connection: asyncpg.Connection) -> None:
        started = time.monotonic()
        asked_at = clock.system()
        self._returned.clear()
        database_now = await connection.fetchval(query("beat"), self._node)
        offset = clock.adjust(database_now, asked_at, clock.system())
        if abs(offset - self._told_offset) > OFFSET_SECONDS:
            self._told_offset = offset
            log.warning("clock.off", seconds=round(offset, 1))
        async with asyncio.timeout(BEAT_WAIT_SECONDS):
            await self._returned.wait()
        self.lag = time.monotonic() - started
        metrics.BRIDGE_LAG.set(self.lag)

    def _receive(self, _connection: object, _pid: int, channel: str, payload: object) -> None:
        text = str(payload)
        if channel == CHANNEL_BEAT:
            if text == self._node:
                self._returned.set()
            return
        try:
            self._handlers[channel](text)
        except Exception:
            # asyncpg would log it and go on as well; here it has a name. The sweep repairs what it cost.
            log.exception("bridge.handler_failed", channel=channel)
