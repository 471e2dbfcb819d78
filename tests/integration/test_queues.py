"""What admins see of queues: depth and age in a list and an overview that keep up, and all there is to know of one."""

from datetime import UTC, datetime, timedelta

import asyncpg

from tests.admin import READ, Admin, is_listed
from tests.integration.support import let_expire
from tests.service import Service, bearer


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


async def test_what_ends_without_an_ack_leaves_the_backlog_too(
    service: Service, admin: Admin, connection: asyncpg.Connection
) -> None:
    first = await service.send("alice", collapse_key="k")
    await service.send("alice", collapse_key="k")
    await service.send("alice", collapse_key="k")
    await admin.settled({"alice": 1})
    cancelled = await service.send("bob")
    await service.send("bob")
    expiring = await service.send("carol", ttl=600)
    await admin.settled({"alice": 1, "bob": 2, "carol": 1})
    await let_expire(connection, expiring)
    # The backlog has noted when that would be, as of when it looked.
    await connection.execute("UPDATE notify.backlog SET next_expiry = clock_timestamp() WHERE user_id = 'carol'")
    await service.client.delete(f"/v1/notifications/{cancelled}", headers=bearer("shop", scope="notifications:send"))
    await admin.settled({"alice": 1, "bob": 1})
    counts = (await service.client.get(f"/v1/notifications/{first}", headers=bearer("root", scope=READ))).json()[
        "counts"
    ]
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


async def test_the_backlog_counts_as_a_fresh_count_would(
    service: Service, admin: Admin, connection: asyncpg.Connection
) -> None:
    """Grown by steps, with retracts, expiry and acks in between, it is what counting afresh gives."""
    ids = []
    for step in range(4):
        ids.append(await service.send("alice"))
        await service.send("alice", collapse_key="k")
        await service.send("alice", ttl=1 if step == 1 else 600)
        await connection.execute("SELECT notify.refresh_backlog(ARRAY['alice'])")
        if step == 2:
            await service.client.delete(
                f"/v1/notifications/{ids[0]}", headers=bearer("shop", scope="notifications:send")
            )
            await connection.execute("SELECT notify.refresh_backlog(ARRAY['alice'])")
    await admin.settled({"alice": 7})  # 12 sent, 3 collapsed, 1 cancelled, 1 expired
    before = await connection.fetchrow("SELECT pending, oldest_seq FROM notify.backlog WHERE user_id = 'alice'")
    await connection.execute("SELECT notify.refresh_backlog(ARRAY['alice'], true)")
    assert await connection.fetchrow("SELECT pending, oldest_seq FROM notify.backlog WHERE user_id = 'alice'") == before
    assert await connection.fetchval("SELECT pending FROM notify.backlog_state") == 7


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
