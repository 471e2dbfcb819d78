"""What the same PostgreSQL does without us: one row and one NOTIFY, and rows in bulk.

In a schema of its own, made for this and dropped at the end; ordinary logged tables, since a promise to keep
something is what is being compared. Each row has an id, a recipient and data of its own, as notifications have.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

import asyncpg

from notify.bench.meter import difference, find_parent, read_cpu
from notify.ids import mint_id

SCHEMA = "notify_bench_floor"
CHANNEL = "notify_bench_floor"
PAYLOAD = "x" * 200
CONNECTIONS = 16
BATCH = 200
WARM_UP = 100
"""Statements before the measured ones: plans are made and pages are read."""

WAIT_SECONDS = 5.0
MAKE_TABLE = f"""
    CREATE TABLE {SCHEMA}.row (id uuid PRIMARY KEY, recipient text, data text)"""
INSERT_AND_NOTIFY = f"""
    WITH written AS (INSERT INTO {SCHEMA}.row (id, recipient, data) VALUES ($1, $2, $3) RETURNING id)
    SELECT pg_notify('{CHANNEL}', id::text) FROM written"""  # noqa: S608 - names of this file
INSERT_BATCH = f"""
    INSERT INTO {SCHEMA}.row (id, recipient, data)
    SELECT r.id, r.u, r.data FROM unnest($1::uuid[], $2::text[], $3::text[]) AS r (id, u, data)"""  # noqa: S608 - the same

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@asynccontextmanager
async def prepare(url: str) -> AsyncIterator[Connection]:
    """Make the table, lend a connection, drop the table."""
    connection: Connection = await asyncpg.connect(url, timeout=WAIT_SECONDS, command_timeout=WAIT_SECONDS)
    try:
        await connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE; CREATE SCHEMA {SCHEMA}; {MAKE_TABLE}")
        yield connection
        await connection.execute(f"DROP SCHEMA {SCHEMA} CASCADE")
    finally:
        connection.terminate()


async def time_notify(url: str, seconds: float, *, rate: float = 0.0) -> list[float]:
    """Return milliseconds from INSERT and pg_notify in one statement to the listener, one after the other.

    With a `rate` so many a second: processors that sleep in between take time to wake, and find nothing in their caches.
    """
    async with prepare(url) as connection:
        listener = await asyncpg.connect(url, timeout=WAIT_SECONDS)
        heard = asyncio.Event()
        try:
            await listener.add_listener(CHANNEL, lambda *_arguments: heard.set())
            times: list[float] = []
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                if rate:
                    await asyncio.sleep(1 / rate)
                heard.clear()
                started = time.perf_counter()
                statement = asyncio.ensure_future(connection.fetchval(INSERT_AND_NOTIFY, mint_id(), "user", PAYLOAD))
                async with asyncio.timeout(WAIT_SECONDS):
                    await heard.wait()
                    times.append((time.perf_counter() - started) * 1000)
                    await statement
            return times[WARM_UP:] or times
        finally:
            listener.terminate()


async def count_notifies(url: str, seconds: float) -> float:
    """Return rows a second with a NOTIFY and a commit each, over CONNECTIONS connections."""

    async def work(connection: Connection, end: float) -> int:
        done = 0
        while time.perf_counter() < end:
            await connection.fetchval(INSERT_AND_NOTIFY, mint_id(), "user", PAYLOAD)
            done += 1
        return done

    async with prepare(url):
        connections = [await asyncpg.connect(url, timeout=WAIT_SECONDS) for _ in range(CONNECTIONS)]
        try:
            started = time.perf_counter()
            done = await asyncio.gather(*[work(connection, started + seconds) for connection in connections])
            return sum(done) / (time.perf_counter() - started)
        finally:
            for connection in connections:
                connection.terminate()


async def count_batch_rows(url: str, seconds: float) -> tuple[float, float | None]:
    """Return rows a second in batches of BATCH, one commit a batch, over one connection; and PostgreSQL's µs a row."""
    async with prepare(url) as connection:
        users = [f"user-{place}" for place in range(BATCH)]
        datas = [PAYLOAD] * BATCH
        await connection.execute(INSERT_BATCH, [mint_id() for _ in users], users, datas)
        ids = [mint_id() for _ in users]
        backend = await connection.fetchval("SELECT pg_backend_pid()")
        here = find_parent(backend, "postgres") is not None
        before = read_cpu(backend, {}) if here else None
        done, started = 0, time.perf_counter()
        while time.perf_counter() < started + seconds:
            statement = asyncio.ensure_future(connection.execute(INSERT_BATCH, ids, users, datas))
            await asyncio.sleep(0)  # it is sent; the next ids are minted while PostgreSQL works
            ids = [mint_id() for _ in users]
            await statement
            done += BATCH
        rate = done / (time.perf_counter() - started)
        used = difference(before, read_cpu(backend, {})) if here else None
        return rate, None if used is None else used / done * 1e6


async def identify(url: str) -> tuple[str, int | None]:
    """Return PostgreSQL's version, and its first process if it runs on this machine."""
    connection = await asyncpg.connect(url, timeout=WAIT_SECONDS)
    try:
        row = await connection.fetchrow("SELECT current_setting('server_version'), pg_backend_pid()")
        assert row is not None
        return str(row[0]), find_parent(int(row[1]), "postgres")
    finally:
        await connection.close()
