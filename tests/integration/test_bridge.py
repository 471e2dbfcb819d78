"""The bridge: wake-ups may be lost, entries never; a dead link is found out and mended by itself."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qs, urlsplit, urlunsplit

import asyncpg
import pytest

from notify import app, bridge
from notify.batch import Interrupted
from notify.bridge import Bridge
from notify.store.database import Database
from tests.places import choose_place
from tests.service import Service, until


@dataclass
class Heard:
    """What a bridge handed on."""

    payloads: list[str] = field(default_factory=list)
    catch_ups: int = 0
    during_catch_up: Callable[[], object] | None = None

    def take(self, payload: str) -> None:
        if payload == "poison":
            raise ZeroDivisionError
        self.payloads.append(payload)

    async def catch_up(self) -> None:
        self.catch_ups += 1
        if self.during_catch_up is not None:
            result = self.during_catch_up()
            if asyncio.iscoroutine(result):
                await result


@asynccontextmanager
async def bridging(url: str, heard: Heard) -> AsyncIterator[Bridge]:
    built = Bridge(url, "node", handlers={"notify_wake": heard.take}, catch_up=heard.catch_up)
    task = asyncio.create_task(built.run())
    try:
        async with asyncio.timeout(10):
            await built.listening.wait()
        yield built
    finally:
        task.cancel()
        await asyncio.wait({task})


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter pauses: the tests wait for what they cause, not for the clock."""
    monkeypatch.setattr(bridge, "BEAT_SECONDS", 0.1)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up soon on a beat that never comes back. Only where one does not: a slow one would cost a healthy link."""
    monkeypatch.setattr(bridge, "BEAT_WAIT_SECONDS", 0.5)


async def notify(connection: asyncpg.Connection, payload: str, channel: str = "notify_wake") -> None:
    await connection.execute("SELECT pg_notify($1, $2)", channel, payload)


async def kill_bridges(connection: asyncpg.Connection) -> int:
    killed: int = await connection.fetchval(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE application_name = 'notify bridge' AND datname = current_database()"
    )
    return killed


async def test_what_is_notified_is_handed_on_in_order(database_url: str, connection: asyncpg.Connection) -> None:
    heard = Heard()
    async with bridging(database_url, heard):
        for place in range(50):
            await notify(connection, str(place))
        await until(lambda: len(heard.payloads) == 50)
    assert heard.payloads == [str(place) for place in range(50)]


async def test_listening_comes_before_catching_up(database_url: str, connection: asyncpg.Connection) -> None:
    """What commits while everyone is caught up with would fall between if it were the other way round."""
    heard = Heard()
    heard.during_catch_up = lambda: notify(connection, "meanwhile")
    async with bridging(database_url, heard):
        await until(lambda: heard.payloads == ["meanwhile"])


async def test_a_link_that_was_lost_is_back_and_caught_up_with(
    database_url: str, connection: asyncpg.Connection
) -> None:
    heard = Heard()
    async with bridging(database_url, heard) as built:
        for round_ in range(1, 4):
            assert await kill_bridges(connection) == 1
            await until(lambda round_=round_: heard.catch_ups == 1 + round_)  # type: ignore[misc]  # bound early on purpose
            await until(built.listening.is_set)
            await notify(connection, str(round_))
            await until(lambda round_=round_: heard.payloads[-1:] == [str(round_)])  # type: ignore[misc]  # the same
        assert built.reconnects == 3


async def test_a_handler_that_fails_does_not_cost_the_link(database_url: str, connection: asyncpg.Connection) -> None:
    heard = Heard()
    async with bridging(database_url, heard) as built:
        await notify(connection, "poison")
        await notify(connection, "after it")
        await until(lambda: heard.payloads == ["after it"])
        assert built.reconnects == 0


@pytest.mark.usefixtures("impatient")
async def test_a_link_that_carries_nothing_any_more_is_found_out(
    database_url: str, connection: asyncpg.Connection
) -> None:
    """Packets go nowhere and nobody says so: only the heartbeat that does not come back tells."""
    heard = Heard()
    async with black_hole(database_url) as hole, bridging(hole.url, heard) as built:
        hole.swallow = True
        await until(lambda: not built.listening.is_set())
        await notify(connection, "lost")
        hole.swallow = False
        await until(built.listening.is_set)
        assert heard.catch_ups >= 2
        await notify(connection, "heard")
        await until(lambda: heard.payloads == ["heard"])


async def test_a_link_that_had_worked_is_made_again_without_a_long_pause(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pauses grow while nobody answers, not over the months in which a link is lost now and then."""
    monkeypatch.setattr(bridge, "BACKOFF_SECONDS", (0.05, 1_000.0))
    monkeypatch.setattr(bridge, "BEAT_WAIT_SECONDS", 0.1)
    async with black_hole(database_url) as hole, bridging(hole.url, Heard()) as built:
        for _ in range(10):
            hole.swallow = True
            await until(lambda: not built.listening.is_set())
            hole.swallow = False
            await until(built.listening.is_set)


