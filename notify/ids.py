"""Mints the ids of notifications.

The promise kept here: an id is known before any statement runs, so that after a broken connection it can be looked
up whether it was stored; and ids of one process rise, so that they go into an index at its right edge.
"""

import os
import time
import uuid

# RFC 9562, section 5.7: 48 bits of Unix milliseconds, version, 12 bits rand_a, variant, 62 bits rand_b.
VERSION_7 = 0x7 << 76
VARIANT = 0b10 << 62
RANDOM_MASK = (1 << 62) - 1
RANDOM_BYTES = 8  # the whole bytes that cover the 62 bits of rand_b
SUBMILLISECOND_BITS = 12  # rand_a holds the fraction of the millisecond, in steps of about 244 ns
NANOSECONDS = 1_000_000  # in a millisecond
MILLISECONDS_SHIFT = 80  # bits behind the milliseconds

_latest = 0  # the (milliseconds, fraction) of the id minted last, as one number of 60 bits


def mint_id() -> uuid.UUID:
    """Return a new UUIDv7 (RFC 9562, section 5.7), greater than every one this process minted before.

    rand_a is the clock's fraction of the millisecond (section 6.2, method 3); when the clock has not moved on, or has
    been set back, the previous value plus one takes its place. The 62 bits after it are random at every call, so that
    workers, forks and nodes need not know of each other. Threads may share it: at worst two ids of the same instant
    come in either order.
    """
    global _latest  # noqa: PLW0603 - the last instant is the process's, and a call through an object costs more
    instant = (time.time_ns() << SUBMILLISECOND_BITS) // NANOSECONDS
    if instant <= _latest:
        instant = _latest + 1
    _latest = instant
    milliseconds, fraction = instant >> SUBMILLISECOND_BITS, instant & 0xFFF
    noise = int.from_bytes(os.urandom(RANDOM_BYTES), "big") & RANDOM_MASK
    return uuid.UUID(int=milliseconds << MILLISECONDS_SHIFT | VERSION_7 | fraction << 64 | VARIANT | noise)


def read_time(identity: uuid.UUID) -> float:
    """Return when an id of ours was minted, in unix seconds; of any other id it says nothing."""
    return (identity.int >> MILLISECONDS_SHIFT) / 1000
