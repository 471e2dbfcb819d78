"""Mints the ids of notifications.

The promise kept here: an id is known before any statement runs, so that after a broken connection it can be looked
up whether it was stored; and ids of one process rise, so that they go into an index at its right edge.
"""

import os
import struct
import time
from uuid import UUID

from asyncpg.pgproto import pgproto

# RFC 9562, section 5.7: 48 bits of Unix milliseconds, version, 12 bits rand_a, variant, 62 bits rand_b.
VERSION_7 = 0x7 << 12
VARIANT = 0b10 << 62
RANDOM_MASK = (1 << 62) - 1
RANDOM_BYTES = 8  # the whole bytes that cover the 62 bits of rand_b
RANDOM_STOCK = 256  # ids whose random bits one system call fetches
SUBMILLISECOND_BITS = 12  # rand_a holds the fraction of the millisecond, in steps of about 244 ns
NANOSECONDS = 1_000_000  # in a millisecond
MILLISECONDS_SHIFT = 80  # bits behind the milliseconds

_latest = 0  # the (milliseconds, fraction) of the id minted last, as one number of 60 bits
_noise: list[int] = []  # random bits fetched and not yet used; each is used once
os.register_at_fork(after_in_child=_noise.clear)  # the parent uses those

_pack = struct.Struct(">QQ").pack


def mint_id() -> UUID:
    """Return a new UUIDv7 (RFC 9562, section 5.7), greater than every one this process minted before.

    rand_a is the clock's fraction of the millisecond (section 6.2, method 3); when the clock has not moved on, or has
    been set back, the previous value plus one takes its place. The 62 bits after it are random at every call, so that
    workers, forks and nodes need not know of each other. Threads may share it: at worst two ids of the same instant
    come in either order. It is a UUID of asyncpg's kind, as those that come from the database: made, written as text
    and encoded in a fraction of the time.
    """
    global _latest  # noqa: PLW0603 - the last instant is the process's, and a call through an object costs more
    instant = (time.time_ns() << SUBMILLISECOND_BITS) // NANOSECONDS
    if instant <= _latest:
        instant = _latest + 1
    _latest = instant
    try:
        noise = _noise.pop()
    except IndexError:
        noise, *more = memoryview(os.urandom(RANDOM_BYTES * RANDOM_STOCK)).cast("Q")
        _noise.extend(more)
    head = (instant >> SUBMILLISECOND_BITS) << 16 | VERSION_7 | (instant & 0xFFF)
    minted: UUID = pgproto.UUID(_pack(head, VARIANT | noise & RANDOM_MASK))
    return minted


def read_time(identity: UUID) -> float:
    """Return when an id of ours was minted, in unix seconds; of any other id it says nothing."""
    return (identity.int >> MILLISECONDS_SHIFT) / 1000
