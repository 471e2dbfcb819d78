"""Acks on their way: the furthest of a device says it all, none is let go before it is down, one that is held holds up nobody."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from notify.batch import Blocked, Interrupted, Poisoned
from notify.errors import Unavailable
from notify.store.acks import Acks
from notify.store.database import Database
from tests.service import until

HERE, ELSEWHERE = "an epoch", "another epoch"


class Cursors:
    """A database that moves cursors once its gate is open; `trouble` says what comes of the next statements."""

    def __init__(self, *trouble: Exception | Sequence[int] | None) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.statements: list[dict[tuple[str, str], int]] = []
        self.epochs: list[str] = []
        self.epoch = HERE
        self._trouble = list(trouble)

    async def value(
        self, _name: str, users: list[str], devices: list[str], seqs: list[int], epoch: str
    ) -> Sequence[int] | None:
        self.statements.append(dict(zip(zip(users, devices, strict=True), seqs, strict=True)))
        self.epochs.append(epoch)
        meant = epoch == self.epoch
        await self.gate.wait()
        if not meant:
            return None
        trouble = self._trouble.pop(0) if self._trouble else ()
        if isinstance(trouble, Exception):
            raise trouble
        return trouble


def acks_on(cursors: Cursors, told: list[str] | None = None) -> Acks:
    """Return the acks of a process whose database that is."""

    async def ask() -> None:
        if acks._epoch != cursors.epoch:
            acks.begin(cursors.epoch)

    acks = Acks(cast("Database", cast("Any", cursors)), (told if told is not None else []).extend, ask)
    acks.begin(HERE)
    return acks


async def test_what_waits_is_the_furthest_of_each_device_and_leaves_in_one_statement() -> None:
    cursors, told = Cursors(), list[str]()
    cursors.gate.clear()
    acks = acks_on(cursors, told)
    acks.put("ann", "phone", 1, HERE)
    await until(lambda: bool(cursors.statements))
    for user, device, seq in (("ann", "phone", 4), ("bob", "phone", 2), ("ann", "phone", 3), ("ann", "desk", 7)):
        acks.put(user, device, seq, HERE)
    assert len(acks) == 4
    cursors.gate.set()
    await acks.close()
    assert cursors.statements == [
        {("ann", "phone"): 1},
        {("ann", "phone"): 4, ("bob", "phone"): 2, ("ann", "desk"): 7},
    ]
    assert told == ["ann", "ann", "bob", "ann"]
    assert not len(acks)


@pytest.mark.parametrize(
    "trouble",
    [
        Interrupted("the connection broke"),
        Blocked("deadlocked"),
        ZeroDivisionError("ours"),
        pytest.param(None, id="one of two servers that take each other's place is of another epoch"),
    ],
)
async def test_an_ack_whose_statement_failed_is_repeated_with_what_came_since(trouble: Exception | None) -> None:
    cursors = Cursors(trouble)
    acks = acks_on(cursors)
    flushed = asyncio.create_task(acks.flush("ann", "phone", 1, HERE))
    await until(lambda: len(cursors.statements) == 1)
    acks.put("ann", "phone", 2, HERE)
    async with asyncio.timeout(5):
        await flushed
    assert cursors.statements[-1] == {("ann", "phone"): 2}
    await acks.close()


async def test_an_ack_that_is_held_is_tried_again_and_others_do_not_wait_for_it() -> None:
    cursors = Cursors([2])
    acks = acks_on(cursors)
    async with asyncio.timeout(5):
        held = asyncio.create_task(acks.flush("bob", "phone", 1, HERE))
        await asyncio.gather(acks.flush("ann", "phone", 0, HERE), acks.flush("cid", "phone", 3, HERE))
    # Who was first is first in the statement: bob, ann, cid; the second is held.
    async with asyncio.timeout(5):
        await held
    assert sum(("ann", "phone") in statement for statement in cursors.statements) == 2
    assert sum(("bob", "phone") in statement for statement in cursors.statements) == 1
    await acks.close()


async def test_a_bad_ack_takes_no_other_along() -> None:
    bad = Poisoned("a value that PostgreSQL can't take")
    cursors = Cursors(bad, (), bad)
    acks = acks_on(cursors)
    acks.put("ann", "phone", 1, HERE)
    acks.put("bad", "phone", 1, HERE)
    await acks.close()
    assert cursors.statements[1:] == [{("ann", "phone"): 1}, {("bad", "phone"): 1}]


async def test_who_waits_hears_of_the_end() -> None:
    cursors = Cursors()
    cursors.gate.clear()
    acks = acks_on(cursors)
    flushing = asyncio.create_task(acks.flush("ann", "phone", 1, HERE))
    await until(lambda: bool(cursors.statements))
    await acks.close(0.01)
    with pytest.raises(Unavailable):
        await flushing
    with pytest.raises(Unavailable):
        await acks.flush("ann", "phone", 2, HERE)


@pytest.mark.parametrize("leaves", [True, False])
async def test_no_device_that_leaves_or_is_back_waits_for_others_to_acknowledge(
    monkeypatch: pytest.MonkeyPatch, *, leaves: bool
) -> None:
    monkeypatch.setattr("notify.store.acks.GATHER_SECONDS", 60.0)
    cursors = Cursors()
    acks = acks_on(cursors)
    acks.put("ann", "phone", 1, HERE)
    await until(lambda: not len(acks))  # alone, it left at once
    acks.put("ann", "phone", 2, HERE)
    acks.put("bob", "phone", 1, HERE)
    await asyncio.sleep(0.05)  # as long as it takes for nothing to happen
    assert len(cursors.statements) == 1
    if leaves:
        acks.hurry("bob", "phone")
        await until(lambda: not len(acks))
    else:
        async with asyncio.timeout(5):
            await acks.settle("bob", "phone")
    assert cursors.statements[1] == {("ann", "phone"): 2, ("bob", "phone"): 1}
    await acks.close()


async def test_a_device_that_is_back_again_and_again_meanwhile_leaves_nothing_behind() -> None:
    cursors = Cursors()
    cursors.gate.clear()
    acks = acks_on(cursors)
    acks.put("ann", "phone", 1, HERE)
    returns = [asyncio.create_task(acks.settle("ann", "phone")) for _ in range(3)]
    await until(lambda: bool(cursors.statements))
    for back in returns[:2]:
        back.cancel()
    await asyncio.wait(returns[:2])
    assert [len(waiting) for waiting in acks._flushing.values()] == [1]
    cursors.gate.set()
    async with asyncio.timeout(5):
        await returns[2]
    assert not acks._flushing
    await acks.close()


@pytest.mark.parametrize("answer", [[1], Interrupted("the connection broke")])
async def test_with_its_epoch_an_ack_is_forgotten_wherever_it_is(answer: Exception | Sequence[int] | None) -> None:
    cursors = Cursors(answer)
    cursors.gate.clear()
    acks = acks_on(cursors)
    acks.put("aloft", "phone", 1, HERE)
    await until(lambda: bool(cursors.statements))
    waiting = asyncio.create_task(acks.flush("waiting", "phone", 1, HERE))
    await until(lambda: bool(acks._flushing))
    acks.begin(ELSEWHERE)
    with pytest.raises(Unavailable):
        await waiting
    with pytest.raises(Unavailable):
        await acks.flush("late", "phone", 1, HERE)
    acks.put("late", "phone", 1, HERE)
    acks.put("new", "phone", 1, ELSEWHERE)
    assert len(acks) == 1
    cursors.epoch = ELSEWHERE
    cursors.gate.set()
    await until(lambda: not len(acks))
    await acks.close()
    assert cursors.statements[1:] == [{("new", "phone"): 1}]


async def test_with_its_epoch_an_ack_that_is_held_is_forgotten() -> None:
    acks = acks_on(Cursors([1]))
    acks.put("ann", "phone", 1, HERE)
    await until(lambda: bool(acks._held))
    acks.begin(ELSEWHERE)
    assert not len(acks)
    await acks.close()


async def test_half_of_a_statement_that_failed_leaves_in_the_epoch_of_the_whole() -> None:
    cursors = Cursors(Poisoned("one of the two"))
    cursors.gate.clear()
    acks = acks_on(cursors)
    acks.put("ann", "phone", 1, HERE)
    acks.put("bad", "phone", 1, HERE)
    await until(lambda: bool(cursors.statements))
    acks.begin(ELSEWHERE)
    cursors.gate.set()
    await acks.close()
    assert cursors.epochs == [HERE] * 3


async def test_a_database_of_another_epoch_moves_nothing_and_is_asked_who_it_is() -> None:
    cursors, told = Cursors(), list[str]()
    acks = acks_on(cursors, told)
    cursors.epoch = ELSEWHERE  # whoever took over, and nobody has noticed
    with pytest.raises(Unavailable):
        await acks.flush("ann", "phone", 1, HERE)
    assert not told
    assert not len(acks)
    async with asyncio.timeout(5):
        await acks.flush("ann", "phone", 1, ELSEWHERE)
    assert cursors.epochs == [HERE, ELSEWHERE]
    await acks.close()
