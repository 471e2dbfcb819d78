"""`ttl: 0`: to whoever is connected on any node, now or never, and not one row of any table for it."""

import asyncio
import socket
from collections.abc import Mapping

import asyncpg

from tests.integration.support import from_now, open_nodes
from tests.service import Service, holding, until

BOOKKEEPING = {"node", "session", "sample", "production", "backlog", "backlog_state", "walk"}
"""What nodes write of themselves on their own time, whether anything is sent or not."""


async def send_now(service: Service, to: str | list[str], data: object) -> None:
    answer = await service.post({"to": to, "type": "t", "data": data, "ttl": 0})
    assert answer.status_code == 202, answer.text
    assert "location" not in answer.headers


async def count_writes(connection: asyncpg.Connection) -> Mapping[str, int]:
    """Return how many rows were ever written in each table."""
    await connection.execute("SELECT pg_stat_clear_snapshot()")
    rows = await connection.fetch(
        "SELECT relname, n_tup_ins + n_tup_upd + n_tup_del AS writes FROM pg_stat_user_tables WHERE schemaname = 'notify'"
    )
    return {row["relname"]: row["writes"] for row in rows if row["relname"] not in BOOKKEEPING}


async def test_it_reaches_every_device_on_every_node_without_a_seq(database_url: str) -> None:
    async with (
        open_nodes(database_url) as (one, other),
        one.connect("alice", device="a") as first,
        other.connect("alice", device="b") as second,
        other.connect("bob") as bob,
    ):
        for device in (first, second, bob):
            await device.take_backlog()
        await send_now(one, "alice", "typing")
        await send_now(other, ["bob", "alice"], "both")
        for device in (first, second):
            frames = await device.take_notifications(2)
            assert sorted(frame["data"] for frame in frames) == ["both", "typing"]
            assert not any("seq" in frame for frame in frames)
        assert (await bob.take())["data"] == "both"


async def test_it_may_be_larger_than_a_notify_and_hold_any_text(database_url: str) -> None:
    async with (
        open_nodes(database_url) as (one, other),
        one.connect("alice") as first,
        other.connect("alice") as second,
    ):
        for device in (first, second):
            await device.take_backlog()
        for data in ("x" * 65_000, 'é😀\n\t\\"日本' * 2_500, [{"n": n} for n in range(5_000)]):
            await send_now(one, ["alice", *(f"user {n} é" for n in range(1_000))], data)
            assert (await first.take())["data"] == data
            assert (await second.take())["data"] == data


async def test_many_at_once_all_arrive_whole(service: Service) -> None:
    async with service.connect("alice") as alice:
        await alice.take_backlog()
        sent = [f"{n}" * 3_000 for n in range(30)]
        _, frames = await asyncio.gather(
            asyncio.gather(*(send_now(service, "alice", data) for data in sent)), alice.take_notifications(30)
        )
    assert sorted(frame["data"] for frame in frames) == sorted(sent)


async def test_a_whole_batch_for_one_who_waits_for_it_arrives(service: Service) -> None:
    """It comes in a few large pieces, each before the session has its turn: that says nothing about its peer."""
    batch = [{"to": "alice", "type": "t", "data": n, "ttl": 0} for n in range(1_000)]
    async with service.connect("alice") as alice:
        await alice.take_backlog()
        answer = await service.post({"notifications": batch}, path="/v1/notifications/batch")
        assert answer.status_code == 202
        assert [frame["data"] for frame in await alice.take_notifications(1_000)] == list(range(1_000))


async def test_who_is_not_there_never_gets_it(service: Service) -> None:
    await send_now(service, "alice", "missed")
    async with service.connect("alice") as alice:
        assert await alice.take_backlog() == []
        await send_now(service, "alice", "heard")
        assert (await alice.take())["data"] == "heard"
        assert (alice.welcome["head"], alice.welcome["unread"]) == (0, 0)


