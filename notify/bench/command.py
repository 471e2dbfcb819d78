"""`notify bench` on the command line."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import rich_click as click
from msgspec.structs import replace
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from notify.bench import plot
from notify.bench.own import Service, run_service
from notify.bench.phases import AT_ONCE, Plan
from notify.bench.report import show, write_csv
from notify.bench.result import Alone, write_json
from notify.bench.run import Progress, measure_alone, run
from notify.settings import Settings

DEFAULT_URL = "http://127.0.0.1:8000"
PAGE_WIDTH = 130
"""Characters of a line where there is no terminal to say."""


class Bars(Progress):
    """Progress on standard error, so that standard output is the report's alone."""

    def __init__(self, shown: RichProgress) -> None:
        self._shown = shown
        self._task: TaskID | None = None
        self._began = 0.0
        self._total: float | None = None

    def announce(self, name: str, seconds: float | None) -> None:
        """Show a part that begins; the one before is over."""
        self.finish()
        self._task = self._shown.add_task(name, total=seconds)
        self._began, self._total = time.monotonic(), seconds

    def tick(self) -> None:
        """Move on."""
        if self._task is not None and self._total is not None:
            self._shown.update(self._task, completed=min(time.monotonic() - self._began, self._total))

    def finish(self) -> None:
        """Fill the bar of the part that ended."""
        if self._task is not None:
            self._shown.update(self._task, total=1, completed=1)
            self._shown.stop_task(self._task)


@click.command("bench", context_settings={"show_default": True})
@click.option("--self", "own", is_flag=True, help="Start a PostgreSQL and a service for this, and stop them.")
@click.option("--users", type=click.IntRange(1, 100_000), default=2_000, help="Users, a socket each.")
@click.option("--rate", type=click.FloatRange(1, 100_000), default=200, help="Sends a second of the latency phase.")
@click.option("--seconds", type=click.FloatRange(0.1, 600), default=10, help="Of each phase of sending.")
@click.option("--replay-users", type=click.IntRange(1, 100_000), default=1_000, help="Users of the reconnect storm.")
@click.option("--replay-queued", type=click.IntRange(1, 1_000), default=20, help="Queued for each of them.")
@click.option("--at-once", type=click.IntRange(1, 100_000), default=AT_ONCE, help="Handshakes in flight.")
@click.option(
    "--backlog",
    type=click.IntRange(0, 10_000_000),
    default=0,
    help="At the end, queue this many for users who are away, ten each, and measure again.",
)
@click.option("--payload", type=click.IntRange(60, 60_000), default=200, help="Bytes of `data`.")
@click.option(
    "--loaders", type=click.IntRange(1, 64), help="Processes that make the load; by default one for two cores."
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    help="Processes of the service, with --self, each with its own senders; one is measured, too.",
)
@click.option("--pid", type=int, help="The service's process, for its memory and processor time.")
@click.option("--floors/--no-floors", default=True, help="Measure what the machine does without us, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@click.option("--plot", "picture", type=click.Path(dir_okay=False, path_type=Path), help="Draw the targets as SVG.")
def bench(  # noqa: PLR0913 - one argument an option
    *,
    own: bool,
    users: int,
    rate: float,
    seconds: float,
    replay_users: int,
    replay_queued: int,
    at_once: int,
    backlog: int,
    payload: int,
    loaders: int | None,
    workers: int,
    pid: int | None,
    floors: bool,
    as_json: bool,
    as_csv: bool,
    picture: Path | None,
) -> None:
    """Load a running service, or one of its own, and print what it carries.

    A running service is the one at NOTIFY_URL; NOTIFY_JWT_SECRET mints the tokens, and with NOTIFY_DATABASE_URL the
    database's floors are measured too. Its users are new ones, and what is sent to them expires after ten minutes.
    """
    plan = Plan(
        users=users,
        rate=rate,
        seconds=seconds,
        replay_users=min(replay_users, users),
        replay_queued=replay_queued,
        payload_bytes=payload,
        loaders=min(loaders or max(1, (os.cpu_count() or 1) // 2), users),
        at_once=at_once,
        backlog=backlog,
        processes=workers if own else 1,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends us ends what we started, too
    with choose_service(workers, pid, own=own) as service, show_progress() as bars:
        alone = (lambda: run_alone(plan, bars)) if own and workers > 1 else None
        report = run(service, plan, floors=floors, progress=bars, alone=alone)
        bars.finish()
    if picture is not None:
        picture.write_text(plot.draw(report))
    if as_json:
        click.echo(write_json(report))
    elif as_csv:
        click.echo(write_csv(report), nl=False)
    else:
        console = Console()
        show(report, console if console.is_terminal else Console(width=PAGE_WIDTH))
    if not report.sound:
        sys.exit(1)


def run_alone(plan: Plan, progress: Progress) -> Alone:
    """Measure a service of one process, on a database of its own."""
    with run_service(1) as service:
        return measure_alone(service, replace(plan, processes=1), progress)


@contextmanager
def show_progress() -> Iterator[Bars]:
    """Show the parts of a run, each with a bar and its time."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with RichProgress(*columns, console=Console(stderr=True)) as shown:
        yield Bars(shown)


def choose_service(workers: int, pid: int | None, *, own: bool) -> AbstractContextManager[Service]:
    """Return the service to be measured: one of our own, or the one that the environment names. Raises UsageError."""
    if own:
        return run_service(workers)
    try:
        settings = Settings()
    except ValidationError as error:
        raise click.UsageError(f"the settings can't be read: {error.errors()[0]['msg']}.") from None
    if not settings.jwt_secret:
        raise click.UsageError("set NOTIFY_JWT_SECRET to the service's secret, to mint users' tokens; or use --self.")
    return nullcontext(
        Service(
            os.environ.get("NOTIFY_URL", DEFAULT_URL),
            settings.database_url,
            settings.jwt_secret[0].get_secret_value(),
            pid,
            settings.jwt_issuer,
            settings.jwt_audience,
        )
    )
