"""A database that grows is planned for as it grows, on every connection and without a restart."""

import asyncio
from itertools import pairwise

import asyncpg
import pytest

from notify.batch import Blocked
from notify.janitor import Janitor
from notify.sql import query
from notify.store import Store
from notify.store.connections import PlanningConnection
from notify.store.database import Connection
from notify.store.plans import GROWTH, SMALL_PAGES, Plans
from tests.mailing import connected
from tests.service import until

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


async def have_planned_anew(store: Store) -> bool:
    return await explain_everywhere(store) == [True] * CONNECTIONS


async def read_pages(connection: asyncpg.Connection) -> int:
    pages: int = await connection.fetchval("SELECT pg_relation_size('notify.subscription') / 8192")
    return pages


async def test_every_connection_plans_anew_when_a_table_has_grown(
    vacuumed: asyncpg.Connection, database_url: str
) -> None:
    async with connected(database_url, database_connections=CONNECTIONS) as store:
        assert not await store.plans.renew()
        assert await explain_everywhere(store) == [False] * CONNECTIONS
        await subscribe_many(vacuumed)
        assert await explain_everywhere(store) == [False] * CONNECTIONS
        assert await store.plans.renew()
        assert await have_planned_anew(store)
        assert not await store.plans.renew()


async def test_a_connection_drops_its_plans_once(
    connection: asyncpg.Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[int] = []
    drop = PlanningConnection.drop_plans

    async def count(self: PlanningConnection, plans: int) -> None:
        dropped.append(plans)
        await drop(self, plans)

    monkeypatch.setattr(PlanningConnection, "drop_plans", count)
    async with connected(database_url, database_connections=CONNECTIONS) as store:
        await store.plans.renew()
        await subscribe_many(connection)
        assert await store.plans.renew()
        await explain_everywhere(store)
        await explain_everywhere(store)
    assert dropped == [1] * CONNECTIONS


async def test_a_table_that_grows_little_by_little_is_noticed_each_time_it_has_grown_fourfold(
    connection: asyncpg.Connection, store: Store
) -> None:
    step, noticed = 0, [SMALL_PAGES]
    await store.plans.renew()
    while (pages := await read_pages(connection)) <= GROWTH**2 * SMALL_PAGES * 2:
        if await store.plans.renew():
            noticed.append(pages)
        await connection.execute(
            "INSERT INTO notify.subscription SELECT 't' || $1, 'user-' || n FROM generate_series(1, 1000) AS n",
            str(step),
        )
        step += 1
    grown = [now / before for before, now in pairwise(noticed)]
    assert len(grown) == 2, noticed
    assert all(GROWTH < factor < GROWTH * 1.5 for factor in grown), noticed


async def test_a_table_counts_from_where_it_shrank_to(connection: asyncpg.Connection, store: Store) -> None:
    await subscribe_many(connection)
    assert not await store.plans.renew(), "there were no plans before the first look"
    await connection.execute("TRUNCATE notify.subscription")
    assert not await store.plans.renew()
    await subscribe_many(connection)
    assert await store.plans.renew()


async def test_what_is_small_is_not_planned_for_anew(connection: asyncpg.Connection, store: Store) -> None:
    await store.plans.renew()
    await connection.execute(
        "INSERT INTO notify.subscription SELECT 't', 'user-' || n FROM generate_series(1, 3000) AS n"
    )
    assert 1 < await read_pages(connection) <= GROWTH * SMALL_PAGES
    assert not await store.plans.renew()


async def test_a_table_that_is_held_is_not_waited_for(connection: asyncpg.Connection, store: Store) -> None:
    async with connection.transaction():
        await connection.execute("LOCK TABLE notify.subscription")
        async with asyncio.timeout(2):
            with pytest.raises(Blocked):
                await store.plans.renew()
    assert not await store.plans.renew()


async def test_a_table_that_is_dropped_meanwhile_counts_as_empty(connection: asyncpg.Connection, store: Store) -> None:
    async def look_while_it_goes() -> bool:
        await connection.execute("CREATE TABLE notify.passing (n integer)")
        async with connection.transaction():
            await connection.execute("DROP TABLE notify.passing")
            look = asyncio.create_task(store.plans.renew())

            async def waits() -> bool:
                waiting: bool = await connection.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
                return waiting or look.done()

            await until(waits)
        try:
            assert not await look
        except Blocked:  # this machine stood still for a quarter of a second: again
            return False
        return True

    await until(look_while_it_goes)


async def test_a_node_notices_by_itself(
    vacuumed: asyncpg.Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = asyncio.Event()

    async def look(plans: Plans) -> bool:
        grown = await renew(plans)
        looked.set()
        return grown

    renew = Plans.renew
    monkeypatch.setattr(Plans, "renew", look)
    async with (
        connected(database_url, database_connections=CONNECTIONS) as store,
        asyncio.timeout(10),
        asyncio.TaskGroup() as tasks,
    ):
        janitor = tasks.create_task(Janitor(store).run())
        await looked.wait()  # what it is to notice comes after its first look
        assert await explain_everywhere(store) == [False] * CONNECTIONS
        await subscribe_many(vacuumed)
        await until(lambda: have_planned_anew(store))
        janitor.cancel()
