"""Letting go of what is older than the retention, in small batches while traffic goes on.

Keeps invariant 7: entries go together with a floor that rises over them, so that a device that missed them is told.
"""

from notify.store.database import Database

MAILBOXES = 500
"""Mailboxes looked at in one statement: one index probe each."""

ENTRIES = 1_000
"""Entries deleted in one statement."""

NOTIFICATIONS = 500
"""Notifications deleted in one statement, and keys."""


class Retention:
    """Walks the mailboxes, over and over."""

    def __init__(self, database: Database, *, seconds: int) -> None:
        self._database = database
        self._seconds = seconds

    async def work(self) -> int:
        """Do one small batch of each kind. Returns how many rows went."""
        entries = int(await self._database.value("retain_mailboxes", float(self._seconds), MAILBOXES, ENTRIES))
        notifications = int(await self._database.value("retain_notifications", float(self._seconds), NOTIFICATIONS))
        keys = int(await self._database.value("retain_idempotency", NOTIFICATIONS))
        acts = int(await self._database.value("retain_audit", NOTIFICATIONS))
        return entries + notifications + keys + acts
