"""`notify migrate`: brings a database up to this version's schema."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import rich_click as click

from notify import migrate as migrations
from notify.cli.configuration import read_settings
from notify.errors import ConfigurationError, NotifyError
from notify.sql import query

CONNECT_SECONDS = 10.0
"""How long a connection may take to be there."""

ANSWER_SECONDS = 10.0
"""How long one short statement may take."""


class Pending(NotifyError):
    """The database lacks migrations."""


@click.command()
@click.option("--check", is_flag=True, help="Change nothing; exit with 1 if any migration is pending.")
@click.option(
    "--new-epoch", is_flag=True,
    help="After restoring a snapshot, which looks like the original: tell every client that numbering starts anew.",
)  # fmt: skip
def migrate(*, check: bool, new_epoch: bool) -> None:
    """Apply the migrations that the database lacks, one at a time, under a lock."""
    if check and new_epoch:
        raise click.UsageError("--check changes nothing, so it can't go with --new-epoch.")
    url = read_settings().database_url
    if not url:
        raise ConfigurationError("NOTIFY_DATABASE_URL is not set: which database is to be migrated?")
    asyncio.run(run(url, check=check, new_epoch=new_epoch))


async def run(url: str, *, check: bool, new_epoch: bool) -> None:
    """Do what the options say and print what was done. Raises NotifyError."""
    async with connect(url) as connection:
        if check:
            if missing := await migrations.pending(connection):
                names = ", ".join(step.file for step in missing)
                raise Pending(f"pending: {names}; `notify migrate` applies them")
            click.echo("up to date")
            return
        applied = await migrations.migrate(connection)
        for step in applied:
            click.echo(f"applied {step.file}")
        if not applied:
            click.echo("up to date")
        if new_epoch:
            await connection.execute(query("renew_salt"), timeout=ANSWER_SECONDS)
            click.echo("new epoch: every client starts from its device's cursor")


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Hold a connection of one's own to the database. Raises ConfigurationError when it is not to be had."""
    try:
        connection = await asyncpg.connect(url, timeout=CONNECT_SECONDS)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        reason = str(error) or "it does not answer"
        raise ConfigurationError(f"the database of NOTIFY_DATABASE_URL can't be reached: {reason}") from None
    try:
        yield connection
    except asyncpg.PostgresError as error:
        raise ConfigurationError(f"the database refused: {error}") from None
    finally:
        try:
            await connection.close(timeout=ANSWER_SECONDS)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            connection.terminate()
