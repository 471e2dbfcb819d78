"""Pages of entries as they go on the wire, in parts that are written in one go, and at which pace they follow each other.

Keeps the promise that an entry no codec can encode is passed over and counted, never fatal; and invariant 8 for one user's huge
queue, whose pages let the others have their turn.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec
import structlog

from notify import metrics
from notify.frames import WireCodec
from notify.model import Entry

log = structlog.get_logger()

WRITE_BYTES = 32 * 1024
"""Of a page, what is written in one go: most pages whole, and half of what a transport takes before it makes us wait."""

FREE_PAGES = 4
"""Pages that follow each other at once: more than most have missed."""

PAUSE_SECONDS = 0.001
"""Before each further one. A page takes about as long, so that who has missed thousands takes half of a processor, not all."""


class Pace:
    """Of a session's pages, as long as one follows the other."""

    __slots__ = ("_pages",)

    def __init__(self) -> None:
        self._pages = 0

    async def wait(self) -> None:
        """Wait until the next page may be fetched."""
        if self._pages >= FREE_PAGES:
            await asyncio.sleep(PAUSE_SECONDS)
        self._pages += 1

    def end(self) -> None:
        """Note that nothing follows for now."""
        self._pages = 0


@dataclass(slots=True)
class Part:
    """What is written in one go: up to which seq it goes, the messages, and the entries they tell of."""

    passed: int = 0
    messages: list[str | bytes] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    size: int = 0


def frame_entries(entries: Sequence[Entry], codec: WireCodec) -> Iterator[Part]:
    """Yield a page in parts that are written in one go."""
    part = Part()
    for entry in entries:
        part.passed = entry.seq
        if entry.live and (message := frame_or_skip(entry, codec)) is not None:
            part.messages.append(message)
            part.entries.append(entry)
            part.size += len(message)
            if part.size >= WRITE_BYTES:
                yield part
                part = Part(entry.seq)
    yield part


def frame_or_skip(entry: Entry, codec: WireCodec) -> str | bytes | None:
    """Return an entry as it goes on the wire; None, counted, when no codec can encode it."""
    try:
        return codec.encode_entry(entry)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        metrics.UNREADABLE.inc()
        log.error(  # noqa: TRY400 - its traceback could hold the payload
            "entry.unreadable", notification=str(entry.notification_id), reason=type(error).__name__
        )
        return None
