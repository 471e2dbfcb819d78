"""The phases of a run against the service, one after the other.

Each is an order to the fleet, with the meter read before and after it.
"""

import http.client
import threading
import time
from collections.abc import Callable, Sequence
from typing import Self

import msgspec

from notify.bench.fleet import Fleet, LoadError
from notify.bench.ledger import Tally
from notify.bench.loader import SETTLE_SECONDS
from notify.bench.meter import Meter
from notify.bench.orders import Connect, Drop, Fill, Order, Pace, Press, Queue, Return, Target
from notify.bench.result import (
    Connected,
    Grown,
    Paced,
    Pressed,
    Replayed,
    Usage,
    counts,
    percentile,
    usage,
)

AT_ONCE = 500
"""Handshakes in flight, of all loaders together, unless the plan says otherwise: a storm, within what a listen queue holds."""

PENDING_EACH = 10
"""Notifications in each mailbox that is filled."""

FILL_BOUND_SECONDS = 900.0
QUIET_CORES = 0.1
LOOK_SECONDS = 2.0
CALM_SECONDS = 120.0
"""After filling, PostgreSQL vacuums and the backlog is summed up: waited for until it uses no more than this, at most so long."""

WARM_UP_CONNECTIONS = 50
WARM_UP_SECONDS = 1.0
"""What runs before something is measured (plans, caches, allocators), unless the phases themselves are shorter."""

SINGLE_CONNECTIONS = 32
BATCH_CONNECTIONS = 8
BATCH_SIZE = 100
BATCH_PATH = "/v1/notifications/batch"

REST_SECONDS = 0.5
"""Between phases: acks and checkpoints of one are not the next one's."""

LEAD_SECONDS = 0.5
"""Between giving an order to send at a rate and the first send: what is due before a loader has its order would count as late."""

BOUND_SECONDS = 120.0
"""Of an order that has no length of its own."""

READY_SECONDS = 0.25
"""Between two looks at /readyz."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How much of what is to be measured."""

    users: int
    rate: float
    seconds: float
    replay_users: int
    replay_queued: int
    payload_bytes: int
    loaders: int
    at_once: int = AT_ONCE
    backlog: int = 0
    processes: int = 1
    """Of the service: each gets its connections, since what several are for is a larger load."""


