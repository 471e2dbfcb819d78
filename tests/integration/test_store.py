"""The store on a real PostgreSQL: durable, in order, all or nothing, and nobody waits for somebody else's lock."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit
from uuid import UUID

import asyncpg
import pytest

from notify.batch import Lane, Poisoned
from notify.errors import NotifyError, Unavailable
from notify.ids import mint_id
from notify.model import Codec, Kind, Notification, Page
from notify.settings import Settings
from notify.store import Store
from notify.store.sends import Post
from tests.service import PATIENCE, holding, until

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


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    async with connected(database_url) as store:
        yield store


def notification(*to: str, data: bytes = b"1", **fields: Any) -> Notification:
    values = {"id": mint_id(), "producer": "shop", "type": "t", "data": data, "to": to, **fields}
    return Notification(**values)


def post(*to: str, data: bytes = b"1", **fields: Any) -> Post:
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
    store.mailboxes.ack(user, device, seq)
    await until(lambda: not len(store.mailboxes.acking))


async def read_cursor(connection: asyncpg.Connection, user: str, device: str = "default") -> int:
    found: int = await connection.fetchval(
        "SELECT seq FROM notify.cursor WHERE user_id = $1 AND device = $2", user, device
    )
    return found


# Sending


async def test_seqs_come_without_gaps_however_many_send_at_once(store: Store, database_url: str) -> None:
    async with connected(database_url) as other:  # another node
        users = ["ann", "bob"]
        await asyncio.gather(*((store, other)[place % 2].sends.send(post(*users)) for place in range(200)))
    for user in users:
        assert await read_all(store, user) == list(range(1, 201))


async def test_seqs_come_in_the_order_of_the_commits(
    store: Store, database_url: str, connection: asyncpg.Connection
) -> None:
    """Whoever has seen a seq has seen, or can see, every lower one: a reader never passes a number that commits later."""
    seen: list[int] = []

    async def watch() -> None:
        while len(seen) < 150:
            rows = await connection.fetch("SELECT seq FROM notify.entry WHERE user_id = 'ann' ORDER BY seq")
            seqs = [row[0] for row in rows]
            assert seqs == list(range(1, len(seqs) + 1))
            assert seqs[: len(seen)] == seen
            seen[:] = seqs

    async with connected(database_url) as other, asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        tasks.create_task(watch())
        for place in range(150):
            tasks.create_task((store, other)[place % 2].sends.send(post("ann")))
            await asyncio.sleep(0.001)  # spread over many statements of both nodes


async def test_a_producer_that_waits_for_its_answers_is_delivered_in_order(store: Store) -> None:
    sent = []
    for _ in range(20):
        item = post("ann")
        await store.sends.send(item)
        sent.append(item.notifications[0].id)
    page = await store.mailboxes.fetch("ann", 0, ROOM, SIZE)
    assert [entry.notification_id for entry in page.entries] == sent


async def test_a_post_is_stored_as_a_whole_or_not_at_all(store: Store, connection: asyncpg.Connection) -> None:
    await connection.execute("ALTER TABLE notify.notification ADD CHECK (type <> 'bad')")
    bad = Post([notification("ann"), notification("ann", "bob", type="bad"), notification("cid")])
    with pytest.raises(Poisoned):
        await store.sends.send(bad)
    assert await connection.fetchval("SELECT count(*) FROM notify.notification") == 0
    assert await connection.fetchval("SELECT count(*) FROM notify.entry") == 0
    assert await connection.fetchval("SELECT COALESCE(sum(head), 0) FROM notify.mailbox") == 0


async def test_a_bad_item_fails_alone(store: Store, connection: asyncpg.Connection) -> None:
    await connection.execute("ALTER TABLE notify.notification ADD CHECK (type <> 'bad')")
    posts = [post(f"user{place}", type="bad" if place == 17 else "t") for place in range(40)]
    results = await asyncio.gather(*(store.sends.send(item) for item in posts), return_exceptions=True)
    assert [place for place, result in enumerate(results) if not isinstance(result, datetime)] == [17]
    assert isinstance(results[17], Poisoned)
    assert await connection.fetchval("SELECT count(*) FROM notify.entry") == 39


@pytest.mark.parametrize("text", ["a\0b", "half \ud800"])
async def test_text_that_postgresql_cannot_take_fails_alone(store: Store, text: str) -> None:
    results = await asyncio.gather(
        store.sends.send(post("ann")), store.sends.send(post("bob", type=text)), store.sends.send(post("cid")),
        return_exceptions=True,
    )  # fmt: skip
    assert [type(result) for result in results] == [datetime, Poisoned, datetime]


async def test_sends_at_once_share_statements(store: Store, connection: asyncpg.Connection) -> None:
    """Group commit: under load there are far fewer commits than sends."""
    lane: Lane[Post, datetime] = store.sends.single
    batches: list[int] = []
    run = lane._run

    async def counting(posts: Any) -> Any:
        batches.append(len(posts))
        return await run(posts)

    lane._run = counting
    await asyncio.gather(*(store.sends.send(post(f"user{place}")) for place in range(600)))
    assert sum(batches) == 600
    assert len(batches) <= 12
    moments = await connection.fetchval("SELECT count(DISTINCT created_at) FROM notify.notification")
    assert moments == len(batches)


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


# A broken connection


async def test_a_send_whose_connection_is_cut_before_the_commit_was_not_stored(
    store: Store, connection: asyncpg.Connection
) -> None:
    await stop_at_entries(connection)
    item = post("ann")
    async with pausing_entries(connection):
        sending = asyncio.create_task(store.sends.send(item))
        pid = await find_waiting(connection)
        await connection.execute("SELECT pg_terminate_backend($1)", pid)
        with pytest.raises(Unavailable, match="nothing was accepted"):
            async with asyncio.timeout(PATIENCE):
                await sending
    assert await store.notifications.find(item.notifications[0].id) is None
    assert await read_all(store, "ann") == []
    await store.sends.send(post("ann"))  # and life goes on
    assert await read_all(store, "ann") == [1]


async def test_a_send_whose_answer_is_lost_after_the_commit_was_stored_and_says_so(
    database_url: str, connection: asyncpg.Connection
) -> None:
    async with swallowing_proxy(database_url) as proxy, connected(proxy.url) as store:
        await store.sends.send(post("warm"))
        proxy.swallow = True
        item = post("ann")
        sending = asyncio.create_task(store.sends.send(item))
        await until(lambda: exists(connection, item.notifications[0].id))
        proxy.cut()
        async with asyncio.timeout(PATIENCE):
            moment = await sending
    stored = await connection.fetchrow(
        "SELECT id, created_at FROM notify.notification WHERE type = 't' ORDER BY id DESC LIMIT 1"
    )
    assert stored is not None
    assert tuple(stored) == (item.notifications[0].id, moment)
    assert await connection.fetchval("SELECT count(*) FROM notify.entry WHERE user_id = 'ann'") == 1


async def test_a_batch_given_up_can_never_be_stored_later(store: Store, connection: asyncpg.Connection) -> None:
    """A statement that was on its way when its sender was told 503 finds that it came too late."""
    batch, first = mint_id(), mint_id()
    assert await store.database.value("settle", batch, first) is None
    arguments: list[Any] = [
        batch, [first], ["shop"], ["t"], [b"1"], [0], [1], [60], [None], [None], [1], ["ann"], 100, [], [], [], [],
    ]  # fmt: skip
    with pytest.raises(NotifyError, match="NT001"):
        await store.database.value("deposit", *arguments)
    assert await connection.fetchval("SELECT count(*) FROM notify.entry") == 0
    await store.database.value("deposit", mint_id(), *arguments[1:])
    assert await read_all(store, "ann") == [1]


async def test_settling_waits_for_a_statement_that_still_runs(store: Store, connection: asyncpg.Connection) -> None:
    """The truth about a batch is not known while it runs: an answer before its end could be wrong."""
    await stop_at_entries(connection)
    batches: list[UUID] = []
    value = store.database.value

    async def remembering(name: str, *arguments: Any) -> Any:
        if name == "deposit":
            batches.append(arguments[0])
        return await value(name, *arguments)

    store.database.value = remembering  # type: ignore[method-assign]  # only listens
    item = post("ann")
    async with pausing_entries(connection):
        sending = asyncio.create_task(store.sends.send(item))
        await find_waiting(connection)
        settling = asyncio.create_task(value("settle", batches[0], item.notifications[0].id))
        await until(lambda: is_waiting_for_advisory_lock(connection))
        assert not settling.done()
    assert await settling == await sending


# Reading


async def test_a_page_is_bounded_in_entries_and_in_bytes_and_never_empty_before_the_head(store: Store) -> None:
    for _ in range(3):
        await store.sends.send(Post([notification("ann", data=b'"' + b"x" * 60_000 + b'"') for _ in range(5)]))
    await store.sends.send(Post([notification("ann") for _ in range(150)]))
    page = await store.mailboxes.fetch("ann", 0, ROOM, SIZE)
    assert [entry.seq for entry in page.entries] == [1, 2, 3, 4, 5]  # 256 KiB and the one that reaches them
    assert not page.complete
    assert [e.seq for e in (await store.mailboxes.fetch("ann", 0, 1, 1)).entries] == [1]
    assert len((await store.mailboxes.fetch("ann", 15, ROOM, SIZE)).entries) == 100
    assert await read_all(store, "ann") == list(range(1, 166))


async def test_a_page_has_no_holes_even_where_it_is_full(store: Store) -> None:
    """What weighs nothing (a retract, a read mark) must not come in behind what no longer fits."""
    await store.mailboxes.open("ann", "default")
    heavy = [notification("ann", data=b'"' + b"x" * 60_000 + b'"') for _ in range(8)]
    await store.sends.send(Post(heavy))
    await store.notifications.cancel(heavy[7].id, None)
    await store.inbox.mark("ann", [1])
    after, seen = 0, []
    while True:
        page: Page = await store.mailboxes.fetch("ann", after, ROOM, SIZE)
        seqs = [entry.seq for entry in page.entries]
        assert seqs == list(range(after + 1, after + 1 + len(seqs)))
        seen += [entry.kind for entry in page.entries if entry.live]
        after = seqs[-1]
        if page.complete:
            break
    assert seen == [Kind.NOTIFICATION] * 7 + [Kind.RETRACT, Kind.READ]


async def test_what_is_over_is_passed_without_its_data(store: Store, connection: asyncpg.Connection) -> None:
    await store.sends.send(Post([notification("ann", ttl=60), notification("ann"), notification("ann")]))
    await connection.execute(
        "UPDATE notify.notification SET expires_at = now() WHERE id = (SELECT notification_id FROM notify.entry WHERE seq = 2)"
    )
    page = await store.mailboxes.fetch("ann", 0, ROOM, SIZE)
    assert [(entry.seq, entry.live, entry.data) for entry in page.entries] == [
        (1, True, b"1"),
        (2, False, b""),
        (3, True, b"1"),
    ]


async def test_a_mailbox_that_does_not_exist_is_an_empty_page(store: Store) -> None:
    page = await store.mailboxes.fetch("nobody", 0, ROOM, SIZE)
    assert (page.head, page.entries, page.complete) == (0, [], True)


async def test_many_fetches_at_once_share_a_statement_and_mix_nothing_up(store: Store) -> None:
    await asyncio.gather(*(store.sends.send(post(f"user{place}", data=b"%d" % place)) for place in range(150)))
    pages = await asyncio.gather(*(store.mailboxes.fetch(f"user{place}", 0, ROOM, SIZE) for place in range(150)))
    assert [[entry.data for entry in page.entries] for page in pages] == [[b"%d" % place] for place in range(150)]


async def test_data_is_stored_byte_for_byte(store: Store) -> None:
    texts = [b'{"a": 1.10, "a": 2}', b"1e131071", '"\\u0041 ü \U0001f388"'.encode(), b"[" * 64 + b"]" * 64]
    await store.sends.send(Post([notification("ann", data=text) for text in texts]))
    await store.sends.send(post("ann", data=b"\x81\xa1a\xc4\x01\x00", codec=Codec.MSGPACK))
    page = await store.mailboxes.fetch("ann", 0, ROOM, SIZE)
    assert [entry.data for entry in page.entries] == [*texts, b"\x81\xa1a\xc4\x01\x00"]
    assert page.entries[-1].codec is Codec.MSGPACK


# Cursors


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
            (store, other)[seq % 2].mailboxes.ack("ann", "default", seq)
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
    store.mailboxes.ack("ann", "default", 3)
    await wrong
    await until(lambda: not len(store.mailboxes.acking))
    assert await read_cursor(connection, "ann") == 3


async def test_an_ack_of_a_device_that_never_was_means_nothing(store: Store, connection: asyncpg.Connection) -> None:
    await store.sends.send(post("ann"))
    await acknowledge(store, "ann", 1, "ghost")
    assert await connection.fetchval("SELECT count(*) FROM notify.cursor") == 0


async def test_a_locked_cursor_holds_up_nobody_elses(
    store: Store, database_url: str, connection: asyncpg.Connection
) -> None:
    await store.sends.send(post("ann", "bob"))
    await store.mailboxes.open("ann", "default")
    await store.mailboxes.open("bob", "default")
    async with holding_cursor(database_url, "ann"):
        store.mailboxes.ack("ann", "default", 1)
        store.mailboxes.ack("bob", "default", 1)
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


async def test_beyond_the_limit_the_longest_unseen_device_goes_and_comes_back_as_new(database_url: str) -> None:
    async with connected(database_url, max_devices=2) as store:
        await store.sends.send(Post([notification("ann") for _ in range(3)]))
        for device in ("one", "two"):
            await store.mailboxes.open("ann", device)
        await acknowledge(store, "ann", 2, "two")
        await store.mailboxes.open("ann", "three")
        assert {device.device for device in await store.inbox.devices("ann")} == {"two", "three"}
        assert (await store.mailboxes.open("ann", "one")).cursor == 2


# Fullness


async def test_the_oldest_pending_entries_of_a_full_mailbox_go_and_the_floor_says_so(database_url: str) -> None:
    async with connected(database_url, max_pending=10) as store:
        for _ in range(3):
            await store.sends.send(Post([notification("ann") for _ in range(6)]))
        page = await store.mailboxes.fetch("ann", 0, ROOM, SIZE)
        assert (page.head, page.floor) == (18, 8)
        assert [entry.seq for entry in page.entries] == list(range(9, 19))
        await store.mailboxes.open("ann", "default")
        await acknowledge(store, "ann", 18)
        await store.sends.send(Post([notification("ann") for _ in range(10)]))  # all of it fits again
        assert (await store.mailboxes.fetch("ann", 18, ROOM, SIZE)).floor == 8


async def test_a_scheduled_notification_is_not_in_the_mailbox_before_its_time(store: Store) -> None:
    await store.sends.send(post("ann", deliver_at=datetime.now(UTC) + timedelta(hours=1)))
    assert await read_all(store, "ann") == []
    assert await store.outbox.release() == 0


async def test_the_epoch_changes_with_the_database_and_with_the_mailbox(
    store: Store, connection: asyncpg.Connection
) -> None:
    ann = (await store.mailboxes.open("ann", "default")).epoch
    assert ann == (await store.mailboxes.open("ann", "other")).epoch
    assert ann != (await store.mailboxes.open("bob", "default")).epoch
    await connection.execute("UPDATE notify.salt SET value = 'restored'")
    await store.mailboxes.read_epoch()
    assert ann != (await store.mailboxes.open("ann", "default")).epoch


# How the tests stop the database where they need it


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
    async with store.database._pool.acquire() as connection:
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


async def stands_at(connection: asyncpg.Connection, user: str, seq: int) -> bool:
    return await read_cursor(connection, user) == seq


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
    with TemporaryDirectory(prefix="notify-", dir="/tmp") as name:
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
