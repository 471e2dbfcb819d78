"""What ends a session, what does not, and what is never written after the last word."""

import asyncio
import socket
import time
from typing import Any

import asyncpg
import pytest
import structlog
import websockets

from notify.errors import Close
from notify.pump import GOODBYE_SECONDS
from notify.session import Session
from tests.service import Service, Socket, bearer, data_of, mint_token, read_cursor, shake_hands, stands_at, until


async def test_a_peer_that_does_not_read_is_cut_off_and_delays_nobody(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("notify.pump.STUCK_SECONDS", 1.0)
    async with Service(database_url, max_unacked_bytes=64 * 1024 * 1024, max_unacked=10_000) as service:
        for _ in range(20):
            await service.send_many("ann", 15, ttl=600)
        await asyncio.gather(*(service.send("ann", "x" * 60_000) for _ in range(200)))
        reader, writer = await shake_hands(service, "ann")
        async with service.connect("bob") as bob:
            await bob.take_backlog()
            await until(lambda: len(service.app.hub.of("ann")) == 1)
            started = time.monotonic()
            for place in range(5):
                await service.send("bob", place)
                assert (await bob.take())["data"] == place
            assert time.monotonic() - started < 2
            await until(lambda: not service.app.hub.of("ann"))
        writer.transport.abort()
        del reader


async def test_who_is_slow_to_read_has_as_long_as_any_other_to_hear_the_goodbye(service: Service) -> None:
    async with service.connect("ann", ack="auto") as ann:
        session = await stop_reading(service, ann)
        started = time.monotonic()
        session.leave(Close.DRAINING)
        session.inspect(started + GOODBYE_SECONDS - 0.001)
        ann.connection.transport.resume_reading()
        code, _reason, frames = await ann.take_close()
    assert (code, frames[-1]["op"]) == (4503, "disconnect")


async def test_with_ack_auto_an_ack_covers_nothing_that_waits_to_be_sent(service: Service) -> None:
    async with service.connect("ann", ack="auto") as ann:
        session = await stop_reading(service, ann)
        await ann.say({"op": "ack", "seq": 1})
        await ann.say({"op": "ping"})
        await until(lambda: bool(session._pump._answers))
        waiting = session._pump._position
        ann.connection.transport.abort()
    await until(lambda: not service.app.hub.of("ann"))
    await service.wait_for_acks()
    async with service.connect("ann") as again:
        assert again.welcome["after"] < waiting


async def stop_reading(service: Service, ann: Socket) -> Session:
    """Read the backlog of a device and no more; return its session once a write waits for it."""
    await ann.take_backlog()
    ann.connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    ann.connection.transport.pause_reading()
    [session] = service.app.hub.of("ann")
    assert isinstance(session, Session)
    while session._pump._writing_since is None:
        await asyncio.gather(*(service.send("ann", "x" * 60_000) for _ in range(20)))
    return session


async def test_a_notification_that_cannot_be_encoded_is_skipped(
    service: Service, connection: asyncpg.Connection
) -> None:
    await service.send_many("ann", 3)
    await connection.execute(r"UPDATE notify.notification SET data = '\xc1'::bytea, codec = 1 WHERE data = '1'")
    async with service.connect("ann") as socket:
        assert data_of(await socket.take_backlog()) == [0, 2]
        await socket.ack(3)
        await until(lambda: stands_at(connection, "ann", 3))


async def test_a_session_survives_the_loss_of_every_database_connection(
    service: Service, connection: asyncpg.Connection
) -> None:
    async with service.connect("ann") as socket:
        await socket.take_backlog()
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await until(lambda: is_accepted(service))
        assert data_of(await socket.take_notifications(1)) == ["after all"]


async def is_accepted(service: Service) -> bool:
    return (await service.post({"to": "ann", "type": "t", "data": "after all"})).status_code == 201


async def test_another_database_under_the_service_sends_everybody_away_to_resume(
    service: Service, connection: asyncpg.Connection
) -> None:
    async with service.connect("ann") as socket:
        await socket.take_backlog()
        await connection.execute("UPDATE notify.salt SET value = 'restored'")
        assert (await service.client.get("/readyz")).status_code == 200  # looking must not swallow the change
        async with service.dial("bob"):
            pass
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'notify bridge'"
        )
        code, _reason, frames = await socket.take_close()
        assert code == 1013
        assert frames[-1]["reconnect"] is True
    async with service.connect("ann", after=0, epoch=socket.welcome["epoch"]) as again:
        assert again.welcome["recovered"] is False
        assert again.welcome["epoch"] != socket.welcome["epoch"]


