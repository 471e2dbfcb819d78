"""What every test may ask for: a real PostgreSQL, and a database of its own in it.

One server a session, one migrated template in it, and a clone of that template for each test, so that a test starts
from the real schema and finds nobody else's rows.
"""

import asyncio
import itertools
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import hypothesis
import pytest
import structlog

from notify import embedded
from notify.embedded import EmbeddedPostgres
from notify.migrate import migrate
from tests.places import choose_place

pytest_plugins = ["tests.leaks"]

# The tests start hundreds of processes: what each imports is compiled once for all of them, whatever the environment says.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

TEMPLATE = "template_notify"
NUMBERS = itertools.count(1)

# Unless asked otherwise structlog draws a traceback with everything in it, which holds the event loop up for a second.
structlog.configure(
    processors=[
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)

# How long an example takes is the machine's matter; what it finds is ours.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

# A throw-away server: what a crash would lose is of no use to anyone.
THROW_AWAY = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "autovacuum": "off",
}

# The directory of another PostgreSQL's programs, to test on that one: what is promised for 15 is not shown by the newest.
OTHER_PROGRAMS = os.environ.get("NOTIFY_TEST_POSTGRES")

WORKERS = 4
"""Processes that share the whole suite: about twice the cores of a small machine, as most tests wait for something."""


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Share the suite as it stands; run by itself what was asked for by name, and what wants the machine for itself."""
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    return WORKERS if whole and config.option.markexpr.startswith("not ") else 0


async def migrate_database(url: str) -> None:
    """Bring the database at `url` up to the schema of this checkout."""
    connection = await asyncpg.connect(url)
    try:
        await migrate(connection)
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """Run a PostgreSQL of the session's own: the embedded one, or another one's programs in its place."""
    with tempfile.TemporaryDirectory(prefix="notify-", dir=choose_place(), ignore_cleanup_errors=True) as directory:
        server = EmbeddedPostgres(Path(directory), settings=THROW_AWAY)
        with pytest.MonkeyPatch.context() as patch:
            if OTHER_PROGRAMS:
                patch.setattr(embedded, "find_binaries", lambda: Path(OTHER_PROGRAMS))
            server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def template(postgres: EmbeddedPostgres) -> str:
    """Name a migrated database, to be cloned."""
    postgres.create_database(TEMPLATE)
    asyncio.run(migrate_database(postgres.url(TEMPLATE)))
    return TEMPLATE


class Clones:
    """Databases cloned from the template, one ahead of the test that asks for it: a clone takes a third of a second."""

    def __init__(self, postgres: EmbeddedPostgres, template: str) -> None:
        self._postgres = postgres
        self._template = template
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="clones")
        self._next = self._worker.submit(self._clone)

    def take(self) -> str:
        """Return the name of a fresh database."""
        name = self._next.result(timeout=30)
        self._next = self._worker.submit(self._clone)
        return name

    def drop(self, name: str) -> None:
        """Drop a database, soon."""
        self._worker.submit(self._postgres.drop_database, name)

    def close(self) -> None:
        """Finish what is under way."""
        self._worker.shutdown(wait=True)

    def _clone(self) -> str:
        name = f"test_{next(NUMBERS)}"
        self._postgres.create_database(name, self._template)
        return name


@pytest.fixture(scope="session")
def clones(postgres: EmbeddedPostgres, template: str) -> Iterator[Clones]:
    """Keep a clone ready."""
    clones = Clones(postgres, template)
    try:
        yield clones
    finally:
        clones.close()


@pytest.fixture
def database_url(postgres: EmbeddedPostgres, clones: Clones) -> Iterator[str]:
    """Give a migrated database of the test's own; gone with whoever is still connected when the test ends."""
    name = clones.take()
    try:
        yield postgres.url(name)
    finally:
        clones.drop(name)


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Connect to the test's own database."""
    connection = await asyncpg.connect(database_url)
    try:
        yield connection
    finally:
        await connection.close()
