"""The outbox and what expires: due work that any node may do, one at a time."""

from notify.store.database import Database

RELEASE_RECIPIENTS = 5_000
"""Recipients released in one commit: their mailboxes are held for as long as it takes."""

OPEN_SECONDS = 5.0
"""Transactions younger than this are nothing special."""

SWEEP_NOTIFICATIONS = 200
SWEEP_RECIPIENTS = 5_000
"""Expired notifications, and their recipients, taken out of the unread counts in one commit; always one notification."""


class Outbox:
    """Releases what is due and sweeps what expired."""

    def __init__(self, database: Database, *, max_pending: int) -> None:
        self._database = database
        self._max_pending = max_pending

    async def release(self) -> int:
        """Release what is due. Returns how much was; 0 also when another node is at it."""
        return int(await self._database.value("release", RELEASE_RECIPIENTS, self._max_pending))

    async def sweep_expired(self) -> int:
        """Take what expired out of the unread counts. Returns how many notifications that were."""
        return int(await self._database.value("sweep_expired", SWEEP_NOTIFICATIONS, SWEEP_RECIPIENTS))

    async def oldest_transaction(self) -> float:
        """Return how long the oldest transaction is open that holds rows of ours, in seconds; 0 when there is none."""
        rows = await self._database.rows("list_open_transactions", OPEN_SECONDS)
        return max((row["age"] or 0.0 for row in rows), default=0.0)

    async def next_due(self) -> float | None:
        """Return in how many seconds something is due or expires, None when nothing ever is."""
        seconds: float | None = await self._database.value("next_due")
        return seconds
