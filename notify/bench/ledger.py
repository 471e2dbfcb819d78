"""What was sent, what arrived: the books of one loader.

Keeps the promise that nothing is lost unnoticed: every notification has a number, and what was accepted and never
arrived, arrived twice, or came behind a greater seq is counted.
"""

import asyncio
from array import array
from dataclasses import dataclass

ACCEPTED, DELIVERED = 1, 2
NANOSECONDS_PER_MILLISECOND = 1e6


@dataclass(slots=True)
class Tally:
    """What one phase came to, in one loader or in all. Times in seconds of the monotonic clock."""

    accepted: int = 0
    delivered: int = 0
    lost: int = 0
    duplicates: int = 0
    out_of_order: int = 0
    refused: int = 0
    """Requests that were answered with 429 or 503: the service said that it has enough."""
    failed: int = 0
    """Requests with any other answer but 2xx or none, and connections that ended by themselves."""
    started: float = 0.0
    ended: float = 0.0
    cpu_seconds: float = 0.0
    """Processor time of the loader."""
    busiest: float = 0.0
    """Share of one core that the busiest loader used."""
    latencies: bytes = b""
    """Milliseconds from due to delivered, as doubles."""
    lateness: bytes = b""
    """Milliseconds from due to being written to the socket: the loader's own part."""

    @property
    def seconds(self) -> float:
        """How long it took, from the first send or connect to the last delivery."""
        return max(self.ended - self.started, 1e-9)


def merge(tallies: list[Tally]) -> Tally:
    """Add up what several loaders saw of the same phase."""
    whole = Tally(started=min(tally.started for tally in tallies), ended=max(tally.ended for tally in tallies))
    for tally in tallies:
        for name in ("accepted", "delivered", "lost", "duplicates", "out_of_order", "refused", "failed", "cpu_seconds"):
            setattr(whole, name, getattr(whole, name) + getattr(tally, name))
        whole.busiest = max(whole.busiest, tally.busiest)
        whole.latencies += tally.latencies
        whole.lateness += tally.lateness
    return whole


class Ledger:
    """The numbers given out by one loader, and what became of them. One phase after the other, numbers go on rising."""

    def __init__(self) -> None:
        self._first = 0
        self._states = bytearray()
        self._owed = 0
        self._settled = asyncio.Event()
        self.tally = Tally()
        self.latencies = array("d")
        self.lateness = array("d")
        self.last_delivery = 0
        """When the last one arrived, in ns of the monotonic clock."""

    def open(self) -> None:
        """Begin a phase. What arrives of an earlier one from now on is a duplicate: it was waited for long enough."""
        self._first += len(self._states)
        self._states = bytearray()
        self._owed = 0
        self.tally = Tally()
        self.latencies = array("d")
        self.lateness = array("d")
        self.last_delivery = 0

    def resume(self) -> None:
        """Begin a phase that delivers what the one before stored."""
        self.tally = Tally(accepted=self.tally.accepted)
        self.latencies = array("d")

    def number(self, count: int) -> int:
        """Return the first of `count` new numbers."""
        first = self._first + len(self._states)
        self._states.extend(bytes(count))
        return first

    def accept(self, first: int, count: int) -> None:
        """Note that these are the service's to deliver."""
        states, tally = self._states, self.tally
        tally.accepted += count
        for place in range(first - self._first, first - self._first + count):
            if not states[place] & DELIVERED:
                self._owed += 1
            states[place] |= ACCEPTED

    def deliver(self, number: int, due: int, now: int, *, in_order: bool) -> None:
        """Note that one arrived (Witness)."""
        place = number - self._first
        tally = self.tally
        if place < 0 or self._states[place] & DELIVERED:
            tally.duplicates += 1
            return
        if not in_order:
            tally.out_of_order += 1
        state = self._states[place]
        self._states[place] = state | DELIVERED
        tally.delivered += 1
        self.last_delivery = now
        self.latencies.append((now - due) / NANOSECONDS_PER_MILLISECOND)
        if state & ACCEPTED:
            self._owed -= 1
            if not self._owed:
                self._settled.set()

    async def settle(self, seconds: float) -> None:
        """Wait until all that was accepted has arrived, at most so long; what hasn't is lost."""
        while self._owed:
            self._settled.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._settled.wait()
            except TimeoutError:
                break
        self.tally.lost = self._owed

    def close(self) -> Tally:
        """Return what the phase came to."""
        self.tally.latencies = self.latencies.tobytes()
        self.tally.lateness = self.lateness.tobytes()
        return self.tally
