"""Connections that don't behave: they read nothing, say half, or say too much. Sockets without a protocol between."""

import asyncio
import resource
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from notify.auth import mint
from notify.bench.wire import upgrade_request
from tests.chaos.cluster import SECRET, Node

AT_ONCE = 100  # connections being opened at a time, within what a listen queue holds
RECEIVE_BUFFER = 4_096  # bytes: what is not read waits at the service's side
SEGMENT = 1_400  # bytes, as on the internet; loopback's 64 KiB ones make the kernel take 2.5 MB of what nobody reads
OPEN_SECONDS = 20.0  # for one connection, on a busy machine


def handshake(node: Node, user: str | None, query: str = "") -> bytes:
    """Return a whole opening handshake; without a user, one without credentials."""
    token = mint(SECRET, subject=user or "nobody")
    request = upgrade_request(f"/v1/ws{query}", f"127.0.0.1:{node.port}", token)
    return request if user else request.replace(f"authorization: Bearer {token}\r\n".encode(), b"")


async def dial(node: Node, receive_buffer: int | None, segment: int | None = None) -> socket.socket:
    """Connect, with so small a receive buffer and segments if given. The caller closes what it gets."""
    connection = socket.socket()
    try:
        connection.setblocking(False)  # noqa: FBT003 - how the standard library has it
        if segment is not None:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, segment)
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        async with asyncio.timeout(OPEN_SECONDS):
            await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", node.port))
    except BaseException:
        connection.close()
        raise
    return connection


@asynccontextmanager
async def open_raw(
    node: Node, greetings: Sequence[bytes], *, receive_buffer: int | None = RECEIVE_BUFFER
) -> AsyncIterator[list[socket.socket]]:
    """Open a connection for each greeting and say it; nobody reads what comes."""
    raise_file_limit()
    connections: list[socket.socket] = []
    room = asyncio.Semaphore(AT_ONCE)

    async def open_one(greeting: bytes) -> None:
        async with room:
            connection = await dial(node, receive_buffer, segment=SEGMENT)
            connections.append(connection)
            async with asyncio.timeout(OPEN_SECONDS):
                await asyncio.get_running_loop().sock_sendall(connection, greeting)

    try:
        async with asyncio.TaskGroup() as tasks:
            for greeting in greetings:
                tasks.create_task(open_one(greeting))
        yield connections
    finally:
        for connection in connections:
            connection.close()


class Attempt(asyncio.Protocol):
    """One try to connect, and how it was answered: the status, and whether it says when to come back."""

    def __init__(self, greeting: bytes) -> None:
        self._greeting = greeting
        self._received = b""
        self._answered: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None
        self.answer = "none"

    async def dial(self, node: Node) -> str:
        """Connect, greet, and return the answer; hang up unless it is a welcome."""
        async with asyncio.timeout(OPEN_SECONDS):
            await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", node.port)
            self.answer = await self._answered
        if not self.answer.startswith("101"):
            self.hang_up()
        return self.answer

    def hang_up(self) -> None:
        """End the connection without a goodbye."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet (asyncio)."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._greeting)

    def data_received(self, data: bytes) -> None:
        """Read the head of the answer (asyncio)."""
        self._received += data
        if b"\r\n\r\n" in self._received and not self._answered.done():
            again = ", retry-after" if b"\r\nretry-after: " in self._received.lower() else ""
            self._answered.set_result(self._received[9:12].decode() + again)

    def connection_lost(self, error: Exception | None) -> None:
        """End (asyncio)."""
        if not self._answered.done():
            self._answered.set_result(f"lost: {error}")


def raise_file_limit() -> None:
    """Allow this process as many open files as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def count_kept(node: Node, connections: Sequence[socket.socket]) -> int:
    """Return how many of some connections the node still has a descriptor for.

    From /proc/net/tcp (proc_net_tcp(5)): local and remote address in hexadecimal, and an inode that is 0 once the
    process has let go, whatever the kernel still has to do.
    """
    ports = {connection.getsockname()[1] for connection in connections}
    kept = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        local, remote = (int(fields[place].partition(":")[2], 16) for place in (1, 2))
        if local == node.port and remote in ports and fields[9] != "0":
            kept += 1
    return kept
