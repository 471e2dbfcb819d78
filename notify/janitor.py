"""Work that is due without anybody asking: the outbox, what expired, retention.

Every node runs one; advisory locks in the statements let one node at a time do each kind. Small batches, so that
traffic goes on between them. Each node renews its own connections' plans.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog

from notify import metrics
from notify.errors import NotifyError
from notify.store import Store

log = structlog.get_logger()

POLL_SECONDS = 0.4
"""Longest pause between two looks at the outbox: what `notify.send()` left there is delivered within a second."""

RETENTION_SECONDS = 1.0
"""Pause between two looks at what is too old, when the last found nothing: a thousand mailboxes in two."""

RETENTION_BUSY_SECONDS = 0.1
"""The same while there is something to delete: a tenth of a second of work, then traffic has the database to itself."""

WATCH_SECONDS = 10.0
"""Pause between two looks at transactions that somebody left open: what they sent waits for them."""

PLANS_SECONDS = 2.0
"""Pause between two looks at whether tables have grown: in one go, by some 40,000 notifications."""


class Janitor:
    """Does this node's share of the due work until cancelled."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def run(self) -> None:
        """Keep at it. What fails is logged and tried again."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(repeat(self._release, POLL_SECONDS), name="janitor outbox")
            tasks.create_task(repeat(self._retain, RETENTION_SECONDS), name="janitor retention")
            tasks.create_task(repeat(self._watch, WATCH_SECONDS), name="janitor watch")
            tasks.create_task(repeat(self._renew_plans, PLANS_SECONDS), name="janitor plans")

    async def _release(self) -> float:
        busy = await self._store.outbox.release() + await self._store.outbox.sweep_expired()
        due = 0.0 if busy else await self._store.outbox.next_due()
        # What is long due and did not get done waits for somebody: looking again at once would not help.
        stuck = due is None or due < -POLL_SECONDS
        return POLL_SECONDS if due is None or stuck else min(max(due, 0.02), POLL_SECONDS)

    async def _retain(self) -> float:
        return RETENTION_BUSY_SECONDS if await self._store.retention.work() else RETENTION_SECONDS

    async def _watch(self) -> float:
        metrics.OLDEST_TRANSACTION.set(await self._store.outbox.oldest_transaction())
        return WATCH_SECONDS

    async def _renew_plans(self) -> float:
        await self._store.plans.renew()
        return PLANS_SECONDS


async def repeat(work: Callable[[], Awaitable[float]], patience: float) -> None:
    """Do some work over and over, pausing for about as many seconds as it returns; for `patience` of them when it fails."""
    while True:
        try:
            pause = await work()
        except NotifyError as error:
            log.warning("janitor.interrupted", reason=str(error))
            pause = patience
        await asyncio.sleep(pause * random.uniform(0.8, 1.0))  # noqa: S311 - jitter, not a secret
