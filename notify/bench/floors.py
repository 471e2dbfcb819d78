"""The machine's floors: what a request, a socket, a commit cost here before anything of ours is done.

Measured in the same run as the service, so that a table compares like with like; each at a moment when nothing else
of the run is going on.
"""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import quantiles

import asyncpg

from notify.bench.database_floors import count_batch_rows, count_notifies, time_notify
from notify.bench.fleet import Fleet, LoadError
from notify.bench.meter import Meter, difference
from notify.bench.orders import Connect, Press, Shape, Target, Watch

SOCKETS = 1_000
"""Sockets whose memory is measured: enough for the growth to be theirs."""

SENDERS = 32
PUSHED = 40_000
"""Frames of the socket floor."""

SECONDS = 1.5
"""Of each floor that is a rate, unless the phases themselves are short."""

PACED_SHARE = 3.0
"""The same for what is measured at a rate, times as long: it needs some hundred samples."""

AT_ONCE = 200
BOUND_SECONDS = 60.0
STOP_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Floors:
    """What the machine does without us; None where it could not be measured.

    `_cpu_us` is processor time, in microseconds: what a rate comes to on a machine that others use as well, it does not tell.
    """

    insert_notify_ms: float | None = None
    insert_notify_p99_ms: float | None = None
    insert_notify_paced_ms: float | None = None
    insert_notify_paced_p99_ms: float | None = None
    insert_notify_per_second: float | None = None
    batch_insert_rows_per_second: float | None = None
    batch_insert_row_cpu_us: float | None = None
    litestar_posts_per_second: float | None = None
    litestar_post_cpu_us: float | None = None
    uvicorn_socket_sends_per_second: float | None = None
    uvicorn_socket_kib: float | None = None
    litestar_socket_kib: float | None = None


async def measure_database(url: str, seconds: float, rate: float) -> dict[str, float | None]:
    """Measure what PostgreSQL does by itself; one thing also at `rate`, a second. Raises what asyncpg raises."""
    cuts = quantiles(await time_notify(url, seconds), n=100)
    paced = quantiles(await time_notify(url, PACED_SHARE * seconds, rate=rate), n=100)
    rows, row_cpu = await count_batch_rows(url, seconds)
    return {
        "insert_notify_ms": cuts[49],
        "insert_notify_p99_ms": cuts[98],
        "insert_notify_paced_ms": paced[49],
        "insert_notify_paced_p99_ms": paced[98],
        "insert_notify_per_second": await count_notifies(url, seconds),
        "batch_insert_rows_per_second": rows,
        "batch_insert_row_cpu_us": row_cpu,
    }


@contextmanager
def run_server(kind: str) -> Iterator[tuple[Target, int]]:
    """Run a floor server as a process of its own; it ends with this process whatever happens."""
    command = [sys.executable, "-m", "notify.bench.floor_server", kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            port = int(process.stdout.readline() or "0")
            if not port:
                raise LoadError(f"the floor server `{kind}` did not start")
            yield Target("127.0.0.1", port, "127.0.0.1", tls=False, secret="", issuer="", audience=""), process.pid
        finally:
            process.stdin.close()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def measure_socket_memory(fleet: Fleet, pid: int, sockets: int) -> float | None:
    """Return the KiB that a socket adds to a server."""
    meter = Meter(pid, None)
    fleet.order([Connect(50, AT_ONCE)], seconds=BOUND_SECONDS)  # what the first ones load and grow is not theirs
    before = meter.memory()
    fleet.order([Connect(sockets, AT_ONCE)], seconds=BOUND_SECONDS)
    after = meter.memory()
    return None if before is None or after is None else (after - before) / (sockets - 50)


def measure_servers(watch: Callable[[], None], payload_bytes: int, seconds: float) -> dict[str, float | None]:
    """Measure bare uvicorn and Litestar: sockets, sends, posts."""
    shape = Shape(tuple(f"user-{place}" for place in range(SOCKETS)), payload_bytes, path="/", token=False)
    found: dict[str, float | None] = {}
    with run_server("bare") as (target, pid), Fleet(target, [shape], watch) as fleet:
        found["uvicorn_socket_kib"] = measure_socket_memory(fleet, pid, SOCKETS)
        pushed = fleet.order([Watch(PUSHED, f"/?{PUSHED}")], seconds=BOUND_SECONDS)
        found["uvicorn_socket_sends_per_second"] = PUSHED / pushed.seconds
    with run_server("litestar") as (target, pid), Fleet(target, [shape], watch) as fleet:
        found["litestar_socket_kib"] = measure_socket_memory(fleet, pid, SOCKETS)
    with run_server("litestar") as (target, pid), Fleet(target, [shape], watch) as fleet:
        fleet.order([Press(SENDERS, 1, 0.3, path="/")], seconds=BOUND_SECONDS)
        meter = Meter(pid, None)
        before = meter.read().service
        pressed = fleet.order([Press(SENDERS, 1, seconds, path="/")], seconds=BOUND_SECONDS)
        used = difference(before, meter.read().service)
        found["litestar_posts_per_second"] = pressed.accepted / pressed.seconds
        found["litestar_post_cpu_us"] = None if used is None else used / max(1, pressed.accepted) * 1e6
    return found


def measure_floors(
    database_url: str, watch: Callable[[], None], payload_bytes: int, seconds: float, rate: float
) -> tuple[Floors, list[str]]:
    """Measure every floor there can be; return them with a line for each that can't."""
    notes: list[str] = []
    found: dict[str, float | None] = {}
    seconds = min(SECONDS, seconds)
    if database_url:
        try:
            found |= asyncio.run(measure_database(database_url, seconds, rate))
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            notes.append(f"the database's floors could not be measured: {type(error).__name__}: {error}")
    else:
        notes.append("the database's floors were not measured: NOTIFY_DATABASE_URL is not set")
    try:
        found |= measure_servers(watch, payload_bytes, seconds)
    except LoadError as error:
        notes.append(f"the servers' floors could not be measured: {error}")
    return Floors(**found), notes
