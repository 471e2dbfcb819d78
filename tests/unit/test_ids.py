"""Ids: UUIDv7, rising, unique."""

import itertools
import os
import time
import uuid

import pytest

from notify import ids
from notify.ids import mint_id, read_time


def test_an_id_is_a_version_7_uuid_that_tells_when_it_was_minted() -> None:
    before = time.time_ns() // 1_000_000
    minted = mint_id()
    after = time.time_ns() // 1_000_000
    assert minted.version == 7
    assert minted.variant == uuid.RFC_4122
    # A burst before this test may have pushed the ids ahead of the clock, by 244 ns each.
    assert before <= minted.int >> 80 <= after + 100
    assert read_time(minted) == (minted.int >> 80) / 1000


def test_ids_rise_however_fast_they_are_minted() -> None:
    minted = [mint_id() for _ in range(20_000)]
    assert all(earlier < later for earlier, later in itertools.pairwise(minted))
    assert len({one.int & ids.RANDOM_MASK for one in minted}) == len(minted), "the random part is fresh each time"


def test_ids_rise_even_when_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = mint_id()
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000_000)
    later = mint_id()
    assert later > earlier
    assert mint_id() > later


def test_a_forked_worker_mints_other_ids() -> None:
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(sending, mint_id().bytes)
        os._exit(0)
    ours = mint_id()
    os.waitpid(child, 0)
    theirs = uuid.UUID(bytes=os.read(receiving, 16))
    os.close(receiving)
    os.close(sending)
    assert theirs.int & ids.RANDOM_MASK != ours.int & ids.RANDOM_MASK
