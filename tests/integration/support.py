"""What the tests of the semantics share: asking as a user or an app, reading event streams, playing with time."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import asyncpg
import httpx

from notify.sql import query
from tests.service import PATIENCE, SEND, Address, Service, bearer

MAX_PENDING = 10_000
"""The setting's default, for tests that call the database's functions themselves."""

BATCH = "/v1/notifications/batch"
"""Where apps send several at once."""

FIRST_STEP = 0.001
"""Seconds by which who won a race sets out later the next time."""


@asynccontextmanager
async def open_nodes(database_url: str, count: int = 2, **settings: Any) -> AsyncIterator[Sequence[Service]]:
    """Run several nodes on one database."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Service(database_url, **settings)) for _ in range(count)]


async def follow(service: Address, notification: str, *, app: str = "shop") -> dict[str, Any]:
    """Return a notification as its app sees it, with its counts."""
    answer = await service.client.get(f"/v1/notifications/{notification}", headers=bearer(app, scope=SEND))
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def list_receipts(
    service: Address, notification: str, *, app: str = "shop", limit: int = 500
) -> list[dict[str, Any]]:
    """Return the receipts of a notification, all pages."""
    items: list[dict[str, Any]] = []
    query: dict[str, Any] = {"limit": limit}
    while True:
        path = f"/v1/notifications/{notification}/recipients"
        answer = await service.client.get(path, params=query, headers=bearer(app, scope=SEND))
        assert answer.status_code == 200, answer.text
        page = answer.json()
        items += page["items"]
        if page["next"] is None:
            return items
        query["cursor"] = page["next"]


async def find_statuses(service: Address, notification: str) -> dict[str, str]:
    """Return how each recipient stands."""
    return {item["user"]: item["status"] for item in await list_receipts(service, notification)}


async def find_status(service: Address, notification: str) -> str:
    """Return how the only recipient stands."""
    [status] = (await find_statuses(service, notification)).values()
    return status


async def cancel(service: Address, notification: str, *, app: str = "shop") -> int:
    """Withdraw a notification; return the answer's status code."""
    answer = await service.client.delete(f"/v1/notifications/{notification}", headers=bearer(app, scope=SEND))
    return answer.status_code


async def list_inbox(service: Address, user: str, **query: Any) -> dict[str, Any]:
    """Return a page of a user's inbox."""
    answer = await service.client.get("/v1/inbox", params=query, headers=bearer(user))
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page


async def mark_read(service: Address, user: str, **mark: Any) -> int:
    """Mark notifications read; return the unread that are left."""
    answer = await service.client.post("/v1/inbox/read", json=mark, headers=bearer(user))
    assert answer.status_code == 200, answer.text
    unread: int = answer.json()["unread"]
    return unread


async def acknowledge(service: Address, user: str, seq: int, *, device: str = "default") -> None:
    """Acknowledge as the client of an event stream does; it is written down when this returns."""
    answer = await service.client.post("/v1/inbox/ack", json={"device": device, "seq": seq}, headers=bearer(user))
    assert answer.status_code == 204, answer.text


async def subscribe(service: Address, topic: str, *users: str) -> None:
    """Subscribe users to a topic."""
    for user in users:
        path = f"/v1/topics/{encode(topic)}/subscribers/{encode(user)}"
        answer = await service.client.put(path, headers=bearer("shop", scope=SEND))
        assert answer.status_code == 204, answer.text


def encode(segment: str) -> str:
    """Return an id as one segment of a path; dots too, since clients resolve `..` by themselves."""
    return quote(segment, safe="").replace(".", "%2E")


def from_now(seconds: float) -> str:
    """Return a time as a request states it."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


async def let_expire(connection: asyncpg.Connection, *notifications: str) -> None:
    """Make this the moment at which notifications expire."""
    await connection.execute(
        "UPDATE notify.notification SET expires_at = clock_timestamp() WHERE id = ANY ($1::uuid[])", notifications
    )


async def count(connection: asyncpg.Connection, table: str) -> int:
    found: int = await connection.fetchval(f"SELECT count(*) FROM notify.{table}")  # noqa: S608 - a name of ours
    return found


class Race:
    """Two acts at nearly the same moment, round after round.

    Who won a round sets out later in the next, and twice as much later for as long as it keeps winning: so most rounds are
    close, and each wins some, however fast the machine is.
    """

    def __init__(self) -> None:
        self._lead = 0.0  # of the second, in seconds
        self._step = FIRST_STEP
        self._first_won: bool | None = None

    async def run(self, first: Awaitable[Any], second: Awaitable[Any]) -> tuple[Any, Any]:
        """Let both set out; return what they do."""
        one, other = await asyncio.gather(wait_before(self._lead, first), wait_before(-self._lead, second))
        return one, other

    def end(self, *, first_won: bool) -> None:
        """Say who won the round."""
        self._step = self._step * 2 if first_won == self._first_won else FIRST_STEP
        self._lead += self._step if first_won else -self._step
        self._first_won = first_won


async def wait_before(seconds: float, act: Awaitable[Any]) -> Any:
    await asyncio.sleep(seconds)
    return await act


async def count_unread(connection: asyncpg.Connection, user: str) -> tuple[int, int]:
    """Return the unread as it is kept (nothing expired unswept), and as it is when everything is looked at."""
    row = await connection.fetchrow(
        """
        SELECT m.unread, (
            SELECT count(*) FROM notify.entry AS e JOIN notify.notification AS n ON n.id = e.notification_id
            WHERE e.user_id = m.user_id AND e.kind = 1 AND n.expires_at > now() AND NOT notify.is_read(e.user_id, e.seq)
              AND NOT EXISTS (SELECT FROM notify.ending AS x WHERE x.user_id = e.user_id AND x.seq = e.seq)
        ) AS looked
        FROM notify.mailbox AS m WHERE m.user_id = $1
        """,
        user,
    )
    assert row is not None
    return row["unread"], row["looked"]


@asynccontextmanager
async def acknowledging(database_url: str, user: str, device: str, seq: int) -> AsyncIterator[None]:
    """Be in the middle of writing an acknowledgement down; it is committed at the end of the block."""
    node = await asyncpg.connect(database_url, server_settings={"application_name": "notify"})
    try:
        async with node.transaction():
            epoch = await node.fetchval(query("read_epoch"))
            assert await node.fetchval(query("move_cursors"), [user], [device], [seq], epoch) == []
            yield
    finally:
        await node.close()


class EventStream:
    """A user's event stream, read event by event."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()

    async def take(self) -> tuple[str, str | None, dict[str, Any]]:
        """Return the next event: its name, its id if it has one, and its frame."""
        name, place, data = "", None, []
        async for line in self._lines:
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "id":
                place = value
            elif field == "data":
                data.append(value)
            elif not line and data:
                return name, place, json.loads("\n".join(data))
        raise EOFError("the stream ended")

    async def take_until(self, op: str) -> list[tuple[str, str | None, dict[str, Any]]]:
        """Return the events up to and with the next one of this name."""
        events = [await self.take()]
        while events[-1][0] != op:
            events.append(await self.take())
        return events


@asynccontextmanager
async def open_stream(
    service: Address, user: str, *, last_event_id: str | None = None, **query: Any
) -> AsyncIterator[EventStream]:
    """Open an event stream."""
    headers = bearer(user) | ({} if last_event_id is None else {"Last-Event-ID": last_event_id})
    async with (
        httpx.AsyncClient(base_url=service.url, timeout=PATIENCE) as client,
        client.stream("GET", "/v1/stream", params=query, headers=headers) as response,
    ):
        assert response.status_code == 200, await response.aread()
        yield EventStream(response)
