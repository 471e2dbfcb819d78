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


def split_wakes(payload: str) -> Iterator[tuple[str, str]]:
    """Yield the user of each line, and the rest of it: most users are connected elsewhere, or not at all."""
    for line in payload.split("\n"):
        user, _, rest = line.partition("\t")
        yield user, rest


def read_wake(rest: str) -> tuple[int, CarriedEntry | None]:
    """Return the head that a line tells of, and the entry that it carries, if that is fresh."""
    head, *fields = rest.split("\t")
    if fields and int(fields[0]) / 1e6 > clock.now() - FRESH_SECONDS:
        return int(head), CarriedEntry(int(head), fields)
    return int(head), None
