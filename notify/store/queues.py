"""One mailbox as an admin sees it, and what an admin may do with it.

Keeps the promise that every act is written to the audit log in its own commit: each is one statement, which does both.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from notify.errors import TooLarge
from notify.store.database import Database, patiently
from notify.store.mailboxes import Mailboxes

ERASE_SECONDS = 60.0
"""How long erasing may take: of 200,000 entries it takes three. Nobody else waits for that user's mailbox."""


class Mailbox(msgspec.Struct, frozen=True):
    """Where a mailbox stands. `base`: acknowledged by some device, or gone, up to here."""

    epoch: str
    head: int
    floor: int
    base: int
    unread: int
    pending: int
    oldest_at: datetime | None


class PendingItem(msgspec.Struct, frozen=True):
    """A notification that no device has acknowledged. `queued_at`: since when it is in the mailbox; `bytes` of its data."""

    seq: int
    id: UUID
    type: str
    producer: str
    created_at: datetime
    expires_at: datetime
    queued_at: datetime
    bytes: int


class RecentItem(PendingItem, frozen=True):
    """A notification and what became of it for this user."""

    status: str
    delivered_at: datetime | None
    read_at: datetime | None
    ended_at: datetime | None


class Queues:
    """Mailboxes, one at a time, for admins."""

    def __init__(self, database: Database, mailboxes: Mailboxes, *, max_pending: int) -> None:
        self._database = database
        self._mailboxes = mailboxes
        self._max_pending = max_pending

    async def find(self, user: str) -> Mailbox | None:
        """Return where a user's mailbox stands now; None when the user has none."""
        row = await self._database.row("look_mailbox", user)
        if row is None:
            return None
        counted = await self._database.row("count_pending", user)
        assert counted is not None, "a count has a row"
        return Mailbox(
            epoch=self._mailboxes.derive_epoch(row["born"]),
            head=row["head"],
            floor=row["floor"],
            base=row["base"],
            unread=row["unread"],
            pending=counted["pending"],
            oldest_at=counted["oldest_at"],
        )

    async def pending(self, user: str, limit: int) -> Sequence[PendingItem]:
        """Return up to `limit` notifications that no device has acknowledged, the oldest first."""
        return [PendingItem(*row) for row in await self._database.rows("list_pending", user, limit)]

    async def recent(self, user: str, limit: int) -> Sequence[RecentItem]:
        """Return the latest notifications with what became of them, the newest first."""
        return [RecentItem(*row) for row in await self._database.rows("list_recent", user, limit)]

    async def replay(self, actor: str, user: str, after: int) -> int:
        """Queue again what is not over after a seq. Returns how many. Raises TooLarge, Unavailable."""
        replayed = int(await patiently(lambda: self._database.value("replay", actor, user, after, self._max_pending)))
        if replayed < 0:
            raise TooLarge(
                f"that would be more than the {self._max_pending} notifications a mailbox keeps pending; begin after a later seq"
            )
        return replayed

    async def purge(self, actor: str, user: str) -> int:
        """Withdraw everything pending. Returns how many. Raises Unavailable when somebody holds the mailbox for too long."""
        return int(await patiently(lambda: self._database.value("purge", actor, user)))

    async def erase(self, actor: str, user: str) -> int:
        """Erase everything about a user, who begins anew. Returns how many notifications went. Raises Unavailable."""

        async def attempt() -> int:
            return int(await self._database.value_within("erase", actor, user, seconds=ERASE_SECONDS))

        return await patiently(attempt, seconds=ERASE_SECONDS)

    async def cancel(self, actor: str, notification: UUID) -> int | None:
        """Withdraw anybody's notification. Returns from how many; None when there is no such one. Raises Unavailable."""
        withdrawn: int | None = await patiently(lambda: self._database.value("cancel_any", actor, notification))
        return withdrawn
