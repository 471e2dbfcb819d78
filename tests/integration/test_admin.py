"""What admins do with queues: who may, replay, purge, cancel, erasure, and that each act is written down."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest

from tests.admin import READ, WRITE, Admin, is_listed
from tests.service import Service, bearer, until

LATE = 1.0
"""Seconds within which what an admin orders is done on every node."""


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
            await service.wait_for_acks()  # else the mailbox would be too full for what follows
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


# Lists and acts


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
