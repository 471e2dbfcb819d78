"""Reading mailboxes and moving cursors: what a session needs.

Keeps invariant 3 from the store's side: a cursor exists before anything is sent to its device, and moves only forward.
Both lanes may be repeated, and acks are, so an outage delays a session and never fails it.
"""

import asyncio
import hashlib
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from contextlib import suppress
from uuid import UUID

import msgspec

from notify.batch import Interrupted, Lane
from notify.errors import Unavailable
from notify.model import Codec, Entry, Kind, Page, Standing
from notify.store.acks import Acks
from notify.store.database import PATIENCE_SECONDS, Database, Row

PAGE_ENTRIES = 50
"""Entries a page holds at most: enough to be efficient, few enough for the others to get their turn soon. With 100, p99 of theirs
was 1.9 times what it is without a large queue beside them; with 50, 1.7 times."""

PAGE_BYTES = 64 * 1024
"""Bytes of data a page holds at most (but always one entry): a peer that stops reading keeps the rest of one in memory."""

FETCH_FLIGHTS = 2
FETCH_ITEMS = 100
"""Pages a statement fetches at most; with PAGE_BYTES it bounds what one answer can weigh."""

SETTLE_SECONDS = 0.5
"""How long a device that is back waits for its last acks to be down: not once they are held up for longer."""

UNBOUNDED = 1_000_000
"""Capacity of lanes whose callers are bounded already: by the connections of the process."""


class Place(msgspec.Struct, frozen=True):
    """A device of a user."""

    user: str
    device: str


class Position(msgspec.Struct, frozen=True):
    """Where a session stands in a mailbox, and how many entries and bytes of data it has room for."""

    user: str
    after: int
    entries: int
    size: int


