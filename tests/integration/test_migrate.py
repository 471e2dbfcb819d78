"""Migrations: applied once, whole or not at all, in order, by one migrator at a time."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from notify import migrate as runner
from notify.embedded import EmbeddedPostgres
from notify.errors import ConfigurationError, SchemaOutdated
from notify.migrate import MigrationFailed, migrate, pending, require_current
from notify.sql import Migration, load_migrations

BARREL = "CREATE TABLE notify.barrel (id integer PRIMARY KEY);\nINSERT INTO notify.barrel VALUES (1);\n"
FUNCTION = """
CREATE FUNCTION notify.count_barrels() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    found bigint;  -- a semicolon; in a comment
BEGIN
    SELECT count(*) INTO found FROM notify.barrel;
    RETURN found;
END
$$;
CREATE INDEX barrel_id ON notify.barrel (id);
"""


@pytest.fixture
def blank_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """Give a database nobody has migrated."""
    postgres.create_database("blank")
    try:
        yield postgres.url("blank")
    finally:
        postgres.drop_database("blank")


@pytest.fixture
async def blank(blank_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Connect to the database nobody has migrated."""
    connection = await asyncpg.connect(blank_url)
    try:
        yield connection
    finally:
        await connection.close()


class Shelf:
    """A directory of migrations of the test's own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def put(self, file: str, text: str) -> list[Migration]:
        """Write one and return all there are now."""
        (self.directory / file).write_text(text)
        return load_migrations(self.directory)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """Give an empty directory for migrations."""
    return Shelf(tmp_path)


async def test_migrations_are_applied_in_order_and_once(blank: asyncpg.Connection, shelf: Shelf) -> None:
    shelf.put("0001_barrel.sql", BARREL)
    known = shelf.put("0002_count.sql", FUNCTION)
    assert await pending(blank, known) == known
    assert await migrate(blank, known) == known
    assert await blank.fetchval("SELECT notify.count_barrels()") == 1
    assert await migrate(blank, known) == []
    assert await pending(blank, known) == []
    await require_current(blank, known)
    rows = await blank.fetch("SELECT number, name, checksum FROM notify.migration ORDER BY number")
    assert [tuple(row) for row in rows] == [(step.number, step.name, step.checksum) for step in known]


async def test_only_what_is_new_is_applied(blank: asyncpg.Connection, shelf: Shelf) -> None:
    await migrate(blank, shelf.put("0001_barrel.sql", BARREL))
    known = shelf.put("0002_count.sql", FUNCTION)
    assert await migrate(blank, known) == known[1:]


async def test_a_failing_migration_leaves_nothing_behind_and_names_its_line(
    blank: asyncpg.Connection, shelf: Shelf
) -> None:
    shelf.put("0001_barrel.sql", BARREL)
    known = shelf.put(
        "0002_broken.sql", "CREATE TABLE notify.half (id integer);\n\nSELECT nonsense FROM notify.barrel;\n"
    )
    with pytest.raises(MigrationFailed, match=r"0002_broken\.sql, line 3: .*nonsense.*nothing of it was kept"):
        await migrate(blank, known)
    assert await blank.fetchval("SELECT to_regclass('notify.half')") is None
    assert await pending(blank, known) == known[1:]
    mended = shelf.put("0002_broken.sql", "CREATE TABLE notify.half (id integer);\n")
    assert await migrate(blank, mended) == mended[1:]


async def test_a_migration_changed_after_it_was_applied_is_refused(blank: asyncpg.Connection, shelf: Shelf) -> None:
    await migrate(blank, shelf.put("0001_barrel.sql", BARREL))
    known = shelf.put("0001_barrel.sql", BARREL.replace("(1)", "(1), (2)"))
    for refuses in (migrate, pending, require_current):
        with pytest.raises(ConfigurationError, match=r"0001_barrel\.sql was changed after .* new migration"):
            await refuses(blank, known)
    assert await blank.fetchval("SELECT count(*) FROM notify.barrel") == 1


async def test_a_database_newer_than_the_code_is_left_alone_and_served(blank: asyncpg.Connection, shelf: Shelf) -> None:
    older = shelf.put("0001_barrel.sql", BARREL)
    await migrate(blank, shelf.put("0002_count.sql", FUNCTION))
    assert await migrate(blank, older) == []
    await require_current(blank, older)


async def test_an_older_schema_is_refused_with_the_command_that_mends_it(
    blank: asyncpg.Connection, shelf: Shelf
) -> None:
    known = shelf.put("0001_barrel.sql", BARREL)
    with pytest.raises(SchemaOutdated, match=r"0001_barrel.*`notify migrate`"):
        await require_current(blank, known)
    assert await blank.fetchval("SELECT to_regnamespace('notify')") is None, "a check creates nothing"
    await migrate(blank, known)
    with pytest.raises(SchemaOutdated, match="lacks 0002_count: run `notify migrate`"):
        await require_current(blank, shelf.put("0002_count.sql", FUNCTION))


async def test_migrators_at_the_same_time_apply_everything_once(
    blank_url: str, blank: asyncpg.Connection, shelf: Shelf
) -> None:
    shelf.put("0001_barrel.sql", BARREL)
    known = shelf.put("0002_count.sql", FUNCTION)

    async def run() -> list[Migration]:
        connection = await asyncpg.connect(blank_url)
        try:
            return await migrate(connection, known)
        finally:
            await connection.close()

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        tasks = [group.create_task(run()) for _ in range(8)]
    applied = sorted(step.number for task in tasks for step in task.result())
    assert applied == [1, 2]
    assert await blank.fetchval("SELECT count(*) FROM notify.barrel") == 1


async def test_the_wait_for_another_migrator_is_bounded(
    blank_url: str, blank: asyncpg.Connection, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "LOCK_WAIT", "50ms")
    known = shelf.put("0001_barrel.sql", BARREL)
    other = await asyncpg.connect(blank_url)
    try:
        async with other.transaction():
            await other.execute("SELECT pg_advisory_xact_lock($1)", runner.LOCK_KEY)
            with pytest.raises(MigrationFailed, match="another `notify migrate` has been at work for 50ms"):
                async with asyncio.timeout(5):
                    await migrate(blank, known)
    finally:
        await other.close()
    assert await migrate(blank, known) == known


async def test_the_wait_for_a_table_in_use_is_bounded_and_changes_nothing(
    blank_url: str, blank: asyncpg.Connection, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "TABLE_WAIT", "50ms")
    await migrate(blank, shelf.put("0001_barrel.sql", BARREL))
    known = shelf.put(
        "0002_wide.sql", "CREATE TABLE notify.more (id integer); ALTER TABLE notify.barrel ADD COLUMN width integer;\n"
    )
    reader = await asyncpg.connect(blank_url)
    try:
        async with reader.transaction():
            await reader.execute("SELECT id FROM notify.barrel")
            with pytest.raises(MigrationFailed, match=r"0002_wide\.sql waited 50ms for a table that is in use"):
                async with asyncio.timeout(5):
                    await migrate(blank, known)
    finally:
        await reader.close()
    assert await pending(blank, known) == known[1:]
    assert await blank.fetchval("SELECT to_regclass('notify.more')") is None


async def test_limits_of_the_connection_neither_cut_a_migration_short_nor_change(
    blank: asyncpg.Connection, shelf: Shelf
) -> None:
    # The limit is for the runner's own small statements as well: longer than this process may stall on a busy machine.
    await blank.execute("SET statement_timeout = '1s'; SET lock_timeout = '250ms'")
    known = shelf.put("0001_slow.sql", "SELECT pg_sleep(1.2);\n")
    assert await migrate(blank, known) == known
    assert await blank.fetchval("SHOW statement_timeout") == "1s"
    assert await blank.fetchval("SHOW lock_timeout") == "250ms"


async def test_a_role_that_may_not_create_schemas_migrates_inside_one_made_for_it(
    postgres: EmbeddedPostgres, blank: asyncpg.Connection, shelf: Shelf
) -> None:
    await blank.execute("CREATE ROLE plain LOGIN; CREATE SCHEMA notify AUTHORIZATION plain")
    known = shelf.put("0001_barrel.sql", BARREL)
    plain = await asyncpg.connect(postgres.url("blank"), user="plain")
    try:
        assert await migrate(plain, known) == known
    finally:
        await plain.close()
        await blank.execute("DROP OWNED BY plain CASCADE; DROP ROLE plain")


async def test_the_real_migrations_leave_every_test_a_current_database(connection: asyncpg.Connection) -> None:
    await require_current(connection)
    assert await migrate(connection) == []
