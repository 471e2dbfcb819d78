"""Receipts: exact to the acknowledgement that covered an entry, and an app sees only what it sent."""

from datetime import datetime
from uuid import uuid4

import asyncpg

from tests.integration.support import find_status, find_statuses, follow, list_receipts, mark_read
from tests.service import SEND, Service, bearer


async def test_each_status_is_exact_to_the_acknowledgement_that_covered_it(
    service: Service, connection: asyncpg.Connection
) -> None:
    sent = [await service.send("alice", n) for n in range(4)]
    async with service.connect("alice") as alice:
        await alice.take_backlog()
        await alice.ack(1)
        await service.wait_for_acks()
        await alice.ack(3)
        await service.wait_for_acks()
    acks = await connection.fetch("SELECT to_seq, at FROM notify.ack ORDER BY to_seq")
    assert [row["to_seq"] for row in acks] == [1, 3]
    receipts = [(await list_receipts(service, one))[0] for one in sent]
    assert [receipt["status"] for receipt in receipts] == ["delivered", "delivered", "delivered", "pending"]
    times = [receipt["delivered_at"] and datetime.fromisoformat(receipt["delivered_at"]) for receipt in receipts]
    assert times == [acks[0]["at"], acks[1]["at"], acks[1]["at"], None]
    assert [receipt["seq"] for receipt in receipts] == [1, 2, 3, 4]


async def test_the_first_acknowledgement_of_any_device_counts(service: Service, connection: asyncpg.Connection) -> None:
    for device in ("one", "two"):
        async with service.connect("alice", device=device) as alice:
            await alice.take_backlog()
    notification = await service.send("alice")
    for device in ("two", "one"):
        async with service.connect("alice", device=device) as alice:
            await alice.take_backlog()
            await alice.ack(1)
        await service.wait_for_acks()
    [receipt] = await list_receipts(service, notification)
    first = await connection.fetchval("SELECT at FROM notify.ack WHERE device = 'two'")
    assert datetime.fromisoformat(receipt["delivered_at"]) == first


async def test_read_follows_delivered_and_not_pending(service: Service) -> None:
    notification = await service.send("alice")
    await mark_read(service, "alice", seqs=[1])
    assert await find_status(service, notification) == "pending"
    async with service.connect("alice") as alice:
        await alice.take_backlog()
        await alice.ack(2)
        await service.wait_for_acks()
    [receipt] = await list_receipts(service, notification)
    assert receipt["status"] == "read"
    assert receipt["read_at"] < receipt["delivered_at"]


async def test_a_removed_device_has_still_delivered_what_it_acknowledged(service: Service) -> None:
    notification = await service.send("alice")
    async with service.connect("alice", device="gone") as alice:
        await alice.take_backlog()
        await alice.ack(1)
        await service.wait_for_acks()
    answer = await service.client.delete("/v1/inbox/devices/gone", headers=bearer("alice"))
    assert answer.status_code == 204
    assert await find_status(service, notification) == "delivered"
    async with service.connect("alice", device="gone") as alice:  # back as a new one
        assert (alice.welcome["after"], await alice.take_backlog()) == (1, [])
    assert await find_status(service, notification) == "delivered"


async def test_recipients_come_in_the_order_of_their_ids_page_by_page(service: Service) -> None:
    users = ["Z", "a", "b/c", "é", "日本", "😀", *(f"user {n:03}" for n in range(50))]
    notification = await service.send(users)
    async with service.connect("é", ack="auto") as one:
        await one.take_backlog()
    await service.wait_for_acks()
    receipts = await list_receipts(service, notification, limit=7)
    assert [receipt["user"] for receipt in receipts] == sorted(users)
    assert {r["user"] for r in receipts if r["status"] == "delivered"} == {"é"}
    found = await follow(service, notification)
    assert found["recipients"] == sum(found["counts"].values()) == 56
    assert found["counts"]["delivered"] == 1


async def test_an_app_sees_only_what_it_sent(service: Service) -> None:
    notification = await service.send("alice")
    for path in ("", "/recipients"):
        answers = [
            await service.client.get(f"/v1/notifications/{one}{path}", headers=bearer("thief", scope=SEND))
            for one in (notification, uuid4())
        ]
        assert {answer.status_code for answer in answers} == {404}
        assert answers[0].json()["detail"] == answers[1].json()["detail"]


async def test_ten_thousand_recipients_are_counted_and_paged_within_the_patience_of_a_caller(
    service: Service, connection: asyncpg.Connection
) -> None:
    users = [f"user {n:05}" for n in range(10_000)]
    notification = await service.send(users)
    await connection.execute(
        "INSERT INTO notify.cursor SELECT user_id, 'd', 1, now() FROM notify.mailbox WHERE user_id < 'user 02500'"
    )
    await connection.execute(
        "INSERT INTO notify.ack SELECT user_id, 'd', 1, 0, now() FROM notify.mailbox WHERE user_id < 'user 02500'"
    )
    counts = (await follow(service, notification))["counts"]
    assert (counts["delivered"], counts["pending"]) == (2_500, 7_500)
    statuses = await find_statuses(service, notification)
    assert list(statuses) == users
    assert sum(status == "delivered" for status in statuses.values()) == 2_500
