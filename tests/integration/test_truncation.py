"""Truncation: the oldest of an over-full mailbox go, and never silently."""

from collections.abc import AsyncIterator

import asyncpg
import pytest
from prometheus_client import REGISTRY

from tests.integration.support import count_unread, find_status, follow, list_inbox, mark_read
from tests.service import Service, until


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    """Keep five pending entries a mailbox."""
    async with Service(database_url, max_pending=5) as service:
        yield service


async def test_the_oldest_go_and_the_client_is_told_before_anything_else(
    service: Service, connection: asyncpg.Connection
) -> None:
    sent = [await service.send("alice", n) for n in range(8)]
    async with service.connect("alice") as alice:
        frames = await alice.take_backlog()
    assert frames[0] == {"op": "truncated", "from": 1, "to": 3}
    assert [frame["data"] for frame in frames[1:]] == [3, 4, 5, 6, 7]
    assert alice.welcome["unread"] == 5
    assert [await find_status(service, one) for one in sent] == ["expired"] * 3 + ["pending"] * 5
    assert (await follow(service, sent[0]))["counts"]["expired"] == 1
    assert [item["data"] for item in (await list_inbox(service, "alice"))["items"]] == [7, 6, 5, 4, 3]
    assert await count_unread(connection, "alice") == (5, 5)


async def test_what_goes_is_counted_whether_anybody_connects_or_not(
    service: Service, connection: asyncpg.Connection
) -> None:
    def count() -> float:
        return REGISTRY.get_sample_value("notify_truncated_notifications_total") or 0.0

    before = count()
    for n in range(7):
        await service.send("alice", n)
    await until(lambda: count() - before == 2)
    await connection.execute("SELECT notify.send('t', recipient => 'alice') FROM generate_series(1, 3)")
    await until(lambda: count() - before == 5)


async def test_a_batch_larger_than_the_mailbox_keeps_its_end(service: Service) -> None:
    await service.send_many("alice", 20)
    async with service.connect("alice") as alice:
        frames = await alice.take_backlog()
    assert frames[0] == {"op": "truncated", "from": 1, "to": 15}
    assert [frame["data"] for frame in frames[1:]] == [15, 16, 17, 18, 19]


async def test_it_is_told_once_it_is_acknowledged_and_again_until_then(service: Service) -> None:
    await service.send_many("alice", 7)
    for _ in range(2):
        async with service.connect("alice") as alice:
            assert (await alice.take())["op"] == "truncated"
    async with service.connect("alice") as alice:
        await alice.take_backlog()
        await alice.ack(7)
        await service.wait_for_acks()
    async with service.connect("alice") as alice:
        assert await alice.take_backlog() == []


async def test_what_was_acknowledged_is_not_pending_and_nothing_goes(service: Service) -> None:
    async with service.connect("alice", device="slow") as slow:
        await slow.take_backlog()
    async with service.connect("alice", device="quick", ack="auto") as quick:
        await quick.take_backlog()
        for first in range(0, 12, 4):
            await service.send_many("alice", 4, first=first)
            await quick.take_notifications(4)
            await service.wait_for_acks()
    async with service.connect("alice", device="slow") as slow:
        assert [frame["data"] for frame in await slow.take_backlog()] == list(range(12))


async def test_a_hole_behind_the_place_that_is_resumed_from_is_told_as_far_as_it_reaches(service: Service) -> None:
    await service.send_many("alice", 8)
    async with service.connect("alice", after=2) as alice:
        assert (await alice.take_backlog())[0] == {"op": "truncated", "from": 3, "to": 3}
    async with service.connect("alice", after=4) as alice:
        assert [frame["seq"] for frame in await alice.take_backlog()] == [5, 6, 7, 8]


async def test_a_session_that_does_not_acknowledge_is_told_of_what_it_missed(database_url: str) -> None:
    async with (
        Service(database_url, max_pending=5, max_unacked=2) as service,
        service.connect("alice") as alice,
    ):
        await alice.take_backlog()
        await service.send_many("alice", 2)
        await alice.take_notifications(2)
        await service.send_many("alice", 10, first=2)
        await alice.say({"op": "ack", "seq": 2})
        frames = [await alice.take() for _ in range(3)]
    assert frames[0] == {"op": "truncated", "from": 3, "to": 7}
    assert [frame["data"] for frame in frames[1:]] == [7, 8]


async def test_what_is_pending_is_not_lost_among_much_that_is_over(
    database_url: str, connection: asyncpg.Connection
) -> None:
    """An absent user's price changes by the thousand; what else is pending is queued again, read or unread as it was."""
    async with Service(database_url, max_pending=40) as service:
        kept = [await service.send("alice", name) for name in ("read", "unread")]
        latest = await service.send("alice", "latest", collapse_key="latest")
        assert await mark_read(service, "alice", seqs=[1]) == 2
        for first in range(0, 200, 10):
            for n in range(first, first + 10):
                price = await service.send("alice", n, collapse_key="price")
            assert await count_unread(connection, "alice") == (3, 3)
        assert [await find_status(service, one) for one in (*kept, latest, price)] == ["pending"] * 4
        bounds = await connection.fetchrow("SELECT head - floor FROM notify.mailbox WHERE user_id = 'alice'")
        assert bounds is not None
        assert bounds[0] < 60
        page = await list_inbox(service, "alice")
        assert {item["data"]: item["read_at"] is None for item in page["items"]} == {
            "read": False,
            "unread": True,
            "latest": True,
            199: True,
        }
        replacing = await service.send("alice", "newest", collapse_key="latest")
        assert await find_status(service, latest) == "collapsed"
        async with service.connect("alice", ack="auto") as alice:
            frames = await alice.take_backlog()
        assert frames[0]["op"] == "truncated"
        assert {frame["id"] for frame in frames if frame["op"] == "notification"} == {*kept, price, replacing}
        await service.wait_for_acks()
        assert await find_status(service, kept[0]) == "read"
        assert await find_status(service, kept[1]) == "delivered"
        seqs = [row[0] for row in await connection.fetch("SELECT seq FROM notify.entry ORDER BY seq")]
        assert seqs == list(range(1, len(seqs) + 1))
