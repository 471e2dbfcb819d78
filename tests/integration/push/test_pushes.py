"""Web Push reaches the browsers of those who are away, and nobody else."""

from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import jwt
import pytest

from notify import pusher
from notify.webpush import decode_base64url, load_point
from tests.admin import Admin, is_listed
from tests.integration.support import let_expire
from tests.receiver import Received, Receiver
from tests.service import Service, bearer, until
from tests.subscriber import Browser, lead_to, looked_at, settled, subscribe, take


async def test_a_user_who_is_away_is_told_and_only_the_browser_can_read_it(
    service: Service, push_service: Receiver
) -> None:
    answer = await service.client.get("/v1/push/key", headers=bearer("alice"))
    key = answer.json()["key"]
    browser = Browser(push_service)
    await subscribe(service, browser)
    notification = await service.send("alice", {"order": 7}, ttl=600, collapse_key="order")
    request = await push_service.take()
    frame = browser.read(request.body)
    assert frame == {
        "op": "notification",
        "seq": 1,
        "id": notification,
        "type": "t",
        "data": {"order": 7},
        "source": "shop",
        "created_at": frame["created_at"],
    }
    assert request.headers["content-encoding"] == "aes128gcm"
    assert 590 <= int(request.headers["ttl"]) <= 600
    assert request.headers["urgency"] in {"normal", "high"}
    assert len(request.headers["topic"]) == 32
    check_signature(request, key, push_service.url)


def check_signature(request: Received, key: str, audience: str) -> None:
    """Check who sent it, as a push service does (RFC 8292)."""
    scheme, _, rest = request.headers["authorization"].partition(" ")
    assert scheme == "vapid"
    fields = dict(part.split("=", 1) for part in rest.split(", "))
    assert fields["k"] == key
    claims = jwt.decode(fields["t"], load_point(decode_base64url(key)), algorithms=["ES256"], audience=audience)
    assert claims["exp"]


async def test_each_notification_is_pushed_once_in_order_to_every_browser(
    service: Service, push_service: Receiver, connection: asyncpg.Connection
) -> None:
    browsers = {f"/send/{name}": Browser(push_service, name) for name in ("1", "2")}
    await service.send("alice", "before anybody subscribed")
    for browser in browsers.values():
        await subscribe(service, browser)
    await service.send_many("alice", 5)
    await settled(connection, 6)
    got: dict[str, list[int]] = {path: [] for path in browsers}
    while not push_service.requests.empty():
        request = await push_service.take()
        got[request.target].append(browsers[request.target].read(request.body)["data"])
    assert got == {path: [0, 1, 2, 3, 4] for path in browsers}


async def test_a_notification_too_big_for_a_push_is_named_in_it(service: Service, push_service: Receiver) -> None:
    browser = Browser(push_service)
    await subscribe(service, browser)
    notification = await service.send("alice", "x" * 5_000)
    request = await push_service.take()
    assert len(request.body) <= 4_096
    assert browser.read(request.body) == {"op": "notification", "seq": 1, "id": notification, "type": "t"}


async def test_a_session_on_any_node_is_enough(
    database_url: str, push_service: Receiver, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pusher, "WALK_SECONDS", 0.1)
    browser = Browser(push_service)
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(lead_to(push_service, Service(database_url))) for _ in range(2)]
        await subscribe(nodes[0], browser)
        for node in nodes:
            async with node.connect("alice") as socket:
                await is_listed(Admin(nodes[0]), 1, user="alice")
                seqs = [await send_and_take(node, socket) for _ in range(2)]
                await looked_at(nodes[0], push_service)
                await socket.ack(seqs[-1])
                await node.wait_for_acks()  # else it may be gone before its ack is down
            await settled(connection, seqs[-1])
        # What a session leaves behind without having acknowledged it is pushed once it is gone.
        async with nodes[1].connect("alice") as socket:
            await is_listed(Admin(nodes[0]), 1, user="alice")
            await send_and_take(nodes[1], socket)
        assert (await take(push_service, browser))["seq"] == 5
        await settled(connection, 5)
    assert push_service.requests.empty()


async def send_and_take(service: Service, socket: Any) -> int:
    await service.send("alice")
    [frame] = await socket.take_notifications(1)
    seq: int = frame["seq"]
    return seq


async def test_what_a_device_acknowledged_is_not_pushed(
    service: Service, push_service: Receiver, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor what was cancelled, replaced or expired."""
    monkeypatch.setattr(pusher, "WALK_SECONDS", 0.1)
    browser = Browser(push_service)
    await subscribe(service, browser)
    async with service.connect("alice"):  # nothing is pushed before all of it has happened
        await is_listed(Admin(service), 1, user="alice")
        await service.send("alice", 1)
        answer = await service.client.post("/v1/inbox/ack", json={"seq": 1}, headers=bearer("alice"))
        assert answer.status_code == 204
        cancelled = await service.send("alice", 2)
        producer = bearer("shop", scope="notifications:send")
        assert (await service.client.delete(f"/v1/notifications/{cancelled}", headers=producer)).status_code == 204
        await let_expire(connection, await service.send("alice", 3))
        await service.send("alice", 4, collapse_key="k")
        await service.send("alice", 5, collapse_key="k")
    await settled(connection, 7)
    assert (await take(push_service, browser))["data"] == 5
    assert push_service.requests.empty()


async def test_nothing_is_pushed_that_a_session_acknowledged_before_it_left(
    service: Service, push_service: Receiver, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even while its ack is on the way: its user is not away until that is down."""
    monkeypatch.setattr(pusher, "GRACE_SECONDS", 3_600.0)
    await subscribe(service, Browser(push_service))
    roster = service.app._need_running().services.roster
    sessions = "SELECT count(*) FROM notify.session WHERE user_id = 'alice'"

    async def is_gone() -> bool:
        return not await connection.fetchval(sessions)

    async with service.connect("alice") as socket:
        await socket.take_backlog()
        await roster.report()
        await service.send("alice")
        seq = (await socket.take())["seq"]
        async with connection.transaction():
            await connection.execute("SELECT FROM notify.cursor WHERE user_id = 'alice' FOR UPDATE")
            await socket.ack(seq)
            await socket.settle()
            await socket.close()
            await until(lambda: not len(service.app.hub))
            await roster.report()
            assert await connection.fetchval(sessions) == 1
            assert await service.store.push.claim(["alice"], limit=10, each=10, behind=100, seconds=60.0) == ([], [])
        await until(is_gone)
    assert await service.store.push.claim(["alice"], limit=10, each=10, behind=100, seconds=60.0) == ([], [])
