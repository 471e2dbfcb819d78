"""What a notification and an entry are. Pure: no I/O, no framework, no clock.

A **notification** is what a producer sent, once. A **mailbox** is a user's numbered log of **entries**; an entry is
whatever a device must hear of: a notification, its retraction, or a read mark.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from enum import IntEnum
from uuid import UUID

import msgspec

ID_LENGTH = 255
"""Characters of a user id, a device or a topic at most (the contract's limit)."""

BULK_RECIPIENTS = 500
"""A post to more recipients than this travels in a lane of its own: its statement takes long enough to be felt."""


class Codec(IntEnum):
    """How a notification's data is stored, which is how it came."""

    JSON = 0
    MSGPACK = 1


class Kind(IntEnum):
    """What an entry tells a device."""

    NOTIFICATION = 1
    RETRACT = 2
    READ = 3


class Ending(IntEnum):
    """How an entry ended other than by acknowledgement; the first ending stays."""

    CANCELLED = 1
    COLLAPSED = 2
    TRUNCATED = 3
    REQUEUED = 4


class Notification(msgspec.Struct, frozen=True, gc=False):
    """One notification as a producer hands it over, checked. `to` holds no user twice; the database sets times.

    Nothing in it can lead back to it, so that the collector need not look at the thousands that are under way.
    """

    id: UUID
    producer: str
    type: str
    data: bytes
    to: Sequence[str]
    codec: Codec = Codec.JSON
    ttl: int = 2_419_200  # seconds: 28 days
    deliver_at: datetime | None = None
    collapse_key: str | None = None
    context: str | None = None  # what travels with it beside its data, as JSON text
    undelivered_after: int | None = None  # seconds: its producer wants to hear of it if it is pending then


class Entry(msgspec.Struct, frozen=True):
    """One entry as it is fetched. Not `live` is what is over (expired, cancelled, collapsed): passed, never sent."""

    seq: int
    kind: Kind
    live: bool
    notification_id: UUID | None = None
    type: str = ""
    producer: str = ""
    context: str | None = None
    codec: Codec = Codec.JSON
    created_at: datetime | None = None
    queued_at: datetime | None = None
    data: bytes = b""
    target: int | None = None
    seqs: Sequence[int] | None = None
    unread: int | None = None


class Page(msgspec.Struct, frozen=True):
    """What follows a position in a mailbox: consecutive entries, with the head and the floor of the same moment."""

    head: int
    floor: int
    entries: Sequence[Entry]
    complete: bool
    """Whether nothing stored lies between the last entry and the head."""


class Standing(msgspec.Struct, frozen=True):
    """Where a mailbox and one device's cursor stand when a session opens."""

    head: int
    floor: int
    unread: int
    cursor: int
    epoch: str
    database: str  # the part of the epoch that is the database's: what is acknowledged counts in that one alone


_IDENTIFIER = re.compile(f"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{{1,{ID_LENGTH}}}")


def is_identifier(value: str) -> bool:
    """Whether `value` may name a user, a device or a topic: 1 to 255 characters, none a control character or surrogate.

    Spaces of all kinds are legal. C0, DEL and C1 are what Unicode calls control characters (category Cc); a lone
    surrogate has no UTF-8 and so no place in PostgreSQL.
    """
    return _IDENTIFIER.fullmatch(value) is not None
