"""Wake-ups on their way from the bridge to the sessions: handed over a few a turn of the event loop.

One NOTIFY can name hundreds of users, each of whom is then written to. Done in one go, that held up the database's answers,
and with them the next statement of every lane, until the last had been told; and every other socket meanwhile.

    put, confirm ──▶ waiting ──▶ handed over: a few a turn, in the order they came; more while many wait
                        └─ clear: what was meant by them is gone

Keeps invariant 8 (a message to many lets the others have their turn) and invariant 6: where they come faster than they are
handed over, the link is not read meanwhile.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial

import structlog

from notify import clock
from notify.carried import read_wake
from notify.hub import Hub

log = structlog.get_logger()

AT_ONCE = 16
"""Handed over in one go, at least: half a millisecond, for users with one session. Fewer cost turns and made nothing faster."""

SHARE = 32
"""Or one of so many that wait: else what waits behind a thousand would be too old to be passed on, which makes still more work.
With one of eight, batches of sends went a tenth slower."""

MAX_WAITING = 2_000
"""What may wait: some 2 MB where all carry an entry."""


class Wakes:
    """What came for users who are connected here and is not handed over yet."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._waiting: deque[Callable[[], None]] = deque()
        self._turn: asyncio.Handle | None = None

    def put(self, lines: Iterable[tuple[str, str]]) -> None:
        """Take what a NOTIFY brought: a user, and the rest of the line, each; see `carried`.

        The first few are told at once, if nothing waits before them: a turn is long where a large queue is replayed. Who is
        not connected needs none: a session that opens from now on looks where its mailbox stands.
        """
        hub, waiting = self._hub, self._waiting
        first = not waiting
        waiting.extend([partial(self._wake, user, rest) for user, rest in lines if user in hub])
        if first:
            self._hand_over()
        while len(waiting) > MAX_WAITING:
            self._hand_over()
        self._ask_for_turn()

    def confirm(self, user: str, device: str, seq: int) -> None:
        """Take an ack that came by another way: a session takes none of what it was not told of before."""
        if user in self._hub:
            self._waiting.append(partial(self._hub.confirm, user, device, seq))
            self._ask_for_turn()

    def flush(self) -> None:
        """Hand over all that waits, now."""
        while self._waiting:
            self._hand_over()

    def clear(self) -> None:
        """Forget what waits."""
        self._waiting.clear()
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None

    def _ask_for_turn(self) -> None:
        if self._waiting and self._turn is None:
            self._turn = asyncio.get_running_loop().call_soon(self._take_turn)

    def _take_turn(self) -> None:
        self._turn = None
        try:
            self._hand_over()
        finally:
            self._ask_for_turn()

    def _hand_over(self) -> None:
        """Hand over the next few. A line that is none costs no more than itself: the sweep finds out what it meant."""
        broken: Exception | None = None
        for _ in range(max(min(AT_ONCE, len(self._waiting)), len(self._waiting) // SHARE)):
            tell = self._waiting.popleft()
            try:
                tell()
            except Exception as error:  # noqa: BLE001 - whatever it is, the others must hear of theirs
                broken = error
        if broken is not None:
            log.error("wakes.broken", exc_info=broken)

    def _wake(self, user: str, rest: str) -> None:
        head, carried = read_wake(rest, clock.now())
        if carried is None:
            self._hub.wake(user, head)
        else:
            self._hub.deliver(user, carried)
