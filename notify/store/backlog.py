"""The backlog: which mailboxes have something pending, known without going through all of them.

Every node looks again at the mailboxes whose devices acknowledged through it, and one of them, the keeper, at all whose head
moved; a walk through all mailboxes finds in the end what got lost. Every node remembers the wake-ups of the last seconds, so
that another can take the lease of a keeper that died without missing any.

    wake-up ──▶ touched ─┐ (the keeper)
    ack ─────▶ acked ────┴─▶ refresh_backlog(users) ──▶ backlog, backlog_state

Keeps the promise that what admins see of the queues is at most 5 s old, or says how old it is.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from uuid import UUID

import msgspec
import structlog

from notify.batch import Blocked, Interrupted
from notify.store.database import Database

log = structlog.get_logger()

LEASE_SECONDS = 3.0
"""How long a keeper that is not heard of stays it: with a look every second, three lost ones."""

KEPT_LOOKS = 5
"""For how many looks a node that is not the keeper remembers whose heads moved: longer than a lease."""

MAX_TOUCHED = 100_000
"""Users remembered in one look's time at most; beyond it the walk finds them."""

PAGE = 200
"""Users looked at in one statement, when all goes well: about 5 ms."""

WALK_MAILBOXES = 500
"""Mailboxes a step of the walk looks at: a million take half an hour."""


MOST = 2**63 - 1
"""Before the deepest mailbox there can be."""

LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)
"""Before the oldest."""


class BacklogItem(msgspec.Struct, frozen=True):
    """A mailbox with something pending."""

    user: str
    pending: int
    oldest_at: datetime


class BacklogSum(msgspec.Struct, frozen=True):
    """All mailboxes together, as of a moment."""

    as_of: datetime
    mailboxes: int
    pending: int
    oldest_at: datetime | None


class Place(msgspec.Struct, frozen=True):
    """Where a page of the backlog begins: after this mailbox."""

    user: str
    pending: int
    oldest_at: datetime


class Backlog:
    """The backlog of all mailboxes, and this node's part in keeping it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._acked: set[str] = set()
        self._touched: list[set[str]] = [set()]
        self._page = PAGE
        self._as_of: datetime | None = None
        self._gap = True
        self.keeper = False
        """Whether this node has the lease."""

    def touch(self, user: str) -> None:
        """Learn that the head of a user's mailbox moved."""
        if len(self._touched[0]) < MAX_TOUCHED:
            self._touched[0].add(user)

    def acknowledge(self, users: Iterable[str]) -> None:
        """Learn that devices of these users acknowledged through this node."""
        if len(self._acked) < MAX_TOUCHED:
            self._acked.update(users)

    def miss(self) -> None:
        """Learn that wake-ups may have been missed."""
        self._gap = True

    async def look(self, node: UUID, *, listening: bool) -> None:
        """Look again at what was touched. To be called every second. Raises Interrupted or Blocked; nothing is forgotten then.

        A node that is not `listening` hears of no heads, and so is no keeper.
        """
        acked, self._acked = self._acked, set()
        await self._refresh(acked, self._acked)
        before = await self._keep(node) if listening else None
        if before is None:
            self.keeper = False
            self._touched = [set(), *self._touched[: KEPT_LOOKS - 1]]
            return
        now, as_of = before
        missed: Sequence[str] = ()
        if self._gap or not self.keeper:
            missed = [row[0] for row in await self._database.rows("list_touched", as_of)]
        users = set(missed).union(*self._touched)
        self._touched = [set()]
        await self._refresh(users, self._touched[0])
        await self._database.value("walk_backlog", WALK_MAILBOXES)
        self.keeper, self._gap, self._as_of = True, False, now

    async def leave(self, node: UUID) -> None:
        """Let another node be the keeper at once."""
        if self.keeper:
            self.keeper = False
            await self._database.value("leave_backlog", node)

    async def sum(self) -> BacklogSum:
        """Return how all mailboxes stand together."""
        row = await self._database.row("sum_backlog")
        assert row is not None, "the migration made the one row"
        return BacklogSum(row["as_of"], row["mailboxes"], row["pending"], row["oldest_at"])

    async def deepest(self, *, prefix: str, after: Place | None, limit: int) -> Sequence[BacklogItem]:
        """Return the mailboxes with the most pending first."""
        return await self._list("depth", prefix, after, limit)

    async def oldest(self, *, prefix: str, after: Place | None, limit: int) -> Sequence[BacklogItem]:
        """Return those first that have had something pending for longest."""
        return await self._list("age", prefix, after, limit)

    async def _list(self, sort: str, prefix: str, after: Place | None, limit: int) -> Sequence[BacklogItem]:
        place = after or Place("", MOST, LONG_AGO)
        rows = await self._database.rows(
            "list_backlog", sort, prefix, place.pending, place.oldest_at, place.user, limit
        )
        return [BacklogItem(*row) for row in rows]

    async def _keep(self, node: UUID) -> tuple[datetime, datetime] | None:
        row = await self._database.row("keep_backlog", node, LEASE_SECONDS, self._as_of if self.keeper else None)
        return None if row is None else (row["now"], row["as_of"])

    async def _refresh(self, users: set[str], again: set[str]) -> None:
        """Look at users in pages; those that could not be looked at go into `again`. A page that is too much is halved."""
        waiting = list(users)
        while waiting:
            page = waiting[-self._page :]
            try:
                await self._database.value("refresh_backlog", page)
            except (Interrupted, Blocked):
                self._page = max(1, self._page // 2)
                again.update(waiting)
                raise
            del waiting[-self._page :]
            self._page = min(PAGE, self._page * 2)
