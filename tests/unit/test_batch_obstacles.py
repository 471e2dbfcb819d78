"""Group commit with something in its way: one bad, blocked or lost item holds up nobody else, and is answered itself."""

import asyncio
from collections.abc import Collection, Hashable, Sequence

import pytest

from notify import batch, pauses
from notify.batch import Blocked, Interrupted, Lane, Poisoned, Refused, Rejected
from notify.errors import Unavailable
from tests.unit.statement import Statement, bounded, keys, owner, until


async def test_one_bad_item_fails_alone() -> None:
    statement = Statement(held=True, bad={"m"})
    async with bounded(), Lane("test", statement.run) as lane:
        first = lane.put("a")
        await statement.began.wait()
        done = [lane.put(item) for item in "bcdefghijklmnop"]
        statement.gate.set()
        await first
        results = await asyncio.gather(*done, return_exceptions=True)
    assert [item for item, result in zip("bcdefghijklmnop", results, strict=True) if result != item.upper()] == ["m"]
    assert isinstance(results[11], Poisoned)
    assert len(statement.batches) <= 2 + 2 * 4  # halving, not one by one


async def test_an_item_that_is_named_fails_alone_and_at_once() -> None:
    batches: list[list[str]] = []

    async def run(items: Sequence[str]) -> Sequence[str]:
        batches.append(list(items))
        if "b" in items:
            raise Rejected(items.index("b"), LookupError("taken"))
        return items

    async with bounded(), Lane("test", run) as lane:
        results = await asyncio.gather(*(lane.submit(item) for item in "abc"), return_exceptions=True)
    assert [type(result) for result in results] == [str, LookupError, str]
    assert batches == [["a", "b", "c"], ["a", "c"]]


async def test_each_item_is_told_of_once_when_it_has_its_answer_whatever_that_is() -> None:
    told: list[str] = []
    troubles = iter([Rejected(1, LookupError("taken")), Interrupted("gone"), RuntimeError("ours")])
    locked = {"ann"}

    async def run(items: Sequence[str]) -> Sequence[str]:
        if "bob.2" in items:  # it is named, and what is left fails as a whole
            raise next(troubles)
        if locked.intersection(map(owner, items)):
            raise Blocked("locked")
        if "cid.1" in items:
            raise Poisoned("bad")
        return items

    async def probe(keys: Collection[Hashable]) -> Collection[Hashable]:
        return locked.intersection(map(str, keys))

    lane = Lane("test", run, keys=keys, probe=probe, answered=told.append)
    async with bounded():
        for group in (["bob.1", "bob.2"], ["cid.1", "dan.1"], ["eve.1"], ["ann.1"]):
            done = [lane.put(item) for item in group]
            if group == ["eve.1"]:
                done[0].cancel()
            if group != ["ann.1"]:
                await asyncio.gather(*done, return_exceptions=True)
        await lane.submit("fay.1")
        assert sorted(told) == ["bob.1", "bob.2", "cid.1", "dan.1", "eve.1", "fay.1"]
        await lane.close()
    assert sorted(told) == ["ann.1", "bob.1", "bob.2", "cid.1", "dan.1", "eve.1", "fay.1"]


async def test_a_blocked_key_holds_up_only_itself_and_goes_on_by_itself() -> None:
    statement = Statement(locked={"ann"})
    async with bounded(), Lane("test", statement.run, keys=keys, probe=statement.probe) as lane:
        blocked = lane.put("ann.1")
        assert await asyncio.gather(*(lane.submit(f"bob{place}.1") for place in range(20)))
        blocked_too = lane.put("ann.2")
        assert await lane.submit("cid.1") == "CID.1"
        assert not blocked.done()
        assert not blocked_too.done()
        statement.locked.clear()
        assert [await blocked, await blocked_too] == ["ANN.1", "ANN.2"]
    assert [i for items in statement.batches for i in items if i == "ann.2"] == ["ann.2"]  # parked without being tried


async def test_a_lock_that_the_probe_cannot_see_is_found_by_halving() -> None:
    statement = Statement(held=True, locked={"ann"})

    async def blind(_keys: Collection[Hashable]) -> Collection[Hashable]:
        return ()

    async with bounded(), Lane("test", statement.run, keys=keys, probe=blind) as lane:
        others = [lane.put(f"bob{place}.1") for place in range(6)]
        blocked = lane.put("ann.1")
        statement.gate.set()
        await asyncio.gather(*others)
        assert not blocked.done()
        statement.locked.clear()
        assert await blocked == "ANN.1"


