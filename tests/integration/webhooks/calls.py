"""Calls of a webhook as the tests bring them about, and what is asked and read of them."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg

from notify.signing import write_secret
from tests.admin import Admin
from tests.integration.support import encode
from tests.receiver import Received
from tests.service import Service

GUIDE = Path(__file__).parents[3] / "docs" / "when-nobody-is-there.md"
SECRET = write_secret(b"a secret of thirty-two bytes, yes")
URL = "https://shop.example/hook?key=hunter2"


def read_verify() -> Callable[[str, dict[str, str], bytes], bool]:
    """Return the function that the guide tells receivers to check a signature with."""
    [code] = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - the guide's own words
    found: Callable[[str, dict[str, str], bytes], bool] = names["verify"]
    return found


async def hook(node: Service, url: str, app: str = "shop") -> None:
    """Set an app's webhook."""
    await Admin(node).act("PUT", f"/webhooks/{encode(app)}", json={"url": url, "secret": SECRET})


async def let_pass(connection: asyncpg.Connection) -> None:
    """Make this the moment of every deadline."""
    await connection.execute("UPDATE notify.deadline SET due_at = clock_timestamp()")


async def let_retry(connection: asyncpg.Connection) -> None:
    """Make this the moment at which what waits is tried again."""
    await connection.execute("UPDATE notify.webhook SET rest_until = '-infinity'")
    await connection.execute("UPDATE notify.webhook_call SET next_at = clock_timestamp() WHERE next_at IS NOT NULL")


async def nothing_waits(connection: asyncpg.Connection) -> bool:
    """Whether there is neither a deadline nor a call."""
    query = "SELECT NOT EXISTS (SELECT FROM notify.deadline) AND NOT EXISTS (SELECT FROM notify.webhook_call)"
    return bool(await connection.fetchval(query))


async def has_failed(connection: asyncpg.Connection, attempts: int = 1) -> bool:
    """Whether the only call was put back after so many attempts."""
    query = "SELECT count(*) = 1 FROM notify.webhook_call WHERE attempts = $1 AND NOT held AND tried_at IS NOT NULL"
    return bool(await connection.fetchval(query, attempts))


async def take_all(node: Service, user: str) -> None:
    """Acknowledge all that a user has."""
    async with node.connect(user) as device:
        frames = await device.take_backlog()
        await device.ack(frames[-1]["seq"])
    await node.wait_for_acks()


def read_event(received: Received) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(received.body)
    return event
