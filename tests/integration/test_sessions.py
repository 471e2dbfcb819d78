"""What a session delivers: everything once it is behind, in order, within its window, for each device."""

import asyncio

import asyncpg
import pytest

from notify import session
from tests.service import Service, data_of, read_cursor, stands_at, until


async def test_what_is_sent_arrives_live_as_it_was_sent(service: Service) -> None:
    async with service.connect("ann") as socket:
        assert await socket.take() == {"op": "caught_up", "seq": 0}
        answer = await service.post({"to": "ann", "type": "order.shipped", "data": {"order": 7}})
        assert await socket.take() == {
            "op": "notification", "seq": 1, "id": answer.json()["id"], "type": "order.shipped", "data": {"order": 7},
            "source": "shop", "created_at": answer.json()["created_at"],
        }  # fmt: skip


async def test_a_backlog_comes_first_in_order_and_then_it_is_live(service: Service) -> None:
    await service.send_many("ann", 350)
    async with service.connect("ann") as socket:
        assert socket.welcome["head"] == 350
        frames = await socket.take_backlog()
        assert [frame["seq"] for frame in frames] == list(range(1, 351))
        assert data_of(frames) == list(range(350))
        await service.send("ann", "live")
        assert (await socket.take())["data"] == "live"


async def test_nobody_gets_anybody_elses(service: Service) -> None:
    async with service.connect("ann") as ann, service.connect("bob") as bob:
        await ann.take_backlog()
        await bob.take_backlog()
        await service.send("bob", "for bob")
        await service.send(["ann", "bob"], "for both")
        assert data_of([await ann.take()]) == ["for both"]
        assert data_of(await bob.take_notifications(2)) == ["for bob", "for both"]
        await ann.settle()


async def test_what_is_acknowledged_does_not_come_again_and_the_rest_does(service: Service) -> None:
    await service.send_many("ann", 5)
    async with service.connect("ann") as socket:
        await socket.take_backlog()
        await socket.ack(3)
    await service.wait_for_acks()
    async with service.connect("ann") as socket:
        assert socket.welcome["after"] == 3
        assert data_of(await socket.take_backlog()) == [3, 4]


async def test_an_ack_beyond_what_was_sent_is_ignored(service: Service, connection: asyncpg.Connection) -> None:
    async with service.connect("ann") as socket:
        await socket.take_backlog()
        await socket.ack(5)
        await service.send_many("ann", 2)
        await socket.take_notifications(2)
        await socket.ack(3)
        await service.wait_for_acks()
        assert await read_cursor(connection, "ann") == 0
        await socket.ack(1)
        await socket.ack(0)
        await until(lambda: stands_at(connection, "ann", 1))
        await service.send_many("ann", 9)
        await socket.take_notifications(9)
        await socket.ack(2**63 - 1)
        await service.wait_for_acks()
        assert await read_cursor(connection, "ann") == 1


async def test_a_device_may_resume_from_where_it_says(service: Service) -> None:
    await service.send_many("ann", 5)
    async with service.connect("ann") as socket:
        epoch = socket.welcome["epoch"]
        await socket.take_backlog()
        await socket.ack(4)
    await service.wait_for_acks()
    async with service.connect("ann", after=1, epoch=epoch) as socket:  # back
        assert (socket.welcome["after"], socket.welcome["recovered"]) == (1, True)
        assert data_of(await socket.take_backlog()) == [1, 2, 3, 4]
    async with service.connect("ann", after=5) as socket:  # ahead of its cursor; without an epoch it is believed
        assert (socket.welcome["after"], socket.welcome["recovered"]) == (5, True)
        assert await socket.take_backlog() == []


async def test_a_place_that_cannot_be_honoured_starts_at_the_cursor_and_says_so(service: Service) -> None:
    await service.send_many("ann", 5)
    async with service.connect("ann") as socket:
        await socket.take_backlog()
        await socket.ack(3)
    await service.wait_for_acks()
    for query in ({"after": 6}, {"after": 2, "epoch": "another"}, {"after": 2**63 - 1}, {"after": 2, "epoch": ""}):
        async with service.connect("ann", **query) as socket:
            assert (socket.welcome["after"], socket.welcome["recovered"]) == (3, False), query
            assert data_of(await socket.take_backlog()) == [3, 4]


async def test_resuming_ahead_acknowledges_nothing_by_itself(service: Service, connection: asyncpg.Connection) -> None:
    """What lies between the cursor and `after` is neither acknowledged nor over, whatever comes behind it."""
    await service.send_many("ann", 5)
    async with service.connect("ann", after=5) as socket:
        await socket.take_backlog()
        await service.send("ann", "over", ttl=60)
        await connection.execute("UPDATE notify.notification SET expires_at = now() WHERE data = '\"over\"'")
    async with service.connect("ann", after=5) as socket:
        await socket.take_backlog()
        await service.wait_for_acks()
        assert await read_cursor(connection, "ann") == 0
        await socket.ack(2)
        await until(lambda: stands_at(connection, "ann", 2))
        await socket.ack(5)
        await until(lambda: stands_at(connection, "ann", 6))


async def test_entries_that_went_for_good_are_named(database_url: str) -> None:
    async with Service(database_url, max_pending=10) as service:
        await service.send_many("ann", 4)
        for first in (4, 14):
            await service.send_many("ann", 10, first=first)
        async with service.connect("ann") as socket:
            frames = await socket.take_backlog()
        assert frames[0] == {"op": "truncated", "from": 1, "to": 14}
        assert data_of(frames) == list(range(14, 24))


async def test_what_expired_is_skipped(service: Service, connection: asyncpg.Connection) -> None:
    await service.send_many("ann", 3)
    await connection.execute("UPDATE notify.notification SET expires_at = now() WHERE data = '1'")
    async with service.connect("ann") as socket:
        frames = await socket.take_backlog()
        assert [frame["seq"] for frame in frames] == [1, 3]


