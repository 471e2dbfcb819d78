"""How much a producer may send: a fair share of this process, in recipients a second.

Keeps invariant 8 for producers: one that floods is told to wait (429) before anything of its is accepted, and the
others don't notice. A token bucket each (https://en.wikipedia.org/wiki/Token_bucket) that holds a second's worth; how many are
remembered is bounded, since a full bucket is as good as none.
"""

import math
import time
from collections import OrderedDict

from notify.errors import RateLimited

MAX_PRODUCERS = 10_000
"""Buckets kept at most; the producer unseen for longest is forgotten, which at worst gives it a full one."""

BURST_SECONDS = 1.0
"""How many seconds' worth a bucket holds. A larger request passes when the bucket is full, and is paid off after."""


class Quota:
    """The buckets of one process. `rate` is in recipients a second; 0 is no limit."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # what was left, and when

    def take(self, producer: str, recipients: int) -> None:
        """Let a producer send to this many. Raises RateLimited with when to come back."""
        if self._rate <= 0:
            return
        now = time.monotonic()
        full = max(self._rate * BURST_SECONDS, 1.0)
        left, since = self._buckets.pop(producer, (full, now))
        left = min(full, left + (now - since) * self._rate)
        need = min(float(recipients), full)
        if left < need:
            self._buckets[producer] = (left, now)
            wait = math.ceil((need - left) / self._rate)
            raise RateLimited(
                f"{producer} may send to {self._rate:g} recipients a second here; try again in {wait} s",
                retry_after=wait,
                # The unit is not a registered one, but without any a client would take the quota for one of requests.
                policy=f'"recipients";q={math.floor(full)};w={math.ceil(full / self._rate)};qu="recipients"',
                left=f'"recipients";r={max(0, math.floor(left))};t={wait}',
            )
        self._buckets[producer] = (left - recipients, now)
        if len(self._buckets) > MAX_PRODUCERS:
            self._buckets.popitem(last=False)
