"""The store as the tests use it, and the places where they stop the database."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit
from uuid import UUID

import asyncpg

from notify.ids import mint_id
from notify.model import Notification
from notify.settings import Settings
from notify.store import Store
from notify.store.sends import Post
from tests.places import choose_place
from tests.service import CANARY, until

DATA = json.dumps(CANARY).encode()

ROOM = 1_000
SIZE = 1024 * 1024
"""More entries and bytes than a page holds."""


def settings_of(database_url: str, **values: Any) -> Settings:
    return Settings(database_url=database_url, _env_file=None, **values)


@asynccontextmanager
async def connected(database_url: str, **values: Any) -> AsyncIterator[Store]:
    store = await Store.connect(settings_of(database_url, **values))
    try:
        yield store
    finally:
        await store.close()


def notification(*to: str, data: bytes = DATA, **fields: Any) -> Notification:
    values = {"id": mint_id(), "producer": "shop", "type": "t", "data": data, "to": to, **fields}
    return Notification(**values)


def post(*to: str, data: bytes = DATA, **fields: Any) -> Post:
    return Post([notification(*to, data=data, **fields)])


async def read_all(store: Store, user: str, after: int = 0) -> list[int]:
    """Return every seq of a mailbox, page by page as a session reads them."""
    seqs: list[int] = []
    while True:
        page = await store.mailboxes.fetch(user, after, ROOM, SIZE)
        seqs += [entry.seq for entry in page.entries]
        if page.complete:
            return seqs
        after = seqs[-1]


async def acknowledge(store: Store, user: str, seq: int, device: str = "default") -> None:
    store.mailboxes.acking.put(user, device, seq, store.mailboxes.epoch)
    await until(lambda: not len(store.mailboxes.acking))


async def stop_at_entries(connection: asyncpg.Connection, *, more_than: int = 0) -> None:
    """Make every deposit of so many entries wait, before its commit, for as long as somebody holds the lock 7."""
    await connection.execute(
        """
        CREATE FUNCTION wait_here() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS $$
        BEGIN
            IF (SELECT count(*) FROM written) > MORE_THAN THEN
                PERFORM pg_advisory_xact_lock_shared(7);
            END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER wait_here AFTER INSERT ON notify.entry
        REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION wait_here();
        """.replace("MORE_THAN", str(more_than))
    )


@asynccontextmanager
async def pausing_entries(connection: asyncpg.Connection) -> AsyncIterator[None]:
    await connection.execute("SELECT pg_advisory_lock(7)")
    try:
        yield
    finally:
        await connection.execute("SELECT pg_advisory_unlock(7)")


async def find_waiting(connection: asyncpg.Connection) -> int:
    """Return the backend that waits in `wait_here`."""
    found: list[int] = []

    async def look() -> bool:
        found[:] = [
            row[0]
            for row in await connection.fetch(
                "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = 7 AND classid = 0"
            )
        ]
        return bool(found)

    await until(look)
    return found[0]


async def is_waiting_for_advisory_lock(connection: asyncpg.Connection) -> bool:
    query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND (objid <> 7 OR classid <> 0)"
    return bool(await connection.fetchval(query))


async def is_waiting_for_transaction(connection: asyncpg.Connection) -> bool:
    query = "SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted"
    return bool(await connection.fetchval(query))


async def is_waiting_for_row(store: Store) -> bool:
    """Whether a statement of the service waits for somebody's lock, or has been told that it can't have it."""
    async with store.database._connections._pool.acquire() as connection:
        return bool(
            await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT notify.cancel%'")
        )


@asynccontextmanager
async def holding_cursor(database_url: str, user: str) -> AsyncIterator[None]:
    foreign = await asyncpg.connect(database_url)
    try:
        async with foreign.transaction():
            await foreign.execute("SELECT 1 FROM notify.cursor WHERE user_id = $1 FOR UPDATE", user)
            yield
    finally:
        await foreign.close()


async def exists(connection: asyncpg.Connection, notification_id: UUID) -> bool:
    return bool(await connection.fetchval("SELECT count(*) FROM notify.notification WHERE id = $1", notification_id))


class SwallowingProxy:
    """Stands between the service and PostgreSQL's unix socket; when told to, what the database says goes nowhere."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._writers: list[asyncio.StreamWriter] = []
        self.swallow = False
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_unix_connection(self._target)
        self._writers += [writer, there_writer]
        with suppress(OSError):
            await asyncio.gather(self.pump(reader, there_writer), self.pump(there_reader, writer, answers=True))
        for each in (writer, there_writer):
            each.close()

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool = False) -> None:
        while data := await reader.read(65_536):
            if not (answers and self.swallow):
                writer.write(data)
                await writer.drain()
        writer.close()

    def cut(self) -> None:
        """Break every connection, and let what comes after it pass."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()
        self.swallow = False


@asynccontextmanager
async def swallowing_proxy(database_url: str) -> AsyncIterator[SwallowingProxy]:
    parts = urlsplit(database_url)
    directory = Path(parse_qs(parts.query)["host"][0])
    with TemporaryDirectory(prefix="notify-", dir=choose_place()) as name:
        place = Path(name)
        proxy = SwallowingProxy(directory / ".s.PGSQL.5432")
        server = await asyncio.start_unix_server(proxy.serve, place / ".s.PGSQL.5432")
        proxy.url = urlunsplit(parts._replace(query=f"host={place}"))
        try:
            yield proxy
        finally:
            server.close()
            proxy.cut()
            await asyncio.sleep(0)
