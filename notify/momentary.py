"""Messages for whoever is connected now: never stored, carried between the nodes by NOTIFY alone. Pure.

A NOTIFY payload ends at 7,999 bytes, so a batch of messages is one text cut into parts, which arrive together and in
order because one transaction sends them (https://www.postgresql.org/docs/current/sql-notify.html). Keeps invariant 6:
what is put together again is bounded, and a part that misses the others is forgotten.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from notify.errors import NotifyError
from notify.model import Codec

PART_BYTES = 7_900
"""Bytes of one NOTIFY payload: under the limit of 7,999, with room for the part's heading."""

MAX_OPEN = 16
"""Batches put together at the same time: one a sending node, and a few that will never be whole."""

MAX_PARTS = 4_096
"""Parts of one batch: 32 MiB, more than a request's body can hold."""


class Momentary(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message that is not stored. `data` is JSON text, or, of MessagePack, its base64 in quotes."""

    id: UUID
    type: str
    producer: str
    created_at: datetime
    codec: Codec
    data: msgspec.Raw
    to: Sequence[str]
    context: str | None = None  # as in model.Notification

    @property
    def payload(self) -> bytes:
        """The data as it came."""
        return bytes(self.data) if self.codec is Codec.JSON else msgspec.json.decode(self.data, type=bytes)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(list[Momentary])


def wrap(data: bytes, codec: Codec) -> msgspec.Raw:
    """Return data as it travels inside a batch."""
    return msgspec.Raw(data if codec is Codec.JSON else _encoder.encode(data))


def split(batch: str, messages: Sequence[Momentary]) -> list[str]:
    """Return the NOTIFY payloads that carry these messages. `batch` tells them from any other's."""
    body = _encoder.encode(messages)
    parts = list(cut(body, PART_BYTES - len(batch) - len(f" {MAX_PARTS} {MAX_PARTS} ")))
    return [f"{batch} {place} {len(parts)} {part}" for place, part in enumerate(parts)]


def cut(body: bytes, size: int) -> Iterator[str]:
    """Cut UTF-8 into pieces of at most `size` bytes, between characters."""
    start = 0
    while start < len(body):
        end = min(start + size, len(body))
        while end < len(body) and body[end] & 0xC0 == 0x80:  # noqa: PLR2004 - 10xxxxxx continues a character (RFC 3629)
            end -= 1
        yield body[start:end].decode()
        start = end


class BrokenPart(NotifyError):
    """A payload on the channel that is none of ours."""


class Assembler:
    """Puts batches together again as their parts arrive."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, list[str]] = OrderedDict()

    def add(self, payload: str) -> Sequence[Momentary]:
        """Take one payload; return the messages once their batch is whole, otherwise none. Raises BrokenPart."""
        try:
            batch, place_text, total_text, part = payload.split(" ", 3)
            place, total = int(place_text), int(total_text)
            if not 0 <= place < total <= MAX_PARTS:
                raise ValueError
            if total > 1:
                parts = self._open.setdefault(batch, [])
                if len(parts) != place:  # the beginning came before this process listened
                    del self._open[batch]
                    return ()
                parts.append(part)
                if place < total - 1:
                    if len(self._open) > MAX_OPEN:
                        self._open.popitem(last=False)
                    return ()
                part = "".join(self._open.pop(batch))
            return _decoder.decode(part)
        except (ValueError, msgspec.MsgspecError):
            raise BrokenPart("a message that is not stored could not be read") from None
