"""Storing what producers send.

Keeps invariant 1: a result means that the commit happened. A post is all or nothing; ids are minted before the
statement, so that after a broken connection its outcome can be found out rather than guessed.
"""

import asyncio
from collections.abc import Collection, Coroutine, Hashable, Sequence
from datetime import datetime
from itertools import accumulate
from typing import Any, TypeVar
from uuid import UUID

import msgspec
import structlog

from notify.batch import Blocked, Interrupted, Lane, Poisoned, Refused, Rejected
from notify.errors import RateLimited, Unavailable
from notify.ids import mint_id
from notify.model import BULK_RECIPIENTS, Notification
from notify.store.database import Database, KeyTaken
from notify.tracing import spanning_deposit

log = structlog.get_logger()

T = TypeVar("T")

FLIGHTS = 3
"""Statements of sends at once: one to be filled while one runs and one commits."""

MAX_WEIGHT = 4_000
"""Of one statement, in recipients and quarter KiBs of data: about 20 ms of PostgreSQL."""

QUEUE = 20_000
"""Posts that wait at most, about three seconds' worth: beyond it a sender is told to come back."""

FAIR_QUEUE = 5_000
"""Of those, how many one producer may have waiting: the rest is for the others."""

BULK_QUEUE = 50
"""The same for posts to many: a statement each."""

SETTLE_TRIES = 5
"""Attempts, a second apart, to learn the outcome of a batch whose connection broke; a restart takes about that long."""


class Claim(msgspec.Struct, frozen=True):
    """An idempotency key, and the digest of what it stands for: all that a post sends, or the one at a place (from 0)."""

    key: str
    digest: bytes
    place: int | None = None


class Post(msgspec.Struct, frozen=True):
    """What one request sends: all of it or nothing."""

    notifications: Sequence[Notification]
    claims: Sequence[Claim] = ()

    @property
    def recipients(self) -> int:
        """Recipients, of all its notifications together."""
        return sum([len(notification.to) for notification in self.notifications])


