"""Truncation: the oldest of an over-full mailbox go, and never silently."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.integration.support import count_unread, find_status, follow, list_inbox
from tests.service import Service


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
        await alice.ack(2)
        frames = [await alice.take() for _ in range(3)]
    assert frames[0] == {"op": "truncated", "from": 3, "to": 7}
    assert [frame["data"] for frame in frames[1:]] == [7, 8]
