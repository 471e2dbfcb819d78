"""The inbox: what a user still has, what of it is read, and on which devices.

Reading and acknowledging differ: an ack says that a device has an entry, a mark that a person has seen it.
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from notify.model import Codec
from notify.settings import MIB
from notify.store.database import Database, patiently
from notify.store.notifications import StoredNotification

PAGE_BYTES = 4 * MIB
"""Of the data on one page: 500 of the largest would be 32 MiB, held for whoever asks and does not read."""


class InboxItem(msgspec.Struct, frozen=True):
    """A notification in an inbox."""

    seq: int
    notification: StoredNotification
    read_at: datetime | None


class Device(msgspec.Struct, frozen=True):
    """One of a user's devices. `cursor`: the last seq that it has acknowledged."""

    device: str
    cursor: int
    seen_at: datetime


class Inbox:
    """The inboxes of users."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, user: str, *, before: int, limit: int, unread: bool) -> tuple[Sequence[InboxItem], bool]:
        """Return notifications with a seq under `before`, newest first, and whether there may be more; with `unread` only those.

        Up to `limit` of them and about PAGE_BYTES of data, but at least one.
        """
        rows = await self._database.rows("list_inbox", user, before, limit + 1, unread, PAGE_BYTES)
        more = len(rows) > limit or sum(len(row["data"]) for row in rows) >= PAGE_BYTES
        items = [
            InboxItem(
                seq=row["seq"],
                notification=StoredNotification(
                    id=row["id"],
                    producer=row["producer"],
                    type=row["type"],
                    data=row["data"],
                    codec=Codec(row["codec"]),
                    recipients=1,
                    created_at=row["created_at"],
                    expires_at=row["expires_at"],
                    deliver_at=None,
                    collapse_key=None,
                    context=row["context"],
                ),
                read_at=row["read_at"],
            )
            for row in rows[:limit]
        ]
        return items, more

    async def unread(self, user: str) -> int:
        """Return how many notifications of a user are neither read nor over."""
        return await self._database.value("count_unread", user) or 0

    async def mark_up_to(self, user: str, seq: int) -> int:
        """Mark all up to a seq read and return what is left. Raises Unavailable when the mailbox stays locked."""
        return await patiently(lambda: self._database.value("mark_read", user, seq, None)) or 0

    async def mark(self, user: str, seqs: Sequence[int]) -> int:
        """Mark these seqs read and return what is left; those that aren't there mean nothing. Raises Unavailable."""
        return await patiently(lambda: self._database.value("mark_read", user, None, seqs)) or 0

    async def devices(self, user: str) -> Sequence[Device]:
        """Return the devices of a user."""
        return [Device(*row) for row in await self._database.rows("list_devices", user)]

    async def remove_device(self, user: str, device: str) -> bool:
        """Forget a device. Returns whether there was such a one."""
        return await self._database.value("remove_device", user, device) is not None

    async def announce_ack(self, user: str, device: str, seq: int) -> None:
        """Tell the sessions of a device that it acknowledged by another way than their socket."""
        await self._database.value("announce_ack", f"{user}\t{device}\t{seq}")