async def test_it_never_comes_before_caught_up(database_url: str) -> None:
    async with Service(database_url, max_unacked=5) as service:
        await service.send_many("alice", 20)
        async with service.connect("alice") as alice, service.connect("alice", device="witness", ack="auto") as witness:
            await witness.take_backlog()
            await alice.take_notifications(5)  # and then its window is full
            await send_now(service, "alice", "too early")
            assert (await witness.take())["data"] == "too early"
            await alice.say({"op": "ack", "seq": 5})
            for first in (6, 11, 16):
                assert [frame["seq"] for frame in await alice.take_notifications(5)] == list(range(first, first + 5))
                await alice.say({"op": "ack", "seq": first + 4})
            assert (await alice.take())["op"] == "caught_up"
            await send_now(service, "alice", "now")
            assert (await alice.take())["data"] == "now"


async def test_no_table_is_written(service: Service, connection: asyncpg.Connection) -> None:
    async with service.connect("alice") as alice:
        await alice.take_backlog()
        await service.send("alice", "stored")
        await alice.take()
        await alice.ack(1)
        await service.wait_for_acks()
        before = await settle_writes(service, connection)
        assert sum(before.values()) > 0
        for n in range(50):
            await send_now(service, ["alice", "nobody", f"user {n}"], n)
        await alice.take_notifications(50)
        assert await settle_writes(service, connection) == before
    assert await connection.fetchval("SELECT count(*) FROM notify.mailbox") == 1


async def settle_writes(service: Service, connection: asyncpg.Connection) -> Mapping[str, int]:
    """Return the counts once every connection of the pool has told what it wrote."""
    flushed: set[int] = set()

    async def flush(database: asyncpg.Connection) -> None:
        await database.execute("SELECT pg_stat_force_next_flush()")
        flushed.add(await database.fetchval("SELECT pg_backend_pid()"))
        await asyncio.sleep(0.02)  # keeps this one taken while the others are asked

    async def have_all_told() -> bool:
        """Ask every connection that is free; one that a statement in the background has is asked the next time."""
        await asyncio.gather(*(service.store.database.use(flush) for _ in range(service.settings.database_connections)))
        rows = await connection.fetch(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'notify'"
        )
        return flushed.issuperset(row["pid"] for row in rows)

    await until(have_all_told)
    return await count_writes(connection)


async def test_a_held_mailbox_or_a_slow_device_is_nothing_to_it(service: Service, database_url: str) -> None:
    """One device reads nothing: it is skipped, stays connected, and gets what is stored all the same."""
    async with service.connect("alice", device="slow") as slow, service.connect("alice", device="quick") as quick:
        await slow.take_backlog()
        await quick.take_backlog()
        narrow = slow.connection.transport.get_extra_info("socket")
        narrow.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, 256 * 1024
        )  # soon full: who reads nothing for long is cut off
        slow.connection.transport.pause_reading()
        async with holding(database_url, "alice"):
            for n in range(100):
                await send_now(service, "alice", [n, "x" * 60_000])
                assert (await quick.take())["data"][0] == n
        slow.connection.transport.resume_reading()
        await service.send("alice", "stored")
        frames = [await slow.take()]
        while frames[-1]["data"] != "stored":
            frames.append(await slow.take())
    assert 0 < len(frames) < 100
    numbers = [frame["data"][0] for frame in frames[:-1]]
    assert numbers == sorted(numbers)


async def test_it_goes_with_nothing_that_waits(service: Service) -> None:
    body = {"to": "alice", "type": "t", "ttl": 0}
    for field, value in (("collapse_key", "k"), ("deliver_at", from_now(60))):
        answer = await service.post({**body, field: value})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (400, f"/{field}")
    assert (await service.post(body, Idempotency_Key="k")).status_code == 400


async def test_a_batch_is_all_of_it_or_none(service: Service) -> None:
    async with service.connect("alice") as alice:
        await alice.take_backlog()
        now = {"to": "alice", "type": "t", "ttl": 0}
        later = {"to": "alice", "type": "t"}
        answer = await service.post({"notifications": [now, later]}, path="/v1/notifications/batch")
        assert answer.status_code == 400
        batch = {"notifications": [{**now, "data": n} for n in range(5)]}
        answer = await service.post(batch, path="/v1/notifications/batch")
        assert (answer.status_code, len(answer.json()["ids"])) == (202, 5)
        frames = await alice.take_notifications(5)
    assert [frame["data"] for frame in frames] == list(range(5))
    assert [frame["id"] for frame in frames] == answer.json()["ids"]
