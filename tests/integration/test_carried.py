"""What comes along with a wake-up: small entries reach a waiting session without a fetch, and nothing else changes."""

import random
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest

from notify import clock
from notify.server.websocket import WebSocketProtocol
from tests.integration.support import open_nodes
from tests.service import SEND, Service, bearer, data_of


@pytest.fixture
def fetched(service: Service, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note whose mailboxes are fetched."""
    users: list[str] = []
    mailboxes = service.store.mailboxes
    fetch = mailboxes.fetch

    async def note(user: str, *position: int) -> Any:
        users.append(user)
        return await fetch(user, *position)

    monkeypatch.setattr(mailboxes, "fetch", note)
    return users


async def test_a_small_notification_needs_no_fetch_on_any_socket(service: Service, fetched: list[str]) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with (
        service.connect("änn", device="one") as one,
        service.connect("änn", device="two", subprotocols=["notify.v1.msgpack"]) as two,
        service.dial("änn", device="three", subprotocols=["cloudevents.json"]) as three,
    ):
        await one.take_backlog()
        await two.take_backlog()
        while (await three.take())["type"] != "notify.caught_up":
            pass
        answer = await service.post({"to": "änn", "type": "t", "data": {"ü": [1.50, "\t\n"]}}, traceparent=trace)
        expected = {
            "op": "notification", "seq": 1, "id": answer.json()["id"], "type": "t", "data": {"ü": [1.5, "\t\n"]},
            "source": "shop", "created_at": answer.json()["created_at"], "traceparent": trace,
        }  # fmt: skip
        assert await one.take() == expected
        assert await two.take() == expected
        assert (await three.take())["id"] == answer.json()["id"]
        await one.ack(1)
        await service.send_many("änn", 30)
        assert data_of(await one.take_notifications(30)) == list(range(30))
    assert fetched == []


@pytest.mark.parametrize(
    "fields",
    [
        {"data": "x" * 1_000},
        {"ttl": 1},
        {"collapse_key": "score"},
    ],
    ids=str,
)
async def test_what_does_not_fit_into_a_wake_up_is_fetched(
    service: Service, fetched: list[str], fields: dict[str, Any]
) -> None:
    async with service.connect("ann") as socket:
        await socket.take_backlog()
        answer = await service.post({"to": "ann", "type": "t", "data": 7, **fields})
        assert answer.status_code == 201
        frame = await socket.take()
        assert (frame["seq"], frame["data"]) == (1, fields.get("data", 7))
    assert fetched == ["ann"]


async def test_json_with_line_ends_between_its_tokens_arrives_as_it_was_sent(
    service: Service, fetched: list[str]
) -> None:
    async with service.connect("ann") as socket:
        await socket.take_backlog()
        body = b'{"to": "ann", "type": "t", "data": {\n\t"a":\t1}}'
        headers = bearer("shop", scope=SEND) | {"Content-Type": "application/json"}
        sent = await service.client.post("/v1/notifications", content=body, headers=headers)
        assert sent.status_code == 201
        assert (await socket.take())["data"] == {"a": 1}
    assert fetched == ["ann"]


@pytest.mark.parametrize("role", ["a\tb", "a\nann\tb"], ids=["tab", "line end"])
async def test_a_database_role_of_any_name_may_send(
    service: Service, connection: asyncpg.Connection, fetched: list[str], role: str
) -> None:
    """The sender of notify.send() is the role that called it, and its name is whatever its owner liked."""
    async with service.connect("ann") as socket:
        await socket.take_backlog()
        async with connection.transaction():
            sent = await connection.fetchval("SELECT notify.send('t', 'ann', '7')")
            await connection.execute("UPDATE notify.notification SET producer = $2 WHERE id = $1", sent, role)
        frame = await socket.take()
        assert (frame["data"], frame["source"]) == (7, role)
    assert fetched == ["ann"]


async def test_a_wake_up_that_comes_late_is_fetched(
    service: Service, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been cancelled or have expired meanwhile, as on a node that was frozen."""
    async with service.connect("ann") as socket:
        await socket.take_backlog()
        now = clock.now
        monkeypatch.setattr("notify.clock.now", lambda: now() + 1)
        await service.send("ann", 1)
        assert (await socket.take())["data"] == 1
    assert fetched == ["ann"]


async def test_a_session_that_lags_gets_everything_in_order(service: Service, fetched: list[str]) -> None:
    async with service.connect("ann") as socket:
        await socket.take_backlog()
        await service.send("ann", "x" * 1_000)  # fetched, while the next ones come
        for place in range(5):
            await service.send("ann", place)
        frames = await socket.take_notifications(6)
        assert [frame["seq"] for frame in frames] == [1, 2, 3, 4, 5, 6]
    assert "ann" in fetched


async def test_it_crosses_between_nodes(database_url: str) -> None:
    async with open_nodes(database_url) as (one, two), two.connect("ann") as socket:
        await socket.take_backlog()
        await one.send("ann", "from afar")
        assert data_of([await socket.take()]) == ["from afar"]


async def test_a_page_is_written_in_one_go(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[int] = []
    send = WebSocketProtocol.send_messages

    async def note(protocol: WebSocketProtocol, messages: Any) -> None:
        parts.append(len(messages))
        await send(protocol, messages)

    monkeypatch.setattr(WebSocketProtocol, "send_messages", note)
    await service.send_many("ann", 50)
    async with service.connect("ann") as socket:
        assert data_of(await socket.take_backlog()) == list(range(50))
        await service.send("ann", "x" * 1_000)
        await socket.take()
    async with service.connect("bob") as socket:
        await socket.take_backlog()
    assert parts == [1, 51, 1, 2]  # welcome; the page and caught_up; what is live; welcome and caught_up


async def test_each_gets_their_own_in_whatever_order_postgresql_answers(
    service: Service, connection: asyncpg.Connection
) -> None:
    """RETURNING promises none, so the function is made to read its own rows in a random one."""
    source = await connection.fetchval("SELECT pg_get_functiondef('notify.deposit_ordinary'::regproc)")
    for rows in ("box AS b", "stored AS s"):
        table, alias = rows.split(" AS ")
        assert source.count(f" FROM {rows};") == 1
        source = source.replace(f" FROM {rows};", f" FROM (SELECT * FROM {table} ORDER BY random()) AS {alias};")  # noqa: S608 - names of this test
    await connection.execute(source)
    users = ["Zoë", "ann", "bob", "änn", "ann b", "Ann", "z", "📣", "carl", "dora"]
    async with AsyncExitStack() as stack:
        sockets = {user: await stack.enter_async_context(service.connect(user)) for user in users}
        for socket in sockets.values():
            await socket.take_backlog()
        for times in (1, 2):  # once each, in the order of their mailboxes or not; then several for some of them
            for turn in range(5):
                sent = [user for user in random.sample(users, len(users)) for _ in range(times)]
                items = [{"to": user, "type": "t", "data": [user, turn, place]} for place, user in enumerate(sent)]
                answer = await service.post({"notifications": items}, path="/v1/notifications/batch")
                assert answer.status_code == 201
                for user, socket in sockets.items():
                    expected = [item["data"] for item in items if item["to"] == user]
                    assert data_of(await socket.take_notifications(times)) == expected
