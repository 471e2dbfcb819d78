"""A loader process: carries out orders against the service and answers each with a Tally.

Bounded throughout: every order has an end of its own, and a loader whose pipe is closed ends at once.
"""

import asyncio
import random
import signal
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import uvloop

from notify.auth import mint
from notify.bench.ledger import NANOSECONDS_PER_MILLISECOND, Ledger, Tally
from notify.bench.orders import Connect, Drop, Order, Pace, Press, Queue, Return, Shape, Target, Watch
from notify.bench.wire import LOST, Device, Sender, request_head, upgrade_request

SETTLE_SECONDS = 10.0
"""How long deliveries are waited for after the last send; what has not arrived then is lost."""

HANDSHAKE_SECONDS = 30.0
"""How long one connection may take until its backlog is through."""

PAUSE_SECONDS = 0.1
"""How long a connection that was told 429 or 503 waits before its next request."""

TTL = 600
"""Seconds that the loader's notifications stay valid: longer than any run, and then they are out of the way."""

TOKEN_SECONDS = 7_200
MAX_PACED_SENDERS = 128
"""Connections that a paced phase opens at most; beyond it sends wait, and their latency counts the wait."""

QUEUE_BATCH = 500
"""Notifications a request when a backlog is stored."""

QUEUE_CONNECTIONS = 4
PRODUCER = "notify-bench"
OK = range(200, 300)
BUSY = {429, 503}


