"""What time it is: the database's time, on every node.

Keeps the promise that a node whose clock is wrong does no harm: tokens, schedules and expiry are judged by one clock,
the database's. Each heartbeat of the bridge tells how far this machine's is off; until the first one it counts as right.
"""

import time
from collections.abc import Callable

system: Callable[[], float] = time.time
"""This machine's own clock, in unix seconds. The only place it is read; a test may shift it."""

_offset = 0.0


def now() -> float:
    """Return unix seconds by the database's clock."""
    return system() + _offset


def adjust(database_now: float, asked_at: float, answered_at: float) -> float:
    """Learn the database's time, read somewhere between two readings of `system`; return the offset in seconds."""
    global _offset  # noqa: PLW0603 - a process has one clock
    _offset = database_now - (asked_at + answered_at) / 2
    return _offset
