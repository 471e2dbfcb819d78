"""Group commit, once, for every lane.

Items that arrive while a statement is in flight go out together in the next one; there is no timer, so an idle
service answers at once and a loaded one batches by itself.

Keeps invariant 6 (bounded in count and in weight: a full lane refuses before anything is accepted) and invariant 8
(a blocked or a bad item holds up nobody else). The path of an item:

    submit ──▶ queued ──▶ in flight ──▶ answered
                 ▲            │
                 │            ├─ Blocked: whoever is held waits parked, the rest flies again at once
                 └── parked ◀─┘
                              ├─ Rejected: the item it names fails, the rest flies again at once
                              ├─ Poisoned: halved until the one bad item is alone, which fails
                              ├─ Interrupted, in a lane that may repeat: queued again after a pause
                              └─ anything else: every item of the flight fails with it

A caller that is cancelled leaves its item in its batch: what is in flight is not taken back.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Sequence
from contextlib import suppress
from typing import Generic

import structlog

from notify import metrics
from notify.errors import NotifyError, Unavailable
from notify.pauses import iter_pauses
from notify.pending import ItemT, Pending, ResultT, fail, halve, ignore, no_keys, one

log = structlog.get_logger()

PARK_SECONDS = 15.0
"""How long an item waits for a mailbox that somebody else holds, before it is refused."""

PROBE_SECONDS = 0.1
"""Pause between two looks at whether parked items are free again: short to a person, rare to a database."""

PATIENCE_SECONDS = 0.02
"""How long an item waits for the flight before it to land rather than leaving in a further one. Two half-full statements cost
more than one full one, and commits wait for each other anyway; but nobody waits long behind one that is blocked."""


class Blocked(NotifyError):
    """A statement gave up waiting for a lock; nothing of the batch was done."""


class Poisoned(NotifyError):
    """The database refused the batch because of the data of at least one item; nothing of the batch was done."""


class Rejected(NotifyError):
    """One item can't be done, and it is known which: it fails with `reason`, the others are tried again without it."""

    def __init__(self, item: int, reason: Exception) -> None:
        super().__init__(f"item {item}: {reason}")
        self.item = item
        self.reason = reason


class Interrupted(NotifyError):
    """The statement's connection broke: whether it was carried out is not known. Repeat only what may be done twice."""


class Refused(Interrupted):
    """The database can't at the moment (disk full, read-only, shutting down) and says so: nothing was done."""


