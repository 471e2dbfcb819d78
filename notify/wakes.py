"""Wake-ups on their way from the bridge to the hub: handed over a few a turn of the event loop.

One NOTIFY can name hundreds of users, each of whom is then written to. Done in one go, that held up the database's answers,
and with them the next statement of every lane, until the last had been told; and every other socket meanwhile.

Keeps invariant 8 (one message to many holds up nobody else) and invariant 6: where they come faster than they are handed over,
the link is not read meanwhile.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

import structlog

from notify import clock
from notify.carried import read_wake, split_wakes
from notify.hub import Hub

log = structlog.get_logger()

AT_ONCE = 16
"""Wake-ups handed over in one turn: about half a millisecond. Fewer cost turns, and made nothing faster."""

MAX_WAITING = 2_000
"""Wake-ups that wait for their turn: some 2 MB where all carry an entry."""


class Wakes:
    """The wake-ups that came and are not handed over yet, in the order they came. `touch` is told of every user as well."""

    def __init__(self, hub: Hub, touch: Sequence[Callable[[str], None]]) -> None:
        self._hub = hub
        self._touch = touch
        self._waiting: deque[tuple[str, str]] = deque()
        self._turn: asyncio.Handle | None = None

    def put(self, payload: str) -> None:
        """Take what a NOTIFY brought. A single one, with nothing before it, is told at once: it holds up nobody."""
        self._waiting.extend(split_wakes(payload))
        while len(self._waiting) == 1 or len(self._waiting) > MAX_WAITING:
            self._hand_over()
        self._ask_for_turn()

    def flush(self) -> None:
        """Hand over all that waits: what came after it must not be told before it."""
        while self._waiting:
            self._hand_over()

    def _ask_for_turn(self) -> None:
        if self._waiting and self._turn is None:
            self._turn = asyncio.get_running_loop().call_soon(self._take_turn)

    def _take_turn(self) -> None:
        self._turn = None
        self._hand_over()
        self._ask_for_turn()

    def _hand_over(self) -> None:
        """Tell the hub of the next few. A line that is none costs no more than itself: the sweep finds out what it meant."""
        now = clock.now()
        broken: Exception | None = None
        for _ in range(min(AT_ONCE, len(self._waiting))):
            user, rest = self._waiting.popleft()
            try:
                if user in self._hub:
                    head, carried = read_wake(rest, now)
                    if carried is None:
                        self._hub.wake(user, head)
                    else:
                        self._hub.deliver(user, carried)
                for touch in self._touch:
                    touch(user)
            except Exception as error:  # noqa: BLE001 - whatever it is, the others must hear of theirs
                broken = error
        if broken is not None:
            log.error("wakes.broken", exc_info=broken)