class Loader:
    """One process's users and senders."""

    def __init__(self, target: Target, shape: Shape) -> None:
        self._target = target
        self._shape = shape
        self._ledger = Ledger()
        self._senders: list[Sender] = []
        token = self._mint(PRODUCER, "notifications:send")
        self._token = token
        decoding = shape.token
        self._devices = [
            Device(user, upgrade_request(shape.path, target.host, self._mint(user)), self._ledger if decoding else None)
            for user in shape.users
        ]
        for device in self._devices:
            device.gone = self._note_gone
        self._dropping = False
        self._heads = {device.user: self._make_head(device.user) for device in self._devices}
        empty = len(b'{"n":0000000,"due":0000000000000000,"pad":""}')
        self._tail = b',"pad":"%b"}}' % (b"x" * max(0, shape.payload_bytes - empty))

    def _mint(self, subject: str, scope: str = "") -> str:
        if not self._shape.token:
            return "none"
        target = self._target
        return mint(
            target.secret,
            subject=subject,
            scope=scope,
            ttl=TOKEN_SECONDS,
            issuer=target.issuer,
            audience=target.audience,
        )

    @staticmethod
    def _make_head(user: str) -> bytes:
        return f'{{"to":"{user}","type":"bench.load","ttl":{TTL},"data":{{"n":'.encode()

    def _make_body(self, user: str, number: int, due: int) -> bytes:
        return b'%b%d,"due":%d%b' % (self._heads[user], number, due, self._tail)

    async def obey(self, order: Order) -> Tally:
        """Carry out an order and return what came of it."""
        self._ledger.open()
        cpu, started = time.process_time(), time.monotonic()
        self._ledger.tally.started = started
        match order:
            case Connect():
                await self._connect(self._devices[: order.count], order.at_once)
            case Drop():
                await self._drop(self._devices[: order.count])
            case Pace():
                await self._pace(order)
            case Press():
                await self._press(order)
            case Queue():
                await self._queue(order)
            case Return():
                await self._connect(self._devices[: order.count], order.at_once)
            case Watch():
                await self._watch(order.frames)
        tally = self._ledger.close()
        now = time.monotonic()
        tally.ended = self._ledger.last_delivery / 1e9 or now
        tally.cpu_seconds = time.process_time() - cpu
        tally.busiest = tally.cpu_seconds / max(now - started, 1e-9)
        return tally

    def _note_gone(self) -> None:
        if not self._dropping:
            self._ledger.tally.failed += 1

    # Connecting

    async def _open(self, protocol: asyncio.Protocol) -> None:
        target = self._target
        context = ssl.create_default_context() if target.tls else None
        await asyncio.get_running_loop().create_connection(
            lambda: protocol,
            target.address,
            target.port,
            ssl=context,
            server_hostname=target.host.rpartition(":")[0] or target.host if target.tls else None,
        )

    async def _connect(self, devices: Sequence[Device], at_once: int) -> None:
        """Connect whoever is not, and wait until everybody's backlog is through. `accepted` counts those it worked for."""
        waiting = iter([device for device in devices if not device.connected])

        async def work() -> None:
            for device in waiting:
                if await self._connect_one(device):
                    self._ledger.tally.accepted += 1
                else:
                    self._ledger.tally.failed += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(work())

    async def _connect_one(self, device: Device) -> bool:
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        device.caught_up = lambda caught_up: None if done.done() else done.set_result(caught_up)
        if device.witness is None:
            device.caught_up = None
            done.set_result(True)  # a floor's socket says nothing
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                await self._open(device)
                return await done
        except (OSError, TimeoutError):
            device.drop()
            return False

    async def _drop(self, devices: Sequence[Device]) -> None:
        self._dropping = True
        try:
            for device in devices:
                device.drop()
            async with asyncio.timeout(SETTLE_SECONDS):
                while any(device.connected for device in devices):
                    await asyncio.sleep(0.01)
        finally:
            self._dropping = False

    async def _watch(self, frames: int) -> None:
        """Wait until the sockets have received so many frames since their connect."""
        async with asyncio.timeout(SETTLE_SECONDS):
            while sum(device.frames for device in self._devices) < frames:
                await asyncio.sleep(0.002)

    # Sending

    async def _need_senders(self, count: int) -> Sequence[Sender]:
        self._senders = [sender for sender in self._senders if sender.connected]
        while len(self._senders) < count:
            sender = Sender()
            await self._open(sender)
            self._senders.append(sender)
        return self._senders[:count]

    def _judge(self, status: int, first: int, count: int) -> bool:
        """Book an answer. Returns whether the service wants a pause."""
        if status in OK:
            self._ledger.accept(first, count)
        elif status in BUSY:
            self._ledger.tally.refused += 1
        else:
            self._ledger.tally.failed += 1
        return status in BUSY or status == LOST

    async def _pace(self, order: Pace) -> None:
        """Open loop: what is due goes out, however the answers come; a send that finds no free connection waits, and it counts."""
        loop = asyncio.get_running_loop()
        free = list(await self._need_senders(8))
        opened = len(free)
        opening: set[asyncio.Task[None]] = set()
        overdue: list[int] = []
        head = request_head(order.path, self._target.host, self._token)
        total = max(1, round(order.rate * order.seconds))
        answered = 0
        finished = asyncio.Event()
        users = [device.user for device in self._devices if device.connected]

        def fire(due: int) -> None:
            if free:
                start(free.pop(), due)
                return
            overdue.append(due)
            if opened + len(opening) < MAX_PACED_SENDERS:
                task = loop.create_task(add_sender())
                opening.add(task)
                task.add_done_callback(opening.discard)

        async def add_sender() -> None:
            nonlocal opened
            sender = Sender()
            await self._open(sender)
            self._senders.append(sender)
            opened += 1
            release(sender)

        def start(sender: Sender, due: int) -> None:
            number = self._ledger.number(1)

            def take(status: int, _body: bytes) -> None:
                nonlocal answered
                self._judge(status, number, 1)
                answered += 1
                if answered >= total:
                    finished.set()
                release(sender)

            sender.post(head, self._make_body(random.choice(users), number, due), take)  # noqa: S311 - load, not a secret
            self._ledger.lateness.append((time.monotonic_ns() - due) / NANOSECONDS_PER_MILLISECOND)

        def release(sender: Sender) -> None:
            if not sender.connected:
                return
            if overdue:
                start(sender, overdue.pop(0))
            else:
                free.append(sender)

        clock = Clock(order.start, order.rate, total, loop, fire)
        try:
            async with asyncio.timeout(order.start - time.monotonic() + order.seconds + SETTLE_SECONDS):
                await finished.wait()
        except TimeoutError:
            self._ledger.tally.failed += total - answered
        finally:
            clock.stop()
            for task in opening:
                task.cancel()
        self._ledger.tally.started = order.start
        await self._ledger.settle(SETTLE_SECONDS)

    async def _press(self, order: Press) -> None:
        """Closed loop: a connection sends its next request when the last one is answered."""
        head = request_head(order.path, self._target.host, self._token)
        users = [device.user for device in self._devices if device.connected] or [device.user for device in self._devices]
        end = time.monotonic() + order.seconds

        def make() -> tuple[int, bytes]:
            first = self._ledger.number(order.batch)
            due = time.monotonic_ns()
            if order.batch == 1:
                return first, self._make_body(random.choice(users), first, due)  # noqa: S311 - load, not a secret
            chosen = random.choices(users, k=order.batch)  # noqa: S311 - the same
            parts = [self._make_body(user, first + place, due) for place, user in enumerate(chosen)]
            return first, b'{"notifications":[%b]}' % b",".join(parts)

        await self._drive(order.connections, head, make, order.batch, lambda: time.monotonic() < end, order.seconds)
        await self._ledger.settle(SETTLE_SECONDS if self._devices[0].witness else 0)

    async def _queue(self, order: Queue) -> None:
        """Fill mailboxes, in rounds, so that each user's notifications come in the order of their numbers."""
        head = request_head("/v1/notifications/batch", self._target.host, self._token)
        pending = iter([device.user for _ in range(order.each) for device in self._devices[: order.count]])
        left = order.count * order.each

        def make() -> tuple[int, bytes]:
            nonlocal left
            users = [user for user, _ in zip(pending, range(min(QUEUE_BATCH, left)), strict=False)]
            left -= len(users)
            first = self._ledger.number(len(users))
            due = time.monotonic_ns()
            parts = [self._make_body(user, first + place, due) for place, user in enumerate(users)]
            return first, b'{"notifications":[%b]}' % b",".join(parts)

        await self._drive(QUEUE_CONNECTIONS, head, make, QUEUE_BATCH, lambda: left > 0, 60.0)

    async def _drive(  # noqa: PLR0913 - a loop with all that it varies in
        self,
        connections: int,
        head: bytes,
        make: Callable[[], tuple[int, bytes]],
        count: int,
        more: Callable[[], bool],
        seconds: float,
    ) -> None:
        """Keep connections busy with what `make` makes while there is `more`."""
        loop = asyncio.get_running_loop()
        senders = await self._need_senders(connections)
        working = len(senders)
        finished = asyncio.Event()

        def start(sender: Sender) -> None:
            nonlocal working
            if not more() or not sender.connected:
                working -= 1
                if not working:
                    finished.set()
                return
            first, body = make()

            def take(status: int, _body: bytes) -> None:
                if self._judge(status, first, count):
                    loop.call_later(PAUSE_SECONDS, start, sender)
                else:
                    start(sender)

            sender.post(head, body, take)

        for sender in senders:
            start(sender)
        try:
            async with asyncio.timeout(seconds + SETTLE_SECONDS):
                await finished.wait()
        except TimeoutError:
            self._ledger.tally.failed += working

    def close(self) -> None:
        """Close every connection."""
        self._dropping = True
        for device in self._devices:
            device.drop()
        for sender in self._senders:
            sender.close()