class Phases:
    """Runs the phases. `announce` hears what begins and how many seconds it takes, if that is known."""

    def __init__(
        self, fleet: Fleet, meter: Meter, plan: Plan, target: Target, announce: Callable[[str, float | None], None]
    ) -> None:
        self._fleet = fleet
        self._meter = meter
        self._plan = plan
        self._target = target
        self._announce = announce

    def connect(self) -> Connected:
        """Connect every user; measure the rate and what a connection weighs."""
        self._announce("connect", None)
        fleet, plan = self._fleet, self._plan
        warm = min(WARM_UP_CONNECTIONS, plan.users // 10)
        self._order([Connect(share, AT_ONCE) for share in fleet.share(warm)], BOUND_SECONDS)
        time.sleep(REST_SECONDS)
        memory = self._meter.memory()
        tally, used = self._measure([Connect(share, self._at_once) for share in fleet.share(plan.users)])
        time.sleep(REST_SECONDS)
        grown = self._meter.memory()
        return Connected(
            connections=tally.accepted + warm,
            per_second=tally.accepted / tally.seconds,
            kib_per_connection=(grown - memory) / tally.accepted if memory and grown and tally.accepted else None,
            seconds=tally.seconds,
            usage=used,
            **counts(tally),
        )

    def latency(self) -> Paced:
        """Send at a fixed rate."""
        plan = self._plan
        self._announce("latency", self._warm_up + plan.seconds)
        self._order(self._pace(self._warm_up), BOUND_SECONDS)
        time.sleep(REST_SECONDS)
        tally, used = self._measure(self._pace(plan.seconds), plan.seconds, rest=0.0)
        return Paced(
            rate=plan.rate,
            sent=tally.accepted,
            max_ms=percentile(tally.latencies, 1.0),
            late_p50_ms=percentile(tally.lateness, 0.50),
            late_p99_ms=percentile(tally.lateness, 0.99),
            seconds=tally.seconds,
            usage=used,
            p50_ms=percentile(tally.latencies, 0.50),
            p95_ms=percentile(tally.latencies, 0.95),
            p99_ms=percentile(tally.latencies, 0.99),
            **counts(tally),
        )

    def _pace(self, seconds: float) -> Sequence[Pace]:
        """Spread the rate over the loaders, which take turns."""
        plan = self._plan
        start = time.monotonic() + LEAD_SECONDS
        return [Pace(plan.rate / plan.loaders, seconds, start + place / plan.rate) for place in range(plan.loaders)]

    def single(self) -> Pressed:
        """Send one by one, over SINGLE_CONNECTIONS connections a process, as fast as answers come."""
        return self._press("single", SINGLE_CONNECTIONS * self._plan.processes, 1, "/v1/notifications")

    def batch(self) -> Pressed:
        """Send in batches of BATCH_SIZE, over BATCH_CONNECTIONS connections a process."""
        return self._press("batch", BATCH_CONNECTIONS * self._plan.processes, BATCH_SIZE, BATCH_PATH)

    def _press(self, name: str, connections: int, batch: int, path: str) -> Pressed:
        plan, shares = self._plan, self._fleet.share(connections)
        self._announce(name, self._warm_up + plan.seconds)
        self._order([Press(share, batch, self._warm_up, path) for share in shares], BOUND_SECONDS)
        tally, used = self._measure([Press(share, batch, plan.seconds, path) for share in shares], plan.seconds)
        return Pressed(
            connections=connections,
            batch=batch,
            sent=tally.accepted,
            per_second=tally.delivered / tally.seconds,
            seconds=tally.seconds,
            usage=used,
            p50_ms=percentile(tally.latencies, 0.50),
            p95_ms=percentile(tally.latencies, 0.95),
            p99_ms=percentile(tally.latencies, 0.99),
            **counts(tally),
        )

    def replay(self) -> Replayed:
        """Cut some users off, queue a backlog for them, and let them all come back at once."""
        plan, fleet = self._plan, self._fleet
        self._announce("replay", None)
        shares = fleet.share(plan.replay_users)
        self._order([Drop(share) for share in shares], BOUND_SECONDS)
        self._order([Queue(share, plan.replay_queued) for share in shares], BOUND_SECONDS)
        with Readiness(self._target) as readiness:
            tally, used = self._measure([Return(share, self._at_once) for share in shares])
        return Replayed(
            users=plan.replay_users,
            queued_each=plan.replay_queued,
            notifications=tally.delivered,
            per_second=tally.delivered / tally.seconds,
            ready_checks=readiness.checks,
            ready_failures=readiness.failures,
            ready_slowest_ms=readiness.slowest * 1000,
            seconds=tally.seconds,
            usage=used,
            **counts(tally),
        )

    def grow(self, calm: Callable[[], None] | None = None) -> Grown:
        """Fill mailboxes of users who are away, and measure again what was measured on an empty database.

        `calm` has the database do at once what filling leaves behind for it; the rest is waited for as far as it shows.
        """
        plan, fleet = self._plan, self._fleet
        self._announce("fill", None)
        shares = [Fill(share, PENDING_EACH) for share in fleet.share(plan.backlog)]
        started = time.monotonic()
        tally = self._order(shares, FILL_BOUND_SECONDS)
        if tally.failed:
            raise LoadError(f"{tally.failed} requests of the backlog failed")
        seconds = time.monotonic() - started
        if calm is not None:
            self._announce("vacuum", None)
            calm()
        self._calm_down()
        self._order([Connect(share, self._at_once) for share in fleet.share(plan.users)], BOUND_SECONDS)
        return Grown(
            pending=plan.backlog,
            mailboxes=plan.backlog // PENDING_EACH,
            fill_seconds=seconds,
            latency=self.latency(),
            single=self.single(),
            batch=self.batch(),
        )

    def _calm_down(self) -> None:
        """Wait until PostgreSQL has dealt with what filling left behind."""
        deadline = time.monotonic() + CALM_SECONDS
        before = self._meter.read().postgres
        while before is not None and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
            now = self._meter.read().postgres
            if now is None or (now - before) / LOOK_SECONDS <= QUIET_CORES:
                return
            before = now

    @property
    def _warm_up(self) -> float:
        return min(WARM_UP_SECONDS, self._plan.seconds)

    @property
    def _at_once(self) -> int:
        """One loader's share of the handshakes in flight."""
        return max(1, self._plan.at_once // self._plan.loaders)

    def _measure(
        self, orders: Sequence[Order], seconds: float = 0.0, *, rest: float = REST_SECONDS
    ) -> tuple[Tally, Usage]:
        time.sleep(rest)
        before, started, own = self._meter.read(), time.monotonic(), time.process_time()
        tally = self._order(orders, seconds + BOUND_SECONDS)
        took = time.monotonic() - started
        return tally, usage(before, self._meter.read(), tally, took, time.process_time() - own)

    def _order(self, orders: Sequence[Order], seconds: float) -> Tally:
        return self._fleet.order(orders, seconds=seconds + SETTLE_SECONDS)


class Readiness:
    """Looks at /readyz while something else goes on. A context manager."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.checks = 0
        self.failures = 0
        self.slowest = 0.0
        """Seconds of the slowest answer."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._check()
            if self._ended.wait(READY_SECONDS):
                return

    def _check(self) -> None:
        target = self._target
        kind = http.client.HTTPSConnection if target.tls else http.client.HTTPConnection
        host = target.host.rpartition(":")[0] or target.host
        connection = kind(host if target.tls else target.address, target.port, timeout=5)
        started = time.monotonic()
        try:
            connection.request("GET", "/readyz", headers={"Host": target.host})
            ready = connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            ready = False
        finally:
            connection.close()
        self.checks += 1
        self.failures += not ready
        self.slowest = max(self.slowest, time.monotonic() - started)
