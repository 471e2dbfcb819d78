"""An issuer of tokens that publishes its keys, as the tests play it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.keys import Jwk
from tests.service import PATIENCE


class Issuer:
    """A JWKS server that counts, can be held up, and can answer anything."""

    def __init__(self) -> None:
        self.keys: list[Jwk] = []
        self.answer: bytes | None = None  # the whole response, instead of the keys
        self.fetches = 0
        self.asked = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.fetches += 1
            body = json.dumps({"keys": self.keys}).encode()
            self.asked.set()
            await self.open.wait()
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
            writer.write(head + body if self.answer is None else self.answer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client gave up, which some tests make it do
        finally:
            writer.close()


@asynccontextmanager
async def listening(issuer: Issuer, port: int = 0) -> AsyncIterator[Issuer]:
    server = await asyncio.start_server(issuer.serve, "127.0.0.1", port)
    issuer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks.json"
    try:
        yield issuer
    finally:
        issuer.open.set()
        server.close()
        await asyncio.wait_for(server.wait_closed(), PATIENCE)
