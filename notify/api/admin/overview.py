"""How everything stands: what an admin looks at first."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

import msgspec
from litestar import Request, get
from litestar.di import NamedDependency

from notify.activity import LATENCY_BOUNDS, percentile
from notify.api.admin.cluster import NodeItem, describe_node
from notify.api.admin.common import require_reader
from notify.api.services import Services
from notify.store.activity import Sample

HOUR_SECONDS = 3_600.0
"""How far the charts go back."""

RECENT_SECONDS = 60.0
"""Over which the rates of the moment are taken: six samples."""


class Rates(msgspec.Struct, frozen=True):
    """What happens, in recipients, notifications and acks a second, and how fast: milliseconds to the socket."""

    sent: float
    delivered: float
    acked: float
    p50_ms: float | None
    p95_ms: float | None


class ChartPoint(msgspec.Struct, frozen=True):
    """The same, for the minute that began at `at`."""

    at: datetime
    sent: float
    delivered: float
    acked: float
    p50_ms: float | None
    p95_ms: float | None


class Overview(msgspec.Struct, frozen=True):
    """How everything stands. `users` have an open session, `queues` have something pending, `scheduled` is counted to 10,000."""

    as_of: datetime
    users: int
    sessions: int
    queues: int
    pending: int
    oldest_pending_at: datetime | None
    scheduled: int
    rates: Rates
    history: list[ChartPoint]
    nodes: list[NodeItem]


@get("/v1/admin/overview", summary="How everything stands", tags=["Admins"])
async def get_overview(request: Request[Any, Any, Any], services: NamedDependency[Services]) -> Overview:
    """Return who is connected where, what is pending since when, and the rates of the last minute and hour."""
    await require_reader(request, services)
    store = services.store
    total = await store.backlog.sum()
    sessions, users = await store.sessions.count()
    samples = await store.activity_log.samples(HOUR_SECONDS)
    newest = samples[-1].at if samples else total.as_of
    recent = [sample for sample in samples if sample.at > newest - timedelta(seconds=RECENT_SECONDS)]
    return Overview(
        as_of=total.as_of,
        users=users,
        sessions=sessions,
        queues=total.mailboxes,
        pending=total.pending,
        oldest_pending_at=total.oldest_at,
        scheduled=(await store.activity_log.outbox()).scheduled,
        rates=Rates(*sum_samples(recent, RECENT_SECONDS)),
        history=draw(samples),
        nodes=[describe_node(node) for node in await store.sessions.nodes()],
    )


def draw(samples: Iterable[Sample]) -> list[ChartPoint]:
    """Return one point a minute."""
    return [
        ChartPoint(minute, *sum_samples(list(group), 60.0))
        for minute, group in groupby(samples, key=lambda sample: sample.at.replace(second=0, microsecond=0))
    ]


def sum_samples(samples: Sequence[Sample], seconds: float) -> tuple[float, float, float, float | None, float | None]:
    """Return sent, delivered and acked a second, and p50 and p95 in milliseconds, of samples of so many seconds."""
    latency = [0] * (len(LATENCY_BOUNDS) + 1)
    for sample in samples:
        if len(sample.latency) == len(latency):  # another version's ranges don't add up with ours
            latency = [a + b for a, b in zip(latency, sample.latency, strict=True)]
    p50, p95 = percentile(latency, 0.50), percentile(latency, 0.95)
    return (
        round(sum(sample.sent for sample in samples) / seconds, 3),
        round(sum(sample.delivered for sample in samples) / seconds, 3),
        round(sum(sample.acked for sample in samples) / seconds, 3),
        None if p50 is None else round(p50 * 1000, 3),
        None if p95 is None else round(p95 * 1000, 3),
    )