class Lane(Generic[ItemT, ResultT]):
    """One kind of statement, batched.

    `run` carries out a batch and returns one result an item, in order; it raises Blocked, Poisoned or Interrupted as
    described above. Up to `flights` statements run at once: the next one leaves when there is more than one takes, or when
    those aloft have kept an item waiting for PATIENCE_SECONDS. Each takes up to `max_items` and `max_weight` (whatever
    `weigh` counts: rows, bytes); `capacity` items may wait. Items that share a key never fly in two flights at the same time,
    so that two batches of one process don't wait for each other. `probe` tells which keys are blocked at the moment. `repeats`
    says that a batch may be done twice: it is repeated until it succeeds. `answered` hears of each item that has its answer.
    Use as an async context manager: leaving it waits for what is in flight.
    """

    def __init__(  # noqa: PLR0913 - the properties of a lane, by keyword
        self,
        name: str,
        run: Callable[[Sequence[ItemT]], Awaitable[Sequence[ResultT]]],
        *,
        flights: int = 1,
        max_items: int = 200,
        max_weight: int = 1_000_000,
        capacity: int = 10_000,
        weigh: Callable[[ItemT], int] = one,
        keys: Callable[[ItemT], Collection[Hashable]] = no_keys,
        probe: Callable[[Collection[Hashable]], Awaitable[Collection[Hashable]]] | None = None,
        repeats: bool = False,
        answered: Callable[[ItemT], None] = ignore,
    ) -> None:
        self.name = name
        self._run = run
        self._flights = flights
        self._max_items = max_items
        self._max_weight = max_weight
        self._capacity = capacity
        self._weigh = weigh
        self._keys = keys
        self._probe = probe
        self._repeats = repeats
        self._answered = answered
        self._queue: deque[Pending[ItemT, ResultT]] = deque()
        self._parked: list[Pending[ItemT, ResultT]] = []
        self._unseen: deque[Pending[ItemT, ResultT]] = deque()  # parked, too: held by something the probe can't see
        self._busy: set[Hashable] = set()
        self._behind: list[Pending[ItemT, ResultT]] = []  # older than the queue: waiting for a key in flight
        self._awaited: set[Hashable] = set()  # their keys
        self._blocked: set[Hashable] = set()
        self._flying: set[asyncio.Task[None]] = set()
        self._aloft = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._warden: asyncio.Task[None] | None = None
        self._closed = False
        self._owed = 0
        self._sizes = metrics.BATCH_ITEMS.labels(name)
        self._seconds = metrics.BATCH_SECONDS.labels(name)
        metrics.WAITING.labels(name).set_function(lambda: self._owed)

    def __len__(self) -> int:
        """Items accepted and not yet answered."""
        return self._owed

    async def __aenter__(self) -> "Lane[ItemT, ResultT]":
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()

    async def close(self, timeout: float = 5.0) -> None:  # noqa: ASYNC109 - the bound of the drain, the caller's to choose
        """Refuse what is new, wait for what was accepted, at most `timeout` seconds; then fail the rest.

        What waits for somebody's lock is not waited for, except in a lane that repeats.
        """
        self._closed = True
        if self._warden is not None and not self._repeats:
            self._warden.cancel()  # who holds a lock does not know that we are leaving
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._flying or self._warden:
                    await asyncio.wait({*self._flying, *([self._warden] if self._warden else [])})
        for task in (*self._flying, *([self._warden] if self._warden else [])):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        for waiting in (self._behind, self._queue, self._parked, self._unseen):
            fail(waiting, Unavailable("the service is shutting down; nothing was accepted"))
            waiting.clear()

    async def submit(self, item: ItemT) -> ResultT:
        """Carry out an item and return its result. Cancelling this cancels no batch. Raises what `put` and `run` do."""
        return await self.put(item)

    def put(self, item: ItemT) -> asyncio.Future[ResultT]:
        """Queue an item and return the future of its result, which nobody has to await. Cancelling it takes nothing back.

        Raises Unavailable when the lane is full or closed.
        """
        if self._closed:
            raise Unavailable("the service is shutting down; nothing was accepted")
        if self._owed >= self._capacity:
            raise Unavailable("too much is waiting to be stored; nothing was accepted, try again in a moment")
        done: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        pending = Pending(item, self._weigh(item), self._keys(item), done, self._settle)
        self._owed += 1
        if self._blocked and not self._blocked.isdisjoint(pending.keys):
            self._park([pending])
        else:
            self._queue.append(pending)
            self._launch(patient=True)
        return done

    def _settle(self, item: ItemT) -> None:
        self._owed -= 1
        self._answered(item)

    def _launch(self, *, patient: bool = False) -> None:
        if self._queue and self._aloft < self._flights:
            if patient and self._aloft:
                if self._alarm is None:
                    self._alarm = asyncio.get_running_loop().call_later(PATIENCE_SECONDS, self._hurry)
                return
            self._aloft += 1
            task = asyncio.get_running_loop().create_task(self._fly(), name=f"lane {self.name}")
            self._flying.add(task)
            task.add_done_callback(self._land)

    def _hurry(self) -> None:
        """Let a further flight leave: what is aloft takes long."""
        self._alarm = None
        if self._queue and time.monotonic() - self._queue[0].since >= PATIENCE_SECONDS:
            self._launch()
        else:
            self._launch(patient=True)

    def _land(self, task: "asyncio.Task[None]") -> None:
        self._flying.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("lane.broken", lane=self.name, exc_info=error)
            self._launch()

    def _take(self) -> list[Pending[ItemT, ResultT]]:
        """Take the next batch: in order, but past items whose keys are in flight (and whatever shares keys with those).

        Those stay behind until one of their keys lands, so that nobody looks at them again and again meanwhile.
        """
        taken: list[Pending[ItemT, ResultT]] = []
        weight = 0
        while self._queue and len(taken) < self._max_items:
            pending = self._queue[0]
            if taken and weight + pending.weight > self._max_weight:
                break
            self._queue.popleft()
            if pending.keys and not (self._busy.isdisjoint(pending.keys) and self._awaited.isdisjoint(pending.keys)):
                self._awaited.update(pending.keys)
                self._behind.append(pending)
                continue
            taken.append(pending)
            weight += pending.weight
        for pending in taken:
            self._busy.update(pending.keys)
        return taken

    def _release(self, batch: list[Pending[ItemT, ResultT]]) -> None:
        """Let whoever waited for the keys of a batch fly, in the order they came."""
        keys = {key for pending in batch for key in pending.keys}
        self._busy -= keys
        if not self._awaited.isdisjoint(keys):
            self._queue.extendleft(reversed(self._behind))
            self._behind.clear()
            self._awaited.clear()

    async def _fly(self) -> None:
        try:
            while batch := self._take():
                self._launch()
                try:
                    await self._carry(self._spare(batch))
                finally:
                    self._release(batch)
        finally:
            # Here and not when the task is done, which is later: what comes in between must find the place free.
            self._aloft -= 1

    async def _carry(self, batch: list[Pending[ItemT, ResultT]]) -> None:
        """Run a batch, dividing it as far as its errors demand. Answers every item, or parks or queues it again."""
        work, part = [batch], batch
        pauses = iter_pauses()
        try:
            while work:
                part = work.pop()
                if not part:
                    continue
                started = time.monotonic()
                try:
                    results = await self._run([pending.item for pending in part])
                except Interrupted as error:
                    if self._repeats and not self._closed:
                        await asyncio.sleep(next(pauses))
                        work.append(part)
                    else:
                        fail(part, error)
                except Exception as error:  # noqa: BLE001 - whatever it is, those who wait for this part must hear of it
                    work.extend(reversed(list(await self._divide(part, error))))  # the first to come is the next to fly
                    work = [self._spare(each) for each in reversed(work)][::-1]
                else:
                    self._seconds.observe(time.monotonic() - started)
                    self._sizes.observe(len(part))
                    for pending, result in zip(part, results, strict=True):
                        pending.succeed(result)
        except BaseException:  # cancelled, or a fault of ours: nobody may wait for ever
            for left in (part, *work):
                fail(left, Unavailable("the service is shutting down; whether this was stored is not known"))
            raise

    async def _divide(
        self, part: list[Pending[ItemT, ResultT]], error: Exception
    ) -> Iterable[list[Pending[ItemT, ResultT]]]:
        """Fail what can't be helped; return what is worth another try."""
        if isinstance(error, Blocked):
            return await self._set_aside(part)
        if isinstance(error, Rejected):
            part.pop(error.item).fail(error.reason)
            return [part] if part else []
        if isinstance(error, Poisoned) and len(part) > 1:
            return halve(part)
        fail(part, error)
        return []

    async def _set_aside(self, part: list[Pending[ItemT, ResultT]]) -> Iterable[list[Pending[ItemT, ResultT]]]:
        """Park whoever waits for a held lock; return the rest, to be tried again."""
        held: set[Hashable] = set()
        try:
            if self._probe:
                held.update(await self._probe({key for pending in part for key in pending.keys}))
        except NotifyError as error:
            log.warning("lane.probe_failed", lane=self.name, reason=str(error))
        waiting = [pending for pending in part if not held.isdisjoint(pending.keys)]
        if waiting:
            self._blocked |= held
            self._park(waiting)
            free = [pending for pending in part if held.isdisjoint(pending.keys)]
            return [free] if free else []
        if len(part) > 1:
            return halve(part)
        if len(part[0].keys) == 1:
            self._blocked.update(part[0].keys)
        self._park(part, self._unseen)  # held by something the probe can't see: a row not yet committed, a cursor
        return []

    def _spare(self, part: list[Pending[ItemT, ResultT]]) -> list[Pending[ItemT, ResultT]]:
        """Park whoever needs what is known to be held by now; return the others."""
        if not self._blocked:
            return list(part)
        waiting = [pending for pending in part if not self._blocked.isdisjoint(pending.keys)]
        if waiting:
            self._park(waiting)
        return [pending for pending in part if self._blocked.isdisjoint(pending.keys)]

    def _park(
        self,
        waiting: list[Pending[ItemT, ResultT]],
        place: "list[Pending[ItemT, ResultT]] | deque[Pending[ItemT, ResultT]] | None" = None,
    ) -> None:
        if self._closed and not self._repeats:
            for pending in waiting:
                pending.fail(Unavailable("the service is shutting down; nothing was accepted"))
            return
        (self._parked if place is None else place).extend(waiting)
        if self._warden is None:
            self._warden = asyncio.get_running_loop().create_task(self._guard(), name=f"lane {self.name} parking")
            self._warden.add_done_callback(self._relieve)

    def _relieve(self, task: "asyncio.Task[None]") -> None:
        self._warden = None
        if not task.cancelled() and (error := task.exception()):
            log.error("lane.broken", lane=self.name, exc_info=error)
            self._blocked.clear()
            for waiting in (self._parked, self._unseen):
                fail(waiting, error)
                waiting.clear()
        elif (self._parked or self._unseen) and not task.cancelled():
            self._park([])  # parked after the guard had looked for the last time

    async def _guard(self) -> None:
        """Let parked items fly again as soon as nobody holds what they need; refuse those that waited too long."""
        while self._parked or self._unseen:
            await asyncio.sleep(PROBE_SECONDS)
            await self._try_unseen()
            held: set[Hashable] = set()
            try:
                if self._probe:
                    held.update(await self._probe({key for pending in self._parked for key in pending.keys}))
            except NotifyError as error:
                log.warning("lane.probe_failed", lane=self.name, reason=str(error))
                held = set(self._blocked)
            held.update(key for pending in self._unseen if len(pending.keys) == 1 for key in pending.keys)
            self._blocked = held
            now = time.monotonic()
            parked, self._parked = self._parked, []
            for pending in parked:
                if now - pending.since > PARK_SECONDS:
                    pending.fail(Unavailable("a recipient's mailbox is locked by somebody; nothing was accepted"))
                elif held.isdisjoint(pending.keys):
                    self._queue.append(pending)
                else:
                    self._parked.append(pending)
            self._launch()

    async def _try_unseen(self) -> None:
        """Try one of those whose lock the probe can't see, by itself: beside others it would hold them up each time."""
        if not self._unseen or not self._busy.isdisjoint(self._unseen[0].keys):
            return
        pending = self._unseen.popleft()
        if time.monotonic() - pending.since > PARK_SECONDS:
            pending.fail(Unavailable("a recipient's mailbox is locked by somebody; nothing was accepted"))
            return
        self._busy.update(pending.keys)
        try:
            await self._carry([pending])
        finally:
            self._release([pending])
