"""A database that grows is planned for as it grows, on every connection and without a restart."""

import asyncio

import asyncpg
import pytest

from notify.janitor import Janitor
from notify.sql import query
from notify.store import Store
from notify.store.database import Connection
from notify.store.plans import GROWTH, SMALL_PAGES
from tests.mailing import connected

STATEMENT = query("list_topic_users")
"""Planned while there is nothing, it reads every topic's subscribers in the order of their ids; later, one topic's alone."""

CONNECTIONS = 6
"""More than are kept at hand, so that some stay with the pool."""


@pytest.fixture
async def vacuumed(connection: asyncpg.Connection) -> asyncpg.Connection:
    """Vacuum what nothing was ever stored in: PostgreSQL believes from then on that going through it costs nothing.

    And until autovacuum comes by, which takes minutes elsewhere and may not come in the middle of a test.
    """
    await connection.execute("ALTER TABLE notify.subscription SET (autovacuum_enabled = off)")
    await connection.execute("VACUUM (ANALYZE)")
    return connection


async def subscribe_many(connection: asyncpg.Connection) -> None:
    await connection.execute(
        "INSERT INTO notify.subscription (topic, user_id) "
        "SELECT 'topic-' || t, 'user-' || u FROM generate_series(1, 100) AS t, generate_series(1, 100) AS u"
    )


async def explain_everywhere(store: Store) -> list[bool]:
    """Return of each connection whether the plan that it has for the statement keeps to the topic it is asked for."""
    everybody = asyncio.Barrier(CONNECTIONS)

    async def explain(connection: Connection) -> bool:
        await everybody.wait()
        await connection.fetch(STATEMENT, "none", 1)
        name = await connection.fetchval("SELECT name FROM pg_prepared_statements WHERE statement = $1", STATEMENT)
        plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN EXECUTE {name} ('none', 1)"))
        assert "Index" in plan
        return "subscription_pkey" in plan

    async with asyncio.timeout(10):
        return await asyncio.gather(*(store.database.use(explain) for _ in range(CONNECTIONS)))


async def test_every_connection_plans_anew_when_a_table_has_grown(
    vacuumed: asyncpg.Connection, database_url: str
) -> None:
    async with connected(database_url, database_connections=CONNECTIONS) as store:
        assert not await store.plans.renew()
        assert await explain_everywhere(store) == [False] * CONNECTIONS
        await subscribe_many(vacuumed)
        assert await explain_everywhere(store) == [False] * CONNECTIONS
        assert await store.plans.renew()
        assert await explain_everywhere(store) == [True] * CONNECTIONS
        assert not await store.plans.renew()


async def test_a_table_counts_from_where_it_shrank_to(connection: asyncpg.Connection, store: Store) -> None:
    await subscribe_many(connection)
    assert await store.plans.renew()
    await connection.execute("TRUNCATE notify.subscription")
    assert not await store.plans.renew()
    await subscribe_many(connection)
    assert await store.plans.renew()


async def test_what_is_small_is_not_planned_for_anew(connection: asyncpg.Connection, store: Store) -> None:
    await connection.execute(
        "INSERT INTO notify.subscription SELECT 't', 'user-' || n FROM generate_series(1, 3000) AS n"
    )
    pages = await connection.fetchval("SELECT pg_relation_size('notify.subscription') / 8192")
    assert 1 < pages <= GROWTH * SMALL_PAGES
    assert not await store.plans.renew()


async def test_a_node_notices_by_itself(vacuumed: asyncpg.Connection, database_url: str) -> None:
    async with connected(database_url, database_connections=CONNECTIONS) as store:
        assert await explain_everywhere(store) == [False] * CONNECTIONS
        await subscribe_many(vacuumed)
        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            janitor = tasks.create_task(Janitor(store).run())
            while await explain_everywhere(store) != [True] * CONNECTIONS:
                await asyncio.sleep(0.05)
            janitor.cancel()
