"""Group commit: bounded, in order for a key, and one bad or blocked item holds up nobody else."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Hashable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from notify import batch, pauses
from notify.batch import Blocked, Interrupted, Lane, Poisoned, Refused, Rejected
from notify.errors import Unavailable
from notify.pending import Pending

PATIENCE = 5.0  # seconds; whatever takes longer hangs


@dataclass
class Statement:
    """Stands for the database: notes every batch, and holds each until it is let go (or lets it go at once)."""

    held: bool = False
    batches: list[list[str]] = field(default_factory=list)
    bad: set[str] = field(default_factory=set)
    locked: set[str] = field(default_factory=set)
    running: int = 0
    most: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    began: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, items: Sequence[str]) -> Sequence[str]:
        self.batches.append(list(items))
        self.running += 1
        self.most = max(self.most, self.running)
        self.began.set()
        try:
            if self.held:
                await self.gate.wait()
            if self.locked.intersection(owner(item) for item in items):
                raise Blocked("locked")
            if self.bad.intersection(items):
                raise Poisoned("bad")
            return [item.upper() for item in items]
        finally:
            self.running -= 1

    async def probe(self, keys: Collection[Hashable]) -> Collection[Hashable]:
        return self.locked.intersection(str(key) for key in keys)


def owner(item: str) -> str:
    """Whose mailbox an item needs: `ann.1` is Ann's."""
    return item.partition(".")[0]


def keys(item: str) -> Collection[Hashable]:
    return (owner(item),)


@asynccontextmanager
async def bounded() -> AsyncIterator[None]:
    async with asyncio.timeout(PATIENCE):
        yield


async def test_what_arrives_while_a_statement_is_in_flight_goes_out_together() -> None:
    statement = Statement(held=True)
    async with bounded(), Lane("test", statement.run) as lane:
        first = lane.put("a")
        await statement.began.wait()
        rest = [lane.put(item) for item in "bcd"]
        statement.gate.set()
        assert await asyncio.gather(first, *rest) == ["A", "B", "C", "D"]
    assert statement.batches == [["a"], ["b", "c", "d"]]


async def test_a_batch_is_bounded_in_items_and_in_weight() -> None:
    statement = Statement(held=True)
    async with bounded(), Lane("test", statement.run, max_items=3, max_weight=10, weigh=len) as lane:
        done = [lane.put("first")]
        await statement.began.wait()
        done += [lane.put(item) for item in ("a", "b", "c", "d", "x" * 9, "y" * 50, "z")]
        statement.gate.set()
        await asyncio.gather(*done)
    assert [[len(item) for item in items] for items in statement.batches] == [[5], [1, 1, 1], [1, 9], [50], [1]]


async def test_a_full_lane_refuses_before_it_accepts() -> None:
    statement = Statement(held=True)
    async with bounded(), Lane("test", statement.run, capacity=2) as lane:
        accepted = [lane.put("a"), lane.put("b")]
        with pytest.raises(Unavailable, match="nothing was accepted"):
            lane.put("c")
        statement.gate.set()
        await asyncio.gather(*accepted)
        assert await lane.submit("d") == "D"  # there is room again
    assert "c" not in [item for items in statement.batches for item in items]


async def test_items_that_share_a_key_never_fly_at_the_same_time_and_keep_their_order() -> None:
    statement = Statement(held=True)
    async with bounded(), Lane("test", statement.run, flights=3, keys=keys) as lane:
        done = [lane.put("ann.1")]
        await statement.began.wait()
        done += [lane.put(item) for item in ("ann.2", "bob.1", "ann.3", "bob.2")]
        await until(lambda: len(statement.batches) == 2)
        assert statement.batches == [["ann.1"], ["bob.1", "bob.2"]]  # Ann's wait, Bob's pass them
        statement.gate.set()
        await asyncio.gather(*done)
    assert statement.batches[2:] == [["ann.2", "ann.3"]]


async def test_an_item_waits_behind_an_earlier_one_that_waits() -> None:
    """`ann+bob` waits for Ann's; Bob's later one must not overtake it."""

    def both(item: str) -> Collection[Hashable]:
        return item.partition(".")[0].split("+")

    statement = Statement(held=True)
    async with bounded(), Lane("test", statement.run, flights=3, keys=both) as lane:
        done = [lane.put("ann.1")]
        await statement.began.wait()
        done += [lane.put(item) for item in ("ann+bob.2", "bob.3", "cid.1")]
        await until(lambda: len(statement.batches) == 2)
        assert statement.batches[1] == ["cid.1"]
        statement.gate.set()
        await asyncio.gather(*done)
    assert statement.batches[2] == ["ann+bob.2", "bob.3"]