async def test_many_items_behind_a_lock_that_the_probe_cannot_see_hold_up_the_others_only_once() -> None:
    statement = Statement(held=True, locked={"ann"})

    async def blind(_keys: Collection[Hashable]) -> Collection[Hashable]:
        return ()

    async with bounded(), Lane("test", statement.run, keys=keys, probe=blind) as lane:
        first = lane.put("dan.1")  # in flight, while the others gather
        blocked = [lane.put(f"ann.{place:02}") for place in range(40)]
        others = [lane.put(f"bob{place}.1") for place in range(40)]
        statement.gate.set()
        await asyncio.gather(first, *others)
        assert len(statement.batches) < 20  # halved down to one, not tried one by one
        tried = len(statement.batches)
        await until(lambda: len(statement.batches) > tried + 2)  # it is looked after
        assert [await lane.submit(f"cid.{place}") for place in range(5)] == [f"CID.{place}" for place in range(5)]
        assert all(len(items) == 1 for items in statement.batches[tried:])  # and nobody is made to wait with it
        tried = len(statement.batches)
        statement.locked.clear()
        assert await asyncio.gather(*blocked) == [f"ANN.{place:02}" for place in range(40)]
    assert [item for items in statement.batches[tried:] for item in items] == [f"ann.{place:02}" for place in range(40)]


async def test_who_waits_too_long_for_a_lock_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "PARK_SECONDS", 0.05)
    statement = Statement(locked={"ann"})
    async with bounded(), Lane("test", statement.run, keys=keys, probe=statement.probe) as lane:
        with pytest.raises(Unavailable, match="nothing was accepted"):
            await lane.submit("ann.1")
        assert len(lane) == 0


async def test_a_probe_that_fails_leaves_nobody_without_an_answer() -> None:
    statement = Statement(locked={"ann"})

    async def broken(_keys: Collection[Hashable]) -> Collection[Hashable]:
        raise Interrupted("no connection")

    async with bounded(), Lane("test", statement.run, keys=keys, probe=broken) as lane:
        others = [lane.put(f"bob{place}.1") for place in range(3)]
        blocked = lane.put("ann.1")
        await asyncio.gather(*others)
        statement.locked.clear()
        await asyncio.wait({blocked})
    assert len(lane) == 0


async def test_an_item_parked_just_when_the_last_one_leaves_is_not_forgotten() -> None:
    """The guard of the parked items ends when none is left; one parked in that very moment needs a new guard."""
    statement = Statement(locked={"ann"})
    async with bounded(), Lane("test", statement.run, keys=keys, probe=statement.probe) as lane:
        first = lane.put("ann.1")
        await until(lambda: lane._warden is not None)
        warden = lane._warden
        assert warden is not None
        again: list[asyncio.Future[str]] = []

        def park_another(_task: object) -> None:  # runs before the lane hears that its guard has ended
            lane._blocked.add("ann")
            again.append(lane.put("ann.2"))

        callbacks = warden._callbacks or []
        for callback, _context in list(callbacks):
            warden.remove_done_callback(callback)
        warden.add_done_callback(park_another)
        for callback, _context in callbacks:
            warden.add_done_callback(callback)
        statement.locked.clear()
        assert await first == "ANN.1"
        await until(lambda: bool(again))
        assert await again[0] == "ANN.2"


async def test_an_interrupted_send_is_not_repeated() -> None:
    calls = 0

    async def run(_items: Sequence[str]) -> Sequence[str]:
        nonlocal calls
        calls += 1
        raise Interrupted("gone")

    async with bounded(), Lane("test", run) as lane:
        with pytest.raises(Interrupted):
            await lane.submit("a")
    assert calls == 1


async def test_a_lane_that_may_repeat_goes_on_when_the_database_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "REPEAT_SECONDS", 0.01)
    errors: list[Exception] = [Interrupted("gone"), Refused("starting up"), Interrupted("gone")]

    async def run(items: Sequence[str]) -> Sequence[str]:
        if errors:
            raise errors.pop()
        return items

    async with bounded(), Lane("test", run, repeats=True) as lane:
        assert await lane.submit("a") == "a"


async def test_an_unforeseen_error_reaches_everyone_who_waits() -> None:
    async def run(_items: Sequence[str]) -> Sequence[str]:
        raise ZeroDivisionError

    async with bounded(), Lane("test", run) as lane:
        results = await asyncio.gather(lane.submit("a"), lane.submit("b"), return_exceptions=True)
    assert [type(result) for result in results] == [ZeroDivisionError, ZeroDivisionError]


async def test_a_caller_that_leaves_does_not_take_its_batch_along() -> None:
    statement = Statement(held=True)
    async with bounded(), Lane("test", statement.run) as lane:
        leaving = asyncio.create_task(lane.submit("a"))
        staying = asyncio.create_task(lane.submit("b"))
        await statement.began.wait()
        leaving.cancel()
        await asyncio.wait({leaving})
        statement.gate.set()
        assert await staying == "B"
    assert statement.batches == [["a", "b"]]
