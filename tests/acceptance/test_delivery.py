"""The main job on real processes: a notification reaches its user, live or after whatever happened meanwhile."""

import asyncio
import json
import time
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import httpx
import pytest

from tests.service import SECRET, ServiceProcess, Socket, bearer, data_of, mint_token, shake_hands, stands_at, until

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
async def process(database_url: str) -> Any:
    """One `notify serve` on the test's own database."""
    async with ServiceProcess(database_url) as process:
        yield process


async def test_a_notification_is_delivered_live_and_replayed_after_absence(
    process: ServiceProcess, connection: asyncpg.Connection
) -> None:
    async with process.connect("ann") as socket:
        await socket.take_backlog()
        await process.send("ann", "live")
        assert (await socket.take())["data"] == "live"
        await socket.ack(1)
    await until(lambda: stands_at(connection, "ann", 1))
    await process.send_many("ann", 30)
    async with process.connect("ann") as socket:
        assert (socket.welcome["after"], socket.welcome["head"]) == (1, 31)
        assert data_of(await socket.take_backlog()) == list(range(30))


async def test_what_was_accepted_survives_kill_9(process: ServiceProcess, connection: asyncpg.Connection) -> None:
    """Every 201 is there after the restart; what was not answered may be there or not, but never twice."""
    async with process.connect("ann") as socket:
        epoch = socket.welcome["epoch"]
        await socket.take_backlog()
        await process.send_many("ann", 5)
        await socket.take_notifications(5)
        await socket.ack(3)
        await until(lambda: stands_at(connection, "ann", 3))
        sending = [asyncio.create_task(try_to_send(process, "ann", f"n{place}")) for place in range(300)]
        await until(lambda: sum(task.done() for task in sending) >= 60)
        await process.kill()
        accepted = {data for data in await asyncio.gather(*sending) if data is not None}
    assert len(accepted) >= 60
    await process.start()
    async with process.connect("ann") as socket:
        assert (socket.welcome["after"], socket.welcome["recovered"], socket.welcome["epoch"]) == (3, True, epoch)
        found = data_of(await socket.take_backlog())
    assert found[:2] == [3, 4]
    assert accepted <= set(found[2:])
    assert len(found) == len(set(found))


async def try_to_send(process: ServiceProcess, user: str, data: str) -> str | None:
    try:
        answer = await process.post({"to": user, "type": "t", "data": data})
    except httpx.TransportError:
        return None
    return data if answer.status_code == 201 else None


async def test_two_processes_on_one_database_deliver_each_others(database_url: str) -> None:
    async with (
        ServiceProcess(database_url) as one,
        ServiceProcess(database_url) as other,
        one.connect("ann", device="phone") as phone,
        other.connect("ann", device="desk") as desk,
    ):
        await phone.take_backlog()
        await desk.take_backlog()
        for place in range(40):
            await (one, other)[place % 2].send("ann", place)
        for socket in (phone, desk):
            assert data_of(await socket.take_notifications(40)) == list(range(40))
        await one.post({"to": "ann", "type": "t", "data": "now", "ttl": 0})
        assert (await desk.take())["data"] == "now"


async def test_devices_each_get_everything_and_a_new_one_starts_after_what_was_acknowledged(
    process: ServiceProcess, connection: asyncpg.Connection
) -> None:
    async with AsyncExitStack() as stack:
        sockets = [
            await stack.enter_async_context(process.connect("ann", device=device))
            for device in ("phone", "phone", "desk")
        ]
        for socket in sockets:
            await socket.take_backlog()
        await process.send_many("ann", 20)
        for socket in sockets:
            frames = await socket.take_notifications(20)
            assert [(frame["seq"], frame["data"]) for frame in frames] == [(place + 1, place) for place in range(20)]
        await sockets[0].ack(15)
        await until(lambda: stands_at(connection, "ann", 15, "phone"))
    async with process.connect("ann", device="tablet") as tablet, process.connect("ann", device="desk") as desk:
        assert tablet.welcome["after"] == 15
        assert data_of(await tablet.take_backlog()) == list(range(15, 20))
        assert data_of(await desk.take_backlog()) == list(range(20))


async def test_order_holds_under_fifty_senders_at_once(database_url: str) -> None:
    """Strictly rising without gaps for every listener, and each sender's own stay in the order it sent them."""
    async with ServiceProcess(database_url) as one, ServiceProcess(database_url) as other, AsyncExitStack() as stack:
        sockets: list[Socket] = []
        for place in range(4):
            node = (one, other)[place % 2]
            sockets.append(await stack.enter_async_context(node.connect("ann", device=f"d{place}", ack="auto")))
            await sockets[-1].take_backlog()

        async def send(sender: int) -> None:
            for place in range(12):
                await (one, other)[sender % 2].send("ann", [sender, place])

        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            for sender in range(50):
                tasks.create_task(send(sender))
            received = [tasks.create_task(socket.take_notifications(600, seconds=60)) for socket in sockets]
        for task in received:
            frames = task.result()
            assert [frame["seq"] for frame in frames] == list(range(1, 601))
            for sender in range(50):
                assert [data[1] for data in data_of(frames) if data[0] == sender] == list(range(12))


async def test_nothing_is_lost_when_the_listener_is_killed_in_mid_stream(
    process: ServiceProcess, connection: asyncpg.Connection
) -> None:
    async with process.connect("ann", ack="auto") as socket:
        await socket.take_backlog()

        async def send() -> None:
            for place in range(150):
                await process.send("ann", place)

        sending = asyncio.create_task(send())
        received: list[Any] = []
        while len(received) < 150:
            received += data_of(await socket.take_notifications(1))
            if len(received) in {10, 60, 100}:
                killed = await connection.fetchval(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                    "WHERE application_name = 'notify bridge' AND datname = current_database()"
                )
                assert killed <= 1
        await sending
    assert received == list(range(150))
    assert len(process.events("bridge.listening")) >= 2