# The window


async def test_the_window_stalls_at_its_limit_and_goes_on_with_acks(database_url: str) -> None:
    async with Service(database_url, max_unacked=5) as service:
        await service.send_many("ann", 12)
        async with service.connect("ann") as socket:
            assert data_of(await socket.take_notifications(5)) == [0, 1, 2, 3, 4]
            await socket.settle()  # nothing more comes
            await socket.say({"op": "ack", "seq": 2})
            assert data_of(await socket.take_notifications(2)) == [5, 6]
            await socket.settle()
            await socket.say({"op": "ack", "seq": 7})
            assert data_of(await socket.take_backlog()) == [7, 8, 9, 10, 11]


async def test_a_device_that_acknowledges_each_by_itself_is_not_held_back(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "MAX_FRAMES_PER_SECOND", 20)  # held back, it would take 150 s
    async with Service(database_url, max_unacked=50) as service:
        for first in range(0, 3000, 1000):
            await service.send_many("ann", 1000, first=first)
        async with service.connect("ann") as socket, asyncio.timeout(40):
            for seq in range(1, 3001):
                assert (await socket.take())["seq"] == seq
                await socket.say({"op": "ack", "seq": seq})


async def test_the_window_is_bounded_in_bytes_too(database_url: str) -> None:
    async with Service(database_url, max_unacked_bytes=64 * 1024) as service:
        for place in range(4):
            await service.send("ann", f"{place}" + "x" * 30_000)
        async with service.connect("ann") as socket:
            assert [data[0] for data in data_of(await socket.take_notifications(3))] == ["0", "1", "2"]
            await socket.settle()
            await socket.say({"op": "ack", "seq": 1})
            assert [data[0] for data in data_of(await socket.take_backlog())] == ["3"]


async def test_what_is_over_takes_no_place_in_the_window(database_url: str, connection: asyncpg.Connection) -> None:
    async with Service(database_url, max_unacked=3) as service:
        await service.send_many("ann", 40)
        await connection.execute(
            "UPDATE notify.notification SET expires_at = now() WHERE data NOT IN ('0', '20', '39')"
        )
        async with service.connect("ann") as socket:
            frames = await socket.take_backlog()
            assert [frame["seq"] for frame in frames] == [1, 21, 40]
            await socket.ack(1)
            await until(lambda: stands_at(connection, "ann", 20))  # over everything up to the next that waits


async def test_the_cursor_moves_by_itself_over_what_is_over(service: Service, connection: asyncpg.Connection) -> None:
    await service.send_many("ann", 5)
    await connection.execute("UPDATE notify.notification SET expires_at = now()")
    async with service.connect("ann") as socket:
        assert await socket.take_backlog() == []
        await until(lambda: stands_at(connection, "ann", 5))


async def test_the_cursor_does_not_move_over_what_waits_for_its_ack(
    service: Service, connection: asyncpg.Connection
) -> None:
    await service.send_many("ann", 5)
    await connection.execute("UPDATE notify.notification SET expires_at = now() WHERE data <> '2'")
    async with service.connect("ann") as socket:
        assert data_of(await socket.take_backlog()) == [2]
        await socket.settle()
        await service.wait_for_acks()
        assert await read_cursor(connection, "ann") in {0, 2}
        await socket.ack(3)
        await until(lambda: stands_at(connection, "ann", 5))


async def test_with_ack_auto_sent_counts_as_acknowledged(database_url: str, connection: asyncpg.Connection) -> None:
    async with Service(database_url, max_unacked=5) as service:
        await service.send_many("ann", 20)
        async with service.connect("ann", ack="auto") as socket:
            assert data_of(await socket.take_backlog()) == list(range(20))  # no window
            await until(lambda: stands_at(connection, "ann", 20))
        async with service.connect("ann") as socket:
            assert await socket.take_backlog() == []


# Devices


async def test_each_device_gets_everything_and_acknowledges_for_itself(service: Service) -> None:
    async with service.connect("ann", device="phone") as phone, service.connect("ann", device="desk") as desk:
        await phone.take_backlog()
        await desk.take_backlog()
        await service.send_many("ann", 3)
        assert data_of(await phone.take_notifications(3)) == data_of(await desk.take_notifications(3)) == [0, 1, 2]
        await phone.ack(3)
    await service.wait_for_acks()
    async with service.connect("ann", device="phone") as phone, service.connect("ann", device="desk") as desk:
        assert await phone.take_backlog() == []
        assert data_of(await desk.take_backlog()) == [0, 1, 2]
    async with service.connect("ann", device="new") as new:
        assert new.welcome["after"] == 3


async def test_several_sockets_of_a_device_each_get_everything(service: Service) -> None:
    async with service.connect("ann") as one, service.connect("ann") as other:
        await one.take_backlog()
        await other.take_backlog()
        await service.send_many("ann", 3)
        assert data_of(await one.take_notifications(3)) == data_of(await other.take_notifications(3)) == [0, 1, 2]


async def test_one_session_too_many_sends_the_oldest_away(database_url: str) -> None:
    async with (
        Service(database_url, max_sessions=2) as service,
        service.connect("ann") as oldest,
        service.connect("ann") as older,
        service.connect("bob") as bob,
        service.connect("ann") as newest,
    ):
        code, reason, frames = await oldest.take_close()
        assert (code, reason) == (4409, "too_many_sessions")
        assert frames[-1] == {"op": "disconnect", "code": 4409, "reason": "too_many_sessions", "reconnect": False}
        for socket in (older, newest, bob):
            await socket.take_backlog()
            await socket.settle()