class Mailboxes:
    """The lanes of reading: opening and fetching; and the acks."""

    def __init__(
        self,
        database: Database,
        *,
        max_devices: int,
        on_ack: Callable[[Iterable[str]], None],
        on_new_epoch: Callable[[], None],
    ) -> None:
        self._database = database
        self._max_devices = max_devices
        self._on_new_epoch = on_new_epoch
        self.epoch = ""
        self.opening = Lane[Place, Standing](
            "open",
            self._open,
            capacity=UNBOUNDED,
            flights=2,
            keys=lambda place: (place.user,),
            probe=self._probe,
            repeats=True,
        )
        self.fetching = Lane[Position, Page](
            "fetch", self._fetch, flights=FETCH_FLIGHTS, max_items=FETCH_ITEMS, capacity=UNBOUNDED, repeats=True
        )
        self.acking = Acks(database, on_ack, self.read_epoch)

    async def open(self, user: str, device: str) -> Standing:
        """Return where a device stands; its cursor and mailbox exist from now on."""
        # Somebody holds the cursor, or the epoch ends: what is acknowledged comes again then.
        with suppress(TimeoutError, Unavailable):
            async with asyncio.timeout(SETTLE_SECONDS):
                await self.acking.settle(user, device)
        return await self.opening.submit(Place(user, device))

    async def fetch(self, user: str, after: int, entries: int, size: int) -> Page:
        """Return what follows `after` in a mailbox: up to so many entries and bytes of data, but at least one entry."""
        return await self.fetching.submit(Position(user, after, min(entries, PAGE_ENTRIES), min(size, PAGE_BYTES)))

    async def acknowledge(self, user: str, device: str, seq: int, epoch: str | None = None) -> bool:
        """Move a device's cursor and return once that is down; beyond the head, or in another epoch than this, it means nothing.

        Tells whether it meant something. Raises Unavailable when somebody holds the cursor for too long: it moves as soon as it
        is let go; or when the database turns out to be another one.
        """
        database = self.epoch  # of the moment it came
        # Looked at first: it may travel as one with an ack of the device's session, which must not be lost with it.
        mailbox = await self._database.row("find_head", user)
        if mailbox is None or seq > mailbox["head"]:
            return False
        if epoch is not None and epoch != derive_epoch(database, mailbox["born"]):
            return False
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self.acking.flush(user, device, seq, database)
        except TimeoutError:
            raise Unavailable("somebody holds the mailbox; the ack will be stored when it is free") from None
        return True

    async def read_heads(self, users: Sequence[str]) -> dict[str, int]:
        """Return the heads of those of these mailboxes that exist."""
        return {row[0]: row[1] for row in await self._database.rows("read_heads", users)}

    async def read_epoch(self) -> str:
        """Ask the database who it is, remember it, and return it; if it is another one than before, tell."""
        epoch: str = await self._database.value("read_epoch")
        if epoch != self.epoch:
            known, self.epoch = self.epoch, epoch
            self.acking.begin(epoch)
            if known:
                self._on_new_epoch()
        return epoch

    def derive_epoch(self, born: UUID) -> str:
        """Return the epoch of a mailbox as it is at the moment."""
        return derive_epoch(self.epoch, born)

    async def close(self) -> None:
        """Write down the acks that are still on their way."""
        await asyncio.gather(self.opening.close(), self.fetching.close(), self.acking.close())

    async def _open(self, places: Sequence[Place]) -> Sequence[Standing]:
        # Of before: what a former database says must not be told as the next one's, for the client would come back with that.
        epoch = self.epoch
        found = await self._look(places)
        missing = [
            place
            for place, row in zip(places, found, strict=True)
            if row["seq"] is None or row["removed"] or row["head"] is None  # erased between the two
        ]
        if missing:
            await self._database.value(
                "enter", [place.user for place in missing], [place.device for place in missing], self._max_devices
            )
            found = await self._look(places)
            if any(row["head"] is None for row in found):
                raise Interrupted("a mailbox was erased while a session opened")  # the lane repeats it
        return [
            Standing(
                head=row["head"],
                floor=row["floor"],
                unread=row["unread"],
                cursor=row["seq"],
                epoch=derive_epoch(epoch, row["born"]),
                database=epoch,
            )
            for row in found
        ]

    async def _look(self, places: Sequence[Place]) -> Sequence[Row]:
        return await self._database.rows("look", [place.user for place in places], [place.device for place in places])

    async def _fetch(self, positions: Sequence[Position]) -> Sequence[Page]:
        rows = await self._database.rows(
            "fetch_pages",
            [position.user for position in positions],
            [position.after for position in positions],
            [position.entries for position in positions],
            [position.size for position in positions],
        )
        heads: dict[int, tuple[int, int]] = {}
        entries: dict[int, list[Entry]] = {}
        for row in rows:
            order = row["ord"]
            heads[order] = (row["head"], row["floor"])
            if row["seq"] is not None:
                entries.setdefault(order, []).append(read_entry(row))
        return [
            assemble(position, *heads.get(order, (0, 0)), entries.get(order, []))
            for order, position in enumerate(positions, 1)
        ]

    async def _probe(self, keys: Collection[Hashable]) -> Collection[Hashable]:
        found: list[str] = await self._database.value("blocked_users", list(keys))
        return found


def derive_epoch(database: str, born: UUID) -> str:
    """Return the epoch of a mailbox: another database, or another mailbox of the same user, is another epoch."""
    return hashlib.blake2s(f"{database}/{born}".encode(), digest_size=8).hexdigest()


def assemble(position: Position, head: int, floor: int, entries: list[Entry]) -> Page:
    """Put a page together. Seqs have no gaps, so it is complete when its last entry is the head."""
    last = entries[-1].seq if entries else max(position.after, floor)
    return Page(head=head, floor=floor, entries=entries, complete=last >= head)


def read_entry(row: Row) -> Entry:
    """Turn a row of `fetch_pages` into an entry."""
    live: bool = row["live"]
    kind = Kind(row["kind"])
    if not live or kind is not Kind.NOTIFICATION:
        return Entry(
            row["seq"],
            kind,
            live,
            notification_id=row["notification_id"],
            target=row["target"],
            seqs=row["seqs"],
            unread=row["unread"],
        )
    return Entry(
        row["seq"],
        kind,
        live,
        notification_id=row["notification_id"],
        type=row["type"],
        producer=row["producer"],
        context=row["context"],
        codec=Codec(row["codec"]),
        created_at=row["created_at"],
        queued_at=row["at"],
        data=row["data"],
    )
