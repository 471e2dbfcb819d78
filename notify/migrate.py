"""Applies sql/migrations: forward only, one at a time, each in one transaction with the row that says so.

The promises kept here: two `notify migrate` at once apply everything once; a migration that fails leaves nothing
behind; one that was applied and edited afterwards is noticed rather than ignored; and no statement waits for long for
the lock of a table in use, since everything that comes after it would wait as well.

Why a runner of ours and not sqlspec's: sqlspec (0.69) takes no lock, so two nodes that start together can both apply
the same step; it cuts a script into statements with a parser of its own and sends them one by one, where PostgreSQL
takes the whole text as it is; and it comes with 10,000 lines about migrations (downgrades, squashing, migrations in
Python, twenty databases), a driver layer and a SQL parser, of which this service would use the loop below. What that
loop has to get right is the transaction, the lock and the bounds on both, and those would be left to us in either case.

The lock belongs to the transaction (`pg_advisory_xact_lock`), not to the connection: it also holds through a pooler,
and nothing that becomes of us can leave it behind.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
import structlog

from notify import sql
from notify.errors import ConfigurationError, NotifyError, SchemaOutdated
from notify.sql import Migration, query

log = structlog.get_logger(__name__)

LOCK_KEY = 0x6E6F_7469_6679  # "notify" in ASCII: ours among the advisory locks of the database
LOCK_WAIT = "60s"  # for another migrator: longer than any step should take, shorter than a deployment's patience
TABLE_WAIT = "5s"  # for a table's lock: whoever comes after us waits as well, so give up and be run again instead
STEP_LIMIT = "1h"  # for one statement of a migration: an index on a large table takes minutes, an hour is a mistake
STEP_SECONDS = 3_600.0 + 60.0  # the same on our side, in seconds, for a server that no longer answers
ANSWER_SECONDS = 10.0  # for everything short
LOCK_SECONDS = 60.0 + ANSWER_SECONDS  # LOCK_WAIT on our side


class MigrationFailed(NotifyError):
    """A migration could not be applied and left nothing behind; the message says which, where and what to do."""


async def migrate(connection: asyncpg.Connection, known: Sequence[Migration] | None = None) -> list[Migration]:
    """Apply what is pending of `known` (by default sql/migrations) and return it.

    `connection` must be in no transaction. A database that is ahead of `known` is left as it is.
    Raises MigrationFailed when a step fails or a lock is not to be had in time, ConfigurationError when an applied
    migration was edited since.
    """
    await prepare(connection)
    applied: list[Migration] = []
    while (step := await apply_next(connection, sql.migrations() if known is None else known)) is not None:
        log.info("migration.applied", number=step.number, name=step.name)
        applied.append(step)
    return applied


async def pending(connection: asyncpg.Connection, known: Sequence[Migration] | None = None) -> list[Migration]:
    """Return the migrations of `known` (by default sql/migrations) that this database lacks. Changes nothing.

    Raises ConfigurationError when an applied migration was edited since.
    """
    known = sql.migrations() if known is None else known
    state = await connection.fetchrow(query("find_migration_table"), timeout=ANSWER_SECONDS)
    if state is None or not state["has_table"]:
        return list(known)
    rows = await connection.fetch(query("fetch_migrations"), timeout=ANSWER_SECONDS)
    recorded = {row["number"]: row["checksum"] for row in rows}
    for migration in known:
        if recorded.get(migration.number, migration.checksum) != migration.checksum:
            raise ConfigurationError(
                f"{migration.file} was changed after this database applied it: put it back as it was and bring "
                "the change in as a new migration"
            )
    return [migration for migration in known if migration.number not in recorded]


async def require_current(connection: asyncpg.Connection, known: Sequence[Migration] | None = None) -> None:
    """Make sure this database has every migration of `known` (by default sql/migrations).

    A newer schema is fine: while a deployment rolls, older nodes go on beside newer ones. Raises SchemaOutdated for an
    older one, ConfigurationError when an applied migration was edited since.
    """
    if missing := await pending(connection, known):
        names = ", ".join(f"{migration.number:04}_{migration.name}" for migration in missing)
        raise SchemaOutdated(f"the database lacks {names}: run `notify migrate`, then start again")


async def prepare(connection: asyncpg.Connection) -> None:
    """Create the schema and the table of migrations where they are missing."""
    async with exclusive(connection):
        state = await connection.fetchrow(query("find_migration_table"), timeout=ANSWER_SECONDS)
        if state is None or not state["has_schema"]:
            await connection.execute(query("create_schema"), timeout=ANSWER_SECONDS)
        if state is None or not state["has_table"]:
            await connection.execute(query("create_migration_table"), timeout=ANSWER_SECONDS)


async def apply_next(connection: asyncpg.Connection, known: Sequence[Migration]) -> Migration | None:
    """Apply the first migration of `known` that is missing, and return it; None when there is none left."""
    async with exclusive(connection):
        # Looked up under the lock: another migrator may have been faster.
        step = next(iter(await pending(connection, known)), None)
        if step is None:
            return None
        try:
            # Without arguments the text goes out as a simple query, which takes any number of statements at once.
            await connection.execute(step.text, timeout=STEP_SECONDS)
            await connection.execute(
                query("record_migration"), step.number, step.name, step.checksum, timeout=ANSWER_SECONDS
            )
        except asyncpg.LockNotAvailableError as error:
            raise MigrationFailed(
                f"{step.file} waited {TABLE_WAIT} for a table that is in use and left everything as it was: run "
                "`notify migrate` again, at a quieter moment if need be"
            ) from error
        except (asyncpg.PostgresError, TimeoutError) as error:
            reason = str(error) or "PostgreSQL gave no answer in time"
            raise MigrationFailed(f"{step.file}{locate(step, error)}: {reason}; nothing of it was kept") from error
        return step


@asynccontextmanager
async def exclusive(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """Hold a transaction in which no other migrator of this database is at work."""
    # Whatever the role's default: what the previous holder of the lock committed has to be seen.
    async with connection.transaction(isolation="read_committed"):
        await connection.execute(query("bound_migration"), LOCK_WAIT, STEP_LIMIT, timeout=ANSWER_SECONDS)
        try:
            await connection.execute(query("lock_migrations"), LOCK_KEY, timeout=LOCK_SECONDS)
        except asyncpg.LockNotAvailableError as error:
            raise MigrationFailed(
                f"another `notify migrate` has been at work for {LOCK_WAIT}: wait for it to end, or end it"
            ) from error
        await connection.execute(query("bound_migration"), TABLE_WAIT, STEP_LIMIT, timeout=ANSWER_SECONDS)
        yield


def locate(step: Migration, error: Exception) -> str:
    """Say in which line of the step the error is, where PostgreSQL tells."""
    position = getattr(error, "position", None)  # in characters, from 1, as text
    return f", line {step.text.count(chr(10), 0, int(position)) + 1}" if position else ""
