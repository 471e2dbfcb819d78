"""A loader process: carries out orders against the service and answers each with a Tally.

Bounded throughout: every order has an end of its own, and a loader whose pipe is closed ends at once.
"""

import asyncio
import random
import signal
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

import uvloop

from notify.auth import mint
from notify.bench.ledger import NANOSECONDS_PER_MILLISECOND, Ledger, Tally
from notify.bench.orders import Connect, Drop, Fill, Order, Pace, Press, Queue, Return, Shape, Target, Watch
from notify.bench.pace import Pacer
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
PACED_SENDERS = 8
"""Connections that a paced phase begins with."""

QUEUE_BATCH = 500
"""Notifications a request when a backlog is stored."""

QUEUE_CONNECTIONS = 4
QUEUE_SECONDS = 60.0
"""How long storing a backlog may take."""

FILL_BATCH = 1_000
FILL_RECIPIENTS = 10
"""Notifications a request, and recipients of each, when mailboxes are filled: all that a request may address."""

FILL_SECONDS = 900.0
FILL_TTL = 3_600
"""Seconds that filling may take, and that what is filled in stays pending: longer than the phases after it."""

PRODUCER = "notify-bench"
OK = range(200, 300)
BUSY = {429, 503}

Request: TypeAlias = tuple[int, int, bytes]
"""The number of its first notification, how many there are, and the body."""


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
        if isinstance(order, Return):
            self._ledger.resume()
        else:
            self._ledger.open()
        cpu, started = time.process_time(), time.monotonic()
        self._ledger.tally.started = started
        match order:
            case Connect():
                self._ledger.tally.accepted = await self._connect(self._devices[: order.count], order.at_once)
            case Drop():
                await self._drop(self._devices[: order.count])
            case Fill():
                await self._fill(order)
            case Pace():
                await self._pace(order)
            case Press():
                await self._press(order)
            case Queue():
                await self._queue(order)
            case Return():
                await self._connect(self._devices[: order.count], order.at_once)
                await self._ledger.settle(SETTLE_SECONDS)
            case Watch():
                await self._watch(order)
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

    async def _connect(self, devices: Sequence[Device], at_once: int) -> int:
        """Connect whoever is not, and wait until everybody's backlog is through. Returns for how many it worked."""
        waiting = iter([device for device in devices if not device.connected])
        connected = 0

        async def work() -> None:
            nonlocal connected
            for device in waiting:
                if await self._connect_one(device):
                    connected += 1
                else:
                    self._ledger.tally.failed += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(work())
        return connected

    async def _connect_one(self, device: Device) -> bool:
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        device.caught_up = lambda caught_up: None if done.done() else done.set_result(caught_up)
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
            # What a connection takes with it unread, an ack among it, is sent again, rightly; here it would count as doubled.
            async with asyncio.timeout(SETTLE_SECONDS):
                await asyncio.gather(*(device.settle() for device in devices if device.connected))
            for device in devices:
                device.drop()
            async with asyncio.timeout(SETTLE_SECONDS):
                while any(device.connected for device in devices):  # noqa: ASYNC110 - each ends by itself; nobody counts
                    await asyncio.sleep(0.01)
        finally:
            self._dropping = False

    async def _watch(self, order: Watch) -> None:
        """Have a floor server push, and wait until everything has arrived."""
        [sender] = await self._need_senders(1)
        before = sum(device.frames for device in self._devices)
        sender.post(request_head(order.path, self._target.host, self._token), b"", lambda _status, _body: None)
        async with asyncio.timeout(SETTLE_SECONDS):
            # An event would have to be looked at with each frame, and what is measured is what a frame costs.
            while sum(device.frames for device in self._devices) < before + order.frames:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    # Sending

    async def _need_senders(self, count: int) -> Sequence[Sender]:
        self._senders = [sender for sender in self._senders if sender.connected]
        while len(self._senders) < count:
            await self._add_sender()
        return self._senders[:count]

    async def _add_sender(self) -> Sender:
        sender = Sender()
        await self._open(sender)
        self._senders.append(sender)
        return sender

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
        """Send at a rate; see Pacer."""
        head = request_head(order.path, self._target.host, self._token)
        users = [device.user for device in self._devices if device.connected]

        def send(sender: Sender, due: int, answered: Callable[[], None]) -> None:
            number = self._ledger.number(1)

            def take(status: int, _body: bytes) -> None:
                self._judge(status, number, 1)
                answered()

            body = self._make_body(random.choice(users), number, due)  # noqa: S311 - load, not a secret
            self._ledger.lateness.append((time.monotonic_ns() - due) / NANOSECONDS_PER_MILLISECOND)
            sender.post(head, body, take)

        total = max(1, round(order.rate * order.seconds))
        pacer = Pacer(await self._need_senders(PACED_SENDERS), total, send=send, open_sender=self._add_sender)
        await pacer.run(order.start, order.rate, order.seconds + SETTLE_SECONDS)
        self._ledger.tally.failed += pacer.unanswered
        self._ledger.tally.started = order.start
        await self._ledger.settle(SETTLE_SECONDS)

    async def _press(self, order: Press) -> None:
        """Send as fast as answers come: a closed loop."""
        head = request_head(order.path, self._target.host, self._token)
        users = [device.user for device in self._devices if device.connected] or [
            device.user for device in self._devices
        ]
        end = time.monotonic() + order.seconds

        def make() -> Request:
            first = self._ledger.number(order.batch)
            due = time.monotonic_ns()
            if order.batch == 1:
                return first, 1, self._make_body(random.choice(users), first, due)  # noqa: S311 - load, not a secret
            chosen = random.choices(users, k=order.batch)  # noqa: S311 - the same
            parts = [self._make_body(user, first + place, due) for place, user in enumerate(chosen)]
            return first, order.batch, b'{"notifications":[%b]}' % b",".join(parts)

        await self._drive(order.connections, head, make, lambda: time.monotonic() < end, order.seconds)
        await self._ledger.settle(SETTLE_SECONDS if self._devices[0].witness else 0)

    async def _queue(self, order: Queue) -> None:
        """Fill mailboxes, in rounds, so that each user's notifications come in the order of their numbers."""
        head = request_head("/v1/notifications/batch", self._target.host, self._token)
        pending = iter([device.user for _ in range(order.each) for device in self._devices[: order.count]])
        left = order.count * order.each

        def make() -> Request:
            nonlocal left
            users = list(islice(pending, QUEUE_BATCH))
            left -= len(users)
            first = self._ledger.number(len(users))
            due = time.monotonic_ns()
            parts = [self._make_body(user, first + place, due) for place, user in enumerate(users)]
            return first, len(users), b'{"notifications":[%b]}' % b",".join(parts)

        await self._drive(QUEUE_CONNECTIONS, head, make, lambda: left > 0, QUEUE_SECONDS)

    async def _fill(self, order: Fill) -> None:
        """Fill mailboxes nobody reads: round after round over all of them, as the days do it."""
        head = request_head("/v1/notifications/batch", self._target.host, self._token)
        mailboxes = max(FILL_RECIPIENTS, order.pending // order.each)
        name = f"{self._shape.users[0]}-away"
        filled = 0

        def make() -> Request:
            nonlocal filled
            count = min(FILL_BATCH, -(-(order.pending - filled) // FILL_RECIPIENTS))
            first = self._ledger.number(count)
            parts = []
            for place in range(count):
                names = ",".join(f'"{name}-{(filled + n) % mailboxes}"' for n in range(FILL_RECIPIENTS)).encode()
                filled += FILL_RECIPIENTS
                parts.append(
                    b'{"to":[%b],"type":"bench.fill","ttl":%d,"data":{"n":%d,"due":0%b'
                    % (names, FILL_TTL, first + place, self._tail)
                )
            return first, count, b'{"notifications":[%b]}' % b",".join(parts)

        await self._drive(QUEUE_CONNECTIONS, head, make, lambda: filled < order.pending, FILL_SECONDS)

    async def _drive(
        self, connections: int, head: bytes, make: Callable[[], Request], more: Callable[[], bool], seconds: float
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
            first, count, body = make()

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


async def serve(pipe: "Connection[Any, Any]", target: Target, shape: Shape) -> None:
    """Take orders until the pipe closes."""
    loop = asyncio.get_running_loop()
    loader = Loader(target, shape)
    receive: Callable[[], Awaitable[Order | None]] = lambda: loop.run_in_executor(None, receive_order, pipe)  # noqa: E731
    try:
        while (order := await receive()) is not None:
            answer: Tally | RuntimeError
            try:
                answer = await loader.obey(order)
            except Exception as error:  # noqa: BLE001 - whatever it is, the command must hear of it
                answer = RuntimeError(f"{type(error).__name__}: {error}")
            pipe.send(answer)
    except BrokenPipeError:
        return  # the command is gone
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
