"""Group commit: bounded, in order for a key, in few statements, and closed with an answer for everyone."""

import asyncio
import time
from collections.abc import Collection, Hashable, Sequence

import pytest

from notify import pauses
from notify.batch import Blocked, Interrupted, Lane
from notify.errors import Unavailable
from notify.pending import Pending
from tests.unit.statement import PATIENCE, Statement, bounded, keys, until


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
