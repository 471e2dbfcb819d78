"""The commands as the tests run them: real processes, each in a directory and an environment of its own."""

import os
import re
import signal
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

import httpx

from tests.places import choose_place
from tests.service import pass_on

ROOT = Path(__file__).parents[2]
NOTIFY = [sys.executable, "-m", "notify.cli"]
WAIT_SECONDS = 15.0  # for anything that a busy machine might take its time with
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


def get(url: str, token: str) -> httpx.Response:
    return httpx.get(url, headers={"Authorization": f"Bearer {token}"}, trust_env=False)


def assert_one_line(errors: str, *words: str) -> None:
    assert errors.count("\n") == 1, errors
    assert "Traceback" not in errors
    for word in words:
        assert word in errors
