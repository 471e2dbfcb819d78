"""The round of all sessions comes to each of them, and holds up nobody."""

import asyncio

from notify.hub import Hub
from notify.rounds import AT_ONCE, go_round
from tests.unit.test_hub import Recorder


class Counting(Recorder):
    """A session that notes in which turn of the event loop it was looked at; a broken one fails then."""

    turn = 0

    def __init__(self, user: str, *, broken: bool = False) -> None:
        super().__init__(user)
        self.seen: list[int] = []
        self._broken = broken

    def inspect(self, _now: float) -> None:
        self.seen.append(Counting.turn)
        if self._broken:
            raise ValueError


async def count_turns() -> None:
    while True:
        Counting.turn += 1
        await asyncio.sleep(0)


async def test_each_is_looked_at_once_and_others_have_their_turn_in_between() -> None:
    hub = Hub(max_sessions=1)
    sessions = [Counting(f"user-{place}", broken=place == 1) for place in range(3 * AT_ONCE)]
    for session in sessions:
        hub.add(session)
    others = asyncio.create_task(count_turns())
    await go_round(hub)
    others.cancel()
    turns = [turn for session in sessions for turn in session.seen]
    assert len(turns) == len(sessions)
    assert max(turns.count(turn) for turn in set(turns)) == AT_ONCE
