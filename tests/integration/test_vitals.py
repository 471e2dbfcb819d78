"""Readiness: green while the database answers anything, red soon after it stops, and no question too many."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from notify.batch import Interrupted
from notify.store import Store
from notify.vitals import Vitals


async def test_a_database_that_just_answered_is_not_asked_again_and_one_that_stopped_is(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    vitals = Vitals(store)
    asked: list[Sequence[str]] = []

    async def fail(users: Sequence[str]) -> Any:
        asked.append(users)
        raise Interrupted("gone")

    monkeypatch.setattr(store.mailboxes, "read_heads", fail)
    await store.mailboxes.read_epoch()
    assert await vitals.database()
    assert asked == []
    monkeypatch.setattr("notify.vitals.ANSWERED_SECONDS", 0.0)
    assert not await vitals.database()
    assert len(asked) == 1


async def test_a_schema_that_was_right_is_looked_at_again_only_after_a_while(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    vitals = Vitals(store)
    monkeypatch.setattr(store.database, "use", fail_to_use)
    assert not await vitals.schema()
    assert not await vitals.schema()  # what is wrong is looked at each time
    monkeypatch.undo()
    assert await vitals.schema()
    monkeypatch.setattr(store.database, "use", fail_to_use)
    assert await vitals.schema()


async def fail_to_use(_work: object) -> None:
    await asyncio.sleep(0)
    raise Interrupted("gone")
