"""What was promised and what came: the judge of every fault test.

It records every 2xx and every frame. In the end each accepted notification must have arrived at each device of its
user, in order, and none again whose acknowledgement left more than two seconds before the fault.
"""

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import httpx
import websockets

from notify.auth import mint
from tests.chaos.cluster import SECRET, Node
from tests.service import CANARY

ACK_GRACE = 2.0  # seconds before a fault within which an ack may be lost
SETTLE_SECONDS = 40.0  # for everything to arrive in the end
RECONNECT_SECONDS = (0.05, 0.4)
OPEN_SECONDS = 5.0  # for a handshake


@dataclass
class Device:
    """What one device saw."""

    user: str
    name: str
    seen: dict[str, int] = field(default_factory=lambda: defaultdict(int))  # notification: times
    acked_at: dict[str, float] = field(default_factory=dict)
    connects: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    closes: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Ledger:
    """Producers and devices under steady load, and the record of it."""

    def __init__(self, nodes: Sequence[Node], *, users: int, devices: int = 1, rate: float = 100.0) -> None:
        self.nodes = list(nodes)
        self.users = [f"user{number}" for number in range(users)]
        self.devices = [Device(user, f"device{number}") for user in self.users for number in range(devices)]
        self.accepted: dict[str, str] = {}  # notification: user
        self.refused: list[tuple[int, str | None]] = []
        self.fault_at = float("inf")
        self._rate = rate
        self._sending = asyncio.Event()
        self._stopped = asyncio.Event()
        self._numbers = itertools.count()
        self._arrived = asyncio.Event()
        self._known = asyncio.Event()  # every device: one that is new starts after what others have acknowledged

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._live(device)) for device in self.devices]
        self._tasks.append(asyncio.create_task(self._produce()))
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self._stopped.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def fault(self) -> None:
        """Note the moment of the fault."""
        self.fault_at = time.monotonic()

    async def run_for(self, seconds: float) -> None:
        """Let the load go on."""
        await asyncio.sleep(seconds)

    async def settle(self) -> None:
        """Stop sending, wait until everything has arrived, and judge."""
        self._stopped.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_SECONDS):
                while any(self.missing(device) for device in self.devices):
                    self._arrived.clear()
                    await self._arrived.wait()
        assert self.accepted, "nothing was accepted: the test did not test anything"
        for device in self.devices:
            assert not device.wrong, device.wrong[:3]
            missing = self.missing(device)
            assert not missing, (
                f"{device.user} {device.name} lacks {missing[:3]} and so on of {len(self.accepted)} accepted"
            )
            again = [
                notification
                for notification, times in device.seen.items()
                if times > 1 and device.acked_at.get(notification, float("inf")) < self.fault_at - ACK_GRACE
            ]
            assert not again, f"{device.user} got {len(again)} again that it had acknowledged long before"

    def missing(self, device: Device) -> list[str]:
        """Return what a device has not got."""
        return [n for n, user in self.accepted.items() if user == device.user and n not in device.seen]

    async def _produce(self) -> None:
        await self._known.wait()
        headers = {"Authorization": f"Bearer {mint(SECRET, subject='shop', scope='notifications:send')}"}
        limits = httpx.Limits(max_connections=200)
        async with (
            httpx.AsyncClient(headers=headers, timeout=12, limits=limits) as client,
            asyncio.TaskGroup() as tasks,
        ):
            while not self._stopped.is_set():
                tasks.create_task(self._send(client))
                await asyncio.sleep(1 / self._rate)  # the load's own rhythm

    async def _send(self, client: httpx.AsyncClient) -> None:
        user = random.choice(self.users)
        node = random.choice(self.nodes)
        body = {"to": user, "type": "chaos", "data": {"n": next(self._numbers), "secret": CANARY}}
        try:
            answer = await client.post(f"{node.base}/v1/notifications", json=body)
        except httpx.TransportError:
            return  # nothing was promised
        if answer.status_code == 201:
            self.accepted[answer.json()["id"]] = user
        else:
            self.refused.append((answer.status_code, answer.headers.get("retry-after")))

    async def _live(self, device: Device) -> None:
        """Be a device: connect to any node, take, acknowledge, come back."""
        down_since: float | None = None
        while True:
            node = random.choice(self.nodes)
            with contextlib.suppress(OSError, websockets.WebSocketException, TimeoutError):
                async with await self._dial(device, node) as connection:
                    try:
                        await self._take(device, connection, down_since)
                    finally:
                        if connection.close_code is not None:
                            device.closes.append(connection.close_code)
            down_since = down_since or time.monotonic()
            await asyncio.sleep(random.uniform(*RECONNECT_SECONDS))
            if device.connects and device.connects[-1] > down_since:
                down_since = time.monotonic()

    async def _dial(self, device: Device, node: Node) -> websockets.ClientConnection:
        """Open a device's connection. Who is cancelled meanwhile lets that come to its end first, and closes what it has."""
        headers = {"Authorization": f"Bearer {mint(SECRET, subject=device.user)}"}
        url = f"{node.socket}?device={device.name}"

        async def dial() -> websockets.ClientConnection:
            return await websockets.connect(
                url, additional_headers=headers, open_timeout=OPEN_SECONDS, close_timeout=1, proxy=None
            )

        opening = asyncio.create_task(dial())
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            await asyncio.wait({opening})
            if opening.exception() is None:
                opening.result().transport.abort()
            raise

    async def _take(self, device: Device, connection: websockets.ClientConnection, down_since: float | None) -> None:
        last = 0
        async for message in connection:
            frame = json.loads(message)
            if frame["op"] == "welcome":
                device.connects.append(time.monotonic())
                if all(each.connects for each in self.devices):
                    self._known.set()
                if down_since is not None:
                    device.gaps.append(time.monotonic() - down_since)
            elif frame["op"] == "notification":
                if frame["seq"] <= last:
                    device.wrong.append(f"{frame['seq']} after {last}")
                last = frame["seq"]
                device.seen[frame["id"]] += 1
                await connection.send(json.dumps({"op": "ack", "seq": last}))
                device.acked_at.setdefault(frame["id"], time.monotonic())
                self._arrived.set()
