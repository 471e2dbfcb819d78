"""Users who are served, and how long theirs took: what the load tests compare, with a disturbance and without.

Figures of one run are set against each other, window by window: on a machine that is busy with other things a time
says little, a ratio of medians much more.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from statistics import median
from types import TracebackType
from typing import Self

from notify.bench.loader import Loader
from notify.bench.orders import Connect, Pace, Shape, Target
from notify.bench.result import percentile
from notify.bench.wire import Device
from tests.chaos.cluster import SECRET, Node
from tests.chaos.raw import dial, handshake

RATE = (
    200.0  # notifications a second to the whole crowd: enough for a p99, little enough to leave room for a disturbance
)
WINDOW = 1.0  # seconds: 200 notifications, of which two may be slower than the p99
QUIET = 3  # windows before a disturbance, and after it
ROUNDS = 3  # of which the best counts: what else the machine is doing only ever adds
TWICE = 2.0  # how much longer others may take
PAYLOAD = 120  # bytes of `data`
AT_ONCE = 50  # handshakes in flight while a crowd gathers
CATCH_UP_SECONDS = 60.0  # for one device's backlog, beside hundreds of others


class Crowd:
    """Users of one node who read and acknowledge as they should, each with a socket of its own."""

    def __init__(self, node: Node, name: str, size: int) -> None:
        # Nobody's else: what another crowd left unacknowledged would count as this one's.
        self.users = tuple(f"{name}-{node.port}-{number}" for number in range(size))
        target = Target("127.0.0.1", node.port, f"127.0.0.1:{node.port}", False, SECRET, "", "")  # noqa: FBT003 - no TLS
        self._loader = Loader(target, Shape(self.users, PAYLOAD))

    async def __aenter__(self) -> Self:
        tally = await self._loader.obey(Connect(len(self.users), AT_ONCE))
        assert (tally.accepted, tally.failed) == (len(self.users), 0)
        await self.window()  # plans, caches, allocators: what only a first window pays for
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loader.close()

    async def window(self) -> float:
        """Serve for a while; return the p99 from due to delivered, in ms. Whatever goes wrong with any is a failure."""
        tally = await self._loader.obey(Pace(RATE, WINDOW, time.monotonic()))
        wrong = (tally.lost, tally.duplicates, tally.out_of_order, tally.refused, tally.failed)
        assert wrong == (0, 0, 0, 0, 0), f"lost, duplicates, out of order, refused, failed: {wrong}"
        assert tally.accepted == round(RATE * WINDOW)
        return percentile(tally.latencies, 0.99)

    async def windows(self, count: int) -> list[float]:
        """Serve for so many windows."""
        return [await self.window() for _ in range(count)]

    async def compare(self, disturb: Callable[[], Awaitable[Sequence[float]]]) -> float:
        """Return how many times as long it takes while disturbed, by the medians of the windows' p99."""
        ratios: list[float] = []
        while len(ratios) < ROUNDS and min(ratios, default=TWICE + 1) > TWICE:
            quiet = await self.windows(QUIET)
            disturbed = await disturb()
            quiet += await self.windows(QUIET)
            ratios.append(median(disturbed) / median(quiet))
        return min(ratios)


class Shelf:
    """What one device received, by number (a Witness)."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def deliver(self, number: int, due: int, now: int, *, in_order: bool) -> None:
        """Take a delivery."""
        del due, now
        assert in_order, f"{number} came out of order"
        self.numbers.append(number)


async def catch_up(
    node: Node, user: str, query: str = "", kind: type[Device] = Device, receive_buffer: int | None = None
) -> tuple[Device, Shelf]:
    """Connect a device and return it, with what it received until its backlog was through."""
    shelf = Shelf()
    device = kind(user, handshake(node, user, query), shelf)
    through: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    device.caught_up = through.set_result
    async with asyncio.timeout(CATCH_UP_SECONDS):
        connection = await dial(node, receive_buffer)
        await asyncio.get_running_loop().create_connection(lambda: device, sock=connection)
        assert await through, f"{user} lost the connection before it had its backlog"
    return device, shelf


async def catch_up_all(node: Node, users: Sequence[str]) -> list[list[int]]:
    """Connect everybody, read and acknowledge all that waits, leave; return what each received."""
    room = asyncio.Semaphore(AT_ONCE)

    async def come(user: str) -> list[int]:
        async with room:
            device, shelf = await catch_up(node, user)
            device.drop()
            return shelf.numbers

    return await asyncio.gather(*(come(user) for user in users))
