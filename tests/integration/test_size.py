"""What somebody waits for stays quick in a large mailbox, and exact."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from notify.sql import query
from notify.store.database import SERVER_SETTINGS
from tests.mailing import connected, post

ENTRIES = 10_000
ENOUGH_MS = 1_500
"""Fifty times what the slowest of these takes here; a plan that goes through all endings for each entry takes seconds."""


@pytest.fixture
async def session(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Connect as the service does. `big` has a mailbox that PostgreSQL's statistics know nothing of, which is the rule."""
    connection = await asyncpg.connect(
        database_url, server_settings={**SERVER_SETTINGS, "statement_timeout": str(ENOUGH_MS)}
    )
    await stuff(connection, [f"small{place}" for place in range(500)], 3)
    await connection.execute("ANALYZE notify.entry, notify.notification, notify.ending, notify.reading")
    await stuff(connection, ["big"], ENTRIES)
    try:
        yield connection
    finally:
        await connection.close()


async def stuff(connection: asyncpg.Connection, users: list[str], count: int) -> None:
    """Give users mailboxes of so many entries: half of them over, some expired, some of those swept, some read one by one."""
    await connection.execute(
        "CREATE TEMPORARY TABLE made (user_id text, seq bigint, id uuid, swept boolean, expired boolean)"
    )
    await connection.execute(
        "INSERT INTO made SELECT u, g, gen_random_uuid(), g % 50 = 1, g % 50 < 2"
        " FROM unnest($1::text[]) AS u, generate_series(1, $2::integer) AS g",
        users,
        count,
    )
    await connection.execute("""
        INSERT INTO notify.notification (id, producer, type, data, recipients, created_at, expires_at, swept)
        SELECT id, 'shop', 't', '1', 1, now(),
               now() + CASE WHEN expired THEN interval '-1 minute' ELSE interval '1 day' END, swept
        FROM made;
        INSERT INTO notify.entry (user_id, seq, kind, notification_id, at)
        SELECT user_id, seq, 1, id, now() - interval '1 hour' FROM made;
        INSERT INTO notify.ending (user_id, seq, reason, at) SELECT user_id, seq, 2, now() FROM made WHERE seq % 2 = 1;
        INSERT INTO notify.reading (user_id, ranged, to_seq, after_seq, at)
        SELECT user_id, false, seq, seq - 1, now() - interval '1 hour' FROM made WHERE seq % 7 = 1;
        INSERT INTO notify.mailbox (user_id, head, unread)
        SELECT user_id, max(seq), count(*) FILTER (WHERE NOT swept AND seq % 2 = 0 AND seq % 7 <> 1) FROM made GROUP BY user_id;
        DROP TABLE made;
    """)


async def count_unread_beyond(connection: asyncpg.Connection, seq: int) -> int:
    """Count what nobody has read, the long way."""
    found: int = await connection.fetchval(
        "SELECT count(*) FROM notify.entry AS e JOIN notify.notification AS n ON n.id = e.notification_id"
        " WHERE e.user_id = 'big' AND n.expires_at > now() AND e.seq % 2 = 0 AND e.seq % 7 <> 1 AND e.seq > $1",
        seq,
    )
    return found


@pytest.mark.parametrize("mark", [1, 4_000, ENTRIES - 5, 2**62])
async def test_a_mark_up_to_a_seq_counts_each_of_them_once(session: asyncpg.Connection, mark: int) -> None:
    """Counted from below or from above, whichever is shorter: what expired and is still to be swept goes out of both."""
    left = await count_unread_beyond(session, mark)
    assert await session.fetchval(query("mark_read"), "big", mark, None) == left
    while await session.fetchval(query("sweep_expired"), 500, 5_000):
        pass
    assert await session.fetchval("SELECT unread FROM notify.mailbox WHERE user_id = 'big'") == left


async def test_a_thousand_marks_one_by_one_are_looked_up_one_by_one(session: asyncpg.Connection) -> None:
    marked = list(range(ENTRIES - 999, ENTRIES + 1))
    left = await count_unread_beyond(session, 0) - await count_unread_beyond(session, ENTRIES - 1_000)
    assert await session.fetchval(query("mark_read"), "big", None, marked) == left


async def test_retention_looks_no_further_than_it_goes(session: asyncpg.Connection) -> None:
    """A few old entries before many young ones, over and over: each time only a batch is looked at."""
    await session.execute("UPDATE notify.entry SET at = at - interval '1 day' WHERE user_id = 'big' AND seq <= 3")
    async with session.transaction():
        assert await session.fetchval(query("retain_mailboxes"), 12 * 3600.0, 1, 100) == 3
        looked = await session.fetchval("SELECT idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'entry'")
    assert looked < 500
    assert await session.fetchval("SELECT floor FROM notify.mailbox WHERE user_id = 'big'") == 3


async def test_a_user_is_erased_however_long_it_takes(
    database_url: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SERVER_SETTINGS, "statement_timeout", "250ms")
    await connection.execute("""
        CREATE FUNCTION notify.take_long() RETURNS trigger
        LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END $$;
        CREATE TRIGGER take_long AFTER DELETE ON notify.entry EXECUTE FUNCTION notify.take_long();
    """)
    async with connected(database_url) as store:
        await store.sends.send(post("big"))
        assert await store.queues.erase("admin", "big") == 1
    assert await connection.fetchval("SELECT count(*) FROM notify.notification") == 0


async def test_a_replay_of_too_much_looks_at_no_more_than_would_fit(session: asyncpg.Connection) -> None:
    async with session.transaction():
        assert await session.fetchval(query("replay"), "admin", "big", 0, 1_000) == -1
        looked = await session.fetchval("SELECT idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'entry'")
    assert looked < 5_000
