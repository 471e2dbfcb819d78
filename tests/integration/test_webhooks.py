"""When nobody is there: an app is told once what was not taken in time, and nobody else waits for its receiver."""

import base64
import json
import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest
import structlog
from prometheus_client import REGISTRY

from notify.caller import Caller
from notify.outbound import Outbound
from notify.signing import write_secret
from notify.store import Store
from notify.store.webhooks import CALLS_PER_APP, LEASE_SECONDS
from tests.admin import READ, Admin
from tests.integration.support import cancel, encode, follow, from_now, let_expire, open_nodes
from tests.receiver import NAME, Received, Receiver, Reply
from tests.service import SEND, Service, bearer, until

GUIDE = Path(__file__).parents[2] / "docs" / "when-nobody-is-there.md"
SECRET = write_secret(b"a secret of thirty-two bytes, yes")
URL = "https://shop.example/hook?key=hunter2"


@pytest.fixture
async def node(database_url: str) -> AsyncIterator[Service]:
    """Serve, and let it call receivers on this machine."""
    async with Service(database_url, webhook_allow_private=True) as node:
        yield node


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver(plain=True) as receiver:
        yield receiver


def read_verify() -> Callable[[str, dict[str, str], bytes], bool]:
    """Return the function that the guide tells receivers to check a signature with."""
    [code] = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - the guide's own words
    found: Callable[[str, dict[str, str], bytes], bool] = names["verify"]
    return found


async def hook(node: Service, url: str, app: str = "shop") -> None:
    """Set an app's webhook."""
    await Admin(node).act("PUT", f"/webhooks/{encode(app)}", json={"url": url, "secret": SECRET})


async def let_pass(connection: asyncpg.Connection) -> None:
    """Make this the moment of every deadline."""
    await connection.execute("UPDATE notify.deadline SET due_at = clock_timestamp()")


async def let_retry(connection: asyncpg.Connection) -> None:
    """Make this the moment at which what waits is tried again."""
    await connection.execute("UPDATE notify.webhook SET rest_until = '-infinity'")
    await connection.execute("UPDATE notify.webhook_call SET next_at = clock_timestamp() WHERE next_at IS NOT NULL")


async def nothing_waits(connection: asyncpg.Connection) -> bool:
    """Whether there is neither a deadline nor a call."""
    query = "SELECT NOT EXISTS (SELECT FROM notify.deadline) AND NOT EXISTS (SELECT FROM notify.webhook_call)"
    return bool(await connection.fetchval(query))


async def has_failed(connection: asyncpg.Connection, attempts: int = 1) -> bool:
    """Whether the only call was put back after so many attempts."""
    query = "SELECT count(*) = 1 FROM notify.webhook_call WHERE attempts = $1 AND NOT held AND tried_at IS NOT NULL"
    return bool(await connection.fetchval(query, attempts))


async def take_all(node: Service, user: str) -> None:
    """Acknowledge all that a user has."""
    async with node.connect(user) as device:
        frames = await device.take_backlog()
        await device.ack(frames[-1]["seq"])
    await node.wait_for_acks()


def count_deadlines(result: str) -> float:
    """Return what /metrics says of deadlines that passed."""
    return REGISTRY.get_sample_value("notify_deadlines_passed_total", {"result": result}) or 0.0


def read_event(received: Received) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(received.body)
    return event


# What comes


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


# What fails


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


# Asking for it


async def test_how_long_is_too_long_has_bounds_at_every_door(service: Service, connection: asyncpg.Connection) -> None:
    refused: list[dict[str, object]] = [{"undelivered_after": value} for value in (9, 604_801, "60", 10.5, None, -1)]
    refused.append({"undelivered_after": 10, "ttl": 0})
    for fields in refused:
        answer = await service.post({"to": "alice", "type": "t", **fields})
        assert answer.status_code == 400, fields
        assert [error["pointer"] for error in answer.json()["errors"]] == ["/undelivered_after"], fields
    for value in (9, 604_801):
        with pytest.raises(asyncpg.InvalidParameterValueError, match="undelivered_after"):
            await connection.execute("SELECT notify.send('t', 'alice', undelivered_after => $1)", value)


async def test_a_batch_and_messagepack_may_ask_for_it(service: Service, connection: asyncpg.Connection) -> None:
    one = {"to": "alice", "type": "t", "undelivered_after": 604_800}
    answer = await service.client.post(
        "/v1/notifications/batch",
        content=msgspec.msgpack.encode({"notifications": [one, {"to": "bob", "type": "t"}]}),
        headers=bearer("shop", scope=SEND) | {"Content-Type": "application/msgpack"},
    )
    assert answer.status_code == 201
    [first, _] = answer.json()["ids"]
    assert [str(row[0]) for row in await connection.fetch("SELECT id FROM notify.deadline")] == [first]


