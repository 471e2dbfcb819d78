"""A whole run: the floors, the phases, the report."""

import asyncio
import resource
import secrets
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

import asyncpg
import msgspec

from notify.bench.database_floors import identify
from notify.bench.fleet import Fleet
from notify.bench.floors import Floors, measure_floors
from notify.bench.goals import set_goals, take_notes
from notify.bench.meter import Meter, describe_machine, find_listener
from notify.bench.orders import Shape, Target
from notify.bench.own import Service, calm_database
from notify.bench.phases import Phases, Plan
from notify.bench.result import Alone, Report
from notify.errors import ConfigurationError

SPARE_FILES = 300
"""Descriptors beside the sockets: senders, pipes, the interpreter's own."""


class Progress:
    """Who shows how far a run is; this one shows nothing."""

    def announce(self, name: str, seconds: float | None) -> None:
        """Begin a part, which takes so long if that is known."""

    def tick(self) -> None:
        """Show that it is still going on."""


def run(
    service: Service, plan: Plan, *, floors: bool, progress: Progress, alone: Callable[[], Alone] | None = None
) -> Report:
    """Measure a service, and what one process of it alone comes to if `alone` does that. Raises ConfigurationError, LoadError."""
    raise_file_limit(plan.users // plan.loaders + SPARE_FILES)
    target = locate(service)
    version, postmaster = find_postgres(service.database_url)
    machine = {**describe_machine(), "postgresql": version}
    found: Floors | None = None
    notes: list[str] = []
    if floors:
        progress.announce("floors", None)
        found, notes = measure_floors(service.database_url, progress.tick, plan.payload_bytes, plan.seconds, plan.rate)
    pid = service.pid or (find_listener(target.port) if target.address in {"127.0.0.1", "::1"} else None)
    with Fleet(target, shape(plan), progress.tick) as fleet:
        phases = Phases(fleet, Meter(pid, postmaster), plan, target, progress.announce)
        calm = (lambda: asyncio.run(calm_database(service.database_url))) if service.own else None
        report = Report(
            settings=msgspec.structs.asdict(plan),
            machine=machine,
            connect=phases.connect(),
            latency=phases.latency(),
            single=phases.single(),
            batch=phases.batch(),
            replay=phases.replay(),
            growth=phases.grow(calm) if plan.backlog else None,
            alone=None if alone is None else alone(),
            floors=found,
        )
    report.targets = set_goals(report)
    cores = machine["cores"]
    report.notes = [*notes, *take_notes(report, cores if isinstance(cores, int) else 1)]
    return report


def measure_alone(service: Service, plan: Plan, progress: Progress) -> Alone:
    """Measure what one process alone comes to."""
    target = locate(service)
    _version, postmaster = find_postgres(service.database_url)
    with Fleet(target, shape(plan), progress.tick) as fleet:
        phases = Phases(fleet, Meter(service.pid, postmaster), plan, target, progress.announce)
        phases.connect()
        return Alone(single=phases.single(), batch=phases.batch())


def shape(plan: Plan) -> list[Shape]:
    """Give each loader users of its own, of names that no run had before."""
    run_id = secrets.token_hex(4)
    users = [f"bench-{run_id}-{place}" for place in range(plan.users)]
    return [Shape(tuple(users[place :: plan.loaders]), plan.payload_bytes) for place in range(plan.loaders)]


def locate(service: Service) -> Target:
    """Resolve the service's address once, so that no connect waits for a name server. Raises ConfigurationError."""
    parts = urlsplit(service.url)
    tls = parts.scheme in {"https", "wss"}
    if not parts.hostname:
        raise ConfigurationError(f"NOTIFY_URL is no URL of a service: {service.url}")
    port = parts.port or (443 if tls else 80)
    try:
        address = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)[0][4][0]
    except OSError as error:
        raise ConfigurationError(f"the host of NOTIFY_URL can't be found: {error}") from None
    host = parts.netloc.rpartition("@")[2]
    return Target(str(address), port, host, tls, service.secret, service.issuer, service.audience)


def find_postgres(url: str) -> tuple[str | None, int | None]:
    """Return PostgreSQL's version, and its first process if it runs on this machine."""
    if not url:
        return None, None
    try:
        return asyncio.run(identify(url))
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return None, None


def raise_file_limit(needed: int) -> None:
    """Allow as many open files as the system lets us. Raises ConfigurationError when that is too few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigurationError(
            f"{needed} open files are needed and {hard} are allowed; "
            "use fewer --users, more --loaders, or raise `ulimit -Hn`"
        )
    if soft != resource.RLIM_INFINITY and soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
