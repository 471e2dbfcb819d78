"""The numbers that a session keeps to.

Keeps invariant 6: of what is sent to a device and not acknowledged there is only so much.
"""

from dataclasses import dataclass
from typing import Self

from notify.settings import Settings


@dataclass(frozen=True, slots=True)
class Limits:
    """How many entries and bytes may await their ack, and the seconds of silence before a ping; see Settings."""

    max_unacked: int
    max_unacked_bytes: int
    ping_interval: float

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return those that are configured."""
        return cls(settings.max_unacked, settings.max_unacked_bytes, settings.ping_interval)