# Setting it


UNFIT: list[tuple[dict[str, str], str]] = [
    ({"url": "http://shop.example/hook"}, "/url"),
    ({"url": "https://127.0.0.1/hook"}, "/url"),
    ({"url": "https://localhost/hook"}, "/url"),
    ({"url": "https://[::1]:8443/hook"}, "/url"),
    ({"url": "https://169.254.169.254/latest"}, "/url"),
    ({"url": "https://0x7f000001/hook"}, "/url"),
    ({"url": "nonsense"}, "/url"),
    ({}, "/url"),
    ({"url": URL, "secret": "whsec_short"}, "/secret"),
    ({"url": URL, "secret": "whsec_" + base64.b64encode(b"s" * 23).decode()}, "/secret"),
    ({"url": URL, "secret": "whsec_" + base64.b64encode(b"s" * 65).decode()}, "/secret"),
    ({"url": URL, "secret": base64.b64encode(b"s" * 32).decode()}, "/secret"),
    ({"url": URL, "scret": "x"}, "/scret"),
]


async def test_what_can_not_be_called_or_signed_is_refused(service: Service) -> None:
    for body, pointer in UNFIT:
        answer = await Admin(service).call("PUT", "/webhooks/shop", json=body)
        assert answer.status_code == 400, body
        assert [error["pointer"] for error in answer.json()["errors"]] == [pointer], body
    assert (await Admin(service).call("GET", "/webhooks/shop")).status_code == 404


async def test_an_admin_sets_looks_at_and_removes_it_and_the_secret_is_told_once(service: Service) -> None:
    for app in ("shop", "a/b", "..", "ü & co?"):
        admin, path = Admin(service), f"/webhooks/{encode(app)}"
        assert (await admin.call("GET", path)).status_code == 404
        first = await admin.act("PUT", path, json={"url": URL})
        assert (first["app"], first["url"]) == (app, URL)
        second = await admin.act("PUT", path, json={"url": URL})
        assert len(base64.b64decode(first["secret"].removeprefix("whsec_"), validate=True)) == 32
        assert first["secret"] != second["secret"]
        assert (await admin.act("PUT", path, json={"url": URL, "secret": SECRET}))["secret"] == SECRET
        looked = await admin.call("GET", path)
        listed = await admin.call("GET", "/webhooks")
        audited = await admin.call("GET", "/audit", params={"target": app})
        assert looked.json()["url"] == listed.json()["items"][0]["url"] == URL
        assert looked.json()["set_by"] == "root"
        for answer in (looked, listed, audited):
            assert "whsec_" not in answer.text
            assert "secret" not in answer.text
        await admin.act("DELETE", path, status=204)
        await admin.act("DELETE", path, status=204)
        assert (await admin.call("GET", path)).status_code == 404
        items = (await admin.get("/audit", target=app))["items"]
        assert [item["action"] for item in items] == ["remove webhook", *["set webhook"] * 3]
        assert "hunter2" not in str(items)


async def test_looking_needs_the_right_to_act_since_a_url_may_hold_a_credential(service: Service) -> None:
    for scope in (READ, SEND, ""):
        for method, path in (("GET", "/webhooks"), ("GET", "/webhooks/shop"), ("DELETE", "/webhooks/shop")):
            assert (await Admin(service, scope).call(method, path)).status_code == 403
        assert (await Admin(service, scope).call("PUT", "/webhooks/shop", json={"url": URL})).status_code == 403


async def test_webhooks_are_listed_in_pages(service: Service) -> None:
    for app in ("a", "b", "c"):
        await Admin(service).act("PUT", f"/webhooks/{app}", json={"url": URL})
    first = await Admin(service).get("/webhooks", limit=2)
    rest = await Admin(service).get("/webhooks", limit=2, cursor=first["next"])
    assert [item["app"] for item in first["items"] + rest["items"]] == ["a", "b", "c"]
    assert rest["next"] is None


async def test_another_receiver_gets_what_waits_at_once_and_without_one_it_is_gone(
    node: Service, connection: asyncpg.Connection, receiver: Receiver
) -> None:
    async with Receiver(plain=True) as broken:
        broken.reply = Reply(503, {"Retry-After": "3600"})
        await hook(node, broken.url)
        sent = await node.send("alice", undelivered_after=10)
        await let_pass(connection)
        await broken.take()
        await until(lambda: has_failed(connection))
        receiver.reply = Reply(500)
        await hook(node, receiver.url)
        assert (await receiver.take()).headers["webhook-id"] == sent
    await until(lambda: has_failed(connection, 2))
    await Admin(node).act("DELETE", "/webhooks/shop", status=204)
    assert await nothing_waits(connection)
    [act, *_] = await node.store.audit.page(limit=1)
    assert (act.action, act.affected) == ("remove webhook", 1)
