"""The service as the tests run it: in this process or as one of its own, and clients that wait for frames, not for time."""

import asyncio
import json
import os
import signal
import socket
import ssl
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import asyncpg
import httpx
import msgspec
import websockets
from websockets.asyncio.client import ClientConnection

from notify.api.plain import PATH_SEND
from notify.app import Application
from notify.auth import mint
from notify.server import Shortcut, build_server, open_listener
from notify.settings import Settings
from notify.store import Store
from tests import leaks

SECRET = leaks.SECRET
CANARY = leaks.CANARY

PATIENCE = 10.0
"""Seconds after which a frame, an answer or a condition will never come; a test that gets so far has failed."""

SEND = "notifications:send"

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts nobody, and need not: everything here is plain http. Reading the system's certificates takes 20 ms a client."""


def mint_token(subject: str, *, scope: str = "", ttl: int = 3600) -> str:
    """Make a token of the tests' key."""
    return mint(SECRET, subject=subject, scope=scope, ttl=ttl)


def bearer(subject: str, *, scope: str = "", ttl: int = 3600) -> dict[str, str]:
    """Return the header that says who is calling."""
    return {"Authorization": f"Bearer {mint_token(subject, scope=scope, ttl=ttl)}"}


def pass_on(log: str) -> None:
    """Let what another process logged be part of the test's own output, where secrets are looked for."""
    sys.stderr.write(log)


async def until(
    condition: Callable[[], bool | Awaitable[bool]], *, seconds: float = PATIENCE, pause: float = 0.005
) -> None:
    """Wait for what has no event of its own. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while True:
            met = condition()
            if met if isinstance(met, bool) else await met:
                return
            await asyncio.sleep(pause)


class Socket:
    """A device's WebSocket, read frame by frame. `welcome` is the first of them, where there was one."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.welcome: dict[str, Any] = {}

    async def take(self, *, seconds: float = PATIENCE) -> dict[str, Any]:
        """Return the next frame. Raises TimeoutError, ConnectionClosed."""
        async with asyncio.timeout(seconds):
            message = await self.connection.recv()
        frame: dict[str, Any] = json.loads(message) if isinstance(message, str) else msgspec.msgpack.decode(message)
        return frame

    async def take_until(self, op: str, *, seconds: float = PATIENCE) -> list[dict[str, Any]]:
        """Return the frames up to and with the next one of this op."""
        frames = [await self.take(seconds=seconds)]
        while frames[-1]["op"] != op:
            frames.append(await self.take(seconds=seconds))
        return frames

    async def take_notifications(self, count: int, *, seconds: float = PATIENCE) -> list[dict[str, Any]]:
        """Return the next so many notifications, passing other frames."""
        found: list[dict[str, Any]] = []
        async with asyncio.timeout(seconds):
            while len(found) < count:
                frame = await self.take(seconds=seconds)
                if frame["op"] == "notification":
                    found.append(frame)
        return found

    async def take_backlog(self) -> list[dict[str, Any]]:
        """Return what comes before `caught_up`."""
        return (await self.take_until("caught_up"))[:-1]

    async def say(self, frame: object) -> None:
        """Send a frame in the subprotocol's encoding; text and bytes go as they are."""
        if isinstance(frame, str | bytes):
            await self.connection.send(frame)
        elif self.connection.subprotocol == "notify.v1.msgpack":
            await self.connection.send(msgspec.msgpack.encode(frame))
        else:
            await self.connection.send(json.dumps(frame))

    async def ack(self, seq: int) -> None:
        """Acknowledge everything up to a seq, and make sure the service has read that."""
        await self.say({"op": "ack", "seq": seq})
        await self.settle()

    async def settle(self) -> None:
        """Return when everything said so far has been obeyed. Whatever else comes meanwhile would fail the test."""
        await self.say({"op": "ping"})
        frame = await self.take()
        assert frame == {"op": "pong"}, frame

    async def take_close(self, *, seconds: float = PATIENCE) -> tuple[int, str, list[dict[str, Any]]]:
        """Read to the end: return the close code, its reason and the frames before it."""
        frames = []
        with suppress(websockets.ConnectionClosed):
            while True:
                frames.append(await self.take(seconds=seconds))
        assert self.connection.close_code is not None
        return self.connection.close_code, self.connection.close_reason or "", frames

    async def close(self) -> None:
        """Close normally."""
        await self.connection.close()


