"""What this process does, counted: sends, deliveries, acks, latency, and who sends. No I/O.

Keeps the promise that counting costs nothing on the way of a notification: additions in memory, written down by the roster
once in ten seconds. Keeps invariant 6: producers beyond a number are counted together.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from notify import metrics

LATENCY_BOUNDS = (
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0,
)  # fmt: skip
"""Seconds from acceptance to the socket: the upper bounds of the ranges in which deliveries are counted. One more is above."""

MAX_PRODUCERS = 1_000
"""Producers told apart in ten seconds; the others are counted as one, whose name no token can have."""

OTHERS = "(others)"


@dataclass(slots=True)
class Production:
    """What one producer did."""

    notifications: int = 0
    recipients: int = 0
    refused: int = 0


@dataclass(slots=True)
class Counts:
    """What was counted between two looks."""

    sent: int = 0
    delivered: int = 0
    acked: int = 0
    latency: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS) + 1))
    producers: dict[str, Production] = field(default_factory=dict)


class Activity:
    """The counters of one process."""

    def __init__(self) -> None:
        self._counts = Counts()

    def count_send(self, producer: str, notifications: int, recipients: int) -> None:
        """Count what was accepted of a producer."""
        production = self._of(producer)
        production.notifications += notifications
        production.recipients += recipients
        self._counts.sent += recipients
        metrics.ACCEPTED.inc(notifications)
        metrics.RECIPIENTS.inc(recipients)

    def count_refusal(self, producer: str) -> None:
        """Count a request of a known producer that was answered with an error."""
        self._of(producer).refused += 1

    def count_delivery(self, latency: float | None) -> None:
        """Count a notification written to a socket; `latency` in seconds where it was sent live."""
        self._counts.delivered += 1
        metrics.DELIVERED.inc()
        if latency is None:
            metrics.REPLAYED.inc()
        else:
            metrics.LATENCY.observe(latency)
            self._counts.latency[bisect_left(LATENCY_BOUNDS, latency)] += 1

    def count_acks(self, entries: int) -> None:
        """Count entries that a device acknowledged."""
        self._counts.acked += entries
        metrics.ACKNOWLEDGED.inc(entries)

    def count_ack_latency(self, latency: float) -> None:
        """Count how long it took from acceptance to an acknowledgement, in seconds, where it was sent live."""
        metrics.ACK_LATENCY.observe(latency)

    def take(self) -> Counts:
        """Return what was counted since the last time, and begin anew."""
        taken, self._counts = self._counts, Counts()
        return taken

    def _of(self, producer: str) -> Production:
        producers = self._counts.producers
        if (known := producers.get(producer)) is not None:
            return known
        return producers.setdefault(producer if len(producers) < MAX_PRODUCERS else OTHERS, Production())


def percentile(latency: Sequence[int], share: float) -> float | None:
    """Return the seconds within which this share (0 to 1) of the deliveries was; None without any.

    Interpolated inside a range; what lies above the last bound counts as the last bound.
    """
    total = sum(latency)
    if not total:
        return None
    wanted = share * total
    below = 0.0
    for place, bound in enumerate(LATENCY_BOUNDS):
        count = latency[place]
        if count and below + count >= wanted:
            low = LATENCY_BOUNDS[place - 1] if place else 0.0
            return low + (bound - low) * (wanted - below) / count
        below += count
    return LATENCY_BOUNDS[-1]
