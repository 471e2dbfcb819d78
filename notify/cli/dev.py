"""`notify dev`: the whole service on an embedded PostgreSQL, for trying it out.

The promises kept here: everything is in one directory, the queue survives any end of this process, nothing of ours goes
on running after a polite one, and the tokens on the screen are never in a log.
"""

import asyncio
from contextlib import ExitStack, suppress
from pathlib import Path

import rich_click as click

from notify.app import Application
from notify.auth import Authenticator
from notify.cli.banner import Place, write_banner
from notify.cli.configuration import DATA_DIR, DATABASE, complete, read_settings
from notify.cli.schema import connect
from notify.cli.serving import held_back, ignore_signals, leaving, serve_until_told
from notify.embedded import EmbeddedPostgres
from notify.migrate import migrate
from notify.server import open_listener
from notify.settings import Settings
from notify.telemetry import configure_logging


@click.command()
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes any free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--data-dir", type=click.Path(path_type=Path, file_okay=False), default=DATA_DIR, show_default=True,
    help="Where the database and the secret are kept.",
)  # fmt: skip
def dev(port: int, host: str, data_dir: Path) -> None:
    """Run the whole service on a PostgreSQL of its own, and print what to paste next.

    Ctrl-C stops all of it. What is queued is still there next time.
    """
    settings = read_settings()
    chosen = settings.model_fields_set
    settings = settings.model_copy(update={} if "log_format" in chosen else {"log_format": "console"})
    configure_logging(settings.log_level if "log_level" in chosen else "warning", settings.log_format)
    with leaving(), open_listener(host, port) as listener, ExitStack() as begun:
        postgres = EmbeddedPostgres(data_dir)
        with held_back():
            postgres.start()
            # Only what this process started or adopted is its to stop: the directory may be somebody else's.
            begun.callback(postgres.stop)
            begun.callback(ignore_signals)
        postgres.create_database(DATABASE)
        settings = complete(settings, postgres.url(DATABASE), data_dir)
        asyncio.run(prepare(settings))
        banner = write_banner(settings, Place(host, listener.getsockname()[1], data_dir))
        serve_until_told(Application(settings, dev=True), listener, when_ready=lambda: show(banner))


def show(banner: str) -> None:
    """Print the banner; a standard output that is gone is no reason to stop."""
    with suppress(OSError):
        click.echo(banner)


async def prepare(settings: Settings) -> None:
    """Bring the database up to this version's schema, and see that the keys can be used. Raises NotifyError."""
    await Authenticator.from_settings(settings).close()
    async with connect(settings.database_url) as connection:
        await migrate(connection)
