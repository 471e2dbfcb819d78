"""What the console asks beyond the admin API: how many an act will touch, and what the database says of itself.

Keeps the promise that an admin is told the exact count before acting, by the conditions that the act itself goes by.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from notify.ids import mint_id
from notify.store.database import Database
from notify.store.denials import DenialKind
from notify.store.sessions import SessionState

TEST_SECONDS = 3_600.0
"""Life of a test notification: long enough to be looked for, short enough not to surprise anybody tomorrow."""


class Table(msgspec.Struct, frozen=True):
    """A table's size in bytes. `rows` is PostgreSQL's estimate, -1 where it has none yet."""

    name: str
    rows: int
    table_bytes: int
    index_bytes: int


class DatabaseState(msgspec.Struct, frozen=True):
    """What PostgreSQL says of itself."""

    version: str
    name: str
    bytes: int
    started_at: datetime
    standby: bool


class AppliedMigration(msgspec.Struct, frozen=True):
    """A step of the schema, and when it was taken."""

    number: int
    name: str
    applied_at: datetime


class Survey:
    """Counts before acts, and the database's own state."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def count_replayable(self, user: str, after: int) -> int:
        """Return how many notifications a replay after this seq would queue again."""
        return int(await self._database.value("count_replayable", user, after))

    async def count_sessions(self, kind: DenialKind, value: str) -> int:
        """Return how many open sessions a subject has, or a single token opened."""
        if kind == "sub":
            return int(await self._database.value("count_user_sessions", value))
        return int(await self._database.value("count_token_sessions", value))

    async def find_session(self, session: UUID) -> SessionState | None:
        """Return an open session; None when there is no such one."""
        row = await self._database.row("find_session", session)
        return None if row is None else SessionState(*row)

    async def is_denied(self, kind: DenialKind, value: str) -> bool:
        """Return whether this is on the deny list."""
        return bool(await self._database.value("is_denied", kind, value))

    async def send_test(self, actor: str, user: str, kind: str, data: bytes) -> UUID:
        """Send one user a test notification (`data` is JSON, checked) in the actor's name. Returns its id."""
        minted = mint_id()
        await self._database.value("send_test", actor, minted, user, kind, data, TEST_SECONDS)
        return minted

    async def tables(self) -> Sequence[Table]:
        """Return the service's tables, the largest first."""
        return [Table(*row) for row in await self._database.rows("list_tables")]

    async def database(self) -> DatabaseState:
        """Return what PostgreSQL says of itself."""
        row = await self._database.row("describe_database")
        assert row is not None, "a statement without FROM has a row"
        return DatabaseState(*row)

    async def migrations(self) -> Sequence[AppliedMigration]:
        """Return the steps of the schema, the latest first."""
        return [AppliedMigration(*row) for row in await self._database.rows("list_applied_migrations")]
