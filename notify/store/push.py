"""Subscriptions to Web Push: who has some, what is to be pushed to them, and the service's own key.

Keeps the promise that no notification is pushed to a subscription by two nodes: whoever pushes has claimed it first.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from uuid import UUID

import msgspec

from notify.model import Entry
from notify.store.database import Database
from notify.store.mailboxes import read_entry
from notify.webpush import Subscription


class Claim(msgspec.Struct, frozen=True):
    """A push that this node is to make: a subscription, and the notification for it.

    `attempts` failed since the last that went through; the notification is worth sending for `seconds`.
    """

    digest: bytes
    user: str
    subscription: Subscription
    attempts: int
    entry: Entry
    collapse_key: str | None
    seconds: float


class Step(msgspec.Struct, frozen=True):
    """A step of the walk through all subscriptions: whom to look at, and where the next begins (None: at the start)."""

    users: Sequence[str]
    place: bytes | None


class Push:
    """The subscriptions of all users."""

    def __init__(self, database: Database, *, max_subscriptions: int) -> None:
        self._database = database
        self._max_subscriptions = max_subscriptions

    async def key(self, candidate: bytes) -> bytes:
        """Return the private key that all nodes share; it is `candidate` if there was none."""
        kept: bytes | None = await self._database.value("read_push_key")
        if kept is None:  # looked at first: it is only ever written once
            kept = await self._database.value("keep_push_key", candidate)
        assert kept is not None, "the migration made the one row"
        return kept

    async def put(self, user: str, subscription: Subscription, expires_at: float | None) -> None:
        """Subscribe a browser, until `expires_at` in unix seconds. Beyond the limit a user's longest unseen one goes."""
        await self._database.value(
            "put_push_subscription",
            digest(subscription.endpoint),
            user,
            subscription.endpoint,
            subscription.p256dh,
            subscription.auth,
            expires_at,
            self._max_subscriptions,
        )

    async def remove(self, user: str, endpoint: str) -> None:
        """Take a subscription of a user away. Idempotent."""
        await self._database.value("remove_push_subscription", digest(endpoint), user)

    async def count(self, user: str) -> int:
        """Return how many browsers of a user are subscribed."""
        return int(await self._database.value("count_push_subscriptions", user))

    async def lease(self, node: UUID, *, seconds: float) -> bool:
        """Try to be the node that pushes, for so many seconds. False also while nobody is subscribed."""
        return bool(await self._database.value("lease_pushing", node, seconds))

    async def leave(self, node: UUID) -> None:
        """Let another node push at once."""
        await self._database.value("leave_pushing", node)

    async def subscribed(self, users: Sequence[str]) -> Sequence[str]:
        """Return those of these users who have subscribed any browser."""
        return [row[0] for row in await self._database.rows("list_subscribed", users)]

    async def claim(
        self, users: Sequence[str], *, limit: int, each: int, behind: int, seconds: float
    ) -> tuple[Sequence[Claim], Collection[str]]:
        """Claim up to `limit` pushes to those of these users who are away, up to `each` to one.

        Returns them, and the users for whom there may be more. Of each mailbox only the latest `behind` entries are looked
        at. A claim holds for `seconds`.
        """
        rows = await self._database.rows("claim_pushes", users, limit, each, behind, seconds)
        claims = [
            Claim(
                digest=row["digest"],
                user=row["user_id"],
                subscription=Subscription(row["endpoint"], row["p256dh"], row["auth"]),
                attempts=row["attempts"],
                entry=read_entry(row),
                collapse_key=row["collapse_key"],
                seconds=row["seconds"],
            )
            for row in rows
            if row["seq"] is not None
        ]
        if len(rows) >= limit:
            return claims, users
        return claims, [user for user, count in Counter(row["user_id"] for row in rows).items() if count >= each]

    async def settle(self, claim: Claim) -> None:
        """Write down that a push is done with."""
        await self._database.value("settle_push", claim.digest, claim.user, claim.entry.seq)

    async def delay(self, claim: Claim, seconds: float) -> None:
        """Write down that a push failed, and is to be tried again after so many seconds."""
        await self._database.value("delay_push", claim.digest, claim.user, seconds)

    async def due(self, limit: int) -> Sequence[str]:
        """Return users with subscriptions that have waited for long enough."""
        return [row[0] for row in await self._database.rows("list_pushes_due", limit)]

    async def walk(self, place: bytes | None, limit: int) -> Step:
        """Return whose mailboxes are ahead of what was pushed, among the next `limit` subscriptions after a place."""
        row = await self._database.row("walk_push_subscriptions", place or b"", limit)
        assert row is not None, "a select without FROM has a row"
        return Step(row["users"], row["digest"])


def digest(endpoint: str) -> bytes:
    """Return what an endpoint is filed under."""
    return hashlib.sha256(endpoint.encode()).digest()