class Clock:
    """Calls `fire` with each due time. A thread: an event loop's own timers are a millisecond late."""

    def __init__(
        self, start: float, rate: float, total: int, loop: asyncio.AbstractEventLoop, fire: Callable[[int], None]
    ) -> None:
        self._stopped = False
        self._thread = threading.Thread(target=self._run, args=(start, rate, total, loop, fire), daemon=True)
        self._thread.start()

    def _run(
        self, start: float, rate: float, total: int, loop: asyncio.AbstractEventLoop, fire: Callable[[int], None]
    ) -> None:
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


async def serve(pipe: "Connection[Any, Any]", target: Target, shape: Shape) -> None:
    """Take orders until the pipe closes."""
    loop = asyncio.get_running_loop()
    loader = Loader(target, shape)
    receive: Callable[[], Awaitable[Order | None]] = lambda: loop.run_in_executor(None, receive_order, pipe)  # noqa: E731
    try:
        while (order := await receive()) is not None:
            try:
                pipe.send(await loader.obey(order))
            except Exception as error:  # noqa: BLE001 - whatever it is, the command must hear of it
                pipe.send(RuntimeError(f"{type(error).__name__}: {error}"))
    finally:
        loader.close()


def receive_order(pipe: "Connection[Any, Any]") -> Order | None:
    """Wait for an order; None when there will be no more."""
    try:
        order: Order | None = pipe.recv()
    except (EOFError, OSError):
        return None
    return order


def main(pipe: "Connection[Any, Any]", target: Target, shape: Shape) -> None:
    """Run a loader process. Ctrl-C is its parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    uvloop.run(serve(pipe, target, shape))
