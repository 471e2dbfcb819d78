"""Acknowledgements on their way to their cursors: nobody waits for them, and they are the most frequent thing there is.

Keeps invariant 3 from the acks' side: a cursor only moves forward, an ack is repeated until it is down, and of a device's acks
the furthest says it all, so that what waits is bounded by the devices. The path of one:

    put ──▶ waiting ──▶ aloft ──▶ down
               ▲          │
               │          ├─ held: somebody decides what is pending; tried again after a pause
               └──────────┴─ the statement failed: waits again, the next leaves after a pause

One statement at a time; what comes meanwhile leaves with the next.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain, islice
from typing import TypeAlias

import structlog

from notify import metrics
from notify.batch import Poisoned, iter_pauses
from notify.errors import NotifyError, Unavailable
from notify.store.database import Database
from notify.tracing import spanning_ack

log = structlog.get_logger()

LANE = "ack"
"""Its name in the metrics."""

MAX_ITEMS = 500
"""Cursors that a statement moves at most: some 10 ms of PostgreSQL."""

HELD_SECONDS = 0.1
"""Pause before an ack is tried again whose cursor somebody held."""

CLOSE_SECONDS = 5.0

Device: TypeAlias = tuple[str, str]
"""A user and a device."""


class Acks:
    """The acks of one process."""

    def __init__(self, database: Database, on_ack: Callable[[Iterable[str]], None]) -> None:
        self._database = database
        self._on_ack = on_ack
        self._waiting: dict[Device, int] = {}
        self._aloft: dict[Device, int] = {}
        self._held: dict[Device, int] = {}
        self._flushing: dict[Device, list[tuple[int, asyncio.Future[None]]]] = {}
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._sizes = metrics.BATCH_ITEMS.labels(LANE)
        self._seconds = metrics.BATCH_SECONDS.labels(LANE)
        metrics.WAITING.labels(LANE).set_function(lambda: len(self))

    def __len__(self) -> int:
        """Devices whose ack is not down yet."""
        return len(self._waiting) + len(self._aloft) + len(self._held)

    def put(self, user: str, device: str, seq: int) -> None:
        """Move a device's cursor, soon. After `close` this does nothing: the device will get it again."""
        if self._closed:
            return
        key = (user, device)
        if seq > self._waiting.get(key, -1):
            self._waiting[key] = seq
        if self._task is None:
            self._start()

    async def flush(self, user: str, device: str, seq: int) -> None:
        """Move a device's cursor and return once that is down. Raises Unavailable when the service leaves."""
        if self._closed:
            raise Unavailable("the service is shutting down; the ack was not stored")
        self.put(user, device, seq)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._flushing.setdefault((user, device), []).append((seq, done))
        await done

    async def close(self, timeout: float = CLOSE_SECONDS) -> None:  # noqa: ASYNC109 - the bound of the drain, the caller's to choose
        """Take no more; write down what there is, as far as that takes no longer than `timeout` seconds."""
        self._closed = True
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=timeout)
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        for _seq, done in chain.from_iterable(self._flushing.values()):
            if not done.done():
                done.set_exception(Unavailable("the service is shutting down; whether the ack was stored is not known"))
        self._flushing.clear()

    async def _run(self) -> None:
        pauses = iter_pauses()
        try:
            while self._waiting:
                self._take()
                try:
                    held = await self._move(self._aloft)
                except Exception as error:
                    unknown = not isinstance(error, NotifyError)
                    log.warning("acks.delayed", devices=len(self._aloft), reason=str(error), exc_info=unknown)
                    self._wait_again(self._aloft)
                    await asyncio.sleep(next(pauses))
                    continue
                down, self._aloft = self._aloft, {}
                if held:
                    self._hold({device: down.pop(device) for device in held})
                if self._flushing:
                    self._tell(down)
                pauses = iter_pauses()
        finally:
            self._task = None

    def _take(self) -> None:
        """Take the next ones, the oldest first."""
        if len(self._waiting) <= MAX_ITEMS:
            self._aloft, self._waiting = self._waiting, {}
            return
        self._aloft = dict(islice(self._waiting.items(), MAX_ITEMS))
        for device in self._aloft:
            del self._waiting[device]

    async def _move(self, acks: Mapping[Device, int]) -> Sequence[Device]:
        """Move cursors; return those that somebody holds. Raises what the database raises, but for bad data: that is dropped."""
        started = time.monotonic()
        devices = list(acks)
        try:
            with spanning_ack(len(devices)):
                held: Sequence[int] = await self._database.value(
                    "move_cursors",
                    [user for user, _device in devices],
                    [device for _user, device in devices],
                    list(acks.values()),
                )
        except Poisoned:
            if len(devices) == 1:
                log.exception("acks.refused")
                return ()
            middle = len(devices) // 2
            first, second = devices[:middle], devices[middle:]
            return [
                *await self._move({device: acks[device] for device in first}),
                *await self._move({device: acks[device] for device in second}),
            ]
        self._seconds.observe(time.monotonic() - started)
        self._sizes.observe(len(devices))
        self._on_ack(user for user, _device in devices)
        return [devices[place - 1] for place in held]

    def _wait_again(self, acks: Mapping[Device, int]) -> None:
        """Put back what is not down; a later ack of the same device says it all."""
        self._aloft = {}
        for device, seq in acks.items():
            self._waiting[device] = max(seq, self._waiting.get(device, 0))

    def _tell(self, acks: Mapping[Device, int]) -> None:
        """Answer those who wait for what is down now."""
        for device in self._flushing.keys() & acks.keys():
            waiting = self._flushing.pop(device)
            for seq, done in waiting:
                if seq <= acks[device] and not done.done():
                    done.set_result(None)
            if later := [(seq, done) for seq, done in waiting if not done.done()]:
                self._flushing[device] = later

    def _hold(self, acks: Mapping[Device, int]) -> None:
        """Let those whose cursor is held wait apart, so that nobody asks for it again and again."""
        if not self._held:
            asyncio.get_running_loop().call_later(HELD_SECONDS, self._release)
        for device, seq in acks.items():
            self._held[device] = max(seq, self._held.get(device, 0))

    def _release(self) -> None:
        held, self._held = self._held, {}
        for device, seq in held.items():
            self._waiting[device] = max(seq, self._waiting.get(device, 0))
        if self._task is None and not self._closed:
            self._start()

    def _start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="acks")