async def test_waiting_for_a_key_in_flight_takes_no_time_of_the_processor() -> None:
    """A lane with a free flight and nothing it may fly must sleep, not look again and again."""
    statement = Statement(held=True)
    looks = 0

    class Counting(Lane[str, str]):
        def _take(self) -> list[Pending[str, str]]:
            nonlocal looks
            looks += 1
            return super()._take()

    async with bounded(), Counting("test", statement.run, flights=3, keys=keys) as lane:
        first = lane.put("ann.1")
        await statement.began.wait()
        second = lane.put("ann.2")
        for _ in range(100):
            await asyncio.sleep(0)  # turns of the event loop, in which nothing happens
        assert looks < 10
        statement.gate.set()
        await asyncio.gather(first, second)


async def test_a_long_queue_for_one_key_does_not_slow_down_the_others() -> None:
    statement = Statement(held=True)
    async with bounded(), Lane("test", statement.run, flights=2, capacity=50_000, keys=keys) as lane:
        done = [lane.put("ann.0")]
        await statement.began.wait()
        started = time.process_time()
        done += [lane.put(f"ann.{place}") for place in range(1, 5_000)]
        for place in range(200):
            done.append(lane.put(f"bob{place}.1"))
            await asyncio.sleep(0)
        assert time.process_time() - started < 1.0
        statement.gate.set()
        await asyncio.gather(*done)


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


async def test_what_comes_during_a_flight_leaves_together_when_it_lands() -> None:
    statement = Statement(held=True)
    async with bounded(), Lane("test", statement.run, flights=3) as lane:
        first = lane.put("a")
        await statement.began.wait()
        rest = [lane.put("b"), lane.put("c")]
        await asyncio.sleep(0)
        statement.gate.set()
        assert await asyncio.gather(first, *rest) == ["A", "B", "C"]
    assert statement.batches == [["a"], ["b", "c"]]


async def test_nobody_waits_long_for_a_flight_that_is_held_up() -> None:
    statement = Statement(held=True)
    async with bounded(), Lane("test", statement.run, flights=2) as lane:
        first = lane.put("a")
        await statement.began.wait()
        second = lane.put("b")
        await until(lambda: statement.running == 2)
        statement.gate.set()
        assert [await first, await second] == ["A", "B"]


async def test_no_more_statements_than_flights_at_once() -> None:
    statement = Statement(held=True)
    async with bounded(), Lane("test", statement.run, flights=2, max_items=1) as lane:
        done = [lane.put(str(place)) for place in range(10)]
        await until(lambda: statement.running == 2)
        statement.gate.set()
        await asyncio.gather(*done)
    assert statement.most == 2


async def test_closing_waits_for_what_was_accepted_and_refuses_what_comes_after() -> None:
    statement = Statement(held=True)
    lane = Lane("test", statement.run)
    async with bounded():
        first = lane.put("a")
        await statement.began.wait()
        second = lane.put("b")
        closing = asyncio.create_task(lane.close())
        await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            lane.put("c")
        statement.gate.set()
        await closing
        assert (first.result(), second.result()) == ("A", "B")


async def test_closing_does_not_wait_for_somebodys_lock() -> None:
    statement = Statement(locked={"ann"})
    lane = Lane("test", statement.run, keys=keys, probe=statement.probe)
    async with bounded():
        parked = lane.put("ann.1")
        await until(lambda: bool(lane._parked))
        started = time.monotonic()
        await lane.close(timeout=PATIENCE)
        assert time.monotonic() - started < 1
        assert isinstance(parked.exception(), Unavailable)
        await until(lambda: len(lane) == 0)


@pytest.mark.parametrize("where", ["in flight", "pausing", "parked", "queued"])
async def test_closing_is_bounded_and_answers_everyone(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "REPEAT_SECONDS", 30.0)

    async def run(items: Sequence[str]) -> Sequence[str]:
        if where == "pausing":
            raise Interrupted("gone")
        if where == "parked":
            raise Blocked("locked")
        await asyncio.Event().wait()
        return items

    lane = Lane("test", run, max_items=1, keys=keys, repeats=where == "pausing")
    async with bounded():
        waiting = [lane.put("ann.1")]
        if where == "queued":
            waiting.append(lane.put("ann.2"))
        await asyncio.sleep(0.01)
        await lane.close(timeout=0.05)
        await asyncio.wait(waiting)
        assert all(isinstance(future.exception(), Unavailable | Interrupted) for future in waiting)
    assert len(lane) == 0


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop turn until something is so."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0)
