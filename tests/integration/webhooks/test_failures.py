"""A call that failed is made again for a day, under the same id, and nobody else waits for its receiver."""

import asyncpg
import pytest
import structlog

from notify.store import Store
from notify.store.webhooks import CALLS_PER_APP, LEASE_SECONDS
from tests.admin import Admin
from tests.integration.webhooks.calls import (
    SECRET,
    URL,
    has_failed,
    hook,
    let_pass,
    let_retry,
    nothing_waits,
    read_event,
    read_verify,
    take_all,
)
from tests.receiver import Receiver, Reply
from tests.service import Service, until


async def test_a_call_that_failed_is_tried_again_after_a_restart_under_the_same_id(
    database_url: str, connection: asyncpg.Connection, receiver: Receiver
) -> None:
    receiver.replies = [Reply(500), Reply(302, {"Location": "/elsewhere"})]
    with structlog.testing.capture_logs() as lines:
        async with Service(database_url, webhook_allow_private=True) as node:
            await hook(node, receiver.url)
            sent = await node.send("alice", undelivered_after=10)
            await let_pass(connection)
            first = await receiver.take()
            await until(lambda: has_failed(connection))
        async with Service(database_url, webhook_allow_private=True):
            await let_retry(connection)
            second = await receiver.take()
            await until(lambda: has_failed(connection, 2))
            await let_retry(connection)
            third = await receiver.take()
            await until(lambda: nothing_waits(connection))
    assert {each.headers["webhook-id"] for each in (first, second, third)} == {sent}
    assert read_verify()(SECRET, dict(third.headers), third.body)
    assert receiver.requests.empty()
    assert [line["result"] for line in lines if line["event"] == "webhook.failed"] == ["answered 500", "answered 302"]
    assert SECRET not in str(lines)
    assert SECRET.removeprefix("whsec_") not in str(lines)


async def test_who_acknowledged_between_two_attempts_is_not_called_for_again(
    node: Service, connection: asyncpg.Connection, receiver: Receiver
) -> None:
    receiver.reply = Reply(503)
    await hook(node, receiver.url)
    await node.send(["alice", "bob"], undelivered_after=10)
    await let_pass(connection)
    await receiver.take()
    await until(lambda: has_failed(connection))
    await take_all(node, "alice")
    await let_retry(connection)
    assert read_event(await receiver.take())["data"]["users"] == ["bob"]
    await until(lambda: has_failed(connection, 2))
    await take_all(node, "bob")
    await let_retry(connection)
    await until(lambda: nothing_waits(connection))
    assert receiver.requests.empty()


async def test_a_dead_receiver_delays_nobody_elses_calls(
    node: Service, connection: asyncpg.Connection, receiver: Receiver
) -> None:
    async with Receiver(plain=True) as dead:
        dead.reply = Reply(None)
        await hook(node, dead.url, app="dead")
        await hook(node, receiver.url)
        body = [{"to": "alice", "type": "t", "undelivered_after": 10}] * 50
        assert (await node.post({"notifications": body}, path="/v1/notifications/batch", app="dead")).status_code == 201
        await let_pass(connection)
        for _ in range(CALLS_PER_APP):
            await dead.take()
        await node.send_many("alice", 10, undelivered_after=10)
        await let_pass(connection)
        for _ in range(10):
            await receiver.take()
        assert dead.connections == CALLS_PER_APP


@pytest.mark.parametrize(
    ("reply", "bounds"),
    [
        (Reply(500), (0.5, 2)),
        (Reply(429, {"Retry-After": "120"}), (115, 120)),
        (Reply(503, {"Retry-After": "999999"}), (3_590, 3_600)),
    ],
    ids=["500", "429", "503"],
)
async def test_a_receiver_is_left_alone_for_as_long_as_it_asks_within_bounds(
    node: Service, connection: asyncpg.Connection, receiver: Receiver, reply: Reply, bounds: tuple[float, float]
) -> None:
    receiver.reply = reply
    await hook(node, receiver.url)
    await node.send("alice", undelivered_after=10)
    await let_pass(connection)
    await receiver.take()
    await until(lambda: has_failed(connection))
    row = await connection.fetchrow(
        "SELECT c.next_at - c.tried_at AS pause, w.rest_until - c.tried_at AS rest "
        "FROM notify.webhook_call AS c JOIN notify.webhook AS w ON w.app = c.app"
    )
    assert row is not None
    least, most = bounds
    assert least < row["pause"].total_seconds() <= most
    assert row["rest"].total_seconds() >= (least if reply.headers else 0)


@pytest.mark.parametrize("age", ["0 s", "24 hours"])
async def test_a_call_is_given_up_after_a_day_or_when_its_receiver_is_gone_and_that_shows(
    node: Service, connection: asyncpg.Connection, receiver: Receiver, age: str
) -> None:
    receiver.replies = [Reply(500), Reply(410 if age == "0 s" else 500)]
    await hook(node, receiver.url)
    sent = await node.send("alice", undelivered_after=10)
    await let_pass(connection)
    await receiver.take()
    await until(lambda: has_failed(connection))
    await connection.execute("UPDATE notify.webhook_call SET made_at = made_at - $1::text::interval", age)
    await let_retry(connection)
    await receiver.take()
    await until(lambda: has_failed(connection, 2))
    found = await Admin(node).get("/webhooks/shop")
    assert (found["waiting"], found["given_up"], found["failures"]) == (0, 1, 2)
    [call] = found["calls"]
    assert (call["id"], call["attempts"], call["next_at"]) == (sent, 2, None)
    assert call["problem"] == found["last_result"] == f"answered {410 if age == '0 s' else 500}"
    await connection.execute("DELETE FROM notify.notification")  # as retention does
    assert (await Admin(node).get("/webhooks/shop"))["calls"] == []


async def test_a_call_whose_holder_died_is_another_nodes_after_a_while(
    store: Store, connection: asyncpg.Connection
) -> None:
    await store.webhooks.set("root", "shop", url=URL, secret=b"s" * 32, host="shop.example")
    await connection.execute("SELECT notify.send('t', 'alice', undelivered_after => 10)")
    await connection.execute("UPDATE notify.notification SET producer = 'shop'")
    await let_pass(connection)
    assert (await store.webhooks.ripen()).called == 1
    [held] = await store.webhooks.claim(10)
    assert await store.webhooks.claim(10) == []
    await connection.execute(
        "UPDATE notify.webhook_call SET next_at = next_at - make_interval(secs => $1)", LEASE_SECONDS
    )
    [again] = await store.webhooks.claim(10)
    assert (again.id, held.attempt, again.attempt) == (held.id, 1, 2)
    assert await store.webhooks.fail(held, "late", delay=1, rest=0, patience=60) is None
    assert await connection.fetchval("SELECT held FROM notify.webhook_call")
    await store.webhooks.finish(held, "answered 200")  # it was taken, whoever else is at it
    assert await nothing_waits(connection)


async def test_too_many_that_wait_are_dropped_and_counted(store: Store, connection: asyncpg.Connection) -> None:
    await store.webhooks.set("root", "shop", url=URL, secret=b"s" * 32, host="shop.example")
    for _ in range(5):
        await connection.execute("SELECT notify.send('t', 'alice', undelivered_after => 10)")
    await connection.execute("UPDATE notify.notification SET producer = 'shop'")
    await let_pass(connection)
    row = await connection.fetchrow("SELECT * FROM notify.ripen(100, 3)")
    assert row is not None
    assert (row["called"], row["dropped"]) == (3, 2)
    found = await store.webhooks.find("shop")
    assert found is not None
    assert (found.waiting, found.dropped) == (3, 2)
