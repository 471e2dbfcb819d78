"""Sending at a fixed rate, whatever the answers: an open loop.

Keeps the promise of no coordinated omission: what is due and finds no free connection waits, and its
latency counts the wait.
"""

import asyncio
import ctypes
import sys
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from notify.bench.wire import Sender

MAX_SENDERS = 128
"""Connections at most; beyond it sends wait."""

PR_SET_TIMERSLACK = 29
"""A number of Linux's <linux/prctl.h>; see prctl(2)."""


class Pacer:
    """Hands due sends to connections, of which it opens more when all are busy.

    `send` writes one request on a connection and calls back when it is answered; `open_sender` opens another one.
    """

    def __init__(
        self,
        senders: Sequence[Sender],
        total: int,
        *,
        send: Callable[[Sender, int, Callable[[], None]], None],
        open_sender: Callable[[], Awaitable[Sender]],
    ) -> None:
        self._free = list(senders)
        self._opened = len(senders)
        self._overdue: deque[int] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._send = send
        self._open_sender = open_sender
        self._finished = asyncio.Event()
        self.unanswered = total
        """Sends that were not answered yet, those not due yet included."""

    async def run(self, start: float, rate: float, seconds: float) -> None:
        """Send from `start` (of the monotonic clock) on, and wait for the answers, until `seconds` have passed."""
        clock = Clock(start, rate, self.unanswered, asyncio.get_running_loop(), self._fire)
        try:
            async with asyncio.timeout(start - time.monotonic() + seconds):
                await self._finished.wait()
        except TimeoutError:
            pass  # the caller counts what is unanswered
        finally:
            clock.stop()
            for task in self._opening:
                task.cancel()

    def _fire(self, due: int) -> None:
        while self._free:
            sender = self._free.pop()
            if sender.connected:
                self._start(sender, due)
                return
            self._opened -= (
                1  # opened, never needed, and closed by the service since: it has a time for a first request
            )
        self._overdue.append(due)
        if self._opened < MAX_SENDERS:
            self._opened += 1
            task = asyncio.get_running_loop().create_task(self._add())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _add(self) -> None:
        self._release(await self._open_sender())

    def _start(self, sender: Sender, due: int) -> None:
        def answered() -> None:
            self.unanswered -= 1
            if not self.unanswered:
                self._finished.set()
            self._release(sender)

        self._send(sender, due, answered)

    def _release(self, sender: Sender) -> None:
        if not sender.connected:
            self._opened -= 1
        elif self._overdue:
            self._start(sender, self._overdue.popleft())
        else:
            self._free.append(sender)


class Clock:
    """Calls `fire` with each due time, in ns of the monotonic clock.

    A thread, because an event loop's timers are up to a millisecond late, and one whose sleeps end on time: every
    microsecond of its own lateness would be taken for the service's.
    """

    def __init__(
        self, start: float, rate: float, total: int, loop: asyncio.AbstractEventLoop, fire: Callable[[int], None]
    ) -> None:
        self._stopped = False
        self._thread = threading.Thread(target=self._run, args=(start, rate, total, loop, fire), daemon=True)
        self._thread.start()

    def _run(
        self, start: float, rate: float, total: int, loop: asyncio.AbstractEventLoop, fire: Callable[[int], None]
    ) -> None:
        sharpen_sleep()
        for place in range(total):
            due = start + place / rate
            ahead = due - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)
            if self._stopped:
                return
            loop.call_soon_threadsafe(fire, int(due * 1e9))

    def stop(self) -> None:
        """Fire no more."""
        self._stopped = True


def sharpen_sleep() -> None:
    """Let this thread's sleeps end when they are over. Linux may add 50 µs, so as to wake for several at once."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)  # nanoseconds; 0 would be the default
