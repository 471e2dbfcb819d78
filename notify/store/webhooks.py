"""Where apps want to hear of what nobody took in time, and the calls that are due there.

Keeps the promise that a call survives whoever makes it: it is a row until it got through or was given up. Two nodes never
make the same one at a time, since a claim holds it for LEASE_SECONDS; one that a dead node left behind is made again.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from notify.context import read_context
from notify.store.database import Database

DEADLINES = 200
"""Deadlines looked at in one statement: a few index probes each, for every recipient that has its notification."""

MAX_WAITING = 10_000
"""Calls of one app that wait at a time; what its receiver has not taken by then it will not catch up with."""

CALLS_PER_APP = 4
"""Calls to one app at a time, of all nodes together: some dozen a second at a receiver's usual 100 ms."""

LEASE_SECONDS = 30.0
"""How long a claim holds a call: several times what making one takes at worst."""

SHOWN_USERS = 1_000
"""Users that a call names; the number of all of them is beside it."""


class Ripened(msgspec.Struct, frozen=True):
    """What became of deadlines that passed: see notify.ripen."""

    called: int
    settled: int
    unwanted: int
    dropped: int

    @property
    def looked(self) -> int:
        """How many deadlines that were."""
        return self.called + self.settled + self.unwanted + self.dropped


class Call(msgspec.Struct, frozen=True):
    """A call that this node holds. Its id is the notification's; `attempt` counts from 1."""

    id: UUID
    app: str
    url: str
    secret: bytes
    due_at: datetime
    attempt: int


class Undelivered(msgspec.Struct, frozen=True):
    """A notification and who is pending: how many, and the first SHOWN_USERS of them in the order of their ids."""

    type: str
    producer: str
    context: str | None
    created_at: datetime
    expires_at: datetime
    recipients: int
    pending: int
    users: Sequence[str]

    @property
    def source(self) -> str:
        """Where it came from: the app, or the `source` of the event that it came as."""
        return read_context(self.context).source or self.producer


class Webhook(msgspec.Struct, frozen=True):
    """An app's webhook, without its secret. `failures`: calls in a row; `dropped`: never made, because too many waited."""

    app: str
    url: str
    set_by: str
    set_at: datetime
    last_at: datetime | None
    last_result: str | None
    failures: int
    dropped: int
    waiting: int
    given_up: int


class WaitingCall(msgspec.Struct, frozen=True):
    """A call that nobody took yet. `id` is the notification's; without `next_at` it was given up."""

    id: UUID
    due_at: datetime
    attempts: int
    tried_at: datetime | None
    next_at: datetime | None
    problem: str | None


class Webhooks:
    """Webhooks, and the calls that are due."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ripen(self) -> Ripened:
        """Make calls of deadlines that have passed, a batch of them. Nothing when another node is at it."""
        row = await self._database.row("ripen", DEADLINES, MAX_WAITING)
        assert row is not None, "a function with OUT parameters has a row"
        return Ripened(*row)

    async def claim(self, limit: int) -> Sequence[Call]:
        """Take up to `limit` calls that are due for this node alone. None when another node is at it."""
        return [Call(*row) for row in await self._database.rows("claim_calls", limit, CALLS_PER_APP, LEASE_SECONDS)]

    async def find_undelivered(self, notification: UUID) -> Undelivered | None:
        """Return a notification and who is pending at this moment; None when it is gone."""
        row = await self._database.row("find_undelivered", notification, SHOWN_USERS)
        return None if row is None else Undelivered(*row)

    async def finish(self, call: Call, result: str) -> None:
        """Let a call go that got through."""
        await self._database.value("finish_call", call.id, result)

    async def fail(self, call: Call, result: str, *, delay: float | None, rest: float, patience: float) -> bool | None:
        """Put a call back for `delay` seconds, and let its app rest for `rest`. Returns whether it was given up.

        It is when `delay` is None or reaches beyond `patience` seconds after the call was made. None when another node
        holds it by now.
        """
        given_up: bool | None = await self._database.value(
            "fail_call", call.id, call.attempt, result, delay, rest, patience
        )
        return given_up

    async def drop(self, call: Call) -> None:
        """Let a call go that need not be made any more."""
        await self._database.value("drop_call", call.id)

    async def count_waiting(self) -> int:
        """Return how many calls wait, of all apps."""
        return int(await self._database.value("count_waiting_calls", MAX_WAITING))

    async def page(self, *, after: str, limit: int) -> Sequence[Webhook]:
        """Return up to `limit` webhooks of apps whose ids come after one."""
        return [Webhook(*row) for row in await self._database.rows("list_webhooks", after, None, limit)]

    async def find(self, app: str) -> Webhook | None:
        """Return an app's webhook, if it has one."""
        row = await self._database.row("list_webhooks", "", app, 1)
        return None if row is None else Webhook(*row)

    async def calls(self, app: str, limit: int) -> Sequence[WaitingCall]:
        """Return up to `limit` of the latest calls of an app that wait or were given up."""
        return [WaitingCall(*row) for row in await self._database.rows("list_calls", app, limit)]

    async def set(self, actor: str, app: str, *, url: str, secret: bytes, host: str) -> int:
        """Set an app's webhook; the audit log names its `host`. Returns how many calls wait for it."""
        return int(await self._database.value("set_webhook", actor, app, url, secret, host))

    async def remove(self, actor: str, app: str) -> int | None:
        """Remove an app's webhook and its calls. Returns how many waited; None when there was no webhook."""
        waiting: int | None = await self._database.value("remove_webhook", actor, app)
        return waiting
