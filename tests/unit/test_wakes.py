"""Wake-ups: a NOTIFY to many holds up nobody, and nobody's wake-up is lost, told twice or overtaken."""

import asyncio
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from notify.hub import Delivery, Hub
from notify.wakes import AT_ONCE, MAX_WAITING, Wakes


class Everybody:
    """A hub where all users are connected; it notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def __contains__(self, user: object) -> bool:
        return user != "away"

    def wake(self, user: str, head: int) -> None:
        if user == "broken":
            raise RuntimeError("a fault of ours")
        self.told.append((user, head))

    def deliver(self, user: str, delivery: Delivery) -> None:
        self.told.append((user, delivery.seq))


class Desk:
    """Wake-ups for everybody, and what came of them."""

    def __init__(self) -> None:
        self.hub = Everybody()
        self.touched: list[str] = []
        self.wakes = Wakes(cast("Hub", self.hub), (self.touched.append,))


def write(*wakes: tuple[str, int]) -> str:
    """Return a payload."""
    return "\n".join(f"{user}\t{head}" for user, head in wakes)


async def test_others_get_their_turn_while_many_are_woken() -> None:
    desk = Desk()
    seen: list[int] = []

    def look() -> None:
        seen.append(len(desk.hub.told))
        if len(seen) < 4:
            asyncio.get_running_loop().call_soon(look)

    desk.wakes.put(write(*((f"user-{number}", 1) for number in range(3 * AT_ONCE))))
    assert desk.hub.told == []
    look()
    while len(seen) < 4:
        await asyncio.sleep(0)
    assert seen == [0, AT_ONCE, 2 * AT_ONCE, 3 * AT_ONCE]


async def test_a_single_one_is_told_at_once() -> None:
    desk = Desk()
    desk.wakes.put(write(("ann", 7)))
    assert desk.hub.told == [("ann", 7)]


async def test_it_waits_behind_those_before_it() -> None:
    desk = Desk()
    desk.wakes.put(write(("ann", 1), ("bob", 1)))
    desk.wakes.put(write(("ann", 2)))
    assert desk.hub.told == []
    desk.wakes.flush()
    assert desk.hub.told == [("ann", 1), ("bob", 1), ("ann", 2)]
    await asyncio.sleep(0)
    assert len(desk.hub.told) == 3


async def test_no_more_wait_than_there_is_room_for() -> None:
    desk = Desk()
    for _ in range(3):
        desk.wakes.put(write(*((f"user-{number}", 1) for number in range(MAX_WAITING))))
    assert len(desk.hub.told) >= 2 * MAX_WAITING
    assert len(desk.hub.told) < 3 * MAX_WAITING


async def test_one_that_fails_costs_nobody_else_theirs() -> None:
    desk = Desk()
    with capture_logs() as logs:
        desk.wakes.put(write(("ann", 1), ("broken", 1)) + "\nbob\tnot a number\n\ncarl\t2\tpart of an entry\ndora\t3")
        desk.wakes.flush()
    assert desk.hub.told == [("ann", 1), ("dora", 3)]
    assert [line["event"] for line in logs] == ["wakes.broken"]
    assert desk.touched == ["ann", "dora"]


async def test_who_is_away_is_not_woken_but_followed() -> None:
    desk = Desk()
    desk.wakes.put(write(("away", 1)))
    assert (desk.hub.told, desk.touched) == ([], ["away"])


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=40), max_size=8), st.integers(0, 5))
@pytest.mark.asyncio
async def test_everything_is_told_once_and_in_order(payloads: list[list[str]], turns: int) -> None:
    desk = Desk()
    sent: list[tuple[str, int]] = []
    for users in payloads:
        wakes = [(user, len(sent) + place) for place, user in enumerate(users)]
        sent += wakes
        desk.wakes.put(write(*wakes))
        for _ in range(turns):
            await asyncio.sleep(0)
    while len(desk.hub.told) < len(sent):
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert desk.hub.told == sent
