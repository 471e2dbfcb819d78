"""Sessions, nodes, orders and the deny list: what admins see and do across processes."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote
from uuid import UUID

import asyncpg
import pytest

from notify.auth import mint
from notify.errors import Close
from tests.admin import Admin, is_listed, nodes_are
from tests.service import SECRET, Service, bearer, until

LATE = 1.0
"""Seconds within which what an admin orders is done on every node."""


@pytest.fixture
async def nodes(database_url: str) -> AsyncIterator[tuple[Service, Service]]:
    """Two nodes on one database."""
    async with Service(database_url) as one, Service(database_url) as other:
        yield one, other


# Sessions and nodes


async def test_sessions_of_all_nodes_are_listed_and_gone_when_they_close(nodes: tuple[Service, Service]) -> None:
    one, other = nodes
    admin = Admin(other)
    async with one.connect("alice", device="phone") as phone, other.connect("alice", device="web") as web:
        await is_listed(admin, 2)
        async with one.connect("bob"):
            await is_listed(admin, 3)
            listed = (await admin.get("/sessions", user="alice"))["items"]
            assert {(item["session"], item["device"], item["node"]) for item in listed} == {
                (phone.welcome["session"], "phone", str(one.app.node)),
                (web.welcome["session"], "web", str(other.app.node)),
            }
            first = await admin.get("/sessions", limit=2)
            rest = await admin.get("/sessions", limit=2, cursor=first["next"])
            assert [len(first["items"]), len(rest["items"]), rest["next"]] == [2, 1, None]
            overview = await admin.get("/overview")
            assert (overview["sessions"], overview["users"]) == (3, 2)
    await is_listed(admin, 0)


async def test_an_event_stream_is_a_session_too(service: Service, admin: Admin) -> None:
    async with service.client.stream("GET", "/v1/stream", headers=bearer("alice")) as stream:
        assert stream.status_code == 200
        await is_listed(admin, 1, user="alice")
        [session] = (await admin.get("/sessions"))["items"]
        assert session["protocol"] == "text/event-stream"
        await admin.act("DELETE", f"/sessions/{session['session']}", status=204)
        text = "".join([part async for part in stream.aiter_text()])
        assert '"code":4410' in text


async def test_a_session_is_closed_wherever_it_is_and_only_that_one(nodes: tuple[Service, Service]) -> None:
    one, other = nodes
    admin = Admin(other)
    async with one.connect("alice", device="phone") as phone, one.connect("alice", device="web") as web:
        await admin.act("DELETE", f"/sessions/{phone.welcome['session']}", status=204)
        assert (await phone.take_close(seconds=LATE))[0] == Close.DISCONNECTED
        await web.take_until("caught_up")
        await web.settle()
        assert (await admin.call("DELETE", f"/sessions/{UUID(int=7)}")).status_code == 404
        assert (await admin.call("DELETE", "/sessions/nonsense")).status_code == 404
    assert await admin.acts() == [("root", "close", "alice", 1)]


async def test_a_user_is_disconnected_on_all_nodes_within_a_second_and_may_come_back(
    nodes: tuple[Service, Service],
) -> None:
    one, other = nodes
    admin = Admin(other)
    async with (
        one.connect("alice", device="a") as a,
        other.connect("alice", device="b") as b,
        one.connect("bob") as bob,
    ):
        await is_listed(admin, 2, user="alice")
        assert await admin.act("POST", "/users/alice/disconnect") == {"closed": 2}
        for socket in (a, b):
            code, reason, frames = await socket.take_close(seconds=LATE)
            assert (code, reason) == (4410, "disconnected")
            assert frames[-1] == {"op": "disconnect", "code": 4410, "reason": "disconnected", "reconnect": False}
        async with one.connect("alice", device="a") as again:
            for node in nodes:
                await orders_of(node).obey()  # what is read again is not done again
            await again.take_until("caught_up")
            await again.settle()
        await bob.take_until("caught_up")
        await bob.settle()
    assert await admin.acts() == [("root", "disconnect", "alice", 2)]


def orders_of(service: Service) -> Any:
    return service.app._need_running().services.orders


async def test_an_order_whose_call_is_lost_is_obeyed_at_the_next_reading(
    nodes: tuple[Service, Service], connection: asyncpg.Connection
) -> None:
    one, _other = nodes
    async with one.connect("alice") as alice:
        await alice.take_until("caught_up")
        await connection.execute("INSERT INTO notify.node_order (user_id, code) VALUES ('alice', 4410)")
        await connection.execute("INSERT INTO notify.denial (kind, value, actor) VALUES ('sub', 'bob', 'root')")
        await alice.settle()
        # The listener's connection breaks: what it may have missed is read after it listens again.
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'notify bridge'"
        )
        assert (await alice.take_close())[0] == 4410
    answer = await one.client.get("/v1/inbox", headers=bearer("bob"))
    assert answer.status_code == 401


async def test_beyond_the_limit_a_users_oldest_session_goes_across_nodes(database_url: str) -> None:
    async with (
        Service(database_url, max_sessions=2) as one,
        Service(database_url, max_sessions=2) as other,
        one.connect("alice", device="oldest") as oldest,
        other.connect("alice", device="second") as second,
        other.connect("alice", device="third") as third,
    ):
        code, reason, _ = await oldest.take_close(seconds=5)
        assert (code, reason) == (4409, "too_many_sessions")
        for socket in (second, third):
            await socket.take_until("caught_up")
            await socket.settle()


async def test_nodes_are_listed_while_they_live_and_gone_when_they_leave(database_url: str) -> None:
    async with Service(database_url) as one:
        admin = Admin(one)
        other = Service(database_url)
        async with other:
            await until(lambda: nodes_are(admin, {str(one.app.node), str(other.app.node)}), seconds=5, pause=0.05)

            async def hear() -> bool:
                return all(node["listening"] and not node["draining"] for node in (await admin.get("/nodes"))["items"])

            await until(hear, seconds=5, pause=0.05)
        assert await nodes_are(admin, {str(one.app.node)})


async def test_a_dead_node_is_gone_with_its_sessions(
    service: Service, admin: Admin, connection: asyncpg.Connection
) -> None:
    dead, session = UUID(int=1), UUID(int=2)
    await until(lambda: nodes_are(admin, {str(service.app.node)}))
    await connection.execute(
        "INSERT INTO notify.session VALUES ($1, $2, 'ghost', 'd', 'notify.v1', NULL, now())", session, dead
    )
    await connection.execute(
        "INSERT INTO notify.node SELECT $1, host, pid, version, started_at, now() - interval '31 seconds', now(), 1, 1,"
        " false, true, 0, 0 FROM notify.node LIMIT 1", dead,
    )  # fmt: skip
    assert await nodes_are(admin, {str(service.app.node)})
    await is_listed(admin, 0)


async def test_a_node_that_was_taken_for_dead_reports_itself_again(
    service: Service, admin: Admin, connection: asyncpg.Connection
) -> None:
    async with service.connect("alice"):
        await is_listed(admin, 1)
        await connection.execute("TRUNCATE notify.node, notify.session")  # as after a crash of PostgreSQL
        await is_listed(admin, 1)
        assert await nodes_are(admin, {str(service.app.node)})


# The deny list


async def test_a_denied_subject_is_out_everywhere_until_it_is_allowed_again(nodes: tuple[Service, Service]) -> None:
    one, other = nodes
    admin = Admin(other)
    async with one.connect("alice") as a, other.connect("alice") as b, one.connect("bob") as bob:
        await one.client.get("/v1/inbox", headers=bearer("alice"))
        await is_listed(admin, 2, user="alice")
        await admin.act("PUT", "/denylist/sub/alice", status=204)
        for socket in (a, b):
            code, reason, frames = await socket.take_close(seconds=LATE)
            assert (code, reason, frames[-1]["reconnect"]) == (4401, "unauthenticated", False)
        for node in nodes:
            answer = await node.client.get("/v1/inbox", headers=bearer("alice"))
            assert (answer.status_code, answer.json()["type"]) == (401, "unauthenticated")
            async with node.dial("alice", after=0) as again:
                assert (await again.take_close())[0] == 4401
        await bob.take_until("caught_up")
        await bob.settle()
    listed = (await admin.get("/denylist"))["items"]
    assert [(item["kind"], item["value"], item["actor"]) for item in listed] == [("sub", "alice", "root")]
    await admin.act("PUT", "/denylist/sub/alice", status=204)
    await admin.act("DELETE", "/denylist/sub/alice", status=204)
    await admin.act("DELETE", "/denylist/sub/alice", status=204)
    async with other.connect("alice"):
        pass
    assert [act[1:] for act in await admin.acts()] == [("allow", "alice", 1), ("deny", "alice", 2)]


async def test_a_denied_token_is_out_and_another_of_the_same_user_is_not(service: Service, admin: Admin) -> None:
    bad = mint(SECRET, subject="alice", token_id="stolen/1")
    async with service.connect("alice", token=bad, device="a") as thief, service.connect("alice", device="b") as owner:
        await is_listed(admin, 2)
        await admin.act("PUT", "/denylist/jti/stolen%2F1", status=204)
        assert (await thief.take_close(seconds=LATE))[0] == 4401
        await owner.take_until("caught_up")
        await owner.say({"op": "auth", "token": bad})
        assert (await owner.take_close(seconds=LATE))[0] == 4401
    assert (await service.client.get("/v1/inbox", headers={"Authorization": f"Bearer {bad}"})).status_code == 401
    assert (await service.client.get("/v1/inbox", headers=bearer("alice"))).status_code == 200
    assert (await admin.call("PUT", "/denylist/aud/x")).status_code == 404


async def test_the_deny_list_survives_a_restart(database_url: str) -> None:
    async with Service(database_url) as service:
        await Admin(service).act("PUT", "/denylist/sub/alice", status=204)
    async with Service(database_url) as service:
        assert (await service.client.get("/v1/inbox", headers=bearer("alice"))).status_code == 401


async def test_the_deny_list_is_paged(admin: Admin) -> None:
    for value in ("a", "b/c", "d"):
        await admin.act("PUT", f"/denylist/jti/{quote(value, safe='')}", status=204)
    first = await admin.get("/denylist", limit=2)
    rest = await admin.get("/denylist", limit=2, cursor=first["next"])
    assert [item["value"] for item in first["items"] + rest["items"]] == ["a", "b/c", "d"]
    assert rest["next"] is None


# The overview


async def test_the_overview_says_who_is_connected_what_is_pending_and_where(service: Service, admin: Admin) -> None:
    await service.send_many("bob", 3)
    async with service.connect("alice") as alice:
        await alice.take_until("caught_up")
        await service.send("alice")
        await alice.take_notifications(1)
        await admin.settled({"bob": 3, "alice": 1})
        await is_listed(admin, 1)
        running = service.app._need_running().services
        await service.store.activity_log.record(service.app.node, 10.0, running.store.activity.take())
        overview = await admin.get("/overview")
    assert (overview["users"], overview["sessions"], overview["queues"], overview["pending"]) == (1, 1, 2, 4)
    assert overview["oldest_pending_at"] is not None
    assert [node["node"] for node in overview["nodes"]] == [str(service.app.node)]
    assert overview["rates"]["sent"] == pytest.approx(4 / 60, abs=0.001)
    assert overview["rates"]["delivered"] == pytest.approx(1 / 60, abs=0.001)
    assert 0 < overview["rates"]["p50_ms"] <= overview["rates"]["p95_ms"] < 5000
    assert len(overview["history"]) == 1
    [producer] = await service.store.activity_log.producers(10)
    assert (producer.producer, producer.notifications, producer.recipients, producer.refused) == ("shop", 4, 4, 0)
