"""Topics: who gets what is sent to them."""

from collections.abc import Sequence

from notify.store.database import Database


class Topics:
    """Subscriptions of users to topics."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def users(self, topic: str, *, limit: int) -> Sequence[str]:
        """Return the subscribers of a topic at this moment, up to `limit`."""
        return [row[0] for row in await self._database.rows("list_topic_users", topic, limit)]

    async def page(self, topic: str, *, after: str, limit: int) -> Sequence[str]:
        """Return up to `limit` subscribers whose ids come after `after`."""
        return [row[0] for row in await self._database.rows("list_subscribers", topic, after, limit)]

    async def subscribe(self, topic: str, user: str) -> None:
        """Subscribe a user. Twice is once."""
        await self._database.value("subscribe", topic, user)

    async def unsubscribe(self, topic: str, user: str) -> None:
        """Take a user off a topic. Idempotent."""
        await self._database.value("unsubscribe", topic, user)
