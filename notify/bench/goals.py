"""The targets, as ratios to the floors of the same run, and what has to be said about how honest the figures are."""

from notify.bench.floors import Floors
from notify.bench.result import Alone, Connected, Goal, Grown, Phase, Replayed, Report

BUSY_LOADER = 0.85
"""Share of a core from which a loader, an event loop in one thread, holds up what it measures."""

OTHERS_CORES = 0.15
"""Cores used by neither the service, PostgreSQL nor the load, from which figures suffer."""

FULL_MACHINE = 0.95
"""Share of all cores from which nothing is left for anybody to be faster with."""

LEAST_SECONDS = 0.3
"""A phase that is over sooner says nothing about who used the processor: the kernel counts in steps of 10 ms."""

LATE_MS = 1.0
"""Of the loader's own lateness at p99, from which latencies are partly its own."""

SMALL_STORM_SECONDS = 0.8
SMALL_STORM = 20_000
"""The reconnect target: 1,000 users with 20 queued each."""

GROWTH = 1.3
"""What a full database, or another process, may cost: times what it is without."""

LARGE_STORM_USERS = 10_000
LARGE_STORM_RATE = 15_000.0
"""The storm target: notifications a second with this many sockets."""


def set_goals(report: Report) -> list[Goal]:
    """Return the targets that this run can speak to."""
    goals: list[Goal] = []
    floors = report.floors or Floors()
    # Twice: one after the other, as fast as it gets; and as often as here, between which processors fall asleep as well.
    for kind, floor_ms in (("", floors.insert_notify_ms), (", as often", floors.insert_notify_paced_ms)):
        if floor_ms:
            for name, value, limit in (("p50", report.latency.p50_ms, 3.0), ("p99", report.latency.p99_ms, 8.0)):
                goals.append(at_most(f"latency {name} / INSERT+NOTIFY{kind}", value, floor_ms, limit, "ms"))
    if floors.litestar_posts_per_second:
        floor = floors.litestar_posts_per_second
        goals.append(at_least("single / no-op Litestar POST", report.single.per_second, floor, 2 / 3))
    if floors.batch_insert_rows_per_second:
        floor = floors.batch_insert_rows_per_second
        goals.append(at_least("batch / bare batch insert", report.batch.per_second, floor, 1 / 3))
    if floors.litestar_socket_kib and report.connect.kib_per_connection is not None:
        kib = report.connect.kib_per_connection
        goals.append(at_most("connection / Litestar socket", kib, floors.litestar_socket_kib, 1.0, "KiB"))
    goals.extend(judge_storm(report.replay))
    if report.growth is not None:
        goals.extend(judge_growth(report, report.growth))
    if report.alone is not None:
        goals.extend(judge_processes(report, report.alone))
    return goals


def judge_growth(report: Report, grown: Grown) -> list[Goal]:
    """Set the targets of a full database: no more than so many times what it was on an empty one."""
    p99 = at_most("full / empty: p99", grown.latency.p99_ms, report.latency.p99_ms, GROWTH, "ms")
    pairs = (("single", grown.single, report.single), ("batch", grown.batch, report.batch))
    return [
        p99,
        *(
            at_least(f"full / empty: {name}", full.per_second, empty.per_second, 1 / GROWTH)
            for name, full, empty in pairs
        ),
    ]


def judge_processes(report: Report, alone: Alone) -> list[Goal]:
    """Set the targets of several processes: what a notification costs, against one process alone."""
    pairs = (("single", report.single, alone.single), ("batch", report.batch, alone.batch))
    return [
        at_most(f"CPU a notification, {name}: all / one process", several, one, GROWTH, "µs")
        for name, phase, single in pairs
        if (several := phase.usage.cpu_us_per_notification) and (one := single.usage.cpu_us_per_notification)
    ]


def at_most(name: str, value: float, floor: float, limit: float, unit: str) -> Goal:
    """Set a target where less is better."""
    ratio = value / floor
    goal = f"≤ {limit:g} x"
    return Goal(name=name, measured=value, unit=unit, floor=floor, ratio=ratio, goal=goal, met=ratio <= limit)


def at_least(name: str, value: float, floor: float, limit: float) -> Goal:
    """Set a target where more is better."""
    ratio = value / floor
    goal = f"≥ {limit:.2f} x"
    return Goal(name=name, measured=value, unit="/s", floor=floor, ratio=ratio, goal=goal, met=ratio >= limit)


def judge_storm(replay: Replayed) -> list[Goal]:
    """Set the target of a storm of this size; of another size there is none."""
    if replay.users >= LARGE_STORM_USERS:
        met = replay.per_second >= LARGE_STORM_RATE and not replay.ready_failures
        goal = f"≥ {LARGE_STORM_RATE:,.0f}/s, ready throughout"
        return [Goal(name="storm", measured=replay.per_second, unit="/s", floor=None, ratio=None, goal=goal, met=met)]
    if replay.users * replay.queued_each == SMALL_STORM:
        met = replay.seconds < SMALL_STORM_SECONDS
        goal = f"< {SMALL_STORM_SECONDS:g} s"
        return [Goal(name="reconnect", measured=replay.seconds, unit="s", floor=None, ratio=None, goal=goal, met=met)]
    return []


def take_notes(report: Report, cores: int) -> list[str]:
    """Say what keeps a figure from being the service's own."""
    notes: list[str] = []
    for name, phase in report.phases.items():
        notes.extend(f"{name}: {note}" for note in doubt(phase, cores))
    if report.latency.late_p99_ms > LATE_MS:
        notes.append(f"latency: {report.latency.late_p99_ms:.1f} ms of p99 are the loader's own lateness")
    return notes


def doubt(phase: Phase, cores: int) -> list[str]:
    """Say what else than the service may have been the bottleneck of a phase."""
    used = phase.usage
    notes: list[str] = []
    if isinstance(phase, Connected) and phase.kib_per_connection is None:
        notes.append("memory was not measured: the service's process is not on this machine (--pid)")
    if phase.refused:
        notes.append(f"the service refused {phase.refused} requests (429 or 503): more was sent than it takes")
    if phase.seconds < LEAST_SECONDS:
        return notes
    if used.busiest_loader >= BUSY_LOADER:
        notes.append(
            f"the loader was the bottleneck ({used.busiest_loader:.0%} of a core); the service may do more: "
            "give it more --loaders, or another machine"
        )
    if used.others is not None and used.others > OTHERS_CORES:
        notes.append(f"other processes of this machine used {used.others:.1f} cores")
    known = [part for part in (used.service, used.postgres, used.loader, used.others) if part is not None]
    if used.service is not None and sum(known) >= FULL_MACHINE * cores:
        notes.append(f"all {cores} cores were busy, {used.loader:.1f} of them with making the load")
    return notes
