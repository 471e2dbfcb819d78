"""Real processes to break: a PostgreSQL, nodes in front of it, and wires between them that can be cut.

Everything listens on loopback or on unix sockets of its own, is bounded in time, and is ended by pid.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import asyncpg
import httpx

from notify.bench.meter import read_resident
from notify.embedded import SOCKET_NAME, EmbeddedPostgres
from notify.migrate import migrate
from tests.service import pass_on

SECRET = "chaos chaos chaos chaos chaos chaos"
DATABASE = "notify"
READY_SECONDS = 20.0  # for a node to start on a busy machine
SHIFTED = (
    "import time, notify.clock as c; c.system = lambda: time.time() + {shift}; from notify.cli import main; main()"
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Node:
    """One `notify serve`."""

    def __init__(self, environment: dict[str, str], *, clock_shift: float = 0.0) -> None:
        self.port = free_port()
        self._environment = environment
        self._shift = clock_shift
        self._log = tempfile.NamedTemporaryFile("w+", prefix="node-", suffix=".log")  # noqa: SIM115 - as long as the node
        self.process: subprocess.Popen[str] | None = None

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def socket(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1/ws"

    async def start(self) -> None:
        program = ["-c", SHIFTED.format(shift=self._shift)] if self._shift else ["-m", "notify.cli"]
        self.process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
            [sys.executable, *program, "serve", "--host", "127.0.0.1", "--port", str(self.port)],
            env=self._environment,
            stdout=self._log,
            stderr=self._log,
            text=True,
        )
        await self.wait_ready()

    async def wait_ready(self) -> None:
        async with asyncio.timeout(READY_SECONDS), httpx.AsyncClient(base_url=self.base) as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get("/readyz")).status_code == 200:
                        return
                assert self.process is not None
                assert self.process.poll() is None, f"the node ended: {self.read_log()}"
                await asyncio.sleep(0.05)  # there is no event to wait for: it is another process

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        await self.wait()

    async def wait(self) -> int:
        assert self.process is not None
        return await asyncio.to_thread(self.process.wait, 20)

    def read_memory(self) -> int:
        """Return its resident memory in KiB."""
        assert self.process is not None
        found = read_resident(self.process.pid)
        assert found is not None
        return found

    def read_log(self) -> str:
        return Path(self._log.name).read_text()

    async def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
            try:
                await self.wait()
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise
        if not self._log.closed:  # by the test itself, and then by the cluster
            pass_on(self.read_log())
            self._log.close()


class Cluster:
    """A PostgreSQL and its nodes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.postgres = EmbeddedPostgres(directory / "pg", settings={"max_connections": "100"})
        self.nodes: list[Node] = []

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.postgres.start)
        await asyncio.to_thread(self.postgres.create_database, DATABASE)
        async with self.connect() as connection:
            await migrate(connection)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self.nodes:
            await node.close()
        await asyncio.to_thread(self.postgres.stop)

    @property
    def url(self) -> str:
        return self.postgres.url(DATABASE)

    @property
    def socket_path(self) -> Path:
        return self.directory / "pg" / "socket" / SOCKET_NAME

    def environment(self, **settings: str) -> dict[str, str]:
        plain = {name: value for name, value in os.environ.items() if not name.startswith("NOTIFY_")}
        return {
            **plain,
            "NOTIFY_DATABASE_URL": self.url,
            "NOTIFY_JWT_SECRET": SECRET,
            "NOTIFY_LOG_LEVEL": "debug",
            **settings,
        }

    async def add_node(self, *, clock_shift: float = 0.0, **settings: str) -> Node:
        node = Node(self.environment(**settings), clock_shift=clock_shift)
        self.nodes.append(node)
        await node.start()
        return node

    @asynccontextmanager
    async def serve(self, **settings: Any) -> AsyncIterator[Node]:
        """Run a node for a while; whatever it went through, it leaves in time and without a fault in its log."""
        node = await self.add_node(**settings)
        try:
            yield node
            node.signal(signal.SIGTERM)
            assert await node.wait() == 0
            assert "Traceback" not in node.read_log()
        finally:
            await node.close()
            self.nodes.remove(node)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        connection = await asyncpg.connect(self.url)
        try:
            yield connection
        finally:
            await connection.close()

    async def terminate_backends(self, application: str) -> int:
        async with self.connect() as connection:
            rows = await connection.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND application_name = $1",
                application,
            )
        return len(rows)

    async def crash_postgres(self) -> None:
        pid = int((self.data / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, signal.SIGKILL)
        while self.postgres.running:
            await asyncio.sleep(0.02)  # its end is no event for who did not start it

    @property
    def data(self) -> Path:
        """Where PostgreSQL keeps everything."""
        return self.directory / "pg" / "postgres"

    async def take_snapshot(self, name: str) -> Path:
        """Copy the whole of a stopped PostgreSQL, owners and all."""
        assert not self.postgres.running
        snapshot = self.directory / name
        await asyncio.to_thread(subprocess.run, ["cp", "-a", str(self.data), str(snapshot)], check=True, timeout=60)
        return snapshot

    async def put_back(self, snapshot: Path) -> None:
        """Replace a stopped PostgreSQL by a snapshot of it."""
        assert not self.postgres.running
        await asyncio.to_thread(shutil.rmtree, self.data)
        await asyncio.to_thread(snapshot.rename, self.data)

    async def restart_postgres(self) -> None:
        self.postgres.stop()
        await asyncio.to_thread(self.postgres.start)


class Wire:
    """A unix socket that leads to PostgreSQL, and can swallow what passes without closing, or be cut."""

    def __init__(self, target: Path, directory: Path) -> None:
        self._target = target
        self.directory = directory
        self.swallowing = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.StreamWriter] = set()
        self.on_traffic: Callable[[bytes], None] | None = None

    async def __aenter__(self) -> Self:
        self.directory.mkdir(mode=0o700)
        self._server = await asyncio.start_unix_server(self._serve, self.directory / SOCKET_NAME)
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self.cut()
        assert self._server is not None
        self._server.close()

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/{DATABASE}?host={self.directory}"

    def cut(self) -> None:
        """Break every connection, unsent bytes and all."""
        for writer in list(self._links):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_unix_connection(self._target)
        except OSError:
            writer.transport.abort()
            return
        self._links |= {writer, far_writer}
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pass(reader, far_writer, outward=True))
                tasks.create_task(self._pass(far_reader, writer, outward=False))
        except* (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._links -= {writer, far_writer}
            writer.transport.abort()
            far_writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, outward: bool) -> None:
        while data := await reader.read(65_536):
            if self.swallowing.is_set():
                continue
            writer.write(data)
            await writer.drain()
            if outward and self.on_traffic is not None:
                self.on_traffic(data)
        if not self.swallowing.is_set():
            raise ConnectionResetError
