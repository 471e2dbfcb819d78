"""A network that can be cut: a TCP relay between a client and the service."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self

CHUNK = 65_536
"""Bytes moved at a time."""


class Relay:
    """Passes bytes on to a port of this machine, as long as the network is up."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._server: asyncio.Server | None = None
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._refuses = False
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Drop every connection, and every new one at once."""
        self._refuses = True
        self.drop()

    def drop(self) -> None:
        """Drop every connection there is."""
        for pair in list(self._pairs):
            for writer in pair:
                writer.transport.abort()

    def swallow(self) -> None:
        """Go on accepting, but let nothing through: what a dead radio link looks like."""
        self._flows.clear()

    def heal(self) -> None:
        """Work again. What was swallowed stays swallowed: its connections are never heard of any more."""
        self._refuses = False
        self.drop() if not self._flows.is_set() else None
        self._flows.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._flows.wait()
            other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self._to)
            pair = (writer, other_writer)
            self._pairs.add(pair)
            try:
                await asyncio.gather(self._pass(reader, other_writer), self._pass(other_reader, writer))
            finally:
                self._pairs.discard(pair)
                for end in pair:
                    end.close()
        except OSError:
            writer.transport.abort()
        finally:
            self._tasks.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
            writer.transport.abort()
