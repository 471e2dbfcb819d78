"""Withdrawal: from everyone who has not acknowledged it, told to every device that may hold it, and decided once."""

import asyncio
from collections import Counter
from uuid import uuid4

import asyncpg
import pytest

from notify.store import acks
from tests.integration.support import (
    Race,
    acknowledging,
    cancel,
    count_unread,
    find_status,
    find_statuses,
    follow,
    from_now,
    let_expire,
    list_inbox,
    open_nodes,
)
from tests.service import SEND, Service, bearer


async def test_what_is_withdrawn_is_never_delivered(service: Service, connection: asyncpg.Connection) -> None:
    notification = await service.send("alice")
    assert await cancel(service, notification) == 204
    async with service.connect("alice") as alice:
        assert [(frame["op"], frame["of"]) for frame in await alice.take_backlog()] == [("retract", 1)]
        assert alice.welcome["unread"] == 0
    assert (await follow(service, notification))["counts"]["cancelled"] == 1
    assert (await list_inbox(service, "alice"))["items"] == []
    assert await count_unread(connection, "alice") == (0, 0)


async def test_a_device_that_holds_it_gets_a_retract_now_or_when_it_is_back(service: Service) -> None:
    async with service.connect("alice", device="away") as away:
        await away.take_backlog()
        notification = await service.send("alice")
        await away.take()
    async with service.connect("alice", device="here") as here:
        await here.take_backlog()
        assert await cancel(service, notification) == 204
        assert await here.take() == {"op": "retract", "seq": 2, "of": 1, "id": notification}
    async with service.connect("alice", device="away") as away:
        assert await away.take_backlog() == [{"op": "retract", "seq": 2, "of": 1, "id": notification}]


async def test_what_any_device_has_acknowledged_stays_delivered(service: Service) -> None:
    async with service.connect("alice", device="slow") as slow:
        await slow.take_backlog()
    notification = await service.send(["alice", "bob"])
    async with service.connect("alice", device="quick") as quick:
        await quick.take_backlog()
        await quick.ack(1)
        await service.wait_for_acks()
    assert await cancel(service, notification) == 204
    assert await find_statuses(service, notification) == {"alice": "delivered", "bob": "cancelled"}
    async with service.connect("alice", device="slow") as slow:
        assert [frame["op"] for frame in await slow.take_backlog()] == ["notification"]


async def test_again_is_204_again_and_changes_nothing(service: Service, connection: asyncpg.Connection) -> None:
    notification = await service.send("alice")
    assert [await cancel(service, notification) for _ in range(3)] == [204, 204, 204]
    assert await connection.fetchval("SELECT head FROM notify.mailbox WHERE user_id = 'alice'") == 2


async def test_somebody_elses_and_an_unknown_one_are_the_same_404(service: Service) -> None:
    notification = await service.send("alice")
    answers = [
        await service.client.delete(f"/v1/notifications/{one}", headers=bearer("thief", scope=SEND))
        for one in (notification, uuid4(), "x")
    ]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.json()["detail"] for answer in answers}) == 1
    assert await find_status(service, notification) == "pending"


async def test_what_is_scheduled_is_never_released(service: Service, connection: asyncpg.Connection) -> None:
    notification = await service.send(["alice", "bob"], deliver_at=from_now(3600))
    assert await cancel(service, notification) == 204
    assert (await follow(service, notification))["counts"]["cancelled"] == 2
    later = await service.send("alice", "later", deliver_at=from_now(3600))
    await connection.execute("UPDATE notify.outbox SET due_at = now()")
    async with service.connect("alice") as alice:
        [frame] = await alice.take_notifications(1)
    assert frame["id"] == later
    assert await find_statuses(service, notification) == {"alice": "cancelled", "bob": "cancelled"}
    assert await connection.fetchval("SELECT count(*) FROM notify.entry WHERE notification_id = $1", notification) == 0


async def test_what_expired_first_stays_expired(service: Service, connection: asyncpg.Connection) -> None:
    notification = await service.send("alice")
    await let_expire(connection, notification)
    assert await cancel(service, notification) == 204
    assert await find_status(service, notification) == "expired"


async def test_withdrawing_waits_for_an_ack_that_is_being_written(
    service: Service, connection: asyncpg.Connection, database_url: str
) -> None:
    notification = await service.send("alice")
    async with service.connect("alice") as alice:
        await alice.take_backlog()
    async with acknowledging(database_url, "alice", "default", 1):
        withdrawing = asyncio.create_task(cancel(service, notification))
        assert await asyncio.wait({withdrawing}, timeout=0.1) == (set(), {withdrawing})
    assert await withdrawing == 204
    assert await find_status(service, notification) == "delivered"
    assert await connection.fetchval("SELECT count(*) FROM notify.ending") == 0


async def test_withdrawn_while_it_is_acknowledged_has_one_ending(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On two nodes, many times: the device is told of a retract exactly when the acknowledgement lost."""
    monkeypatch.setattr(acks, "GATHER_SECONDS", 0.0)  # else the acknowledgement waits for others, and loses
    outcomes: Counter[str] = Counter()
    race = Race()
    async with open_nodes(database_url) as (one, other), one.connect("alice") as alice:
        await alice.take_backlog()
        for _ in range(30):
            notification = await one.send("alice")
            seq = (await alice.take())["seq"]
            _, answer = await race.run(alice.say({"op": "ack", "seq": seq}), cancel(other, notification))
            assert answer == 204
            await alice.say({"op": "ping"})
            await alice.take_until("pong")
            await one.wait_for_acks()
            status = await find_status(other, notification)
            outcomes[status] += 1
            race.end(first_won=status == "delivered")
            marker = await one.send("alice", "marker")
            frames = await alice.take_until("notification")
            assert frames[-1]["id"] == marker
            # The retract may have come with the pong; then the marker is two further.
            assert (status == "cancelled") == (frames[-1]["seq"] == seq + 2)
            await alice.ack(frames[-1]["seq"])
            await one.wait_for_acks()
            assert await find_status(one, notification) == status
    assert set(outcomes) == {"cancelled", "delivered"}


async def test_withdrawn_on_two_nodes_at_once_is_withdrawn_once(
    database_url: str, connection: asyncpg.Connection
) -> None:
    async with open_nodes(database_url) as nodes:
        for place in range(10):
            notification = await nodes[0].send(["alice", "bob"])
            assert set(await asyncio.gather(*(cancel(node, notification) for node in (*nodes, *nodes)))) == {204}
            heads = await connection.fetch("SELECT head, unread FROM notify.mailbox")
            assert {tuple(row) for row in heads} == {(2 * place + 2, 0)}
