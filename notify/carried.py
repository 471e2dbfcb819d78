"""Wake-ups: "these heads moved", and for small entries the entry itself, so that nobody has to fetch it.

Keeps invariant 5: a wake-up only ever saves a fetch. One that is lost, too old, or not the next for a session costs nothing
but that fetch. A line is `user TAB head`, or what notify.tell writes:

    user TAB seq TAB queued TAB id TAB created TAB type TAB producer TAB context TAB data
                                                                                    (times in microseconds since 1970)
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from uuid import UUID

from notify.frames import SUBPROTOCOL_JSON, WireCodec, write_notification, write_time
from notify.model import Entry, Kind

FRESH_SECONDS = 0.9
"""How old a carried entry may be: notify.tell carries none that expires within a second. Older ones are fetched."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

MOMENTS = 64
"""Times whose text is remembered: what was stored together has the same."""


def read_moment(microseconds: str) -> datetime:
    """Read a time as a line has it."""
    return EPOCH + timedelta(microseconds=int(microseconds))


@lru_cache(MOMENTS)
def write_moment(microseconds: str) -> str:
    """Return a time of a line as frames have it."""
    return write_time(read_moment(microseconds))


class CarriedEntry:
    """An entry that came with its wake-up: encoded once a codec, for all sessions that want it."""

    __slots__ = ("_encoded", "_fields", "queued_at", "seq")

    def __init__(self, seq: int, fields: list[str]) -> None:
        self.seq = seq
        self.queued_at = int(fields[0]) / 1e6
        self._fields = fields
        self._encoded: dict[str, str | bytes] = {}

    @property
    def entry(self) -> Entry:
        """All there is to it."""
        queued, notification_id, created, kind, producer, context, data = self._fields
        return Entry(
            self.seq,
            Kind.NOTIFICATION,
            live=True,
            notification_id=UUID(notification_id),
            type=kind,
            producer=producer,
            context=context or None,
            created_at=read_moment(created),
            queued_at=read_moment(queued),
            data=data.encode(),
        )

    def encode(self, codec: WireCodec) -> str | bytes:
        """Return the frame as it goes on the wire. Raises what the codec raises."""
        known = self._encoded.get(codec.shared_as)
        if known is None:
            known = self._encoded[codec.shared_as] = self._encode(codec)
        return known

    def _encode(self, codec: WireCodec) -> str | bytes:
        _queued, notification_id, created, kind, producer, context, data = self._fields
        if codec.shared_as != SUBPROTOCOL_JSON or context:
            return codec.encode_entry(self.entry)
        return write_notification(
            self.seq, identity=notification_id, kind=kind, data=data, source=producer, created_at=write_moment(created)
        )


def split_wakes(payload: str) -> Iterator[tuple[str, str]]:
    """Yield the user of each line, and the rest of it: most users are connected elsewhere, or not at all."""
    for line in payload.split("\n"):
        user, _, rest = line.partition("\t")
        yield user, rest


def read_wake(rest: str, now: float) -> tuple[int, CarriedEntry | None]:
    """Return the head that a line tells of, and the entry that it carries, if that is fresh at `now` (unix seconds)."""
    head, *fields = rest.split("\t")
    if fields:
        carried = CarriedEntry(int(head), fields)
        if carried.queued_at > now - FRESH_SECONDS:
            return carried.seq, carried
    return int(head), None
