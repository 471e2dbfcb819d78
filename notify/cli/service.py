"""`notify serve`: production."""

import asyncio

import rich_click as click

from notify.app import Application
from notify.auth import Authenticator
from notify.cli.configuration import read_settings
from notify.cli.schema import connect
from notify.cli.serving import leaving, serve_until_told
from notify.errors import ConfigurationError
from notify.migrate import require_current
from notify.server import open_listener
from notify.settings import Settings
from notify.telemetry import configure_logging
from notify.workers import adopt_listener, supervise, worker_command


@click.command()
@click.option("--host", default="0.0.0.0", show_default=True, help="Address to listen on.")  # noqa: S104 - a server's
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes any free one.")
@click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(1, 256), help="Processes; one a core is plenty."
)
@click.option("--inherit", type=int, hidden=True, help="The listening socket a worker gets from its parent.")
def serve(host: str, port: int, workers: int, inherit: int | None) -> None:
    """Serve on the PostgreSQL of NOTIFY_DATABASE_URL, until SIGTERM.

    Needs a key to check tokens with (NOTIFY_JWT_SECRET, NOTIFY_JWT_PUBLIC_KEY or NOTIFY_JWT_JWKS_URL) and a schema as
    new as itself (`notify migrate`).
    """
    settings = read_settings()
    configure_logging(settings.log_level, settings.log_format)
    with leaving():
        asyncio.run(check_start(settings))
        if inherit is not None:
            serve_until_told(Application(settings), adopt_listener(inherit))
            return
        with open_listener(host, port) as listener:
            if workers == 1:
                serve_until_told(Application(settings), listener)
            else:
                asyncio.run(supervise(listener, workers, worker_command()))


async def check_start(settings: Settings) -> None:
    """Find out what would keep the service from starting, while it can still be said in a line.

    Raises ConfigurationError, SchemaOutdated.
    """
    if not settings.database_url:
        raise ConfigurationError(
            "NOTIFY_DATABASE_URL is not set, e.g. postgresql://db.example/notify?user=notify; or try `notify dev`"
        )
    await Authenticator.from_settings(settings).close()
    async with connect(settings.database_url) as connection:
        await require_current(connection)
