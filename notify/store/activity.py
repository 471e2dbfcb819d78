"""What the nodes did lately, for charts: written once in ten seconds a node."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from notify.activity import Counts
from notify.store.database import Database


class Sample(msgspec.Struct, frozen=True):
    """What one node did in about ten seconds, which ended at `at`. `latency` as in activity.LATENCY_BOUNDS."""

    at: datetime
    seconds: float
    sent: int
    delivered: int
    acked: int
    latency: Sequence[int]


class Producer(msgspec.Struct, frozen=True):
    """What an app did in the last day, through the REST door."""

    producer: str
    notifications: int
    recipients: int
    refused: int
    seen_at: datetime


class OutboxState(msgspec.Struct, frozen=True):
    """What is scheduled: how many (counted to 10,000), and when the first is due."""

    scheduled: int
    next_due_at: datetime | None


class ActivityLog:
    """Samples and producers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(self, node: UUID, seconds: float, counts: Counts) -> None:
        """Write down what this node did in the last `seconds`."""
        producers = counts.producers
        await self._database.value(
            "record_activity",
            node,
            seconds,
            counts.sent,
            counts.delivered,
            counts.acked,
            counts.latency,
            list(producers),
            [production.notifications for production in producers.values()],
            [production.recipients for production in producers.values()],
            [production.refused for production in producers.values()],
        )

    async def samples(self, seconds: float) -> Sequence[Sample]:
        """Return what all nodes did in the last `seconds` (at most two hours are kept), in the order of time."""
        return [Sample(*row) for row in await self._database.rows("list_samples", seconds)]

    async def producers(self, limit: int) -> Sequence[Producer]:
        """Return the apps of the last day, the busiest first."""
        return [Producer(*row) for row in await self._database.rows("list_producers", limit)]

    async def outbox(self) -> OutboxState:
        """Return what is scheduled."""
        row = await self._database.row("count_outbox")
        return OutboxState(row["scheduled"], row["next_due_at"]) if row else OutboxState(0, None)