@dataclass
class Address:
    """Where a service is, and what one does with it."""

    port: int
    client: httpx.AsyncClient = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.AsyncClient(base_url=self.url, timeout=PATIENCE, verify=NO_TLS)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def post(
        self, body: object, *, path: str = "/v1/notifications", app: str = "shop", **headers: str
    ) -> httpx.Response:
        """POST as an app; header names have underscores here."""
        sent = bearer(app, scope=SEND) | {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(path, json=body, headers=sent)

    async def send(self, to: str | list[str], data: object = CANARY, **fields: object) -> str:
        """Send a notification; return its id."""
        answer = await self.post({"to": to, "type": "t", "data": data, **fields})
        assert answer.status_code == 201, answer.text
        found: str = answer.json()["id"]
        return found

    async def send_many(self, to: str, count: int, *, first: int = 0, **fields: object) -> None:
        """Send so many in one batch, numbered in their data."""
        body = [{"to": to, "type": "t", "data": first + place, **fields} for place in range(count)]
        answer = await self.post({"notifications": body}, path="/v1/notifications/batch")
        assert answer.status_code == 201, answer.text

    @asynccontextmanager
    async def dial(
        self,
        user: str | None = None,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        subprotocols: list[str] | None = None,
        origin: str | None = None,
        **query: object,
    ) -> AsyncIterator[Socket]:
        """Open a socket, with `user`'s token in the header unless there is no user; read nothing."""
        if user is not None:
            headers = {**(headers or {}), "Authorization": f"Bearer {token or mint_token(user)}"}
        async with websockets.connect(
            f"ws://127.0.0.1:{self.port}/v1/ws" + (f"?{urlencode(query)}" if query else ""),
            additional_headers=headers,
            subprotocols=subprotocols,  # type: ignore[arg-type]  # a NewType of str
            origin=origin,  # type: ignore[arg-type]  # a NewType of str
            open_timeout=PATIENCE,
            close_timeout=1,
            max_size=None,
            ping_interval=None,
            compression=None,
            proxy=None,
        ) as connection:
            yield Socket(connection)

    @asynccontextmanager
    async def connect(self, user: str, **options: Any) -> AsyncIterator[Socket]:
        """Open a session and read its `welcome`."""
        async with self.dial(user, **options) as opened:
            opened.welcome = await opened.take()
            assert opened.welcome["op"] == "welcome", opened.welcome
            yield opened

    async def close(self) -> None:
        """Close the HTTP connections."""
        await self.client.aclose()


class Service(Address):
    """The service in this process and event loop: a real uvicorn on a port of its own."""

    def __init__(self, database_url: str, *, dev: bool = False, **settings: Any) -> None:
        values = {"jwt_secret": [SECRET], "drain_seconds": 0.2, **settings}
        self.settings = Settings(database_url=database_url, _env_file=None, **values)
        self.app = Application(self.settings, dev=dev)
        self._listener = open_listener("127.0.0.1", 0)
        super().__init__(self._listener.getsockname()[1])
        shortcut = Shortcut(PATH_SEND.encode(), self.app.take)
        self.server = build_server(self.app, drain=self.app.drain, settings=self.settings, shortcut=shortcut)
        self._serving: asyncio.Task[None] | None = None

    @property
    def store(self) -> Store:
        """The store of the running application."""
        return self.app._need_running().services.store

    async def __aenter__(self) -> Self:
        self._serving = asyncio.create_task(self.server.serve(sockets=[self._listener]))
        await until(lambda: self._serving is None or self._serving.done() or self.server.started)
        await until(self._is_ready)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _is_ready(self) -> bool:
        return all((await self.app.readiness.check()).values())

    async def stop(self) -> None:
        """Leave as on SIGTERM."""
        await self.close()
        self.server.should_exit = True
        if self._serving is not None:
            async with asyncio.timeout(30):
                await self._serving
            self._serving = None

    async def wait_for_acks(self) -> None:
        """Acks are written in their own time: return when none is on its way."""
        await until(lambda: not len(self.store.mailboxes.acking))


class ServiceProcess(Address):
    """`notify serve` as a process of its own."""

    def __init__(self, database_url: str, *, port: int | None = None, **settings: object) -> None:
        super().__init__(port or find_free_port())
        values = {
            "database_url": database_url,
            "jwt_secret": SECRET,
            "log_format": "json",
            "log_level": "debug",
            **settings,
        }
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("NOTIFY_")},
            **{f"NOTIFY_{name.upper()}": str(value) for name, value in values.items()},
        }
        self.process: Process | None = None
        self.lines: list[str] = []
        self._reading: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
        await self.kill()

    async def start(self) -> None:
        """Start, and wait until it says that it is ready."""
        self._ready.clear()
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "notify.cli", "serve", "--host", "127.0.0.1", "--port", str(self.port),
            env=self._environment, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=PIPE,
        )  # fmt: skip
        self._reading = asyncio.create_task(self._read())
        async with asyncio.timeout(30):
            ready = asyncio.create_task(self._ready.wait())
            await asyncio.wait({ready, self._reading}, return_when=asyncio.FIRST_COMPLETED)
            ready.cancel()
        assert self._ready.is_set(), "\n".join(self.lines)

    async def _read(self) -> None:
        assert self.process is not None
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(line.decode())
            pass_on(self.lines[-1])
            if '"node.ready"' in self.lines[-1]:
                self._ready.set()

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the log's lines of one event."""
        found = [json.loads(line) for line in self.lines if line.startswith("{")]
        return [event for event in found if event.get("event") == name]

    async def terminate(self) -> int:
        """Ask it to leave, and return its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            return await self._wait()

    async def kill(self) -> None:
        """End it with SIGKILL, unless it has ended."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self._wait()

    async def _wait(self) -> int:
        assert self.process is not None
        assert self._reading is not None
        code = await self.process.wait()
        await self._reading
        return code


