"""What admins see and do: queues, replay, purge, sessions and nodes of the whole cluster, the deny list, erasure, audit."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote
from uuid import UUID

import asyncpg
import httpx
import pytest

from notify.auth import mint
from notify.errors import Close
from tests.service import SECRET, Service, bearer, until

READ = "queues:read"
WRITE = "queues:write"

LATE = 1.0
"""Seconds within which what an admin orders is done on every node."""


class Admin:
    """Calls of an admin to one node."""

    def __init__(self, service: Service, scope: str = WRITE, subject: str = "root") -> None:
        self._service = service
        self._headers = bearer(subject, scope=scope)

    async def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        return await self._service.client.request(method, f"/v1/admin{path}", headers=self._headers, **options)

    async def get(self, path: str, **query: object) -> Any:
        answer = await self.call("GET", path, params={name: str(value) for name, value in query.items()})
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def act(self, method: str, path: str, *, status: int = 200, **options: Any) -> Any:
        answer = await self.call(method, path, **options)
        assert answer.status_code == status, answer.text
        return answer.json() if status == 200 else None

    async def queues(self, **query: object) -> dict[str, int]:
        """Return how much is pending by user."""
        return {item["user"]: item["pending"] for item in (await self.get("/queues", **query))["items"]}

    async def settled(self, expected: dict[str, int]) -> None:
        """Wait until the list of queues is this."""

        async def is_so() -> bool:
            return await self.queues() == expected

        await until(is_so, seconds=5)

    async def acts(self) -> list[tuple[str, str, str, int]]:
        """Return who did what to whom, and how many it touched; the latest first."""
        items = (await self.get("/audit"))["items"]
        return [(item["actor"], item["action"], item["target"], item["affected"]) for item in items]


@pytest.fixture
def admin(service: Service) -> Admin:
    return Admin(service)


@pytest.fixture
async def nodes(database_url: str) -> AsyncIterator[tuple[Service, Service]]:
    """Two nodes on one database."""
    async with Service(database_url) as one, Service(database_url) as other:
        yield one, other


async def is_listed(admin: Admin, count: int, **query: object) -> None:
    """Wait until so many sessions are listed."""

    async def is_so() -> bool:
        return len((await admin.get("/sessions", **query))["items"]) == count

    await until(is_so, seconds=5)


# Who may


PATHS = [
    ("GET", "/overview"),
    ("GET", "/queues"),
    ("GET", "/queues/alice"),
    ("GET", "/sessions"),
    ("GET", "/nodes"),
    ("GET", "/denylist"),
    ("GET", "/audit"),
    ("POST", "/queues/alice/replay"),
    ("DELETE", "/queues/alice"),
    ("DELETE", "/sessions/01943f2e-7c3a-7b21-9d6e-4f0a8c5b2e17"),
    ("POST", "/users/alice/disconnect"),
    ("DELETE", "/users/alice"),
    ("PUT", "/denylist/sub/alice"),
    ("DELETE", "/denylist/sub/alice"),
]


async def test_only_an_admin_gets_in(service: Service) -> None:
    for method, path in PATHS:
        nobody = await service.client.request(method, f"/v1/admin{path}")
        assert (nobody.status_code, nobody.headers["www-authenticate"]) == (401, "Bearer"), path
        for scope in ("", "notifications:receive", "notifications:send"):
            answer = await Admin(service, scope).call(method, path, json={"after": 0} if "replay" in path else None)
            assert answer.status_code == 403, (path, scope)


async def test_who_may_look_may_not_act(service: Service) -> None:
    reader = Admin(service, READ)
    await service.send("alice")
    for method, path in PATHS:
        answer = await reader.call(method, path, json={"after": 0} if "replay" in path else None)
        assert answer.status_code == (200 if method == "GET" else 403), (path, answer.text)
    assert await reader.acts() == []


# Queues


async def test_queues_grow_and_drain_and_say_how_old_the_list_is(service: Service, admin: Admin) -> None:
    await service.send_many("alice", 3)
    await service.send("bob")
    await admin.settled({"alice": 3, "bob": 1})
    async with service.connect("alice") as alice:
        await alice.take_notifications(3)
        await alice.take_until("caught_up")
        await alice.ack(2)
        await admin.settled({"alice": 1, "bob": 1})
        await alice.ack(3)
        await admin.settled({"bob": 1})
    listed = await admin.get("/queues")
    assert datetime.now(UTC) - datetime.fromisoformat(listed["as_of"]) < timedelta(seconds=5)
    assert listed["next"] is None


async def test_queues_are_listed_by_depth_and_by_age_in_pages(service: Service, admin: Admin) -> None:
    await service.send("old")
    for place in range(5):
        await service.send_many(f"user-{place}", place + 2)
    expected = ["user-4", "user-3", "user-2", "user-1", "user-0", "old"]
    await admin.settled({"old": 1, **{f"user-{place}": place + 2 for place in range(5)}})
    assert list(await admin.queues(sort="depth")) == expected
    assert list(await admin.queues(sort="age")) == ["old", *(f"user-{place}" for place in range(5))]
    assert list(await admin.queues(q="user-")) == expected[:5]
    assert await admin.queues(q="%") == await admin.queues(q="nobody") == {}
    for sort in ("depth", "age"):
        found: list[str] = []
        query: dict[str, object] = {"sort": sort, "limit": 4}
        while True:
            page = await admin.get("/queues", **query)
            found += [item["user"] for item in page["items"]]
            if page["next"] is None:
                break
            query["cursor"] = page["next"]
        assert found == list(await admin.queues(sort=sort))
    assert (await admin.call("GET", f"/queues?sort=age&cursor={page['next'] or 'x'}")).status_code == 400
    assert (await admin.call("GET", "/queues?sort=name")).status_code == 400


async def test_what_ends_without_an_ack_leaves_the_backlog_too(service: Service, admin: Admin) -> None:
    first = await service.send("alice", collapse_key="k")
    await service.send("alice", collapse_key="k")
    await service.send("alice", collapse_key="k")
    await admin.settled({"alice": 1})
    cancelled = await service.send("bob")
    await service.send("bob")
    await service.send("carol", ttl=3)
    await admin.settled({"alice": 1, "bob": 2, "carol": 1})
    await service.client.delete(f"/v1/notifications/{cancelled}", headers=bearer("shop", scope="notifications:send"))
    await admin.settled({"alice": 1, "bob": 1})
    counts = (await service.client.get(f"/v1/notifications/{first}", headers=bearer("root", scope=READ))).json()["counts"]
    assert counts["collapsed"] == 1


async def test_the_backlog_is_found_again_by_the_walk(service: Service, admin: Admin, database_url: str) -> None:
    await service.send_many("alice", 2)
    await admin.settled({"alice": 2})
    connection = await asyncpg.connect(database_url)
    await connection.execute("DELETE FROM notify.backlog")
    await connection.execute("UPDATE notify.backlog_state SET pending = 0, mailboxes = 0")
    await connection.close()
    await admin.settled({"alice": 2})
    overview = await admin.get("/overview")
    assert (overview["pending"], overview["queues"]) == (2, 1)


async def test_the_backlog_counts_as_a_fresh_count_would(service: Service, admin: Admin, connection: asyncpg.Connection) -> None:
    """Grown by steps, with retracts, expiry and acks in between, it is what counting afresh gives."""
    ids = []
    for step in range(4):
        ids.append(await service.send("alice"))
        await service.send("alice", collapse_key="k")
        await service.send("alice", ttl=1 if step == 1 else 600)
        await connection.execute("SELECT notify.refresh_backlog(ARRAY['alice'])")
        if step == 2:
            await service.client.delete(f"/v1/notifications/{ids[0]}", headers=bearer("shop", scope="notifications:send"))
            await connection.execute("SELECT notify.refresh_backlog(ARRAY['alice'])")
    await admin.settled({"alice": 7})  # 12 sent, 3 collapsed, 1 cancelled, 1 expired
    before = await connection.fetchrow("SELECT pending, oldest_seq FROM notify.backlog WHERE user_id = 'alice'")
    await connection.execute("SELECT notify.refresh_backlog(ARRAY['alice'], true)")
    assert await connection.fetchrow("SELECT pending, oldest_seq FROM notify.backlog WHERE user_id = 'alice'") == before
    assert await connection.fetchval("SELECT pending FROM notify.backlog_state") == 7


@pytest.mark.parametrize("user", ["a/b", "..", ".", "alice/replay", "%2F", "ü €", "a?b#c", "x" * 255])
async def test_any_user_can_be_looked_at_and_acted_on(service: Service, admin: Admin, user: str) -> None:
    await service.send_many(user, 2)
    path = f"/queues/{quote(user, safe='').replace('.', '%2E')}"
    queue = await admin.get(path)
    assert (queue["user"], queue["mailbox"]["pending"]) == (user, 2)
    assert await admin.act("POST", f"{path}/replay", json={"after": 0}) == {"replayed": 2}
    assert await admin.act("DELETE", path) == {"purged": 2}
    named = f"/users/{quote(user, safe='').replace('.', '%2E')}"
    assert await admin.act("POST", f"{named}/disconnect") == {"closed": 0}
    assert await admin.act("DELETE", named) == {"erased": 2}
    assert {act[2] for act in await admin.acts()} == {user}


async def test_one_queue_shows_devices_pending_recent_and_sessions(service: Service, admin: Admin) -> None:
    read, pending = await service.send("alice", {"order": 7}), ""
    async with service.connect("alice", device="phone") as alice:
        await alice.take_notifications(1)
        await alice.take_until("caught_up")
        await alice.ack(1)
        await service.wait_for_acks()
        await alice.say({"op": "read", "up_to": 1})
        await alice.take_until("read")
        pending = await service.send("alice", "secret payload")
        await is_listed(admin, 1, user="alice")
        answer = await admin.call("GET", "/queues/alice")
        queue = answer.json()
        assert "secret payload" not in answer.text
        assert [(item["session"], item["device"], item["protocol"]) for item in queue["sessions"]] == [
            (alice.welcome["session"], "phone", "notify.v1")
        ]
    assert queue["mailbox"] | {"oldest_pending_at": None} == {
        "epoch": alice.welcome["epoch"], "head": 3, "floor": 0, "acknowledged": 1, "unread": 1, "pending": 1,
        "oldest_pending_at": None,
    }  # fmt: skip
    assert [(device["device"], device["cursor"]) for device in queue["devices"]] == [("phone", 1)]
    assert [(item["seq"], item["id"], item["source"]) for item in queue["pending"]] == [(3, pending, "shop")]
    assert [(item["seq"], item["id"], item["status"]) for item in queue["recent"]] == [
        (3, pending, "pending"),
        (1, read, "read"),
    ]
    assert (await admin.call("GET", "/queues/nobody")).status_code == 404


# Replay and purge


async def test_replay_queues_again_under_a_new_seq_with_the_old_id(service: Service, admin: Admin) -> None:
    ids = [await service.send("alice", place) for place in range(4)]
    async with service.connect("alice") as alice:
        await alice.take_notifications(4)
        await alice.take_until("caught_up")
        await alice.ack(4)
        await service.wait_for_acks()
        assert await admin.act("POST", "/queues/alice/replay", json={"after": 2}) == {"replayed": 2}
        again = await alice.take_notifications(2)
        assert [(frame["seq"], frame["id"], frame["data"]) for frame in again] == [(5, ids[2], 2), (6, ids[3], 3)]
    assert await admin.acts() == [("root", "replay", "alice", 2)]
    inbox = (await service.client.get("/v1/inbox", headers=bearer("alice"))).json()
    assert [item["seq"] for item in inbox["items"]] == [6, 5, 2, 1]
    assert inbox["unread"] == 4


async def test_replay_leaves_out_what_is_over_and_never_multiplies(service: Service, admin: Admin) -> None:
    await service.send("alice", "expires", ttl=1)
    cancelled = await service.send("alice", "cancelled")
    await service.send("alice", "stays")
    await service.client.delete(f"/v1/notifications/{cancelled}", headers=bearer("shop", scope="notifications:send"))
    await until(lambda: pending_is(admin, "alice", 1), seconds=5, pause=0.1)
    for _ in range(3):
        assert await admin.act("POST", "/queues/alice/replay", json={"after": 0}) == {"replayed": 1}
    await admin.settled({"alice": 1})
    async with service.connect("alice") as alice:
        backlog = await alice.take_backlog()
        assert [frame["data"] for frame in backlog if frame["op"] == "notification"] == ["stays"]
    assert await admin.act("POST", "/queues/nobody/replay", json={"after": 0}) == {"replayed": 0}


async def pending_is(admin: Admin, user: str, count: int) -> bool:
    return bool((await admin.get(f"/queues/{user}"))["mailbox"]["pending"] == count)


async def test_a_status_reached_before_a_replay_stays(service: Service, admin: Admin) -> None:
    id_ = await service.send("alice")
    async with service.connect("alice") as alice:
        await alice.take_until("caught_up")
        await alice.ack(1)
        await service.wait_for_acks()
        await alice.say({"op": "read", "up_to": 1})
        await alice.take_until("read")
        before = await receipt(service, id_)
        assert before["status"] == "read"
        await admin.act("POST", "/queues/alice/replay", json={"after": 0})
        [again] = await alice.take_notifications(1)
        assert {**await receipt(service, id_), "seq": 1} == before
        await alice.ack(again["seq"])
        await service.wait_for_acks()
        assert {**await receipt(service, id_), "seq": 1} == before
    await admin.act("POST", "/queues/alice/replay", json={"after": 0})
    await admin.act("DELETE", "/queues/alice")
    assert {**await receipt(service, id_), "seq": 1} == before


async def receipt(service: Service, id_: str) -> dict[str, Any]:
    answer = await service.client.get(f"/v1/notifications/{id_}/recipients", headers=bearer("root", scope=READ))
    [item] = answer.json()["items"]
    found: dict[str, Any] = item
    return found


async def test_a_replayed_notification_is_still_replaced_by_its_collapse_key(service: Service, admin: Admin) -> None:
    await service.send("alice", "old", collapse_key="k")
    async with service.connect("alice") as alice:
        await alice.take_until("caught_up")
        await alice.ack(1)
    await service.wait_for_acks()
    await admin.act("POST", "/queues/alice/replay", json={"after": 0})
    await service.send("alice", "new", collapse_key="k")
    assert [item["seq"] for item in (await admin.get("/queues/alice"))["pending"]] == [4]


async def test_a_replay_that_would_not_fit_is_refused_and_changes_nothing(database_url: str) -> None:
    async with Service(database_url, max_pending=5) as service:
        admin = Admin(service)
        await service.send_many("alice", 4)
        async with service.connect("alice", ack="auto") as alice:
            await alice.take_until("caught_up")
            await service.send_many("alice", 4, first=4)
            await alice.take_notifications(4)
            await service.wait_for_acks()
        answer = await admin.call("POST", "/queues/alice/replay", json={"after": 0})
        assert (answer.status_code, answer.json()["type"]) == (413, "too-large")
        assert (await admin.get("/queues/alice"))["mailbox"]["head"] == 8
        assert await admin.act("POST", "/queues/alice/replay", json={"after": 4}) == {"replayed": 4}


@pytest.mark.parametrize("body", [{}, {"after": -1}, {"after": "1"}, {"after": 0, "to": 3}, []])
async def test_a_replay_says_from_where(admin: Admin, body: object) -> None:
    assert (await admin.call("POST", "/queues/alice/replay", json=body)).status_code == 400


async def test_purged_notifications_count_as_cancelled_and_are_retracted(service: Service, admin: Admin) -> None:
    first, second = await service.send("alice", 1), await service.send("alice", 2)
    async with service.connect("alice") as alice:
        await alice.take_until("caught_up")
        await alice.ack(1)
        await service.wait_for_acks()
        assert await admin.act("DELETE", "/queues/alice") == {"purged": 1}
        frame = await alice.take()
        assert frame == {"op": "retract", "seq": 3, "of": 2, "id": second}
    assert await admin.act("DELETE", "/queues/alice") == {"purged": 0}
    assert [(await receipt(service, id_))["status"] for id_ in (first, second)] == ["delivered", "cancelled"]
    assert await admin.acts() == [("root", "purge", "alice", 0), ("root", "purge", "alice", 1)]
    assert (await admin.get("/queues/alice"))["mailbox"]["pending"] == 0


async def test_an_admin_sees_and_cancels_anybodys_notification(service: Service, admin: Admin) -> None:
    id_ = await service.send(["alice", "bob"], {"order": 7})
    path = f"/v1/notifications/{id_}"
    reader, writer = bearer("root", scope=READ), bearer("root", scope=WRITE)
    seen = (await service.client.get(path, headers=reader)).json()
    assert (seen["data"], seen["recipients"]) == ({"order": 7}, 2)
    assert (await service.client.delete(path, headers=reader)).status_code == 403
    stranger = bearer("other", scope="notifications:send")
    assert (await service.client.get(path, headers=stranger)).status_code == 404
    assert (await service.client.delete(path, headers=stranger)).status_code == 404
    assert (await service.client.delete(path, headers=writer)).status_code == 204
    assert (await service.client.delete(path, headers=writer)).status_code == 204
    assert await admin.acts() == [("root", "cancel", id_, 0), ("root", "cancel", id_, 2)]
    assert (await service.client.get(path, headers=reader)).json()["counts"]["cancelled"] == 2


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
    return service.app._need_running().services.orders  # noqa: SLF001 - the tests look at what no client can


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
    async with Service(database_url, max_sessions=2) as one, Service(database_url, max_sessions=2) as other:
        async with (
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


async def nodes_are(admin: Admin, expected: set[str]) -> bool:
    return {node["node"] for node in (await admin.get("/nodes"))["items"]} == expected


async def test_a_dead_node_is_gone_with_its_sessions(
    service: Service, admin: Admin, connection: asyncpg.Connection
) -> None:
    dead, session = UUID(int=1), UUID(int=2)
    await connection.execute(
        "INSERT INTO notify.node SELECT $1, host, pid, version, started_at, now() - interval '31 seconds', now(), 1, 1,"
        " false, true, 0, 0 FROM notify.node LIMIT 1", dead,
    )  # fmt: skip
    await connection.execute(
        "INSERT INTO notify.session VALUES ($1, $2, 'ghost', 'd', 'notify.v1', NULL, now())", session, dead
    )
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


# Erasure


async def test_erasing_leaves_nothing_of_a_user_and_begins_a_new_epoch(
    service: Service, admin: Admin, connection: asyncpg.Connection
) -> None:
    app = bearer("shop", scope="notifications:send")
    await service.client.put("/v1/topics/news/subscribers/alice", headers=app)
    own = await service.send("alice", "for alice alone", collapse_key="k")
    shared = await service.send(["alice", "bob"], "for both")
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    scheduled = await service.send("alice", deliver_at=later)
    await service.send(["alice", "bob"], "both later", deliver_at=later)
    async with service.connect("alice", device="phone") as alice:
        await alice.take_until("caught_up")
        await alice.ack(2)
        await service.wait_for_acks()
        await alice.say({"op": "read", "up_to": 1})
        await alice.take_until("read")
        await is_listed(admin, 1)
        assert await admin.act("DELETE", "/users/alice") == {"erased": 4}
        code, _, frames = await alice.take_close(seconds=LATE)
        assert (code, frames[-1]["reconnect"]) == (1013, True)
    await is_listed(admin, 0)
    tables = await connection.fetch(
        "SELECT table_name FROM information_schema.columns WHERE table_schema = 'notify' AND column_name = 'user_id'"
        " AND table_name NOT IN ('walk', 'node_order')"
    )
    assert len(tables) >= 9
    for (table,) in tables:
        assert await connection.fetchval(f"SELECT count(*) FROM notify.{table} WHERE user_id = 'alice'") == 0, table  # noqa: S608 - names of our own catalog
    assert await connection.fetchval("SELECT count(*) FROM notify.outbox WHERE 'alice' = ANY (users)") == 0
    for gone in (own, scheduled):
        assert (await service.client.get(f"/v1/notifications/{gone}", headers=app)).status_code == 404
    kept = (await service.client.get(f"/v1/notifications/{shared}/recipients", headers=app)).json()["items"]
    assert [item["user"] for item in kept] == ["bob"]
    async with service.connect("alice", device="phone", after=2, epoch=alice.welcome["epoch"]) as again:
        assert again.welcome["epoch"] != alice.welcome["epoch"]
        assert (again.welcome["recovered"], again.welcome["head"], again.welcome["unread"]) == (False, 0, 0)
        await again.take_until("caught_up")
        fresh = await service.send("alice", "begins anew")
        [frame] = await again.take_notifications(1)
        assert (frame["seq"], frame["id"]) == (1, fresh)
        await again.ack(1)
        await service.wait_for_acks()
    assert (await receipt(service, fresh))["status"] == "delivered"
    assert await admin.act("DELETE", "/users/nobody") == {"erased": 0}
    assert await admin.acts() == [("root", "erase", "nobody", 0), ("root", "erase", "alice", 4)]


# The overview


async def test_the_overview_says_who_is_connected_what_is_pending_and_where(service: Service, admin: Admin) -> None:
    await service.send_many("bob", 3)
    async with service.connect("alice") as alice:
        await alice.take_until("caught_up")
        await service.send("alice")
        await alice.take_notifications(1)
        await admin.settled({"bob": 3, "alice": 1})
        await is_listed(admin, 1)
        running = service.app._need_running().services  # noqa: SLF001 - writing what is otherwise written every 10 s
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


async def test_lists_refuse_cursors_that_are_not_theirs(admin: Admin) -> None:
    for path in ("/queues", "/sessions", "/audit", "/denylist"):
        for cursor in ("x", "eyJ4IjoxfQ", "A" * 5000):
            assert (await admin.call("GET", path, params={"cursor": cursor})).status_code == 400, (path, cursor)


async def test_acts_at_the_same_time_are_all_written_down(service: Service, admin: Admin) -> None:
    await service.send_many("alice", 5)
    async with asyncio.TaskGroup() as tasks:
        purges = [tasks.create_task(admin.act("DELETE", "/queues/alice")) for _ in range(5)]
        replays = [tasks.create_task(admin.act("POST", "/queues/alice/replay", json={"after": 0})) for _ in range(5)]
    acts = await admin.acts()
    assert sum(act[3] for act in acts if act[1] == "purge") == sum(purge.result()["purged"] for purge in purges) == 5
    assert sum(act[3] for act in acts if act[1] == "replay") == sum(replay.result()["replayed"] for replay in replays)


