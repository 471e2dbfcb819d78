"""The store on a real PostgreSQL: durable, in order, all or nothing."""

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import asyncpg
import pytest

from notify.batch import Lane, Poisoned
from notify.ids import mint_id
from notify.model import Codec, Kind, Page
from notify.store import Store
from notify.store.mailboxes import PAGE_ENTRIES
from notify.store.sends import Post
from tests.mailing import DATA, ROOM, SIZE, acknowledge, connected, notification, post, read_all
from tests.service import PATIENCE, until


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


async def test_several_for_the_same_users_in_one_statement_are_numbered_and_told_in_their_order(
    store: Store, connection: asyncpg.Connection
) -> None:
    """Some mailboxes are new, some are not; the order of the recipients is not that of their mailboxes."""
    await store.sends.send(post("bea"))
    told: list[str] = []
    await connection.add_listener("notify_wake", lambda *heard: told.append(heard[-1]))
    sent = [
        notification(*to, data=str(n).encode() + b" " * 300)
        for n, to in enumerate([("cyd", "bea"), ("ann",), ("bea", "ann", "änn"), ("cyd",)] * 8)
    ]
    await store.sends.send(Post(sent))
    entries = sum(len(item.to) for item in sent)
    await until(lambda: sum(len(part.split("\n")) for part in told) >= entries)  # they come by another connection
    lines = [line.split("\t") for part in told for line in part.split("\n")]
    expected = {user: [item.id for item in sent if user in item.to] for user in ("ann", "bea", "cyd", "änn")}
    for user, ids in expected.items():
        first = 2 if user == "bea" else 1
        page = await store.mailboxes.fetch(user, first - 1, ROOM, SIZE)
        assert [(entry.seq, entry.notification_id) for entry in page.entries] == list(enumerate(ids, first))
        assert page.head == first - 1 + len(ids)
        assert [(int(line[1]), line[3]) for line in lines if line[0] == user] == [
            (n, str(id_)) for n, id_ in enumerate(ids, first)
        ]
    assert len(told) > 1
    assert max(len(part.encode()) for part in told) < 8_000


def count_microseconds(moment: datetime) -> int:
    """Return those since 1970, in which a line says when something was."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def keep_payload(told: list[str], *heard: object) -> None:
    told.append(str(heard[-1]))


def holds_two(told: list[str]) -> bool:
    return len(told) == 2


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"ttl": 1},
        {"context": '{"traceparent":"00"}'},
        {"data": b"\x81\xa1a\xc4\x01\x00", "codec": Codec.MSGPACK},
        {"data": b'"' + b"x" * 2_000 + b'"'},
    ],
    ids=["plain", "brief", "in a trace", "binary", "long"],
)
async def test_what_is_stored_alone_is_stored_and_told_like_one_of_many(
    store: Store, connection: asyncpg.Connection, fields: dict[str, Any]
) -> None:
    found = []
    for users in (("ann",), ("bob", "cyd")):
        told: list[str] = []
        await connection.add_listener("notify_wake", partial(keep_payload, told))
        moments = [await store.sends.send(post(*users, **fields)) for _ in range(2)]
        await until(partial(holds_two, told))
        rows = await connection.fetch(
            "SELECT n.*, e.seq, e.kind, e.at, m.head, m.floor, m.unread FROM notify.notification AS n "
            "JOIN notify.entry AS e ON e.notification_id = n.id JOIN notify.mailbox AS m USING (user_id) "
            "WHERE user_id = $1 ORDER BY e.seq",
            users[0],
        )
        assert [row["created_at"] for row in rows] == moments
        assert [row["recipients"] for row in rows] == [len(users)] * 2
        own = {"id", "created_at", "expires_at", "at", "recipients"}
        kept = [
            {key: value for key, value in row.items() if key not in own}
            | {"ttl": row["expires_at"] - row["created_at"]}
            for row in rows
        ]
        lines = [payload.split("\n")[0].split("\t") for payload in told]
        for line, row in zip(lines, rows, strict=True):
            of_row = [count_microseconds(row["at"]), row["id"], count_microseconds(row["created_at"])]
            assert line[2:5] in ([], [str(value) for value in of_row])
        found.append((kept, [[line[1], len(line), *line[5:]] for line in lines]))
    assert found[0] == found[1]


async def test_recipients_in_no_order_get_what_is_theirs(store: Store) -> None:
    """Our own statements sort them; those of a node that still runs an older release do not."""
    await store.sends.send(post("bea"))
    ids = [mint_id() for _ in range(3)]
    arguments: list[Any] = [
        mint_id(), ids, ["shop"] * 3, ["t"] * 3, [b"1"] * 3, [0] * 3, [1] * 3, [60] * 3, [None] * 3, [None] * 3, [None] * 3,
        [None] * 3, [1, 2, 3], ["cyd", "ann", "bea"], 100, [], [], [], [],
    ]  # fmt: skip
    await store.database.value("deposit", *arguments)
    for user, seq, id_ in zip(("cyd", "ann", "bea"), (1, 1, 2), ids, strict=True):
        page = await store.mailboxes.fetch(user, seq - 1, ROOM, SIZE)
        assert [(entry.seq, entry.notification_id) for entry in page.entries] == [(seq, id_)]


async def test_a_page_is_bounded_in_entries_and_in_bytes_and_never_empty_before_the_head(store: Store) -> None:
    for _ in range(3):
        await store.sends.send(Post([notification("ann", data=b'"' + b"x" * 60_000 + b'"') for _ in range(5)]))
    await store.sends.send(Post([notification("ann") for _ in range(150)]))
    page = await store.mailboxes.fetch("ann", 0, ROOM, SIZE)
    assert [entry.seq for entry in page.entries] == [1, 2]  # 64 KiB and the one that reaches them
    assert not page.complete
    assert [e.seq for e in (await store.mailboxes.fetch("ann", 0, 1, 1)).entries] == [1]
    assert len((await store.mailboxes.fetch("ann", 15, ROOM, SIZE)).entries) == PAGE_ENTRIES
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
        (1, True, DATA),
        (2, False, b""),
        (3, True, DATA),
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


async def test_connections_that_the_server_closed_while_nobody_used_them_are_replaced_unnoticed(
    store: Store, connection: asyncpg.Connection
) -> None:
    # Not within one statement, which would share a connection: acts on the inbox have one each.
    await asyncio.gather(*(store.inbox.mark_up_to("ann", 1) for _ in range(8)))
    closed = await connection.fetchval(
        "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid, 5000)) FROM pg_stat_activity "
        "WHERE application_name = 'notify' AND datname = current_database()"
    )
    assert closed > 1
    await asyncio.sleep(0.05)  # until the last of them is heard of
    for _ in range(closed):
        await store.sends.send(post("ann"))
    assert await read_all(store, "ann") == list(range(1, closed + 1))
