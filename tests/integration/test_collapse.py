"""Replacement: a newer one with the same `collapse_key` takes the place of the pending one, also under concurrency."""

import asyncio
from collections import Counter

import asyncpg
import pytest

from notify.store import acks
from tests.integration.support import (
    Race,
    acknowledging,
    count_unread,
    find_status,
    find_statuses,
    let_expire,
    list_inbox,
    mark_read,
    open_nodes,
)
from tests.service import Service


async def test_who_was_away_gets_the_retract_and_then_the_new_one(service: Service) -> None:
    old = await service.send("alice", "old", collapse_key="k")
    async with service.connect("alice") as alice:  # may hold it from here on, and never acknowledges
        await alice.take_backlog()
    new = await service.send("alice", "new", collapse_key="k")
    async with service.connect("alice") as alice:
        retract, notification = await alice.take_backlog()
    assert retract == {"op": "retract", "seq": 2, "of": 1, "id": old}
    assert (notification["seq"], notification["id"], notification["data"]) == (3, new, "new")
    assert await find_status(service, old) == "collapsed"
    assert await find_status(service, new) == "pending"


async def test_who_is_there_gets_the_retract_live(service: Service) -> None:
    async with service.connect("alice") as alice:
        await alice.take_backlog()
        await service.send("alice", 1, collapse_key="k")
        frames = [await alice.take()]
        await service.send("alice", 2, collapse_key="k")
        frames += [await alice.take(), await alice.take()]
    assert [(frame["op"], frame["seq"]) for frame in frames] == [
        ("notification", 1),
        ("retract", 2),
        ("notification", 3),
    ]


async def test_one_already_acknowledged_stays(service: Service) -> None:
    async with service.connect("alice") as alice:
        await alice.take_backlog()
        first = await service.send("alice", 1, collapse_key="k")
        await alice.take()
        await alice.ack(1)
        await service.wait_for_acks()
        await service.send("alice", 2, collapse_key="k")
        assert (await alice.take())["op"] == "notification"
    assert await find_status(service, first) == "delivered"
    assert [item["data"] for item in (await list_inbox(service, "alice"))["items"]] == [2, 1]


async def test_only_the_same_users_same_key_is_replaced(service: Service) -> None:
    first = await service.send(["alice", "bob"], collapse_key="k")
    other = await service.send("alice", collapse_key="l")
    keyless = await service.send("alice")
    await service.send("alice", collapse_key="k")
    assert await find_statuses(service, first) == {"alice": "collapsed", "bob": "pending"}
    assert await find_status(service, other) == "pending"
    assert await find_status(service, keyless) == "pending"


async def test_within_a_batch_the_last_one_stays_and_nobody_hears_of_the_others(service: Service) -> None:
    batch = [{"to": "alice", "type": "t", "data": n, "collapse_key": "k"} for n in range(3)]
    answer = await service.post({"notifications": batch}, path="/v1/notifications/batch")
    assert [await find_status(service, one) for one in answer.json()["ids"]] == ["collapsed", "collapsed", "pending"]
    async with service.connect("alice") as alice:
        assert [(frame["op"], frame["data"]) for frame in await alice.take_backlog()] == [("notification", 2)]
        assert alice.welcome["unread"] == 1


async def test_what_expired_is_not_replaced(service: Service, connection: asyncpg.Connection) -> None:
    first = await service.send("alice", collapse_key="k")
    await let_expire(connection, first)
    await service.send("alice", 2, collapse_key="k")
    assert await find_status(service, first) == "expired"
    async with service.connect("alice") as alice:
        assert [frame["op"] for frame in await alice.take_backlog()] == ["notification"]


async def test_one_that_was_read_but_not_acknowledged_is_replaced_and_counted_once(
    service: Service, connection: asyncpg.Connection
) -> None:
    await service.send("alice", 1, collapse_key="k")
    assert await mark_read(service, "alice", seqs=[1]) == 0
    await service.send("alice", 2, collapse_key="k")
    assert await count_unread(connection, "alice") == (1, 1)


async def test_a_mailbox_full_of_replaced_ones_is_passed_quickly_and_the_last_one_arrives(service: Service) -> None:
    for first in range(0, 2_000, 1_000):
        await service.send_many("alice", 1_000, first=first, collapse_key="price")
    async with service.connect("alice", ack="auto") as alice:
        frames = await alice.take_backlog()
    assert [frame["data"] for frame in frames if frame["op"] == "notification"] == [1_999]
    assert (await list_inbox(service, "alice"))["unread"] == 1


async def test_a_replacement_waits_for_an_ack_that_is_being_written(
    service: Service, connection: asyncpg.Connection, database_url: str
) -> None:
    old = await service.send("alice", collapse_key="k")
    async with service.connect("alice") as alice:
        await alice.take_backlog()
    async with acknowledging(database_url, "alice", "default", 1):
        replacing = asyncio.create_task(service.send("alice", collapse_key="k"))
        assert await asyncio.wait({replacing}, timeout=0.1) == (set(), {replacing})
    await replacing
    assert await find_status(service, old) == "delivered"
    assert await connection.fetchval("SELECT count(*) FROM notify.ending") == 0


async def test_an_ack_and_a_replacement_at_once_leave_one_ending(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever comes first decides, and the device is told of a retract exactly when it lost."""
    monkeypatch.setattr(acks, "GATHER_SECONDS", 0.0)  # else a send has long been stored when the ack sets out
    outcomes: Counter[str] = Counter()
    race = Race()
    async with service.connect("alice") as alice:
        await alice.take_backlog()
        for _ in range(30):
            old = await service.send("alice", collapse_key="k")
            seq = (await alice.take())["seq"]
            new, _ = await race.run(service.send("alice", collapse_key="k"), alice.say({"op": "ack", "seq": seq}))
            frames = [await alice.take()]
            if frames[0]["op"] == "retract":
                frames.append(await alice.take())
            await service.wait_for_acks()
            status = await find_status(service, old)
            outcomes[status] += 1
            assert (status == "collapsed") == (frames[0]["op"] == "retract")
            assert frames[-1]["id"] == new
            await alice.ack(frames[-1]["seq"])
            await service.wait_for_acks()
            assert await find_status(service, old) == status
            race.end(first_won=status == "collapsed")
    assert set(outcomes) == {"collapsed", "delivered"}


async def test_replacements_through_two_nodes_at_once_leave_exactly_one_pending(
    database_url: str, connection: asyncpg.Connection
) -> None:
    async with open_nodes(database_url) as (one, other), other.connect("alice") as alice:
        await alice.take_backlog()
        sent = await asyncio.gather(
            *(node.send("alice", n, collapse_key="k") for n in range(20) for node in (one, other))
        )
        statuses = [await find_status(one, notification) for notification in sent]
        assert Counter(statuses) == {"collapsed": 39, "pending": 1}
        head = await connection.fetchval("SELECT head FROM notify.mailbox WHERE user_id = 'alice'")
        held: set[int] = set()
        seq = 0
        while seq < head:  # whatever the device was shown and has not been told to take off is what is pending
            frame = await alice.take()
            seq = frame["seq"]
            held = held - {frame["of"]} if frame["op"] == "retract" else held | {seq}
        assert held == {head}
        assert await count_unread(connection, "alice") == (1, 1)
