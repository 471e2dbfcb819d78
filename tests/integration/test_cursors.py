"""What devices have acknowledged: cursors move forward only, and never past the head."""

import asyncio

import asyncpg

from notify.store import Store
from notify.store.sends import Post
from tests.mailing import acknowledge, connected, notification, post
from tests.service import read_cursor, until


async def test_a_cursor_exists_before_anything_is_sent_and_survives(
    store: Store, connection: asyncpg.Connection
) -> None:
    standing = await store.mailboxes.open("ann", "phone")
    assert (standing.head, standing.cursor) == (0, 0)
    assert await read_cursor(connection, "ann", "phone") == 0


async def test_a_new_device_starts_after_what_any_device_has_acknowledged(store: Store) -> None:
    await store.sends.send(Post([notification("ann") for _ in range(5)]))
    assert (await store.mailboxes.open("ann", "phone")).cursor == 0
    await acknowledge(store, "ann", 3, "phone")
    assert (await store.mailboxes.open("ann", "desk")).cursor == 3
    assert (await store.mailboxes.open("ann", "phone")).cursor == 3
    assert (await store.mailboxes.open("bob", "phone")).cursor == 0


async def test_a_cursor_moves_only_forward_and_never_past_the_head(
    store: Store, connection: asyncpg.Connection
) -> None:
    await store.sends.send(Post([notification("ann") for _ in range(5)]))
    await store.mailboxes.open("ann", "default")
    await acknowledge(store, "ann", 4)
    await acknowledge(store, "ann", 2)
    assert await read_cursor(connection, "ann") == 4
    await acknowledge(store, "ann", 6)
    assert await read_cursor(connection, "ann") == 4
    await acknowledge(store, "ann", 5)
    assert await read_cursor(connection, "ann") == 5
    rows = await connection.fetch("SELECT after_seq, to_seq FROM notify.ack WHERE user_id = 'ann' ORDER BY to_seq")
    assert [tuple(row) for row in rows] == [(0, 4), (4, 5)]


async def test_acks_of_two_nodes_at_once_leave_the_further_one(
    store: Store, database_url: str, connection: asyncpg.Connection
) -> None:
    await store.sends.send(Post([notification("ann") for _ in range(50)]))
    await store.mailboxes.open("ann", "default")
    async with connected(database_url) as other:
        for seq in range(1, 51):
            (store, other)[seq % 2].mailboxes.acking.put("ann", "default", seq, store.mailboxes.epoch)
            await asyncio.sleep(0)
        await until(lambda: not len(store.mailboxes.acking) and not len(other.mailboxes.acking))
    assert await read_cursor(connection, "ann") == 50
    covered = await connection.fetch("SELECT after_seq, to_seq FROM notify.ack ORDER BY to_seq")
    assert [row["after_seq"] for row in covered[1:]] == [row["to_seq"] for row in covered[:-1]]  # each seq once


async def test_an_ack_beyond_the_head_takes_no_other_ack_along(store: Store, connection: asyncpg.Connection) -> None:
    await store.sends.send(Post([notification("ann") for _ in range(5)]))
    await store.mailboxes.open("ann", "default")
    wrong = asyncio.create_task(store.mailboxes.acknowledge("ann", "default", 10**9))
    await asyncio.sleep(0)
    store.mailboxes.acking.put("ann", "default", 3, store.mailboxes.epoch)
    await wrong
    await until(lambda: not len(store.mailboxes.acking))
    assert await read_cursor(connection, "ann") == 3


async def test_an_ack_of_a_device_that_never_was_means_nothing(store: Store, connection: asyncpg.Connection) -> None:
    await store.sends.send(post("ann"))
    await acknowledge(store, "ann", 1, "ghost")
    assert await connection.fetchval("SELECT count(*) FROM notify.cursor") == 0


async def test_beyond_the_limit_the_longest_unseen_device_goes_and_comes_back_as_new(database_url: str) -> None:
    async with connected(database_url, max_devices=2) as store:
        await store.sends.send(Post([notification("ann") for _ in range(3)]))
        for device in ("one", "two"):
            await store.mailboxes.open("ann", device)
        await acknowledge(store, "ann", 2, "two")
        await store.mailboxes.open("ann", "three")
        assert {device.device for device in await store.inbox.devices("ann")} == {"two", "three"}
        assert (await store.mailboxes.open("ann", "one")).cursor == 2
