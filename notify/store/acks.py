"""Acknowledgements on their way to their cursors: nobody waits for them, and they are the most frequent thing there is.

Keeps invariant 3 from the acks' side: a cursor only moves forward, an ack is repeated until it is down, and of a device's acks
the furthest says it all, so that what waits is bounded by the devices. Keeps invariant 7: what was acknowledged in one epoch of
the database moves nothing in another, whose numbers mean other entries; those are sent again. The path of an ack:

    put ──▶ waiting ──▶ aloft ──▶ down
               ▲          │
               │          ├─ held: somebody decides what is pending; tried again after a pause
               ├──────────┴─ the statement failed: waits again, the next leaves after a pause
               └─ the epoch is over: all are forgotten, wherever they are

One statement at a time, and the next not at once: what comes meanwhile leaves with it. An ack that comes alone leaves at once.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain, islice
from typing import TypeAlias

import structlog

from notify import metrics
from notify.batch import Interrupted, Poisoned
from notify.errors import NotifyError, Unavailable
from notify.pauses import iter_pauses
from notify.store.database import Database
from notify.tracing import spanning_ack

log = structlog.get_logger()

LANE = "ack"
"""Its name in the metrics."""

MAX_ITEMS = 500
"""Cursors that a statement moves at most: some 10 ms of PostgreSQL."""

GATHER_SECONDS = 0.02
"""From one statement to the next, unless somebody is in a hurry: nobody waits for acks, and ten times as many in a statement
cost half as much each. Half as long made a sixth more single sends of the same two cores than none, this 3 % more than that,
and twice as long no more."""

HELD_SECONDS = 0.1
"""Pause before an ack is tried again whose cursor somebody held."""

CLOSE_SECONDS = 5.0
"""How long a drain waits for what is to be written down: as long as a lane's."""

Device: TypeAlias = tuple[str, str]
"""A user and a device."""


