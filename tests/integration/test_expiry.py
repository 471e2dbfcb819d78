"""Expiry: not delivered after its `ttl`, gone from inbox and count, and what was decided before stays decided."""

import asyncio
from typing import Any

import asyncpg
import pytest

from tests.integration.support import (
    acknowledging,
    count_unread,
    find_status,
    from_now,
    let_expire,
    list_inbox,
    mark_read,
)
from tests.service import Service, holding, until


async def test_what_expired_is_passed_over_and_the_rest_arrives(
    service: Service, connection: asyncpg.Connection
) -> None:
    short = await service.send("alice", 1, ttl=600)
    await service.send("alice", 2)
    async with service.connect("alice", device="early") as early:
        assert [frame["data"] for frame in await early.take_backlog()] == [1, 2]
    await let_expire(connection, short)
    assert await find_status(service, short) == "expired"
    async with service.connect("alice", device="late") as late:
        assert [(frame["seq"], frame["data"]) for frame in await late.take_backlog()] == [(2, 2)]


async def test_a_ttl_counts_from_when_it_may_be_delivered(service: Service, connection: asyncpg.Connection) -> None:
    notification = await service.send("alice", ttl=60, deliver_at=from_now(3600))
    left = await connection.fetchval(
        "SELECT EXTRACT(epoch FROM expires_at - now()) FROM notify.notification WHERE id = $1", notification
    )
    assert 3600 < left <= 3660


async def test_a_ttl_out_of_bounds_is_an_error(service: Service) -> None:
    for ttl in (-1, 2_419_201, 2**63, 1.5, "60", None, True):
        answer = await service.post({"to": "alice", "type": "t", "data": None, "ttl": ttl})
        assert answer.status_code == 400
        assert [error["pointer"] for error in answer.json()["errors"]] == ["/ttl"], ttl


async def test_what_was_acknowledged_in_time_stays_delivered(service: Service, connection: asyncpg.Connection) -> None:
    notification = await service.send("alice")
    async with service.connect("alice") as alice:
        await alice.take_backlog()
        await alice.ack(1)
        await service.wait_for_acks()
        await let_expire(connection, notification)
        assert await find_status(service, notification) == "delivered"


async def test_an_acknowledgement_after_the_end_changes_nothing(
    service: Service, connection: asyncpg.Connection
) -> None:
    notification = await service.send("alice")
    async with service.connect("alice") as alice:
        await alice.take_backlog()
        await let_expire(connection, notification)
        await alice.ack(1)
        await service.wait_for_acks()
    assert await find_status(service, notification) == "expired"


@pytest.mark.parametrize("mark", [{"up_to": 3}, {"seqs": [1]}])
async def test_what_was_read_after_the_end_was_not_read(
    service: Service, connection: asyncpg.Connection, mark: dict[str, Any]
) -> None:
    notification = await service.send("alice")
    await service.send_many("alice", 2)
    async with service.connect("alice") as alice:
        await alice.take_backlog()
        await alice.ack(3)
        await service.wait_for_acks()
    await let_expire(connection, notification)
    await mark_read(service, "alice", **mark)
    assert await find_status(service, notification) == "delivered"


async def test_what_expired_leaves_the_inbox_and_the_count(service: Service, connection: asyncpg.Connection) -> None:
    notifications = [await service.send(["alice", "bob"], n) for n in range(4)]
    assert await mark_read(service, "alice", seqs=[4]) == 3
    await let_expire(connection, notifications[0], notifications[3])
    page = await list_inbox(service, "alice")
    assert ([item["data"] for item in page["items"]], page["unread"]) == ([2, 1], 2)
    async with service.connect("alice") as alice:
        assert alice.welcome["unread"] == 2

    async def is_swept() -> bool:
        return await count_unread(connection, "alice") == (2, 2) and await count_unread(connection, "bob") == (2, 2)

    await until(is_swept)
    assert (await list_inbox(service, "alice"))["unread"] == 2
    # A mark over the hole counts each but the expired one, before and after the sweep alike.
    assert await mark_read(service, "alice", up_to=2) == 1
    assert await mark_read(service, "bob", up_to=4) == 0


async def test_expired_is_not_reported_while_an_acknowledgement_in_time_is_being_committed(
    service: Service, connection: asyncpg.Connection, database_url: str
) -> None:
    notification = await service.send("alice")
    async with service.connect("alice") as alice:
        await alice.take_backlog()
    async with acknowledging(database_url, "alice", "default", 1):
        await let_expire(connection, notification)
        assert await find_status(service, notification) == "pending"
    assert await find_status(service, notification) == "delivered"


async def test_a_held_mailbox_keeps_nobody_else_from_being_swept(
    service: Service, connection: asyncpg.Connection, database_url: str
) -> None:
    both = [await service.send(["held", "free"]) for _ in range(3)]
    alone = await service.send("free")
    async with holding(database_url, "held"):
        await let_expire(connection, *both, alone)

        async def is_swept() -> bool:
            return bool(await connection.fetchval("SELECT swept FROM notify.notification WHERE id = $1", alone))

        await until(is_swept)
        # Kept by a notification that also counts for the held one, and right all the same when asked for.
        assert (await list_inbox(service, "free"))["unread"] == 0

    async def is_counted() -> bool:
        return await count_unread(connection, "held") == (0, 0) and await count_unread(connection, "free") == (0, 0)

    await until(is_counted)


async def test_a_sweep_leaves_what_is_still_being_released(connection: asyncpg.Connection, database_url: str) -> None:
    notification = await connection.fetchval("SELECT notify.send('t', recipient => 'alice', ttl => 1)")
    releaser = await asyncpg.connect(database_url)
    try:
        async with releaser.transaction():
            assert await releaser.fetchval("SELECT notify.release(100, 10000)") == 1
            await connection.execute(
                "SELECT pg_sleep_until(expires_at) FROM notify.notification WHERE id = $1", notification
            )  # it can only expire by itself: the releaser has it
            assert await connection.fetchval("SELECT notify.sweep_expired(100, 1000)") == 0
    finally:
        await releaser.close()
    assert await connection.fetchval("SELECT unread FROM notify.mailbox WHERE user_id = 'alice'") == 1
    assert await connection.fetchval("SELECT notify.sweep_expired(100, 1000)") == 1
    assert await connection.fetchval("SELECT unread FROM notify.mailbox WHERE user_id = 'alice'") == 0


async def test_a_status_does_not_change_once_it_is_reported(service: Service) -> None:
    """Many notifications that end just as they are acknowledged, asked after all the time."""
    reported: dict[str, set[str]] = {}
    done = asyncio.Event()

    async def watch(notification: str) -> None:
        seen = reported[notification] = set[str]()
        while not done.is_set():
            seen.add(await find_status(service, notification))
        seen.add(await find_status(service, notification))

    async with service.connect("alice") as alice, asyncio.TaskGroup() as tasks:
        await alice.take_backlog()
        notifications = [await service.send("alice", ttl=1) for _ in range(8)]
        for notification in notifications[:4]:
            tasks.create_task(watch(notification))
        await alice.take_notifications(8)
        for seq in range(1, 9):
            await asyncio.sleep(0.12)  # so that some of the acknowledgements come before the end, some after it
            await alice.say({"op": "ack", "seq": seq})
        await asyncio.sleep(0.3)  # the end of the last, and whatever is still on its way
        done.set()
    for seen in reported.values():
        assert len(seen - {"pending"}) == 1, reported