def weigh(post: Post) -> int:
    """Rows and bytes in one number."""
    return sum([len(n.to) + len(n.data) // 256 for n in post.notifications])


def users(post: Post) -> Collection[Hashable]:
    """Whose mailboxes a post needs."""
    if len(post.notifications) == 1:
        return post.notifications[0].to
    return {user for notification in post.notifications for user in notification.to}


def sparse(values: list[T | None]) -> list[T | None] | None:
    """Return None where there is nothing but None: what most sends have nothing of is then neither encoded nor decoded."""
    return values if values.count(None) < len(values) else None


def is_alone(post: Post) -> bool:
    """Whether it is one notification for one user, due now, without keys and without an `undelivered_after`."""
    if post.claims or len(post.notifications) > 1:
        return False
    [notification] = post.notifications
    special = (notification.deliver_at, notification.collapse_key, notification.undelivered_after)
    return len(notification.to) == 1 and special == (None, None, None)


class Sends:
    """The lanes of sends: one for most, one for posts to many."""

    def __init__(self, database: Database, *, max_pending: int) -> None:
        self._database = database
        self._max_pending = max_pending
        self._waiting: dict[str, int] = {}
        self.single = Lane[Post, datetime](
            "send",
            self._deposit,
            flights=FLIGHTS,
            max_weight=MAX_WEIGHT,
            capacity=QUEUE,
            weigh=weigh,
            keys=users,
            probe=self._probe,
            answered=self._count_down,
        )
        self.bulk = Lane[Post, datetime](
            "send-bulk",
            self._deposit,
            max_items=1,
            capacity=BULK_QUEUE,
            keys=users,
            probe=self._probe,
            answered=self._count_down,
        )

    async def send(self, post: Post) -> datetime:
        """Store a post and return the moment of it, once it is committed.

        Raises RateLimited when its producer has too much waiting, Unavailable when nothing was accepted (or, saying so,
        when that can't be known), KeyTaken when one of its idempotency keys is another request's or was answered already,
        Poisoned when PostgreSQL refuses the data.
        """
        return await self.put(post)

    def put(self, post: Post) -> asyncio.Future[datetime]:
        """Begin to store a post; return the future of what `send` returns or raises, but for what it raises at once.

        Raises RateLimited and Unavailable when it can't wait here with the others.
        """
        lane = self.bulk if post.recipients > BULK_RECIPIENTS else self.single
        producer = post.notifications[0].producer
        waiting = self._waiting.get(producer, 0)
        if waiting >= FAIR_QUEUE and len(lane) > FAIR_QUEUE:
            raise RateLimited(
                f"{waiting} requests of {producer} are waiting to be stored; wait for their answers",
                policy=f'"waiting";q={FAIR_QUEUE};qu="concurrent-requests"',
                left='"waiting";r=0;t=1',
            )
        stored = lane.put(post)
        self._waiting[producer] = waiting + 1
        return stored

    def _count_down(self, post: Post) -> None:
        producer = post.notifications[0].producer
        self._waiting[producer] -= 1
        if not self._waiting[producer]:
            del self._waiting[producer]

    async def close(self) -> None:
        """Wait for what was accepted."""
        await asyncio.gather(self.single.close(), self.bulk.close())

    async def _deposit(self, posts: Sequence[Post]) -> Sequence[datetime]:
        if len(posts) == 1 and is_alone(posts[0]):
            return [await self._deposit_alone(posts[0].notifications[0])]
        notifications = [notification for post in posts for notification in post.notifications]
        claims = [(place, post, claim) for place, post in enumerate(posts) for claim in post.claims]
        firsts = list(accumulate((len(post.notifications) for post in posts), initial=1))
        # In the order in which their mailboxes are taken: sorting them costs less here than there.
        recipients = sorted([(user, item) for item, n in enumerate(notifications, 1) for user in n.to])
        batch = mint_id()
        try:
            moment = await self._store(
                batch,
                notifications,
                self._database.value(
                    "deposit",
                    batch,
                    [n.id for n in notifications],
                    [n.producer for n in notifications],
                    [n.type for n in notifications],
                    [n.data for n in notifications],
                    [n.codec for n in notifications],
                    [len(n.to) for n in notifications],
                    [n.ttl for n in notifications],
                    sparse([n.deliver_at for n in notifications]),
                    sparse([n.collapse_key for n in notifications]),
                    sparse([n.context for n in notifications]),
                    sparse([n.undelivered_after for n in notifications]),
                    [item for _user, item in recipients],
                    [user for user, _item in recipients],
                    self._max_pending,
                    sparse([claim.key for _, _, claim in claims]),
                    sparse([claim.digest for _, _, claim in claims]),
                    sparse([firsts[place] + (claim.place or 0) for place, _, claim in claims]),
                    sparse([len(post.notifications) if claim.place is None else 1 for _, post, claim in claims]),
                ),
            )
        except KeyTaken as error:
            raise Rejected(claims[error.claim][0], error) from None
        return [moment] * len(posts)

    async def _deposit_alone(self, notification: Notification) -> datetime:
        """Store one plain notification for one user: what an idle service mostly stores."""
        batch = mint_id()
        return await self._store(
            batch,
            [notification],
            self._database.value(
                "deposit_alone",
                batch,
                notification.id,
                notification.producer,
                notification.type,
                notification.data,
                notification.codec,
                notification.ttl,
                notification.context,
                notification.to[0],
                self._max_pending,
            ),
        )

    async def _store(
        self, batch: UUID, notifications: Sequence[Notification], statement: Coroutine[Any, Any, datetime]
    ) -> datetime:
        """Carry out the statement that stores a batch; return its moment, even if the answer to the statement was lost."""
        try:
            with spanning_deposit([n.context for n in notifications]):
                moment = await statement
        except Refused as error:
            raise Unavailable(f"the database can't store this at the moment; nothing was accepted ({error})") from error
        except Interrupted:
            moment = await self._settle(batch, notifications[0].id)
        return moment

    async def _settle(self, batch: UUID, first: UUID) -> datetime:
        """Find out what became of a batch. Raises Unavailable when it was not stored, or when nobody can say."""
        for attempt in range(1, SETTLE_TRIES + 1):
            try:
                moment: datetime | None = await self._database.value("settle", batch, first)
            except (Interrupted, Blocked, Poisoned) as error:
                log.warning("batch.unsettled", attempt=attempt, reason=str(error))
                await asyncio.sleep(1)
            else:
                log.info("batch.settled", stored=moment is not None)
                if moment is None:
                    raise Unavailable("the connection to the database broke; nothing was accepted")
                return moment
        raise Unavailable(
            "the database went away while storing this; whether it was accepted is not known. "
            "Repeat it with the same Idempotency-Key"
        )

    async def _probe(self, keys: Collection[Hashable]) -> Collection[Hashable]:
        found: list[str] = await self._database.value("blocked_users", list(keys))
        return found