class Acks:
    """The acks of one process. `ask` finds out which epoch it is, and has another one `begin` here."""

    def __init__(
        self, database: Database, on_ack: Callable[[Iterable[str]], None], ask: Callable[[], Awaitable[object]]
    ) -> None:
        self._database = database
        self._on_ack = on_ack
        self._ask = ask
        self._epoch = ""
        self._waiting: dict[Device, int] = {}
        self._aloft: dict[Device, int] = {}
        self._held: dict[Device, int] = {}
        self._flushing: dict[Device, list[tuple[int, asyncio.Future[None]]]] = {}
        self._hurried = asyncio.Event()
        self._left_at = float("-inf")  # when the last statement did
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._sizes = metrics.BATCH_ITEMS.labels(LANE)
        self._seconds = metrics.BATCH_SECONDS.labels(LANE)
        metrics.WAITING.labels(LANE).set_function(lambda: len(self))

    def __len__(self) -> int:
        """Devices whose ack is not down yet."""
        return len(self._waiting) + len(self._aloft) + len(self._held)

    def __contains__(self, device: Device) -> bool:
        """Whether an ack of this device is not down yet."""
        return device in self._waiting or device in self._aloft or device in self._held

    def begin(self, epoch: str) -> None:
        """Take acks of this epoch from now on; forget those of the one before, which are of other entries."""
        self._epoch = epoch
        self._waiting, self._aloft, self._held = {}, {}, {}
        self._fail("the database is another one now; what was acknowledged in the former is sent again")

    def put(self, user: str, device: str, seq: int, epoch: str) -> None:
        """Move a device's cursor, soon. After `close`, and after its epoch, this does nothing: the device will get it again."""
        if self._closed or epoch != self._epoch:
            return
        key = (user, device)
        if seq > self._waiting.get(key, -1):
            self._waiting[key] = seq
        if self._task is None:
            self._start()

    async def flush(self, user: str, device: str, seq: int, epoch: str) -> None:
        """Move a device's cursor and return once that is down. Raises Unavailable when the service leaves, or the epoch ends."""
        if self._closed:
            raise Unavailable("the service is shutting down; the ack was not stored")
        if epoch != self._epoch:
            raise Unavailable("the database is another one now; the ack was not stored")
        self.put(user, device, seq, epoch)
        await self._reach((user, device), seq)

    async def settle(self, user: str, device: str) -> None:
        """Return once all that a device has acknowledged here is down. Raises Unavailable like `flush`."""
        key = (user, device)
        seq = max(acks.get(key, -1) for acks in (self._waiting, self._aloft, self._held))
        if seq >= 0:
            await self._reach(key, seq)

    def hurry(self, user: str, device: str) -> None:
        """Let no time pass for the acks of a device that leaves: it may come back on another node."""
        if (user, device) in self._waiting:
            self._hurried.set()

    async def _reach(self, device: Device, seq: int) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._flushing.setdefault(device, []).append((seq, done))
        self._hurried.set()
        try:
            await done
        except asyncio.CancelledError:
            self._forget(device, done)
            raise

    def _forget(self, device: Device, done: asyncio.Future[None]) -> None:
        """Let go of who waits no longer: a device may be back any number of times before its ack is down."""
        if left := [waiting for waiting in self._flushing.pop(device, ()) if waiting[1] is not done]:
            self._flushing[device] = left

    async def close(self, timeout: float = CLOSE_SECONDS) -> None:  # noqa: ASYNC109 - the bound of the drain, the caller's to choose
        """Take no more; write down what there is, as far as that takes no longer than `timeout` seconds."""
        self._closed = True
        self._hurried.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=timeout)
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._fail("the service is shutting down; whether the ack was stored is not known")

    def _fail(self, reason: str) -> None:
        """Tell all who wait that it is in vain."""
        for _seq, done in chain.from_iterable(self._flushing.values()):
            if not done.done():
                done.set_exception(Unavailable(reason))
        self._flushing.clear()

    async def _run(self) -> None:
        pauses = iter_pauses()
        try:
            while self._waiting:
                await self._gather()
                self._take()
                try:
                    held = await self._move(self._aloft, self._epoch)
                except Exception as error:
                    unknown = not isinstance(error, NotifyError)
                    log.warning("acks.delayed", devices=len(self._aloft), reason=str(error), exc_info=unknown)
                    self._wait_again(self._aloft)
                    await asyncio.sleep(next(pauses))
                    continue
                down, self._aloft = self._aloft, {}
                if held := [device for device in held if device in down]:  # else forgotten meanwhile
                    self._hold({device: down.pop(device) for device in held})
                if self._flushing:
                    self._tell(down)
                pauses = iter_pauses()
        finally:
            self._task = None

    async def _gather(self) -> None:
        """Wait until the next statement may leave."""
        left = self._left_at + GATHER_SECONDS - time.monotonic()
        if left > 0 and not self._hurried.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._hurried.wait()
        self._hurried.clear()
        self._left_at = time.monotonic()

    def _take(self) -> None:
        """Take the next ones, the oldest first."""
        if len(self._waiting) <= MAX_ITEMS:
            self._aloft, self._waiting = self._waiting, {}
            return
        self._aloft = dict(islice(self._waiting.items(), MAX_ITEMS))
        for device in self._aloft:
            del self._waiting[device]

    async def _move(self, acks: Mapping[Device, int], epoch: str) -> Sequence[Device]:
        """Move cursors, if the database is the one of this epoch; return those that somebody holds.

        Raises what the database raises, but for bad data, which is dropped; Interrupted when the epoch is another one.
        """
        started = time.monotonic()
        devices = list(acks)
        try:
            with spanning_ack(len(devices)):
                held: Sequence[int] | None = await self._database.value(
                    "move_cursors",
                    [user for user, _device in devices],
                    [device for _user, device in devices],
                    list(acks.values()),
                    epoch,
                )
        except Poisoned:
            if len(devices) == 1:
                log.exception("acks.refused")
                return ()
            middle = len(devices) // 2
            first, second = devices[:middle], devices[middle:]
            return [
                *await self._move({device: acks[device] for device in first}, epoch),
                *await self._move({device: acks[device] for device in second}, epoch),
            ]
        if held is None:  # noticed here before anywhere else: a connection of the pool was opened to whoever took over
            await self._ask()
            raise Interrupted("the database is another one than these were acknowledged in")
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
