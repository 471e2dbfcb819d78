"""When nobody is there: an app is told once what was not taken in time, and of nothing else."""

import json
import re
from datetime import UTC, datetime, timedelta

import asyncpg
from prometheus_client import REGISTRY

from notify.caller import Caller
from notify.outbound import Outbound
from notify.signing import write_secret
from notify.store import Store
from tests.admin import Admin
from tests.integration.support import cancel, follow, from_now, let_expire, open_nodes
from tests.integration.webhooks.calls import (
    GUIDE,
    SECRET,
    hook,
    let_pass,
    nothing_waits,
    read_event,
    read_verify,
    take_all,
)
from tests.receiver import NAME, Receiver, Reply
from tests.service import Service, until


def count_deadlines(result: str) -> float:
    """Return what /metrics says of deadlines that passed."""
    return REGISTRY.get_sample_value("notify_deadlines_passed_total", {"result": result}) or 0.0


async def test_the_app_is_told_who_is_not_there_signed_as_the_guide_says(
    node: Service, connection: asyncpg.Connection, receiver: Receiver
) -> None:
    await hook(node, receiver.url + "/a/path?and=query")
    sent = await node.send(["bob", "alice", "carol"], {"private": "data"}, undelivered_after=10)
    await take_all(node, "bob")
    assert await connection.fetchval("SELECT count(*) FROM notify.webhook_call") == 0
    followed = await follow(node, sent)
    due, since = (datetime.fromisoformat(followed[name]) for name in ("undelivered_at", "created_at"))
    assert due - since == timedelta(seconds=10)
    await let_pass(connection)
    received = await receiver.take()

    assert (received.method, received.target) == ("POST", "/a/path?and=query")
    assert (received.headers["webhook-id"], received.headers["content-type"]) == (sent, "application/json")
    verify = read_verify()
    assert verify(SECRET, dict(received.headers), received.body)
    assert not verify(SECRET, dict(received.headers), received.body + b" ")
    assert not verify(write_secret(b"another secret of that length"), dict(received.headers), received.body)
    event = read_event(received)
    assert (event["type"], event["data"]["id"], event["data"]["type"], event["data"]["source"]) == (
        "notification.undelivered", sent, "t", "shop",
    )  # fmt: skip
    assert (event["data"]["recipients"], event["data"]["pending"], event["data"]["users"]) == (3, 2, ["alice", "carol"])
    assert b"private" not in received.body
    shown = json.loads(re.findall(r"```json\n(.*?)```", GUIDE.read_text(), re.DOTALL)[1])
    assert (list(event), list(event["data"])) == (list(shown), list(shown["data"]))
    await until(lambda: nothing_waits(connection))
    assert receiver.requests.empty()
    assert (await follow(node, sent))["undelivered_at"] is None


async def test_two_nodes_call_once_for_each(
    database_url: str, connection: asyncpg.Connection, receiver: Receiver
) -> None:
    async with open_nodes(database_url, webhook_allow_private=True) as (one, _):
        await hook(one, receiver.url)
        await one.send_many("alice", 20, undelivered_after=604_800)
        await let_pass(connection)
        ids = [(await receiver.take()).headers["webhook-id"] for _ in range(20)]
        await until(lambda: nothing_waits(connection))
    assert len(set(ids)) == 20
    assert receiver.requests.empty()


async def test_who_took_it_in_time_and_what_is_over_is_not_called_for(
    node: Service, connection: asyncpg.Connection, receiver: Receiver
) -> None:
    await hook(node, receiver.url)
    await node.send("alice", undelivered_after=604_800)
    await take_all(node, "alice")
    cancelled = await node.send("bob", undelivered_after=604_800)
    scheduled = await node.send("bob", undelivered_after=604_800, deliver_at=from_now(60))
    assert [await cancel(node, each) for each in (cancelled, scheduled)] == [204, 204]
    await let_expire(connection, await node.send("carol", undelivered_after=604_800))
    await node.send("dave", undelivered_after=604_800, collapse_key="k")
    await node.send("dave", collapse_key="k")
    await node.send("eve", undelivered_after=604_800)
    await Admin(node).act("DELETE", "/users/eve")
    await node.post({"topic": "nobody's", "type": "t", "undelivered_after": 604_800})
    await node.post({"to": "frank", "type": "t", "undelivered_after": 604_800}, app="an app without a webhook")
    before = [count_deadlines(result) for result in ("settled", "unwanted", "called")]
    await let_pass(connection)
    await until(lambda: nothing_waits(connection))
    assert receiver.requests.empty()

    def have_passed() -> list[float]:
        after = [count_deadlines(result) for result in ("settled", "unwanted", "called")]
        return [now - then for now, then in zip(after, before, strict=True)]

    await until(lambda: have_passed() == [6, 1, 0])  # the node counts once it hears what the database did


async def test_a_deadline_counts_from_when_it_may_be_delivered(
    node: Service, connection: asyncpg.Connection, receiver: Receiver
) -> None:
    await hook(node, receiver.url)
    sent = await node.send("alice", undelivered_after=10, deliver_at=from_now(3_600))
    due = datetime.fromisoformat((await follow(node, sent))["undelivered_at"])
    assert timedelta(seconds=3_600) < due - datetime.now(UTC) <= timedelta(seconds=3_610)
    await let_pass(connection)  # while nobody released it: it is not there either
    assert read_event(await receiver.take())["data"]["users"] == ["alice"]


async def test_what_passed_while_every_node_was_down_is_called_for_by_the_first_that_is_back(
    database_url: str, connection: asyncpg.Connection, receiver: Receiver
) -> None:
    async with Service(database_url, webhook_allow_private=True) as node:
        await hook(node, receiver.url, app=await connection.fetchval("SELECT session_user"))
    await connection.execute("SELECT notify.send('t', 'alice', undelivered_after => 10)")
    await connection.execute("UPDATE notify.deadline SET due_at = due_at - interval '2 days'")
    async with Service(database_url, webhook_allow_private=True):
        assert read_event(await receiver.take())["data"]["users"] == ["alice"]


async def test_a_node_that_leaves_waits_for_the_answer_so_that_nobody_calls_again(
    database_url: str, connection: asyncpg.Connection, receiver: Receiver
) -> None:
    receiver.replies = [Reply(200, delay=0.2)]
    async with Service(database_url, webhook_allow_private=True) as node:
        await hook(node, receiver.url)
        await node.send("alice", undelivered_after=10)
        await let_pass(connection)
        await receiver.take()
    assert await nothing_waits(connection)


async def test_a_receiver_is_reached_over_tls_by_its_name(store: Store, connection: asyncpg.Connection) -> None:
    async with Receiver() as receiver:
        outbound = Outbound(allow_private=True, resolve=lambda _name, _port: ["127.0.0.1"], trust=receiver.trust)
        await store.webhooks.set("root", "shop", url=receiver.url, secret=b"s" * 32, host=NAME)
        await connection.execute("SELECT notify.send('t', 'alice', undelivered_after => 10)")
        await connection.execute("UPDATE notify.notification SET producer = 'shop'")
        await let_pass(connection)
        assert (await store.webhooks.ripen()).called == 1
        caller = Caller(store, outbound)
        [call] = await store.webhooks.claim(1)
        await caller._attempt(call, float("inf"))
        received = await receiver.take()
        assert read_verify()(write_secret(b"s" * 32), dict(received.headers), received.body)
        assert await nothing_waits(connection)
