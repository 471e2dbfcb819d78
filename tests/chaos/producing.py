"""Producers, and what they send: data that a Shelf knows again."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Self

import httpx

from notify.auth import mint
from notify.bench.wire import LOST, Sender, request_head
from tests.chaos.cluster import SECRET, Node

LIFETIME = 600  # seconds that a notification stays valid: longer than any test
MOST = 10_000  # recipients of one request, a batch's all together


@asynccontextmanager
async def producing(node: Node, producer: str = "shop") -> AsyncIterator[httpx.AsyncClient]:
    headers = {
        "Authorization": f"Bearer {mint(SECRET, subject=producer, scope='notifications:send')}",
        "Content-Type": "application/json",
    }
    limits = httpx.Limits(max_connections=500)
    async with httpx.AsyncClient(base_url=node.base, headers=headers, timeout=30, limits=limits) as client:
        yield client


def number_data(number: int, size: int = 0) -> dict[str, object]:
    """Return data that a Shelf knows again, with so much beside it."""
    return {"n": number, "due": 0, "pad": "x" * size}


async def send(client: httpx.AsyncClient, to: Sequence[str], numbers: Iterator[int], count: int, size: int) -> None:
    for _ in range(count):
        body = {"to": to, "type": "load", "ttl": LIFETIME, "data": number_data(next(numbers), size)}
        answer = await client.post("/v1/notifications", json=body)
        assert answer.status_code == 201, answer.text


async def send_batches(client: httpx.AsyncClient, to: Sequence[str], total: int) -> None:
    """Send numbered notifications, in batches of as many as a request may hold."""
    size = min(MOST // len(to), 1_000)
    for first in range(0, total, size):
        numbers = range(first, min(first + size, total))
        body = [{"to": to, "type": "load", "ttl": LIFETIME, "data": number_data(number)} for number in numbers]
        answer = await client.post("/v1/notifications/batch", json={"notifications": body})
        assert answer.status_code == 201, answer.text


class Flood:
    """A producer that sends the same again as soon as it is answered, on so many connections, and counts the answers."""

    def __init__(self, node: Node, producer: str, body: bytes, connections: int) -> None:
        token = mint(SECRET, subject=producer, scope="notifications:send")
        self._head = request_head("/v1/notifications", f"127.0.0.1:{node.port}", token)
        self._node = node
        self._body = body
        self._senders = [Sender() for _ in range(connections)]
        self._over = False
        self.answers: Counter[int] = Counter()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for sender in self._senders:
            await loop.create_connection(lambda sender=sender: sender, "127.0.0.1", self._node.port)  # type: ignore[misc]  # bound now
        for sender in self._senders:
            self._post(sender)
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self._over = True
        for sender in self._senders:
            sender.close()

    def _post(self, sender: Sender) -> None:
        def take(status: int, _body: bytes) -> None:
            self.answers[status] += 1
            if not self._over and status != LOST:
                self._post(sender)

        sender.post(self._head, self._body, take)
