"""What a run found out, as it is written to JSON. Names and units are part of the contract (section 1)."""

from array import array
from math import ceil

import msgspec

from notify.bench.floors import Floors
from notify.bench.ledger import Tally
from notify.bench.meter import Reading, difference

MICROSECONDS = 1e6


class Usage(msgspec.Struct, kw_only=True):
    """Cores in use while a phase ran; None for what could not be seen. `busiest_loader` is a share of one core."""

    service: float | None
    postgres: float | None
    loader: float
    others: float | None
    busiest_loader: float
    cpu_us_per_notification: float | None
    """Processor time of the service and PostgreSQL together, in microseconds."""


class Phase(msgspec.Struct, kw_only=True):
    """What every phase counts."""

    seconds: float
    lost: int
    duplicates: int
    out_of_order: int
    refused: int
    failed: int
    usage: Usage


class Connected(Phase, kw_only=True):
    """Opening the sockets, each counted when its first frames are through."""

    connections: int
    per_second: float
    kib_per_connection: float | None


class Paced(Phase, kw_only=True):
    """Latency at a fixed rate, from when a send was due to its delivery. It includes how late the loader sent, `late_…`."""

    rate: float
    sent: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    late_p50_ms: float
    late_p99_ms: float


class Pressed(Phase, kw_only=True):
    """Throughput: notifications delivered and acknowledged a second, until the last one has arrived."""

    connections: int
    batch: int
    sent: int
    per_second: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


class Replayed(Phase, kw_only=True):
    """A reconnect storm: `seconds` from the first connect to the last queued notification's arrival."""

    users: int
    queued_each: int
    notifications: int
    per_second: float
    ready_checks: int
    ready_failures: int
    ready_slowest_ms: float


class Grown(msgspec.Struct, kw_only=True):
    """The same phases again, with this much pending for users who are away."""

    pending: int
    mailboxes: int
    fill_seconds: float
    latency: Paced
    single: Pressed
    batch: Pressed


class Alone(msgspec.Struct, kw_only=True):
    """What one process alone came to, where several were measured."""

    single: Pressed
    batch: Pressed


class Goal(msgspec.Struct, kw_only=True):
    """A target: a ratio of the service's figure to a floor of the same run, or a plain number."""

    name: str
    measured: float
    unit: str
    floor: float | None
    ratio: float | None
    goal: str
    met: bool


class Report(msgspec.Struct, kw_only=True):
    """A whole run."""

    settings: dict[str, object]
    machine: dict[str, object]
    connect: Connected
    latency: Paced
    single: Pressed
    batch: Pressed
    replay: Replayed
    growth: Grown | None = None
    alone: Alone | None = None
    floors: Floors | None = None
    targets: list[Goal] = []
    notes: list[str] = []

    @property
    def phases(self) -> dict[str, Phase]:
        """The phases by name, in their order."""
        phases: dict[str, Phase] = {
            "connect": self.connect,
            "latency": self.latency,
            "single": self.single,
            "batch": self.batch,
            "replay": self.replay,
        }
        if self.growth is not None:
            grown = self.growth
            phases |= {"grown latency": grown.latency, "grown single": grown.single, "grown batch": grown.batch}
        if self.alone is not None:
            phases |= {"alone single": self.alone.single, "alone batch": self.alone.batch}
        return phases

    @property
    def sound(self) -> bool:
        """Whether nothing was lost, doubled, disordered or refused for a fault."""
        return not any(p.lost or p.duplicates or p.out_of_order or p.failed for p in self.phases.values())


def percentile(values: bytes, share: float) -> float:
    """Return the value that `share` of the values don't exceed (nearest rank); 0 of none."""
    ordered = array("d")
    ordered.frombytes(values)
    if not ordered:
        return 0.0
    return sorted(ordered)[max(0, ceil(share * len(ordered)) - 1)]


def usage(before: Reading, after: Reading, tally: Tally, seconds: float, own: float) -> Usage:
    """Work out who used the processor. `own` is the processor time of the command itself."""
    service = difference(before.service, after.service)
    postgres = difference(before.postgres, after.postgres)
    machine = difference(before.machine, after.machine)
    others = None
    if machine is not None and service is not None and postgres is not None:
        others = max(0.0, machine - service - postgres - tally.cpu_seconds - own) / seconds
    each = None
    if service is not None and postgres is not None and tally.delivered:
        each = (service + postgres) / tally.delivered * MICROSECONDS
    return Usage(
        service=None if service is None else service / seconds,
        postgres=None if postgres is None else postgres / seconds,
        loader=tally.cpu_seconds / seconds,
        others=others,
        busiest_loader=tally.busiest,
        cpu_us_per_notification=each,
    )


def counts(tally: Tally) -> dict[str, int]:
    """Return what went wrong in a phase."""
    return {name: getattr(tally, name) for name in ("lost", "duplicates", "out_of_order", "refused", "failed")}


def write_json(report: Report) -> str:
    """Return the report as JSON text."""
    return msgspec.json.format(msgspec.json.encode(tidy(msgspec.to_builtins(report))), indent=2).decode()


def tidy(value: object) -> object:
    """Round what was measured to digits that mean something."""
    if isinstance(value, float):
        return round(value, 3) if abs(value) < 100 else round(value, 1)  # noqa: PLR2004 - three digits of a small one
    if isinstance(value, dict):
        return {key: tidy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [tidy(item) for item in value]
    return value