async def test_sigterm_says_goodbye_flushes_acks_and_ends_with_0(
    process: ServiceProcess, connection: asyncpg.Connection
) -> None:
    await process.send_many("ann", 50)
    async with AsyncExitStack() as stack:
        ann = await stack.enter_async_context(process.connect("ann"))
        others = [await stack.enter_async_context(process.connect(f"user{place}")) for place in range(30)]
        waiting = await stack.enter_async_context(process.dial())  # not authenticated yet
        await ann.take_backlog()
        await ann.ack(42)
        started = time.monotonic()
        ending = asyncio.create_task(process.terminate())
        for socket in (ann, *others):
            code, reason, frames = await socket.take_close()
            assert (code, reason) == (4503, "draining")
            goodbye = frames[-1]
            assert (goodbye["op"], goodbye["code"], goodbye["reconnect"]) == ("disconnect", 4503, True)
            assert goodbye["retry_after_ms"] > 0
        assert await ending == 0
        assert time.monotonic() - started < 10
        await waiting.close()
    assert await stands_at(connection, "ann", 42)
    assert "Traceback" not in "".join(process.lines)
    assert not [line for line in process.lines if '"level":"error"' in line.replace(" ", "")]
    with pytest.raises(httpx.ConnectError):
        await process.client.get("/livez")


async def test_the_goodbyes_are_spread_out(process: ServiceProcess) -> None:
    async with AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(process.connect(f"user{place}")) for place in range(100)]
        ending = asyncio.create_task(process.terminate())
        closes = await asyncio.gather(*(socket.take_close() for socket in sockets))
        assert await ending == 0
    delays = {frames[-1]["retry_after_ms"] for _code, _reason, frames in closes}
    assert len(delays) > 50
    assert max(delays) - min(delays) > 1_000


async def test_sockets_that_do_not_read_delay_neither_the_others_nor_the_drain(database_url: str) -> None:
    limits = {"max_unacked": 10_000, "max_unacked_bytes": 256 * 1024 * 1024}
    async with ServiceProcess(database_url, **limits) as process, AsyncExitStack() as stack:
        deaf = [await shake_hands(process, "deaf") for _ in range(5)]
        await until(lambda: len(process.events("session.opened")) == 5)
        ann = await stack.enter_async_context(process.connect("ann"))
        await ann.take_backlog()
        await asyncio.gather(*(process.send("deaf", "x" * 60_000) for _ in range(200)))
        for place in range(10):
            started = time.monotonic()
            await process.send("ann", place)
            assert (await ann.take())["data"] == place
            assert time.monotonic() - started < 2
        half = await asyncio.open_connection("127.0.0.1", process.port)
        half[1].write(b"GET /v1/ws HTTP/1.1\r\nHost: x\r\n")  # and a handshake that stops half-way
        started = time.monotonic()
        ending = asyncio.create_task(process.terminate())
        assert (await ann.take_close())[0] == 4503
        assert await ending == 0
        assert time.monotonic() - started < 10
        assert "Traceback" not in "".join(process.lines)
        for _reader, writer in (*deaf, half):
            writer.transport.abort()


async def test_a_locked_mailbox_does_not_hold_up_the_drain(process: ServiceProcess, database_url: str) -> None:
    await process.send("ann")
    foreign = await asyncpg.connect(database_url)
    try:
        async with foreign.transaction():
            await foreign.execute("SELECT 1 FROM notify.mailbox FOR UPDATE")
            sending = asyncio.create_task(try_to_send(process, "ann", "never"))
            await until(lambda: is_waiting(foreign))
            await until(lambda: is_parked(foreign))
            started = time.monotonic()
            assert await process.terminate() == 0
            assert time.monotonic() - started < 10
            assert await sending is None
    finally:
        await foreign.close()
    assert "Traceback" not in "".join(process.lines)


async def is_waiting(connection: asyncpg.Connection) -> bool:
    """Whether a statement of the service waits for a lock."""
    await connection.execute("SELECT pg_stat_clear_snapshot()")
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return bool(await connection.fetchval(query))


async def is_parked(connection: asyncpg.Connection) -> bool:
    """Whether it has given up waiting: from then on the service looks now and then whether it may try again."""
    return not await is_waiting(connection)


async def test_nothing_of_a_token_or_a_payload_is_in_the_log(process: ServiceProcess) -> None:
    token = mint_token("ann")
    async with process.connect("ann", token=token) as socket:
        await socket.take_backlog()
        await process.send("ann", "geheim-1", type="geheim-2")
        await socket.take()
        await socket.say({"op": "auth", "token": "geheim-3." + "x" * 20 + ".y"})
        await socket.take_close()
    async with process.dial(subprotocols=["notify.v1", f"bearer.{token}x"]) as socket:
        await socket.take_close()
    await process.post({"to": "ann", "type": "t", "data": "geheim-4\0"})
    await process.client.post(
        "/v1/notifications", content=b'{"geheim-5', headers=bearer("shop", scope="notifications:send")
    )
    assert await process.terminate() == 0
    assert process.events("session.opened")
    log = "".join(process.lines)
    for secret in (token, token.split(".")[1], token.split(".")[2], "geheim", SECRET):
        assert secret not in log
    for line in process.lines:
        event = json.loads(line)  # JSON in production, every line of it
        assert event["event"].count(".") == 1 or "logger" in event
