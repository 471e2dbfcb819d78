"""Connections at hand: lent and taken back without asyncpg's pool, which has tasks and timers of its own for both.

For a small statement those cost twice what the statement does, and made its answer wait for two more turns of the event loop. The
pool still opens, counts and replaces the connections; a few are kept from it between two statements. Keeps the promise that
nobody waits for a connection while one is idle: while somebody waits, what comes back goes to the pool, which serves in order.

Plans that were made for smaller tables (see plans.py) are dropped by each connection before it is lent again.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import asyncpg

from notify.sql import query

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection: TypeAlias = PoolConnectionProxy[asyncpg.Record]

ACQUIRE_SECONDS = 5.0
"""How long a statement waits for a connection when all are busy."""

KEPT = 4
"""Connections kept at hand: what a busy process has in flight most of the time."""


class PlanningConnection(asyncpg.Connection):
    """A connection that knows when its plans are outdated."""

    plans = 0
    """How often plans had been outdated when it last dropped its own."""

    async def drop_plans(self, plans: int) -> None:
        """Make all plans anew, each when it is needed next. Raises what asyncpg does."""
        await self.execute(query("drop_plans"))
        self.plans = plans


class Connections:
    """The connections of a pool, which opens PlanningConnections."""

    def __init__(self, pool: "asyncpg.Pool[Any]") -> None:
        self._pool = pool
        self._idle: list[Connection] = []
        self._waiting = 0
        self._closed = False
        self._plans = 0

    @asynccontextmanager
    async def lend(self) -> "AsyncIterator[Connection]":
        """Lend a connection. One whose statement failed goes back to the pool, which looks whether it is still good.

        Raises what the pool raises: TimeoutError when all stay busy, asyncpg's errors and OSError when no new one can be opened,
        or when one that has to drop its plans first turns out to be broken.
        """
        connection = await self._take()
        try:
            planning = cast("PlanningConnection", connection)  # the pool's proxy hands on what it doesn't know itself
            if planning.plans != self._plans:
                await planning.drop_plans(self._plans)
            yield connection
        except BaseException:
            await self._pool.release(connection)
            raise
        if self._waiting or self._closed or len(self._idle) >= KEPT:
            await self._pool.release(connection)
        else:
            self._idle.append(connection)

    def drop_plans(self) -> None:
        """Have each connection make its plans anew before its next statement: a round trip more, and a plan for each it uses."""
        self._plans += 1

    async def close(self) -> None:
        """Close every connection, once those that are lent are back."""
        self._closed = True
        while self._idle:
            await self._pool.release(self._idle.pop())
        await self._pool.close()

    def terminate(self) -> None:
        """Drop every connection."""
        self._pool.terminate()

    async def _take(self) -> "Connection":
        while self._idle:
            connection = self._idle.pop()
            if is_open(connection):
                return connection
            await self._pool.release(connection)
        self._waiting += 1
        try:
            return await self._pool.acquire(timeout=ACQUIRE_SECONDS)
        finally:
            self._waiting -= 1


def is_open(connection: "Connection") -> bool:
    """Tell whether a connection can still be lent. The pool takes back what the server closed, and its proxy answers nothing."""
    try:
        return not connection.is_closed()
    except asyncpg.InterfaceError:
        return False