def find_free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@asynccontextmanager
async def holding(database_url: str, user: str) -> AsyncIterator[asyncpg.Connection]:
    """Hold a user's mailbox in a transaction that somebody forgot, until the end of the block."""
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            await connection.execute("INSERT INTO notify.mailbox (user_id) VALUES ($1) ON CONFLICT DO NOTHING", user)
            await connection.execute("SELECT 1 FROM notify.mailbox WHERE user_id = $1 FOR UPDATE", user)
            yield connection
    finally:
        await connection.close()


async def shake_hands(address: Address, user: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a WebSocket by hand, through the narrowest of buffers; nobody reads it but the caller."""
    reader, writer = await asyncio.open_connection("127.0.0.1", address.port, limit=1024)
    lines = [
        "GET /v1/ws HTTP/1.1", "Host: 127.0.0.1", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", f"Authorization: {bearer(user)['Authorization']}",
    ]  # fmt: skip
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    await writer.drain()
    return reader, writer


def data_of(frames: list[dict[str, Any]]) -> list[Any]:
    """Return the data of the notifications among some frames."""
    return [frame["data"] for frame in frames if frame["op"] == "notification"]


async def read_cursor(connection: asyncpg.Connection, user: str, device: str = "default") -> int:
    """Return what a device has acknowledged, as it is written down."""
    query = "SELECT seq FROM notify.cursor WHERE user_id = $1 AND device = $2"
    found: int = await connection.fetchval(query, user, device)
    return found


async def stands_at(connection: asyncpg.Connection, user: str, seq: int, device: str = "default") -> bool:
    """Whether a device's cursor is at this seq."""
    return await read_cursor(connection, user, device) == seq
