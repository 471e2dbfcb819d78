"""What this process lives on: a database that answers, a schema as new as its own.

Keeps the promise that looking costs nothing while there is much to do: an answer to anything says as much as one more question,
which in a storm would have to queue.
"""

import asyncio
import time

from notify.errors import NotifyError
from notify.migrate import require_current
from notify.store import Store

ANSWER_SECONDS = 2.0
"""How long an answer may take that is looked for."""

ANSWERED_SECONDS = 1.0
"""How long an answer says that the database is there."""

SCHEMA_SECONDS = 30.0
"""How long a schema that was found right counts as right: it only ever grows."""


class Vitals:
    """Looks at the database of one process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._schema_until = float("-inf")

    async def database(self) -> bool:
        """Tell whether the database answers."""
        if time.monotonic() - self._store.database.answered_at < ANSWERED_SECONDS:
            return True
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._store.mailboxes.read_heads(())
        except (NotifyError, TimeoutError):
            return False
        return True

    async def schema(self) -> bool:
        """Tell whether its schema is as new as this process."""
        if time.monotonic() < self._schema_until:
            return True
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._store.database.use(require_current)
        except (NotifyError, TimeoutError):
            return False
        self._schema_until = time.monotonic() + SCHEMA_SECONDS
        return True
