"""Counters for what happens with every notification: additions of plain numbers, read when somebody collects.

Keeps the promise that being watched costs next to nothing. The library's own metrics may be added to by any thread and take a
lock each time; these are the event loop's alone, and cost a fraction. They are custom collectors of the library
(https://prometheus.github.io/client_python/collector/custom/), so that what is exposed is written in one place, by it.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Tally(Collector):
    """A counter."""

    def __init__(self, name: str, description: str) -> None:
        self._name = name
        self._description = description
        self._count = 0
        REGISTRY.register(self)

    def inc(self, amount: int = 1) -> None:
        """Count so many more."""
        self._count += amount

    def collect(self) -> Iterable[CounterMetricFamily]:
        """Return the counter as it is now."""
        return [CounterMetricFamily(self._name, self._description, value=self._count)]


class Timings(Collector):
    """A histogram of seconds, in ranges that end at `bounds` (each included, as Prometheus has it) and one above them."""

    def __init__(self, name: str, description: str, bounds: Sequence[float]) -> None:
        self._name = name
        self._description = description
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        REGISTRY.register(self)

    def observe(self, seconds: float) -> None:
        """Count one that took so long."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """Return the histogram as it is now: in each range, what is below it counts as well."""
        below = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            below += count
            buckets.append((floatToGoString(bound), below))  # type: ignore[no-untyped-call]  # it has no types
        return [HistogramMetricFamily(self._name, self._description, buckets=buckets, sum_value=self._sum)]
