"""The roster: what opened and closed is told once, in bounded reports, and a storm does not make it report without end."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from notify import roster as module
from notify.errors import Unavailable
from notify.hub import Hub
from notify.ids import mint_id
from notify.roster import Roster
from notify.store import Store
from notify.store.sessions import NodeReport, OpenedSession
from tests.unit.test_hub import Recorder


class Sessions:
    """A database that notes what it is told. `meanwhile` happens while it is; `known` is what it answers, in turn."""

    def __init__(self) -> None:
        self.told: list[tuple[NodeReport, Sequence[OpenedSession], Collection[Any], Collection[str]]] = []
        self.meanwhile: Callable[[], None] = lambda: None
        self.known: list[bool] = []

    async def report(
        self, report: NodeReport, opened: Sequence[OpenedSession], closed: Collection[Any], watched: Collection[str]
    ) -> bool:
        self.told.append((report, opened, closed, watched))
        await asyncio.sleep(0)
        self.meanwhile()
        return self.known.pop(0) if self.known else True


class Node:
    """A node with a hub, and the database that it reports to."""

    def __init__(self) -> None:
        self.sessions = Sessions()
        self.hub = Hub(max_sessions=16)
        self.acking: set[tuple[str, str]] = set()
        mailboxes = SimpleNamespace(acking=self.acking)
        store = cast("Store", SimpleNamespace(sessions=self.sessions, mailboxes=mailboxes))
        link = SimpleNamespace(listening=asyncio.Event(), lag=0.0, reconnects=0)
        self.roster = Roster(mint_id(), self.hub, store, link)

    def open(self, user: str) -> Recorder:
        session = Recorder(user)
        self.hub.add(session)
        return session

    @property
    def opened(self) -> list[list[str]]:
        """The users whose sessions were told of, by report."""
        return [[session.user for session in opened] for _report, opened, _closed, _watched in self.sessions.told]


async def test_what_changes_during_a_report_waits_for_the_next() -> None:
    node = Node()
    node.open("ann")

    def open_another() -> None:
        node.open("late")

    node.sessions.meanwhile = open_another
    async with asyncio.timeout(5):
        await node.roster.report()
    assert node.opened == [["ann"]]
    await node.roster.report()
    assert node.opened == [["ann"], ["late"]]


async def test_many_changes_go_in_reports_of_a_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CHANGES", 2)
    node = Node()
    for number in range(5):
        node.open(f"user-{number}")
    await node.roster.report()
    assert node.opened == [["user-0", "user-1"], ["user-2", "user-3"], ["user-4"]]
    for session in node.hub:
        node.hub.remove(session)
    await node.roster.report()
    assert [len(closed) for _report, _opened, closed, _watched in node.sessions.told[3:]] == [2, 2, 1]


async def test_a_node_that_was_taken_for_dead_tells_of_all_its_sessions_again() -> None:
    node = Node()
    node.open("ann")
    await node.roster.report()
    node.open("bob")
    node.sessions.known = [False, True]
    await node.roster.report()
    assert node.opened == [["ann"], ["bob"], ["ann", "bob"]]


async def test_a_report_that_failed_is_made_again() -> None:
    node = Node()
    gone = node.open("gone")
    await node.roster.report()
    node.hub.remove(gone)
    node.open("ann")
    short = node.open("short")

    def fail() -> None:
        node.hub.remove(short)
        raise Unavailable("the database is away")

    node.sessions.meanwhile = fail
    with pytest.raises(Unavailable):
        await node.roster.report()
    assert node.roster._changed.is_set()
    node.sessions.meanwhile = lambda: None
    node.open("bob")
    await node.roster.report()
    report, opened, closed, _watched = node.sessions.told[-1]
    assert [one.user for one in opened] == ["ann", "bob"]
    assert sorted(closed) == sorted([gone.id, short.id])
    assert (report.sessions, report.users) == (2, 2)


async def test_who_opened_one_session_is_looked_at_twice_and_the_second_time_soon() -> None:
    node = Node()
    node.open("ann")
    seen = []
    for _ in range(3):
        await node.roster.report()
        seen.append((node.sessions.told[-1][3], node.roster._changed.is_set()))
    assert seen == [({"ann"}, True), ({"ann"}, False), (set(), False)]


async def test_a_report_ends_whatever_goes_on_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CHANGES", 2)
    node = Node()
    for number in range(3):
        node.open(f"user-{number}")

    def open_more() -> None:
        for _ in range(4):
            node.open("late")

    node.sessions.meanwhile = open_more
    async with asyncio.timeout(5):
        await node.roster.report()
    assert len(node.sessions.told) == 2


async def test_who_left_is_told_of_once_what_its_device_acknowledged_is_down() -> None:
    node = Node()
    ann, bob = node.open("ann"), node.open("bob")
    await node.roster.report()
    node.acking.add(("ann", "default"))
    for session in (ann, bob):
        node.hub.remove(session)
    await node.roster.report()
    assert node.sessions.told[-1][2] == [bob.id]
    assert node.roster._changed.is_set()
    node.acking.clear()
    await node.roster.report()
    assert node.sessions.told[-1][2] == [ann.id]
