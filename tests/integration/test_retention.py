"""Retention: small batches, a floor that says so, counts that stay right, and nothing in the way of anything else."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from tests.integration.support import cancel, count_unread, find_status, from_now, list_inbox, mark_read
from tests.service import Service, holding, until

CUTOFF = datetime.now(UTC) - timedelta(hours=1)


async def age(connection: asyncpg.Connection, user: str, up_to: int) -> None:
    """Make the entries of a mailbox up to a seq, and their notifications, two hours older."""
    await connection.execute(
        """
        WITH aged AS (
            UPDATE notify.entry SET at = at - interval '2 hours' WHERE user_id = $1 AND seq <= $2 RETURNING notification_id
        )
        UPDATE notify.notification SET created_at = created_at - interval '2 hours' WHERE id IN (SELECT * FROM aged)
        """,
        user,
        up_to,
    )


async def retain(connection: asyncpg.Connection, mailboxes: int = 100, entries: int = 100) -> int:
    found: int = await connection.fetchval("SELECT notify.retain_mailboxes($1, $2, $3)", CUTOFF, mailboxes, entries)
    return found


async def retain_beside(connection: asyncpg.Connection, *, entries: int = 100) -> int:
    """Do the same beside a service: its janitor may be walking just now, or have a mailbox, which is waited for here."""
    async with connection.transaction():
        await connection.execute("SELECT FROM notify.walk WHERE kind = 'mailboxes' FOR UPDATE")
        await connection.execute("SELECT FROM notify.mailbox ORDER BY user_id FOR UPDATE")
        return await retain(connection, entries=entries)


async def retain_notifications(connection: asyncpg.Connection, looked: int = 100) -> int:
    """Let go of those that nobody holds; a janitor that is walking just now is waited for."""
    async with connection.transaction():
        await connection.execute("SELECT FROM notify.walk WHERE kind = 'notifications' FOR UPDATE")
        found: int = await connection.fetchval("SELECT notify.retain_notifications($1, $2)", CUTOFF, looked)
    return found


async def fill(connection: asyncpg.Connection, *users: str, count: int = 1) -> None:
    """Send so many to each of these users."""
    for user in users:
        for _ in range(count):
            await connection.execute("SELECT notify.send('t', recipient => $1)", user)
    while await connection.fetchval("SELECT notify.release(1000, 10000)"):
        pass


async def test_the_janitor_lets_old_ones_go_and_a_device_that_missed_them_is_told(
    database_url: str, connection: asyncpg.Connection
) -> None:
    async with Service(database_url, retention=3600) as service:
        await service.send_many("alice", 5)
        await mark_read(service, "alice", seqs=[1, 5])
        await age(connection, "alice", 3)

        async def is_gone() -> bool:
            return bool(await connection.fetchval("SELECT count(*) = 2 FROM notify.notification"))

        await until(is_gone)
        async with service.connect("alice") as alice:
            frames = await alice.take_backlog()
        assert frames[0] == {"op": "truncated", "from": 1, "to": 3}
        assert [frame["seq"] for frame in frames[1:]] == [4, 5, 6]
        assert alice.welcome["unread"] == 1
        assert [item["seq"] for item in (await list_inbox(service, "alice"))["items"]] == [5, 4]
        assert await count_unread(connection, "alice") == (1, 1)
        await service.send("alice")
        assert (await list_inbox(service, "alice"))["unread"] == 2


async def test_what_is_still_kept_keeps_its_status(service: Service, connection: asyncpg.Connection) -> None:
    sent = [await service.send("alice", n) for n in range(4)]
    async with service.connect("alice", device="gone") as alice:
        await alice.take_backlog()
        await alice.ack(3)
        await service.wait_for_acks()
    await connection.execute("UPDATE notify.cursor SET removed = true, seen_at = seen_at - interval '2 hours'")
    async with service.connect("alice", device="new") as alice:
        await alice.take_backlog()
        await alice.ack(4)
        await service.wait_for_acks()
    await age(connection, "alice", 2)
    assert await retain_beside(connection, entries=1) == 1
    assert await find_status(service, sent[1]) == "delivered"  # although its device is long gone
    assert await retain_beside(connection) == 1
    assert [await find_status(service, one) for one in sent[2:]] == ["delivered", "delivered"]
    await age(connection, "alice", 4)
    assert await retain_beside(connection) == 2
    assert await connection.fetchval("SELECT count(*) FROM notify.ack") == 0
    assert [row[0] for row in await connection.fetch("SELECT device FROM notify.cursor")] == ["new"]


async def test_a_call_takes_no_more_than_it_may_and_the_next_goes_on_there(connection: asyncpg.Connection) -> None:
    users = [f"user {n}" for n in range(4)]
    await fill(connection, *users, count=7)
    for user in users:
        await age(connection, user, 6)
    taken: list[int] = []
    while (count := await retain(connection, 2, 5)) or len(taken) < 3:
        taken.append(count)
    assert max(taken) == 5
    assert sum(taken) == 24
    assert len(taken) <= 9
    rows = await connection.fetch("SELECT floor, unread, head FROM notify.mailbox")
    assert {tuple(row) for row in rows} == {(6, 1, 7)}


async def test_a_busy_mailbox_is_passed_over(connection: asyncpg.Connection, database_url: str) -> None:
    await fill(connection, "a", "busy", "z")
    for user in ("a", "busy", "z"):
        await age(connection, user, 1)
    async with holding(database_url, "busy"):
        assert await retain(connection) == 2
        assert await retain(connection) == 0
    assert await retain(connection) == 1


async def test_one_node_at_a_time_walks(connection: asyncpg.Connection, database_url: str) -> None:
    await fill(connection, "a", "b")
    for user in ("a", "b"):
        await age(connection, user, 1)
    other = await asyncpg.connect(database_url)
    try:
        async with other.transaction():
            assert await retain(other, 1) == 1
            assert await retain(connection) == 0
    finally:
        await other.close()
    assert await retain(connection) == 1


@pytest.mark.parametrize("swept", [False, True])
async def test_the_count_stays_right_whatever_became_of_what_goes(
    service: Service, connection: asyncpg.Connection, *, swept: bool
) -> None:
    sent = [await service.send("alice", n) for n in range(4)]
    await service.send("alice", collapse_key="k")
    await service.send("alice", collapse_key="k")  # seqs 5 to 7, 6 the retract
    await cancel(service, sent[1])  # 8
    await mark_read(service, "alice", seqs=[3])  # 9
    await service.send("alice", 9)  # 10
    await connection.execute("UPDATE notify.notification SET expires_at = clock_timestamp() WHERE id = $1", sent[3])
    if swept:

        async def is_swept() -> bool:
            return bool(await connection.fetchval("SELECT swept FROM notify.notification WHERE id = $1", sent[3]))

        await until(is_swept)
    assert await service.store.inbox.unread("alice") == 3
    for up_to, unread in ((4, 2), (9, 1), (10, 0)):
        await age(connection, "alice", up_to)
        while await retain_beside(connection, entries=2):
            pass
        assert await service.store.inbox.unread("alice") == unread
    tables = ("entry", "ending", "reading", "collapse_slot")
    counts = [await connection.fetchval(f"SELECT count(*) FROM notify.{table}") for table in tables]  # noqa: S608 - ours
    assert counts == [0, 0, 0, 0]


async def test_a_mark_over_the_floor_still_covers_what_is_left(
    service: Service, connection: asyncpg.Connection
) -> None:
    await service.send_many("alice", 4)
    await mark_read(service, "alice", up_to=3)
    await age(connection, "alice", 2)
    assert await retain_beside(connection) == 2
    items = (await list_inbox(service, "alice"))["items"]
    assert [(item["seq"], item["read_at"] is None) for item in items] == [(4, True), (3, False)]
    assert (await list_inbox(service, "alice"))["unread"] == 1


async def test_a_notification_goes_when_no_mailbox_holds_it_and_it_waits_for_nothing(
    service: Service, connection: asyncpg.Connection
) -> None:
    await service.send(["alice", "bob"])
    waiting = await service.send("alice", deliver_at=from_now(3600))
    withdrawn = await service.send("alice", deliver_at=from_now(3600))
    assert await cancel(service, withdrawn) == 204
    await connection.execute("UPDATE notify.notification SET created_at = created_at - interval '2 hours'")
    await age(connection, "alice", 1)
    await retain_beside(connection)
    assert await retain_notifications(connection) == 1  # the withdrawn one; bob still has the first
    await age(connection, "bob", 1)
    await retain_beside(connection)
    assert await retain_notifications(connection) == 1
    assert [str(row[0]) for row in await connection.fetch("SELECT id FROM notify.notification")] == [waiting]
    assert [str(row[0]) for row in await connection.fetch("SELECT id FROM notify.outbox")] == [waiting]


async def test_those_that_are_still_held_are_not_in_the_way_of_the_others(connection: asyncpg.Connection) -> None:
    await fill(connection, "held", count=10)
    await fill(connection, "free", count=10)
    await connection.execute("UPDATE notify.notification SET created_at = created_at - interval '2 hours'")
    await connection.execute("UPDATE notify.entry SET at = at - interval '2 hours' WHERE user_id = 'free'")
    await retain(connection)
    gone = [await retain_notifications(connection, 4) for _ in range(6)]
    assert max(gone) <= 4
    assert sum(gone) == 10
    await age(connection, "held", 10)  # and round again
    await retain(connection)
    assert sum([await retain_notifications(connection, 4) for _ in range(5)]) == 10


async def test_keys_go_after_their_day(service: Service, connection: asyncpg.Connection) -> None:
    for key in ("old", "new"):
        await service.post({"to": "alice", "type": "t"}, Idempotency_Key=key)
    await connection.execute(
        "UPDATE notify.idempotency SET created_at = created_at - interval '25 hours' WHERE key = 'old'"
    )

    async def is_gone() -> bool:
        return [row[0] for row in await connection.fetch("SELECT key FROM notify.idempotency")] == ["new"]

    await until(is_gone)
