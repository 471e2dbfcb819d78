"""Who waits for somebody's lock waits alone."""

import asyncio

import asyncpg

from notify.ids import mint_id
from notify.store import Store
from tests.mailing import (
    ROOM,
    SIZE,
    connected,
    find_waiting,
    holding_cursor,
    is_waiting_for_row,
    is_waiting_for_transaction,
    pausing_entries,
    post,
    read_all,
    stop_at_entries,
)
from tests.service import PATIENCE, holding, stands_at, until


async def test_a_locked_mailbox_holds_up_nobody_else(store: Store, database_url: str) -> None:
    await store.sends.send(post("ann"))
    async with holding(database_url, "ann"):
        blocked = asyncio.create_task(store.sends.send(post("ann")))
        mixed = asyncio.create_task(store.sends.send(post("bob", "ann")))
        async with asyncio.timeout(1):
            await asyncio.gather(*(store.sends.send(post(f"user{place}")) for place in range(100)))
        assert not blocked.done()
        assert not mixed.done()
        async with asyncio.timeout(1):  # and once it is known who is blocked, nobody waits at all
            await store.sends.send(post("cid"))
    async with asyncio.timeout(2):
        await asyncio.gather(blocked, mixed)
    assert await read_all(store, "ann") == [1, 2, 3]
    assert await read_all(store, "bob") == [1]


async def test_a_mailbox_that_is_just_being_made_holds_up_nobody_else(store: Store, database_url: str) -> None:
    """Its row is not visible to anyone yet, so that no probe can tell who waits for it."""
    foreign = await asyncpg.connect(database_url)
    transaction = foreign.transaction()
    await transaction.start()
    await foreign.execute("INSERT INTO notify.mailbox (user_id) VALUES ('ann')")
    blocked = asyncio.create_task(store.sends.send(post("ann")))
    async with asyncio.timeout(5):
        await asyncio.gather(*(store.sends.send(post(f"user{place}")) for place in range(20)))
    assert not blocked.done()
    await transaction.commit()
    async with asyncio.timeout(2):
        await blocked
    await foreign.close()


async def test_a_post_to_many_does_not_stand_in_the_way_of_the_others(store: Store, database_url: str) -> None:
    async with holding(database_url, "user7"):
        many = asyncio.create_task(store.sends.send(post(*(f"user{place}" for place in range(2_000)))))
        async with asyncio.timeout(1):
            await store.sends.send(post("ann"))
        assert not many.done()
    await many
    assert await read_all(store, "user1999") == [1]


async def test_posts_to_many_that_take_long_leave_the_lane_to_the_others(
    store: Store, connection: asyncpg.Connection
) -> None:
    await stop_at_entries(connection, more_than=500)
    async with pausing_entries(connection):
        many = [
            asyncio.create_task(store.sends.send(post(*(f"{letter}{n}" for n in range(4_000))))) for letter in "abcd"
        ]
        await find_waiting(connection)
        async with asyncio.timeout(2):
            for _ in range(5):
                await store.sends.send(post("ann"))
        assert not any(task.done() for task in many)
    await asyncio.gather(*many)


async def test_mailboxes_are_locked_in_the_order_of_their_ids(
    connection: asyncpg.Connection, database_url: str
) -> None:
    """Two statements that need the same mailboxes can't wait for each other in a circle."""
    users = [f"user{place}" for place in range(8)]
    await connection.execute("INSERT INTO notify.mailbox (user_id) SELECT unnest($1::text[])", users)
    await connection.execute("ALTER FUNCTION notify.number SET lock_timeout = '5s'")
    numbering = await asyncpg.connect(database_url)
    try:
        async with holding(database_url, "user5"):
            ids = [mint_id() for _ in users]
            waiting = asyncio.create_task(
                numbering.execute("SELECT notify.number($1, $2, $3, 100)", ids, users[::-1], [None] * 8)
            )
            await until(lambda: is_waiting_for_transaction(connection))
            free = await connection.fetch("SELECT user_id FROM notify.mailbox ORDER BY user_id FOR UPDATE SKIP LOCKED")
            assert [row[0] for row in free] == ["user6", "user7"]
        await waiting
    finally:
        await numbering.close()


async def test_the_mailbox_of_a_waiting_post_is_not_skipped_by_later_ones(store: Store, database_url: str) -> None:
    """Sends to one user wait in line: after the release they are delivered in the order they came."""
    await store.sends.send(post("ann"))
    posts = [post("ann") for _ in range(5)]
    async with holding(database_url, "ann"):
        waiting = [asyncio.create_task(store.sends.send(posts[0]))]
        await until(lambda: bool(store.sends.single._parked))
        for item in posts[1:]:
            waiting.append(asyncio.create_task(store.sends.send(item)))
            await asyncio.sleep(0)
    await asyncio.gather(*waiting)
    page = await store.mailboxes.fetch("ann", 1, ROOM, SIZE)
    assert [entry.notification_id for entry in page.entries] == [item.notifications[0].id for item in posts]


async def test_cancelling_for_one_who_is_locked_holds_up_none_of_the_others(store: Store, database_url: str) -> None:
    users = [f"user{place}" for place in range(20)]
    item = post(*users)
    await store.sends.send(item)
    async with holding(database_url, "user7"):
        cancelling = asyncio.create_task(store.notifications.cancel(item.notifications[0].id, None))
        await until(lambda: is_waiting_for_row(store), seconds=1)
        async with asyncio.timeout(1):
            await asyncio.gather(*(store.sends.send(post(user)) for user in users if user != "user7"))
        assert not cancelling.done()
    async with asyncio.timeout(5):
        assert await cancelling == 20


async def test_two_nodes_that_send_to_the_same_users_in_different_orders_do_not_deadlock(
    store: Store, database_url: str
) -> None:
    users = [f"user{place}" for place in range(50)]
    async with connected(database_url) as other, asyncio.timeout(PATIENCE):
        for _ in range(10):
            await asyncio.gather(
                *(store.sends.send(post(*users)) for _ in range(3)),
                *(other.sends.send(post(*reversed(users))) for _ in range(3)),
                *(other.mailboxes.open(user, mint_id().hex) for user in users[::7]),
            )
    assert await read_all(store, "user3") == list(range(1, 61))


async def test_a_locked_cursor_holds_up_nobody_elses(
    store: Store, database_url: str, connection: asyncpg.Connection
) -> None:
    await store.sends.send(post("ann", "bob"))
    await store.mailboxes.open("ann", "default")
    await store.mailboxes.open("bob", "default")
    async with holding_cursor(database_url, "ann"):
        store.mailboxes.acking.put("ann", "default", 1, store.mailboxes.epoch)
        store.mailboxes.acking.put("bob", "default", 1, store.mailboxes.epoch)
        await until(lambda: stands_at(connection, "bob", 1), seconds=2)
    await until(lambda: stands_at(connection, "ann", 1))


async def test_a_locked_mailbox_holds_up_nobody_elses_opening(store: Store, database_url: str) -> None:
    async with holding(database_url, "ann"):
        blocked = asyncio.create_task(store.mailboxes.open("ann", "new"))
        async with asyncio.timeout(1.5):
            await asyncio.gather(*(store.mailboxes.open(f"user{place}", "new") for place in range(30)))
        assert not blocked.done()
    async with asyncio.timeout(3):
        await blocked
