"""`--self`: a PostgreSQL and a service of the run's own, gone when it ends."""

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from notify.bench.fleet import LoadError
from notify.embedded import EmbeddedPostgres
from notify.migrate import migrate

START_SECONDS = 20.0
STOP_SECONDS = 12.0
"""A drain takes up to eight seconds."""

CONNECT_SECONDS = 5.0
VACUUM_SECONDS = 300.0
"""Far more than a million notifications need."""

DATABASE = "notify"


@dataclass(frozen=True, slots=True)
class Service:
    """A service to be measured. `pid` is its first process, if it is on this machine; `own` says that its database is ours."""

    url: str
    database_url: str
    secret: str
    pid: int | None
    issuer: str = ""
    audience: str = ""
    own: bool = False


@contextmanager
def run_service(workers: int) -> Iterator[Service]:
    """Run PostgreSQL and `notify serve` in a directory of their own. Raises LoadError or ConfigurationError."""
    with (
        tempfile.TemporaryDirectory(prefix="notify-bench-", ignore_cleanup_errors=True) as directory,
        EmbeddedPostgres(Path(directory)) as postgres,
    ):
        postgres.create_database(DATABASE)
        database_url = postgres.url(DATABASE)
        asyncio.run(apply_migrations(database_url))
        port, secret = find_port(), secrets.token_urlsafe(32)
        log = Path(directory) / "service.log"
        with log.open("w") as output:
            process = subprocess.Popen(  # noqa: S603 - our own
                [sys.executable, "-m", "notify.cli", "serve", "--port", str(port), "--workers", str(workers)],
                env={**os.environ, **environment(database_url, secret)},
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for this process, which then ends that one
            )
        try:
            await_ready(f"http://127.0.0.1:{port}", process, log)
            yield Service(f"http://127.0.0.1:{port}", database_url, secret, process.pid, own=True)
        finally:
            stop(process)


def environment(database_url: str, secret: str) -> dict[str, str]:
    """Return the settings of a service that is to be measured: nothing of the caller's own but its limits."""
    return {
        "NOTIFY_DATABASE_URL": database_url,
        "NOTIFY_LISTEN_URL": "",
        "NOTIFY_JWT_SECRET": secret,
        "NOTIFY_JWT_PUBLIC_KEY": "",
        "NOTIFY_JWT_JWKS_URL": "",
        "NOTIFY_JWT_ISSUER": "",
        "NOTIFY_JWT_AUDIENCE": "",
        "NOTIFY_SEND_RATE": "0",
        "NOTIFY_LOG_LEVEL": "warning",
    }


async def apply_migrations(url: str) -> None:
    """Bring a new database up to the schema."""
    connection = await asyncpg.connect(url)
    try:
        await migrate(connection)
    finally:
        await connection.close()


async def calm_database(url: str) -> None:
    """Have PostgreSQL vacuum and write out what was stored: it would within minutes, in the middle of what is measured.

    Raises LoadError.
    """
    try:
        connection = await asyncpg.connect(url, timeout=CONNECT_SECONDS)
        try:
            await connection.execute("VACUUM (ANALYZE)", timeout=VACUUM_SECONDS)
            await connection.execute("CHECKPOINT", timeout=VACUUM_SECONDS)
        finally:
            connection.terminate()
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        raise LoadError(f"the database can't be vacuumed: {type(error).__name__}: {error}") from error


def find_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def await_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until the service is ready. Raises LoadError with the last it said."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=2):  # noqa: S310 - http, and ours
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    last = log.read_text(errors="replace").strip().splitlines()[-1:]
    raise LoadError(f"the service did not become ready: {' '.join(last) or 'it said nothing'}")


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End the service: politely, then with whatever it left."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
