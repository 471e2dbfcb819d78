"""The audit log: who did what to whom, when, and how many it touched. Written by the acts themselves."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from notify.store.database import Database

LATEST = 2**63 - 1
"""After every act."""


class Act(msgspec.Struct, frozen=True):
    """What an admin did: who, what, to whom, when, and how many it touched."""

    id: int
    at: datetime
    actor: str
    action: str
    target: str
    affected: int
    detail: str | None


class Audit:
    """The log, newest first."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, *, target: str | None = None, before: int = LATEST, limit: int) -> Sequence[Act]:
        """Return up to `limit` acts before one; with a `target` only those that concerned it."""
        return [Act(*row) for row in await self._database.rows("list_audit", before, target, limit)]