@pytest.mark.usefixtures("impatient")
async def test_a_backend_that_listens_but_hears_nothing_is_found_out(
    database_url: str, connection: asyncpg.Connection
) -> None:
    """Statements are answered and notifications are not: what a pooler does to LISTEN."""
    heard = Heard()
    async with bridging(database_url, heard) as built:
        built._receive = lambda *_arguments: None  # type: ignore[method-assign]  # for links made from here on
        await kill_bridges(connection)
        await until(lambda: built.reconnects >= 3, seconds=15)
        del built._receive
        await until(built.listening.is_set)
        await notify(connection, "heard")
        await until(lambda: heard.payloads == ["heard"])


async def test_a_database_that_is_not_there_is_asked_again_and_again(
    database_url: str, connection: asyncpg.Connection
) -> None:
    heard = Heard()
    async with black_hole(database_url) as hole, bridging(hole.url, heard) as built:
        hole.refuse = True
        hole.cut()
        await until(lambda: built.reconnects >= 2)
        hole.refuse = False
        await until(built.listening.is_set, seconds=15)
        await notify(connection, "back")
        await until(lambda: heard.payloads == ["back"])


async def test_a_link_whose_end_is_only_announced_is_made_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL says that it ends a connection, then closes it: a beat may fall in between."""
    monkeypatch.setattr(bridge, "BEAT_SECONDS", 0.3)
    async with black_hole(database_url) as hole, bridging(hole.url, Heard()) as built:
        await until(lambda: built.lag > 0)  # idle until the next beat
        hole.announce_end()
        await until(lambda: built.reconnects == 1 and built.listening.is_set())


async def test_a_statement_after_such_an_announcement_is_an_interruption(database_url: str) -> None:
    async with black_hole(database_url) as hole:
        database = await Database.connect(hole.url, connections=1)
        heard = asyncio.Event()
        [holder] = database._connections._pool._holders  # type: ignore[attr-defined]  # the stubs leave it out

        def hear(_connection: object, _message: object) -> None:
            holder._con.remove_log_listener(hear)
            heard.set()

        holder._con.add_log_listener(hear)
        hole.announce_end()
        async with asyncio.timeout(10):
            await heard.wait()
        with pytest.raises(Interrupted):
            await database.value("read_epoch")
        hole.cut()
        await until(lambda: answers(database))
        await database.close()


async def answers(database: Database) -> bool:
    try:
        await database.value("read_epoch")
    except Interrupted:
        return False
    return True


async def test_a_catch_up_that_fails_is_no_healthy_link(database_url: str) -> None:
    heard = Heard()
    fails = 2

    def fail() -> None:
        nonlocal fails
        if fails:
            fails -= 1
            raise OSError("no connection")

    heard.during_catch_up = fail
    async with bridging(database_url, heard) as built:
        assert heard.catch_ups == 3
        assert built.reconnects == 2


# The same through the whole service


async def test_nothing_is_lost_while_nobody_listens(service: Service, connection: asyncpg.Connection) -> None:
    async with service.connect("ann") as socket:
        await socket.take_backlog()
        sending = asyncio.create_task(send_all(service, 60))
        received: list[int] = []
        while len(received) < 60:
            received += [frame["data"] for frame in await socket.take_notifications(1)]
            if len(received) % 15 == 0:
                await kill_bridges(connection)
        await sending
    assert received == list(range(60))


async def send_all(service: Service, count: int) -> None:
    for place in range(count):
        await service.send("ann", place)


async def test_a_lost_wake_up_is_found_by_the_sweep(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "SWEEP_SECONDS", 0.3)
    async with Service(database_url) as service, service.connect("ann") as socket:
        await socket.take_backlog()
        deaf = service.app._running.bridge  # type: ignore[union-attr]  # it runs
        deaf._handlers = {channel: lambda _payload: None for channel in deaf._handlers}
        await service.send("ann", "found")
        assert (await socket.take())["data"] == "found"


async def test_a_wake_up_nobody_can_read_harms_nobody(service: Service, connection: asyncpg.Connection) -> None:
    async with service.connect("ann") as socket:
        await socket.take_backlog()
        for channel in ("notify_wake", "notify_now", "notify_ack"):
            for payload in ("", "nonsense", "ann\tx", "\t", "ann\t99999999999999999999", "x" * 7_000):
                await notify(connection, payload, channel)
        await notify(connection, "ann\t0")
        await service.send("ann", 1)
        assert (await socket.take())["data"] == 1
        await socket.settle()


async def test_a_wake_up_ahead_of_the_head_does_not_keep_the_session_busy(
    service: Service, connection: asyncpg.Connection
) -> None:
    async with service.connect("ann") as socket:
        await socket.take_backlog()
        await notify(connection, "ann\t1000")
        fetches = 0
        run = service.store.mailboxes.fetching._run

        async def counting(items: object) -> object:
            nonlocal fetches
            fetches += 1
            return await run(items)  # type: ignore[arg-type]  # handed on as it came

        service.store.mailboxes.fetching._run = counting  # type: ignore[assignment]  # only counts
        for _ in range(20):
            await socket.settle()
        await service.send("ann", 1)
        assert (await socket.take())["data"] == 1
        assert fetches < 10


async def test_two_nodes_deliver_each_others(database_url: str) -> None:
    async with (
        Service(database_url) as one,
        Service(database_url) as other,
        one.connect("ann") as here,
        other.connect("ann", device="other") as there,
    ):
        await here.take_backlog()
        await there.take_backlog()
        for place in range(20):
            await (one, other)[place % 2].send("ann", place)
        for socket in (here, there):
            assert [frame["data"] for frame in await socket.take_notifications(20)] == list(range(20))


async def test_a_service_without_its_link_is_not_ready(service: Service) -> None:
    assert (await service.client.get("/readyz")).json()["checks"] == {"database": "ok", "schema": "ok", "listen": "ok"}
    service.app._running.bridge.listening.clear()  # type: ignore[union-attr]  # it runs
    answer = await service.client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"]["listen"] == "failed"
    assert (await service.client.get("/livez")).status_code == 200


class BlackHole:
    """Stands before PostgreSQL's unix socket. What it swallows goes nowhere, and no error tells anybody."""

    def __init__(self, target: Path, url: str) -> None:
        self._target = target
        self._writers: list[asyncio.StreamWriter] = []
        self.url = url
        self.swallow = False
        self.refuse = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuse:
            writer.transport.abort()
            return
        there_reader, there_writer = await asyncio.open_unix_connection(self._target)
        self._writers += [writer, there_writer]
        with suppress(OSError):
            await asyncio.gather(self._pump(reader, there_writer), self._pump(there_reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        swallowed = False
        while data := await reader.read(65_536):
            swallowed = swallowed or self.swallow  # a stream with a hole in it is good for nothing any more
            if not swallowed:
                writer.write(data)
        writer.close()

    def announce_end(self) -> None:
        """Say to every client what PostgreSQL says before it closes a connection; then a notice, to tell that it was heard."""
        said = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
        for client in self._writers[::2]:
            for kind in (b"E", b"N"):
                client.write(kind + (len(said) + 4).to_bytes(4, "big") + said)

    def cut(self) -> None:
        """Break every connection."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()


@asynccontextmanager
async def black_hole(database_url: str) -> AsyncIterator[BlackHole]:
    parts = urlsplit(database_url)
    target = Path(parse_qs(parts.query)["host"][0]) / ".s.PGSQL.5432"
    with TemporaryDirectory(prefix="notify-", dir=choose_place()) as place:
        hole = BlackHole(target, urlunsplit(parts._replace(query=f"host={place}")))
        server = await asyncio.start_unix_server(hole.serve, Path(place) / ".s.PGSQL.5432")
        try:
            yield hole
        finally:
            server.close()
            hole.cut()
