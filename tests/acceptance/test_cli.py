"""The commands, as a person runs them: what can't work is said in a line, what can is done, and every setting is told of."""

import json
import re
import socket
from pathlib import Path

import asyncpg
import pytest

from notify.embedded import EmbeddedPostgres
from notify.settings import Settings
from tests.acceptance.command import NOTIFY, ROOT, SECRET, WAIT_SECONDS, assert_one_line, read_until, run, started

# ------------------------------------------------------------------------------------------ wrong usage


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
