"""A session's pages come at their pace, and all of them come."""

import time

import pytest

from notify import pages
from notify.pages import FREE_PAGES
from notify.store.mailboxes import PAGE_ENTRIES
from tests.service import Service


async def test_a_long_replay_waits_before_each_page_after_the_first_few(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PAUSE_SECONDS", 0.1)
    total, waits = PAGE_ENTRIES * (FREE_PAGES + 3), 3
    for first in range(0, total, PAGE_ENTRIES):
        await service.send_many("ann", PAGE_ENTRIES, first=first)
    for _ in range(2):  # each session anew
        started = time.monotonic()
        async with service.connect("ann") as ann:
            frames = await ann.take_backlog()
        assert [frame["data"] for frame in frames] == list(range(total))
        assert time.monotonic() - started >= waits * 0.1
