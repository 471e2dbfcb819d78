"""Running statements, and what their errors mean to the lanes.

Keeps the promise that no statement waits for ever: every bound is set on both sides, ours and PostgreSQL's.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Self, TypeAlias, TypeVar, cast

import asyncpg
import structlog

from notify.batch import Blocked, Interrupted, Poisoned, Refused
from notify.errors import ConfigurationError, NotifyError, Unavailable
from notify.sql import query
from notify.store.connections import Connections, PlanningConnection

log = structlog.get_logger()

COMMAND_SECONDS = 6.0
"""Just over the server's own statement_timeout, so that the server usually decides and the answer is known."""

CONNECT_SECONDS = 5.0
"""How long opening a connection may take."""

PATIENCE_SECONDS = 10.0
"""How long an act on mailboxes (a cancel, a read mark) waits for whoever holds one."""

DEADLOCK_TRIES = 3
"""Deadlocks are possible only against locks taken by others; one that comes back is a bug and must show."""

SERVER_SETTINGS = {
    "application_name": "notify",
    "statement_timeout": "5s",
    "idle_in_transaction_session_timeout": "10s",
    "tcp_user_timeout": "10s",  # a statement's answer to a node that is gone must not hold locks for longer
    "jit": "off",  # compiling pays for long queries only; ours are short
    "max_parallel_workers_per_gather": "0",  # the same of starting processes
    # Every statement knows its index. Plans made while a table was empty, or anew for each little array, must not undo that:
    # a plan once and for all halved the CPU of a small statement, and scans of plans made too early failed whole reconnects.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}

KEY_IN_FLIGHT = "NT409"
KEY_USED = "NT422"
"""The codes with which notify.deposit names a key that is taken."""

BROKEN = (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
"""What a connection that is gone raises. A FATAL that came while it was idle makes asyncpg lose its place in the protocol:
until the connection is closed, a moment later, every statement on it is an InternalClientError."""

Row: TypeAlias = asyncpg.Record
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
T = TypeVar("T")


class KeyTaken(NotifyError):
    """The idempotency key at `claim` (from 0) of a batch was used before, or is being worked on right now."""

    def __init__(self, claim: int, *, in_flight: bool) -> None:
        super().__init__("the Idempotency-Key is taken")
        self.claim = claim
        self.in_flight = in_flight


class Database:
    """Runs named statements of sql/queries."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._connections = Connections(pool)
        self.answered_at = float("-inf")
        """When a statement was last answered, in seconds of time.monotonic()."""

    @classmethod
    async def connect(cls, url: str, *, connections: int) -> Self:
        """Open a pool. Raises ConfigurationError when the URL is none, Interrupted when nobody answers there."""
        try:
            pool = await asyncpg.create_pool(
                url,
                min_size=min(connections, 4),
                max_size=connections,
                command_timeout=COMMAND_SECONDS,
                timeout=CONNECT_SECONDS,
                server_settings=SERVER_SETTINGS,
                reset=keep_session,
                connection_class=PlanningConnection,
            )
        except (ValueError, asyncpg.InvalidCatalogNameError, asyncpg.InvalidAuthorizationSpecificationError) as error:
            raise ConfigurationError(f"NOTIFY_DATABASE_URL can't be used: {error}") from None
        except (*BROKEN, asyncpg.PostgresError) as error:
            raise Interrupted(f"the database does not answer: {type(error).__name__}: {error}") from error
        return cls(pool)

    async def close(self) -> None:
        """Close every connection, politely for a moment, then at once."""
        try:
            async with asyncio.timeout(2):
                await self._connections.close()
        except TimeoutError:
            self._connections.terminate()

    def drop_plans(self) -> None:
        """Have every connection make its plans anew; see plans.py."""
        self._connections.drop_plans()

    async def rows(self, name: str, *arguments: Any) -> Sequence[Row]:
        """Return all rows of a statement. Raises Blocked, Poisoned, Interrupted or Refused."""
        return cast("Sequence[Row]", await self._run("fetch", name, arguments))

    async def row(self, name: str, *arguments: Any) -> Row | None:
        """Return its first row, if any."""
        return cast("Row | None", await self._run("fetchrow", name, arguments))

    async def value(self, name: str, *arguments: Any) -> Any:
        """Return the first column of its first row."""
        return await self._run("fetchval", name, arguments)

    async def value_within(self, name: str, *arguments: Any, seconds: float) -> Any:
        """Return the same of a statement that may run for longer than others: on one large mailbox, and nobody else's."""
        return await self._run("fetchval", name, arguments, seconds)

    async def use(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Lend a connection to what brings its own statements. Raises Interrupted or Refused, or what `work` does."""
        try:
            async with self._connections.lend() as connection:
                return await work(cast("Connection", connection))
        except asyncpg.PostgresError as error:
            raise translate("a connection", error) from error
        except BROKEN as error:
            raise Interrupted(f"the database does not answer ({type(error).__name__})") from error

    async def _run(self, method: str, name: str, arguments: Sequence[object], seconds: float | None = None) -> Any:
        statement = query(name)
        for attempt in range(1, DEADLOCK_TRIES + 1):
            try:
                async with self._connections.lend() as connection:
                    if seconds is None:
                        answer = await getattr(connection, method)(statement, *arguments)
                    else:
                        async with connection.transaction():
                            await connection.fetchval(query("allow_time"), f"{seconds}s")
                            answer = await getattr(connection, method)(statement, *arguments, timeout=seconds + 1)
                    self.answered_at = time.monotonic()
                    return answer
            except (asyncpg.DeadlockDetectedError, asyncpg.SerializationError) as error:
                log.warning("statement.deadlocked", statement=name, attempt=attempt)
                if attempt == DEADLOCK_TRIES:
                    raise Blocked(f"{name}: deadlocked") from error
            except asyncpg.PostgresError as error:
                raise translate(name, error) from error
            except BROKEN as error:
                if isinstance(error, ValueError):  # asyncpg.DataError is both: an argument that has no encoding
                    raise Poisoned(f"{name}: a value that PostgreSQL can't take") from error
                raise Interrupted(f"{name}: the database's answer did not arrive ({type(error).__name__})") from error
        raise AssertionError("unreachable: the last attempt raises")


async def patiently(attempt: Callable[[], Awaitable[T]], *, seconds: float = PATIENCE_SECONDS) -> T:
    """Repeat what may be repeated while somebody holds what it needs. Raises Unavailable after so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                try:
                    return await attempt()
                except Blocked:
                    await asyncio.sleep(random.uniform(0.05, 0.2))  # noqa: S311 - jitter, not a secret
    except TimeoutError:
        raise Unavailable("somebody holds a mailbox that this needs; nothing was changed, try again") from None


async def keep_session(_connection: object) -> None:
    """Save the round trip of asyncpg's reset: no statement of ours leaves anything behind in its session."""


def translate(name: str, error: asyncpg.PostgresError) -> Exception:
    """Say in the lanes' terms what an error of PostgreSQL means.

    Classes: https://www.postgresql.org/docs/current/errcodes-appendix.html
    """
    code = error.sqlstate or ""
    if code == "55P03":
        return Blocked(f"{name}: somebody holds what it needs")
    if code[:2] in {"22", "23", "54"}:
        return Poisoned(f"{name}: refused by PostgreSQL with {code}")
    if code[:2] == "08" or code in {"57P01", "57P02", "57P05"}:
        return Interrupted(f"{name}: the connection was ended by the database ({code})")
    if code in {KEY_IN_FLIGHT, KEY_USED}:
        return KeyTaken(int(error.args[0]) - 1, in_flight=code == KEY_IN_FLIGHT)
    if code[:2] in {"53", "58", "57"} or code in {"25006", "NT001"}:
        return Refused(f"{name}: the database can't do this at the moment ({code})")
    return error
