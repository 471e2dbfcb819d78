"""Calls apps' webhooks for what nobody took in time (contract, section 6).

Every node runs one. Deadlines that passed become calls, and calls that are due are made, each by the one node that has claimed
it; what it says is looked up when it is made. The states of a deadline and a call are drawn in the migration that has them.

Keeps three promises. A deadline that passes while every node is down is seen by the first that is back. A call that was not
taken is tried again for PATIENCE_SECONDS, under the same id, by whatever node lives. And an app whose receiver is slow, dead or
rude delays nobody else's calls: few of one app are held at a time, and a single one while it fails.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from http import HTTPStatus
from typing import Literal
from uuid import UUID

import msgspec
import structlog

from notify import __version__, clock, metrics
from notify.errors import NotifyError
from notify.outbound import Answer, ForbiddenAddress, Outbound, Unreachable
from notify.signing import sign
from notify.store import Store
from notify.store.webhooks import LEASE_SECONDS, Call, Undelivered

log = structlog.get_logger()

LOOK_SECONDS = 0.5
"""Pause between two looks when nothing is due: a deadline is at least ten seconds long."""

CROWD_SECONDS = 0.02
"""Pause between two looks while there is something to do."""

WATCH_SECONDS = 10.0
"""Pause between two counts of what waits."""

MAX_CALLS = 32
"""Calls that a node makes at a time, each with at most one page of users in memory."""

FRESH_SECONDS = LEASE_SECONDS / 2
"""A call that this node has held for longer is left to the lease: this process may have been frozen."""

FIRST_RETRY_SECONDS = 2.0
LONGEST_RETRY_SECONDS = 3_600.0
"""Pause before the second attempt, and the longest: it doubles from one to the next, less a random part of up to a half."""

PATIENCE_SECONDS = 86_400.0
"""After a day a call is given up."""

LONGEST_REST_SECONDS = 3_600.0
"""The longest that a receiver may ask us to stay away, with Retry-After."""

LEAVE_SECONDS = 1.0
"""How long calls under way may take once this node leaves: most receivers answer by then, and so are called once."""

RECORD_TRIES = 5
"""Attempts, a second apart, to write down how a call ended; beyond them the lease runs out and it is made again."""


class Concerned(msgspec.Struct, frozen=True):
    """The notification, and who still has not got it: `pending` of its `recipients`, the first thousand by id in `users`."""

    id: UUID
    type: str
    source: str
    created_at: datetime
    expires_at: datetime
    recipients: int
    pending: int
    users: list[str]


class UndeliveredEvent(msgspec.Struct, frozen=True):
    """What a webhook is told. `timestamp` is the deadline that passed."""

    type: Literal["notification.undelivered"]
    timestamp: datetime
    data: Concerned


class Caller:
    """Makes this node's share of the calls until cancelled."""

    def __init__(self, store: Store, outbound: Outbound) -> None:
        self._store = store.webhooks
        self._outbound = outbound
        self._attempts: set[asyncio.Task[None]] = set()
        self._freed = asyncio.Event()

    async def run(self) -> None:
        """Keep at it, what fails is logged and tried again; then give the calls under way a moment to end."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._ripen(), name="caller deadlines")
                tasks.create_task(self._call(), name="caller calls")
                tasks.create_task(self._watch(), name="caller watch")
        finally:
            if self._attempts:
                _, late = await asyncio.wait(self._attempts, timeout=LEAVE_SECONDS)
                for attempt in late:
                    attempt.cancel()
                await asyncio.gather(*late, return_exceptions=True)

    async def _ripen(self) -> None:
        while True:
            pause = LOOK_SECONDS
            try:
                found = await self._store.ripen()
            except NotifyError as error:
                log.warning("caller.interrupted", reason=str(error))
            else:
                for result in ("called", "settled", "unwanted", "dropped"):
                    metrics.DEADLINES.labels(result).inc(getattr(found, result))
                if found.dropped:
                    log.warning("webhook.crowded", dropped=found.dropped)
                if found.called:
                    self._freed.set()
                if found.looked:
                    pause = CROWD_SECONDS
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - jitter, not a secret

    async def _call(self) -> None:
        while True:
            self._freed.clear()
            if room := MAX_CALLS - len(self._attempts):
                try:
                    claimed = await self._store.claim(room)
                except NotifyError as error:
                    log.warning("caller.interrupted", reason=str(error))
                    claimed = ()
                for call in claimed:
                    attempt = asyncio.create_task(self._attempt(call, time.monotonic()), name="caller call")
                    self._attempts.add(attempt)
                    attempt.add_done_callback(self._end)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS * random.uniform(0.8, 1.2)):  # noqa: S311 - jitter, not a secret
                    await self._freed.wait()
            await asyncio.sleep(CROWD_SECONDS)

    def _end(self, attempt: asyncio.Task[None]) -> None:
        self._attempts.discard(attempt)
        self._freed.set()

    async def _watch(self) -> None:
        while True:
            try:
                metrics.WAITING_CALLS.set(await self._store.count_waiting())
            except NotifyError as error:
                log.warning("caller.interrupted", reason=str(error))
            await asyncio.sleep(WATCH_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311 - jitter, not a secret

    async def _attempt(self, call: Call, claimed_at: float) -> None:
        """Make a call, if it is still due, and write down how it ended."""
        try:
            found = await self._store.find_undelivered(call.id)
            if found is None or not found.pending:
                await self._record(lambda: self._store.drop(call))
            elif time.monotonic() - claimed_at < FRESH_SECONDS:
                await self._make(call, found)
        except NotifyError as error:
            log.warning("caller.interrupted", reason=str(error))
        except Exception:
            log.exception("webhook.broken", id=str(call.id))  # one bad call must not end the others

    async def _make(self, call: Call, found: Undelivered) -> None:
        body = write_event(call, found)
        headers = {
            "content-type": "application/json",
            "user-agent": f"notify/{__version__}",
            **sign(call.secret, str(call.id), int(clock.now()), body),
        }
        answer: Answer | None = None
        try:
            answer = await self._outbound.post(call.url, content=body, headers=headers)
            outcome, result = ("taken" if is_taken(answer) else "refused"), f"answered {answer.status}"
        except ForbiddenAddress as error:
            outcome, result = "forbidden", str(error)
        except Unreachable as error:
            outcome, result = "unreachable", str(error)
        metrics.WEBHOOK_CALLS.labels(outcome).inc()
        if outcome == "taken":
            await self._record(lambda: self._store.finish(call, result))
            return
        delay, rest = plan_retry(call.attempt, answer)
        given_up = await self._record(
            lambda: self._store.fail(call, result, delay=delay, rest=rest, patience=PATIENCE_SECONDS)
        )
        if given_up:
            metrics.WEBHOOK_GIVEN_UP.inc()
        log.warning(
            "webhook.failed", id=str(call.id), app=call.app, attempt=call.attempt, result=result, final=given_up
        )

    async def _record(self, write: Callable[[], Awaitable[bool | None]]) -> bool | None:
        """Write down how a call ended. Raises NotifyError when the database can't be reached for long."""
        for _ in range(1, RECORD_TRIES):
            try:
                return await write()
            except NotifyError as error:
                log.warning("caller.interrupted", reason=str(error))
                await asyncio.sleep(1)
        return await write()


def write_event(call: Call, found: Undelivered) -> bytes:
    """Return the body of a call."""
    concerned = Concerned(
        id=call.id,
        type=found.type,
        source=found.source,
        created_at=found.created_at,
        expires_at=found.expires_at,
        recipients=found.recipients,
        pending=found.pending,
        users=list(found.users),
    )
    return msgspec.json.encode(UndeliveredEvent("notification.undelivered", call.due_at, concerned))


def is_taken(answer: Answer) -> bool:
    """Whether the receiver took it."""
    return HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES


def plan_retry(attempt: int, answer: Answer | None) -> tuple[float | None, float]:
    """Return after how many seconds a call is tried again (None: never), and how long its app rests meanwhile.

    Exponential with jitter; a receiver may ask for more time, within bounds, and says with 410 that it wants none at all.
    """
    if answer is not None and answer.status == HTTPStatus.GONE:
        return None, 0.0
    longest = min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(attempt - 1, 20))
    delay = longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
    asked = min((answer.retry_after if answer is not None else None) or 0.0, LONGEST_REST_SECONDS)
    return max(delay, asked), asked
