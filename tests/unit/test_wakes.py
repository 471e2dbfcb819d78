"""Wake-ups: while many are told the others have their turn, and nobody's wake-up is lost, told twice or overtaken."""

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from notify.app import Application
from notify.errors import Close
from notify.hub import Delivery, Hub
from notify.orders import Orders
from notify.settings import Settings
from notify.wakes import AT_ONCE, MAX_WAITING, Wakes
from tests.unit.test_hub import Recorder


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

    def confirm(self, user: str, _device: str, seq: int) -> None:
        self.told.append((f"{user} acknowledged", seq))


class Desk:
    """Wake-ups for everybody, and what came of them."""

    def __init__(self) -> None:
        self.hub = Everybody()
        self.wakes = Wakes(cast("Hub", self.hub))

    def put(self, *wakes: tuple[str, int]) -> None:
        """Take the lines of one NOTIFY."""
        self.wakes.put((user, str(head)) for user, head in wakes)


def name(count: int) -> list[tuple[str, int]]:
    """Return wake-ups for so many users."""
    return [(f"user-{number}", 1) for number in range(count)]


async def test_others_get_their_turn_while_many_are_woken() -> None:
    desk = Desk()
    seen: list[int] = []

    def look() -> None:
        seen.append(len(desk.hub.told))
        if len(seen) < 4:
            asyncio.get_running_loop().call_soon(look)

    desk.put(*name(3 * AT_ONCE))
    desk.put(*name(AT_ONCE))
    look()
    while len(seen) < 4:
        await asyncio.sleep(0)
    assert seen == [AT_ONCE, 2 * AT_ONCE, 3 * AT_ONCE, 4 * AT_ONCE]


async def test_thousands_take_dozens_of_turns_and_not_hundreds() -> None:
    desk = Desk()
    desk.put(*name(MAX_WAITING))
    turns = 0
    while len(desk.hub.told) < MAX_WAITING:
        assert turns < 100
        await asyncio.sleep(0)
        turns += 1
    assert turns > 10


async def test_a_few_are_told_at_once() -> None:
    desk = Desk()
    desk.put(*name(AT_ONCE))
    assert desk.hub.told == name(AT_ONCE)


async def test_it_waits_behind_those_before_it() -> None:
    desk = Desk()
    desk.put(*name(AT_ONCE), ("bob", 1))
    desk.put(("ann", 2))
    assert desk.hub.told == name(AT_ONCE)
    desk.wakes.flush()
    assert desk.hub.told[AT_ONCE:] == [("bob", 1), ("ann", 2)]
    await asyncio.sleep(0)
    assert len(desk.hub.told) == AT_ONCE + 2


async def test_an_ack_by_another_way_does_not_overtake_what_it_is_of() -> None:
    desk = Desk()
    desk.put(*name(AT_ONCE), ("ann", 1), ("bob", 1))
    desk.wakes.confirm("ann", "phone", 1)
    desk.wakes.confirm("away", "phone", 1)
    assert desk.hub.told == name(AT_ONCE)
    await asyncio.sleep(0)
    assert desk.hub.told[AT_ONCE:] == [("ann", 1), ("bob", 1), ("ann acknowledged", 1)]


async def test_no_more_wait_than_there_is_room_for() -> None:
    desk = Desk()
    for _ in range(3):
        desk.put(*name(MAX_WAITING))
    assert 2 * MAX_WAITING <= len(desk.hub.told) < 3 * MAX_WAITING


async def test_one_that_fails_costs_nobody_else_theirs() -> None:
    desk = Desk()
    with capture_logs() as logs:
        desk.wakes.put(
            [
                ("ann", "1"),
                ("broken", "1"),
                ("bob", "not a number"),
                ("", ""),
                ("carl", "2\tpart of an entry"),
                ("dora", "3"),
            ]
        )
        desk.wakes.flush()
    assert desk.hub.told == [("ann", 1), ("dora", 3)]
    assert [line["event"] for line in logs] == ["wakes.broken"]


async def test_who_is_away_keeps_nobody_waiting() -> None:
    desk = Desk()
    desk.put(*[("away", 1)] * 500, ("ann", 1))
    assert desk.hub.told == [("ann", 1)]


async def test_what_is_cleared_is_told_to_nobody() -> None:
    desk = Desk()
    desk.put(*name(AT_ONCE), ("ann", 1), ("bob", 1))
    desk.wakes.clear()
    desk.put(("ann", 2), ("bob", 2))
    await asyncio.sleep(0)
    assert desk.hub.told[AT_ONCE:] == [("ann", 2), ("bob", 2)]


HEADS = list(range(1, AT_ONCE + 3))
LINES = [("ann", str(head)) for head in HEADS]
"""More than are told at once."""


@pytest.fixture
def application() -> Application:
    """Make a node, and don't start it."""
    return Application(Settings.model_construct())


@pytest.fixture
async def ann(application: Application) -> Recorder:
    """Open a session."""
    session = Recorder("ann")
    application.hub.add(session)
    return session


async def test_an_order_is_obeyed_after_what_came_before_it(application: Application, ann: Recorder) -> None:
    application._wakes.put(LINES)
    told: list[object] = []
    orders = SimpleNamespace(call=lambda payload: told.extend([*ann.told, payload]))
    application._order(cast("Orders", orders), "close")
    assert told == [*HEADS, "close"]


async def test_an_ack_of_another_node_waits_behind_what_came_before_it(application: Application, ann: Recorder) -> None:
    application._wakes.put(LINES)
    application._confirm("ann\tdefault\t2")
    await asyncio.sleep(0)
    assert ann.told == [*HEADS, ("confirm", 2)]


async def test_what_came_of_another_database_is_told_to_nobody(application: Application, ann: Recorder) -> None:
    application._wakes.put(LINES)
    application._part()
    await asyncio.sleep(0)
    assert ann.told == [*HEADS[:AT_ONCE], (Close.RESTART, None)]


@given(
    st.lists(
        st.one_of(
            st.lists(st.sampled_from("abc"), min_size=1, max_size=40),
            st.sampled_from(["turn", "flush", "confirm"]),
            st.just(["a"] * (MAX_WAITING + 10)),
        ),
        max_size=12,
    )
)
@settings(deadline=None)
@pytest.mark.asyncio
async def test_everything_is_told_once_and_in_order(steps: list[list[str] | str]) -> None:
    desk = Desk()
    sent: list[tuple[str, int]] = []
    for step in steps:
        if step == "turn":
            await asyncio.sleep(0)
        elif step == "flush":
            desk.wakes.flush()
        elif step == "confirm":
            desk.wakes.confirm("a", "phone", len(sent))
            sent.append(("a acknowledged", len(sent)))
        else:
            wakes = [(user, len(sent) + place) for place, user in enumerate(step)]
            sent += wakes
            desk.put(*wakes)
    while len(desk.hub.told) < len(sent):
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert desk.hub.told == sent
