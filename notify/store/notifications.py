"""Following what was sent: notifications and their receipts.

Receipts are derived from acks, endings and marks whenever somebody asks, so that delivering costs no row updates.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from notify.context import read_context
from notify.model import Codec
from notify.payload import transcode_to_json
from notify.store.database import Database, patiently

STATUSES = ("scheduled", "pending", "delivered", "read", "expired", "cancelled", "collapsed")
"""How a recipient can stand (contract, section 4)."""


class StoredNotification(msgspec.Struct, frozen=True):
    """A notification as it is kept. `undelivered_at`: when its app is told who has not got it; None once that is over."""

    id: UUID
    producer: str
    type: str
    data: bytes
    codec: Codec
    recipients: int
    created_at: datetime
    expires_at: datetime
    deliver_at: datetime | None
    collapse_key: str | None
    context: str | None
    undelivered_at: datetime | None = None

    @property
    def source(self) -> str:
        """Where it came from: the app, or the `source` of the event that it came as."""
        return read_context(self.context).source or self.producer

    def data_as_json(self) -> msgspec.Raw:
        """Return the data as JSON text, whatever it came as."""
        if self.codec is Codec.JSON:
            return msgspec.Raw(self.data)
        return msgspec.Raw(transcode_to_json(msgspec.msgpack.decode(self.data)))


class Receipt(msgspec.Struct, frozen=True):
    """How one recipient stands."""

    user: str
    seq: int | None
    status: str
    delivered_at: datetime | None
    read_at: datetime | None


class Answer(msgspec.Struct, frozen=True):
    """The first answer to a request, or an event, with an idempotency key."""

    digest: bytes
    ids: Sequence[UUID]
    recipients: int
    created_at: datetime


class Notifications:
    """Stored notifications and their receipts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, notification: UUID, producer: str | None = None) -> StoredNotification | None:
        """Return a notification; with a `producer` only if that one sent it."""
        row = await self._database.row("find_notification", notification, producer)
        if row is None:
            return None
        return StoredNotification(
            id=row["id"],
            producer=row["producer"],
            type=row["type"],
            data=row["data"],
            codec=Codec(row["codec"]),
            recipients=row["recipients"],
            created_at=row["created_at"],
            expires_at=row["expires_at"],
            deliver_at=row["due_at"],
            collapse_key=row["collapse_key"],
            context=row["context"],
            undelivered_at=row["undelivered_at"],
        )

    async def count(self, notification: UUID) -> dict[str, int]:
        """Return how many recipients stand at each status, the zeros included."""
        counts = dict.fromkeys(STATUSES, 0)
        for row in await self._database.rows("count_receipts", notification):
            counts[row[0]] += row[1]
        return counts

    async def list_receipts(self, notification: UUID, *, after: str, limit: int) -> Sequence[Receipt]:
        """Return the receipts of up to `limit` recipients whose ids come after `after`."""
        rows = await self._database.rows("list_receipts", notification, after, limit)
        return [Receipt(*row) for row in rows]

    async def cancel(self, notification: UUID, producer: str | None) -> int | None:
        """Withdraw a notification from all who have not acknowledged it; with a `producer` only if that one sent it.

        Returns from how many, None when there is no such notification. Raises Unavailable when somebody holds a
        recipient's mailbox for too long.
        """
        withdrawn: int | None = await patiently(lambda: self._database.value("cancel", notification, producer))
        return withdrawn

    async def find_answers(self, producer: str, keys: Sequence[str]) -> Mapping[str, Answer]:
        """Return what these idempotency keys were answered in the last 24 hours, by key, as far as they were."""
        rows = await self._database.rows("find_answers", producer, keys)
        return {row["key"]: Answer(row["digest"], row["ids"], row["recipients"], row["created_at"]) for row in rows}
