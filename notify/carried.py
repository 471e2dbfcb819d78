"""Wake-ups: "these heads moved", and for small entries the entry itself, so that nobody has to fetch it.

Keeps invariant 5: a wake-up only ever saves a fetch. One that is lost, too old, or not the next for a session costs nothing
but that fetch. A line is `user TAB head`, or what notify.tell writes:

    user TAB seq TAB queued TAB id TAB created TAB type TAB producer TAB context TAB data
                                                                                    (times in microseconds since 1970)
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

from notify import clock
from notify.frames import WireCodec
from notify.model import Entry, Kind

FRESH_SECONDS = 0.9
"""How old a carried entry may be: notify.tell carries none that expires within a second. Older ones are fetched."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class CarriedEntry:
    """An entry that came with its wake-up: read when a session wants it, encoded once a codec for all of them."""

    __slots__ = ("_encoded", "entry", "seq")

    def __init__(self, seq: int, fields: list[str]) -> None:
        queued, notification_id, created, kind, producer, context, data = fields
        self.seq = seq
        self.entry = Entry(
            seq,
            Kind.NOTIFICATION,
            live=True,
            notification_id=UUID(notification_id),
            type=kind,
            producer=producer,
            context=context or None,
            created_at=EPOCH + timedelta(microseconds=int(created)),
            queued_at=EPOCH + timedelta(microseconds=int(queued)),
            data=data.encode(),
        )
        self._encoded: dict[str, str | bytes] = {}

    def encode(self, codec: WireCodec) -> str | bytes:
        """Return the frame as it goes on the wire. Raises what the codec raises."""
        known = self._encoded.get(codec.shared_as)
        if known is None:
            known = self._encoded[codec.shared_as] = codec.encode_entry(self.entry)
        return known


def read_wakes(payload: str) -> Iterator[tuple[str, int, list[str] | None]]:
    """Yield the user and head of each line, and the fields of what it carries, if that is fresh."""
    oldest = (clock.now() - FRESH_SECONDS) * 1e6
    for line in payload.split("\n"):
        user, head, *fields = line.split("\t")
        yield user, int(head), fields if fields and int(fields[0]) > oldest else None
