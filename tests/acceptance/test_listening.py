"""`notify send` and `notify listen`, as a person runs them: what is sent is shown, harmlessly, and acknowledged once it is."""

import json
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.command import (
    NOTIFY,
    WAIT_SECONDS,
    Dev,
    assert_one_line,
    dev,
    get,
    read_until,
    run,
    started,
    stop,
    working_directory,
)


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