async def test_leaving_says_goodbye_once_and_writes_nothing_after_it(
    service: Service, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    async with service.connect("ann") as socket:
        await socket.take_backlog()
        [session] = service.app.hub.of("ann")
        for _ in range(20):
            await socket.say({"op": "ping"})  # some of it is read only after the goodbye
        await service.send_many("ann", 50)
        await service.stop()
        session.wake(1_000)  # one that comes too late
        code, reason, frames = await socket.take_close()
        assert (code, reason) == (4503, "draining")
        assert [frame["op"] for frame in frames].count("disconnect") == 1
        assert frames[-1]["op"] == "disconnect"
        assert frames[-1]["reconnect"] is True
        assert 250 <= frames[-1]["retry_after_ms"] <= 3_000
    assert "Traceback" not in capfd.readouterr().err + caplog.text


async def test_a_wake_up_after_the_goodbye_writes_nothing(service: Service) -> None:
    """The peer has not answered the close yet: its connection is there, but nothing may follow what was said last."""
    reader, writer = await shake_hands(service, "ann")
    await until(lambda: len(service.app.hub.of("ann")) == 1)
    [session] = service.app.hub.of("ann")
    await reader.readuntil(b'"op":"caught_up"')
    session.leave(Close.DRAINING)
    await until(lambda: not service.app.hub.of("ann"))
    with structlog.testing.capture_logs() as logs:
        session.wake(1_000)
        for _ in range(10):
            await asyncio.sleep(0)
    assert [log["event"] for log in logs if log["log_level"] in {"warning", "error"}] == []
    async with asyncio.timeout(5):  # the close is bounded, answered or not
        assert (await reader.read()).count(b'"op":"disconnect"') == 1
    writer.close()


async def test_acks_on_their_way_are_written_down_before_the_end(
    service: Service, database_url: str, connection: asyncpg.Connection
) -> None:
    await service.send_many("ann", 5)
    foreign = await asyncpg.connect(database_url)
    try:
        async with service.connect("ann") as socket:
            await socket.take_backlog()
            async with foreign.transaction():
                await foreign.execute(
                    "LOCK TABLE notify.ack IN EXCLUSIVE MODE"
                )  # nothing is written down for the moment
                await socket.ack(3)
                await socket.ack(5)
                stopping = asyncio.create_task(service.stop())
                assert (await socket.take_close())[0] == 4503
                await until(lambda: not len(service.app.hub))
                assert not stopping.done()
            await stopping
    finally:
        await foreign.close()
    assert await read_cursor(connection, "ann") == 5


async def test_who_authenticates_while_the_node_is_leaving_is_sent_on_to_another(service: Service) -> None:
    async with service.dial() as late, service.connect("ann") as ann:
        draining = asyncio.create_task(service.app.drain())
        assert (await ann.take_close())[0] == 4503
        await late.say({"op": "auth", "token": mint_token("bob")})
        assert (await late.take_close(seconds=3))[0] == 4503
        async with asyncio.timeout(3):
            await draining
    with pytest.raises(websockets.InvalidStatus):
        async with service.dial("cid"):
            pass
    async with service.client.stream("GET", "/v1/stream", headers=bearer("cid")) as answer:
        assert (answer.status_code, "retry-after" in answer.headers) == (503, True)


async def test_a_socket_is_a_socket(service: Service) -> None:
    """The helper itself: reading frames one by one with a bound."""
    async with service.connect("ann") as socket:
        assert isinstance(socket, Socket)
        await socket.take_backlog()
        with pytest.raises(TimeoutError):
            await socket.take(seconds=0.05)
