"""The outbox: released at its time, once, whichever node does it, in order, and nobody waits for somebody else's lock."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg

from tests.integration.support import (
    MAX_PENDING,
    cancel,
    find_status,
    find_statuses,
    follow,
    from_now,
    let_expire,
    open_nodes,
)
from tests.service import Service, holding, until


async def put_due(connection: asyncpg.Connection, *users: str, key: str | None = None) -> UUID:
    """Leave something for these users in the outbox, due now."""
    found: UUID = await connection.fetchval("SELECT notify.send('t', recipients => $1, collapse_key => $2)", users, key)
    return found


async def release(connection: asyncpg.Connection, recipients: int = 1_000) -> int:
    found: int = await connection.fetchval("SELECT notify.release($1, $2)", recipients, MAX_PENDING)
    return found


async def list_entries(connection: asyncpg.Connection, user: str) -> Sequence[UUID]:
    """Return what is in a mailbox, in order."""
    rows = await connection.fetch(
        "SELECT notification_id FROM notify.entry WHERE user_id = $1 AND kind = 1 ORDER BY seq", user
    )
    return [row[0] for row in rows]


async def test_it_comes_at_its_time_and_within_a_second_of_it(service: Service) -> None:
    async with service.connect("alice") as alice:
        await alice.take_backlog()
        due = datetime.now(UTC) + timedelta(seconds=1)
        notification = await service.send("alice", deliver_at=due.isoformat())
        assert (await follow(service, notification))["counts"]["scheduled"] == 1
        assert (await follow(service, notification))["deliver_at"] is not None
        [frame] = await alice.take_notifications(1)
        late = (datetime.now(UTC) - due).total_seconds()
    assert frame["id"] == notification
    assert -0.05 < late < 1
    assert await find_status(service, notification) == "pending"


async def test_in_the_past_is_now(service: Service) -> None:
    async with service.connect("alice") as alice:
        await alice.take_backlog()
        notification = await service.send("alice", deliver_at=from_now(-86_400))
        assert (await alice.take())["id"] == notification


async def test_too_far_ahead_or_no_time_is_an_error(service: Service) -> None:
    for time in (
        from_now(31 * 86_400),
        "9999-12-31T23:59:59Z",
        "0001-01-01T00:00:00+14:00",
        "2030-01-01T00:00:00",
        "soon",
        1,
        None,
    ):
        answer = await service.post({"to": "alice", "type": "t", "deliver_at": time})
        assert answer.status_code == 400, time
        assert [error["pointer"] for error in answer.json()["errors"]] == ["/deliver_at"]


async def test_what_fell_due_while_every_node_was_down_comes_when_one_is_back(
    database_url: str, connection: asyncpg.Connection
) -> None:
    async with Service(database_url) as service:
        kept = await service.send("alice", "kept", deliver_at=from_now(3600))
        over = await service.send("alice", "over", deliver_at=from_now(3600), ttl=1)
    assert await list_entries(connection, "alice") == []
    await connection.execute("UPDATE notify.outbox SET due_at = now()")  # not before: the node may take long to stop
    await let_expire(connection, over)
    async with Service(database_url) as service, service.connect("alice") as alice:
        [frame] = await alice.take_notifications(1)
        assert frame["id"] == kept

        async def is_over() -> bool:
            return await find_status(service, over) == "expired"

        await until(is_over)
    assert await list_entries(connection, "alice") == [UUID(kept)]


async def test_two_nodes_release_each_once_and_in_order(database_url: str, connection: asyncpg.Connection) -> None:
    async with open_nodes(database_url) as (one, other), other.connect("alice", ack="auto") as alice:
        await alice.take_backlog()
        batch = [
            {"to": ["alice", "bob"], "type": "t", "data": n, "deliver_at": from_now(0.3 + n / 500)} for n in range(150)
        ]
        answer = await one.post({"notifications": batch}, path="/v1/notifications/batch")
        frames = await alice.take_notifications(150)
        assert [frame["data"] for frame in frames] == list(range(150))
        assert [str(found) for found in await list_entries(connection, "bob")] == answer.json()["ids"]
        assert await connection.fetchval("SELECT count(*) FROM notify.outbox") == 0


async def test_two_releasers_at_once_release_each_once(connection: asyncpg.Connection, database_url: str) -> None:
    others = [await asyncpg.connect(database_url) for _ in range(3)]
    try:
        for _ in range(10):
            before = len(await list_entries(connection, "alice"))
            sent = [await put_due(connection, "alice") for _ in range(10)]
            await asyncio.gather(*(release(other) for other in others))
            while await release(connection):
                pass
            assert (await list_entries(connection, "alice"))[before:] == sent
    finally:
        for other in others:
            await other.close()


async def test_a_held_mailbox_delays_nobody_else_and_its_own_keep_their_order(
    connection: asyncpg.Connection, database_url: str
) -> None:
    held = [await put_due(connection, "held") for _ in range(300)]
    free = [await put_due(connection, "free") for _ in range(3)]
    async with holding(database_url, "held"):
        assert await release(connection) == 3
        assert await list_entries(connection, "free") == free
        assert await list_entries(connection, "held") == []
    while await release(connection):
        pass
    assert await list_entries(connection, "held") == held


async def test_one_held_recipient_of_many_waits_alone(connection: asyncpg.Connection, database_url: str) -> None:
    await put_due(connection, "held")
    await release(connection)
    [first] = await list_entries(connection, "held")
    notification = await put_due(connection, "a", "held", "z")
    later = await put_due(connection, "held", "z")
    async with holding(database_url, "held"):
        assert await release(connection) == 2
        assert await list_entries(connection, "a") == [notification]
        assert await list_entries(connection, "z") == [notification, later]
        rows = await connection.fetch("SELECT id, users FROM notify.outbox ORDER BY due_at")
        assert [tuple(row) for row in rows] == [(notification, ["held"]), (later, ["held"])]
    assert await release(connection) == 2
    assert await list_entries(connection, "held") == [first, notification, later]
    assert await connection.fetchval("SELECT count(*) FROM notify.outbox") == 0


async def test_the_service_delivers_past_a_held_mailbox_within_a_second(service: Service, database_url: str) -> None:
    async with service.connect("free") as free:
        await free.take_backlog()
        async with holding(database_url, "held"):
            await service.send("held", deliver_at=from_now(0.2))
            await service.send("free", deliver_at=from_now(0.3))
            await free.take_notifications(1, seconds=1.3)


async def test_one_to_very_many_goes_in_parts_and_nothing_overtakes_it(connection: asyncpg.Connection) -> None:
    users = [f"user {n:02}" for n in range(35)]
    long = await put_due(connection, *users)
    short = await put_due(connection, *users[30:])
    released = 0
    while await release(connection, 10):
        released += 1
        assert await connection.fetchval("SELECT count(*) FROM notify.entry") <= 10 * released
    assert released == 4
    for user in users:
        assert await list_entries(connection, user) == ([long, short] if user in users[30:] else [long])


async def test_what_waits_for_a_held_recipient_lets_nothing_overtake_the_rest(
    connection: asyncpg.Connection, database_url: str
) -> None:
    users = [f"user {n:02}" for n in range(35)]
    first = await put_due(connection, *users)
    while await release(connection):
        pass
    long = await put_due(connection, *users)
    short = await put_due(connection, *users[30:])
    async with holding(database_url, users[3]):
        while await release(connection, 10):
            pass
    assert await release(connection, 10) == 1
    for user in users:
        assert await list_entries(connection, user) == [first, long, *([short] if user in users[30:] else [])]


async def test_one_that_is_released_in_part_can_be_withdrawn_from_everyone(
    service: Service, connection: asyncpg.Connection
) -> None:
    users = [f"user {n}" for n in range(5)]
    notification = await service.send(users, deliver_at=from_now(3600))
    async with connection.transaction():
        # The janitor's own look has to be over: while it lasts, others release nothing. After that it looks away.
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('notify outbox', 2))")
        await connection.execute("UPDATE notify.outbox SET due_at = now()")
        assert await release(connection, 2) == 1
        await connection.execute("UPDATE notify.outbox SET due_at = now() + interval '1 hour'")
    assert (await follow(service, notification))["counts"] | {"pending": 2, "scheduled": 3} == (
        await follow(service, notification)
    )["counts"]
    assert await cancel(service, notification) == 204
    assert await find_statuses(service, notification) == dict.fromkeys(users, "cancelled")
    assert (await follow(service, notification))["counts"]["cancelled"] == 5


async def test_a_bad_row_is_set_aside_and_says_why(service: Service, connection: asyncpg.Connection) -> None:
    async with connection.transaction():
        bad = await put_due(connection, "alice")
        await connection.execute("UPDATE notify.outbox SET users = ARRAY['alice', NULL] WHERE id = $1", bad)
        good = await put_due(connection, "alice")
    async with service.connect("alice") as alice:
        [frame] = await alice.take_notifications(1)
    assert frame["id"] == str(good)
    assert "user_id" in await connection.fetchval("SELECT problem FROM notify.outbox WHERE id = $1", bad)
    assert await list_entries(connection, "alice") == [good]


async def test_a_collapse_key_counts_from_when_it_is_released(service: Service, connection: asyncpg.Connection) -> None:
    async with service.connect("alice") as alice:
        await alice.take_backlog()
        scheduled = await service.send("alice", collapse_key="k", deliver_at=from_now(3600))
        pending = await service.send("alice", collapse_key="k")
        assert (await alice.take())["id"] == pending
        assert await find_status(service, scheduled) == "scheduled"
        await connection.execute("UPDATE notify.outbox SET due_at = now()")
        assert [(await alice.take())["op"], (await alice.take())["id"]] == ["retract", scheduled]
        assert await find_status(service, pending) == "collapsed"
