"""Log lines: one stream, one shape, and never a token, a secret or a payload."""

import json
import logging
import os
import sys
import timeit
import uuid
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import asyncpg
import pydantic
import pytest
import structlog

from notify.telemetry import MAX_TEXT, Line, Relay, configure_logging, make_plain, scrub

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJlLXNpZ25hdHVyZQ"
SECRET = "s3cr3t-hunter2"


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    """Leave logging as it was found."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


class Journal:
    """What went to standard error."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self.capture = capture

    def read(self) -> str:
        """Return all of it, once."""
        return self.capture.readouterr().err

    def line(self) -> dict[str, Any]:
        """Return the one line there is."""
        (line,) = self.read().splitlines()
        return json.loads(line)  # type: ignore[no-any-return] # whatever JSON it is, the test looks


@pytest.fixture
def journal(capsys: pytest.CaptureFixture[str]) -> Journal:
    configure_logging("info", "json")
    return Journal(capsys)


def test_a_line_is_one_json_object_with_event_level_time_logger_and_context(journal: Journal) -> None:
    structlog.contextvars.bind_contextvars(request_id="r1", session_id="s1")
    structlog.get_logger("notify.auth").info("key.refreshed", kid="k1", keys=2, ratio=0.5, spare=None)
    line = journal.line()
    stamp = datetime.fromisoformat(line.pop("timestamp"))
    assert stamp.tzinfo == UTC
    assert abs(datetime.now(UTC) - stamp) < timedelta(minutes=1)
    assert line == {
        "event": "key.refreshed", "level": "info", "logger": "notify.auth", "request_id": "r1", "session_id": "s1",
        "kid": "k1", "keys": 2, "ratio": 0.5, "spare": None,
    }  # fmt: skip


def test_a_logger_without_a_name_goes_by_its_module(journal: Journal) -> None:
    structlog.get_logger().warning("cursor.moved")
    assert journal.line()["logger"] == __name__


def test_a_line_of_a_library_looks_the_same_and_carries_the_context(journal: Journal) -> None:
    structlog.contextvars.bind_contextvars(request_id="r1")
    logging.getLogger("asyncpg").warning("pool is %s", "slow")
    line = journal.line()
    assert (line["event"], line["level"], line["logger"], line["request_id"]) == (
        "pool is slow", "warning", "asyncpg", "r1",
    )  # fmt: skip
    assert line["timestamp"].endswith("Z")


def test_of_libraries_only_warnings_are_heard_even_at_debug(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("debug", "json")
    for name in ("uvicorn.error", "uvicorn.access", "websockets.server", "litestar", "asyncio"):
        logging.getLogger(name).info("TEXT %s", SECRET)
        logging.getLogger(name).debug("TEXT %s", SECRET)
    structlog.get_logger().debug("wake.sent")
    assert Journal(capsys).line()["event"] == "wake.sent"


def test_what_a_library_configured_for_itself_is_undone(capsys: pytest.CaptureFixture[str]) -> None:
    uvicorn = logging.getLogger("uvicorn.error")
    uvicorn.addHandler(logging.StreamHandler(sys.stderr))
    uvicorn.propagate = False
    configure_logging("info", "json")
    uvicorn.error("broken")
    assert Journal(capsys).line()["event"] == "broken"


def test_python_warnings_are_lines_as_well(journal: Journal) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        # The capture has to be renewed: pytest and catch_warnings both put their own in its place.
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn("old habit", DeprecationWarning, stacklevel=1)
    line = journal.line()
    assert line["logger"] == "py.warnings"
    assert "old habit" in line["event"]


def test_below_the_level_nothing_is_written_and_it_costs_next_to_nothing(journal: Journal) -> None:
    log = structlog.get_logger()
    log.warning("first.use")
    journal.read()
    seconds = min(timeit.repeat(lambda: log.debug("wake.sent", users=3), number=1_000, repeat=5)) / 1_000
    assert journal.read() == ""
    assert seconds < 20e-6, "a call that is filtered goes through no processor"


def test_an_exception_is_one_json_line_with_its_frames_and_without_locals(journal: Journal) -> None:
    def fail() -> None:
        hidden = SECRET
        raise ValueError(f"no entry for {len(hidden)}")

    try:
        fail()
    except ValueError:
        structlog.get_logger().exception("session.failed")
    raw = journal.read()
    (line,) = raw.splitlines()
    (exception,) = json.loads(line)["exception"]
    assert exception["exc_type"] == "ValueError"
    assert exception["exc_value"] == f"no entry for {len(SECRET)}"
    assert exception["frames"][-1]["name"] == "fail"
    assert SECRET not in raw


def raise_chain(message: str) -> None:
    try:
        os.environ[message]
    except KeyError as error:
        raise ExceptionGroup("several", [ValueError(message), ExceptionGroup("inner", [KeyError(message)])]) from error


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize(
    "message",
    [
        f"bad token {JWT}",
        f"offered notify.v1, bearer.{JWT}",
        f"Authorization: Bearer {SECRET}{SECRET}",
        f"cannot connect to postgresql://app:{SECRET}@db:5432/notify",
        f"cannot connect to postgresql://app:p@{SECRET}@db:5432/notify",
        f"host=db password={SECRET} user=app",
        f"postgresql://db/notify?password={SECRET}&user=app",
        f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----",
        f"new row violates check\nDETAIL:  Failing row contains ({SECRET}).\nHINT:  none",
        f"1 validation error\n  Input should be an integer [type=int_parsing, input_value='{SECRET}', input_type=str]",
    ],
)
def test_no_secret_of_a_message_or_exception_reaches_a_line_of_ours_or_of_a_library(
    message: str, log_format: Literal["json", "console"], capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("info", log_format)
    structlog.get_logger().info(message, detail=message, nested={"list": [message]}, error=ValueError(message))
    logging.getLogger("uvicorn.error").error("failed: %s", message)
    try:
        raise_chain(message)
    except ExceptionGroup:
        structlog.get_logger().exception("session.failed")
        logging.getLogger("litestar").exception("request failed")
    written = Journal(capsys).read()
    assert "[redacted]" in written
    assert SECRET not in written
    assert JWT not in written
    assert JWT.split(".")[1] not in written


@pytest.mark.parametrize(
    "key",
    ["token", "Authorization", "secret", "password", "data", "payload", "dsn", "jwt_secret", "access_token", "Cookie"],
)
def test_values_under_a_private_key_are_not_written(key: str, journal: Journal) -> None:
    structlog.get_logger().info("request.refused", **{key: {"deep": SECRET}}, request={"headers": {key: SECRET}})
    line = journal.line()
    assert line[key] == "[redacted]"
    assert line["request"]["headers"][key] == "[redacted]"


def test_bytes_and_unknown_objects_are_named_not_shown(journal: Journal) -> None:
    class Notification:
        def __repr__(self) -> str:
            return SECRET

    identity = uuid.UUID(int=5)
    structlog.get_logger().info(
        "entry.skipped", raw=SECRET.encode(), entry=Notification(), id=identity, at=float("nan")
    )
    line = journal.line()
    assert (line["raw"], line["entry"], line["id"], line["at"]) == ("[bytes]", "[Notification]", str(identity), "nan")


def test_what_real_errors_quote_of_a_value_is_taken_out() -> None:
    error = asyncpg.CheckViolationError("new row violates check")
    error.detail = f"Failing row contains ({SECRET})."  # as asyncpg does from the server's answer
    assert SECRET in str(error)
    assert SECRET not in str(make_plain(error))

    class Limits(pydantic.BaseModel):
        rate: int

    with pytest.raises(pydantic.ValidationError) as caught:
        Limits(rate=SECRET)
    assert SECRET in str(caught.value)
    assert SECRET not in str(make_plain(caught.value))


def test_ordinary_text_is_left_alone() -> None:
    for text in ("order.shipped", "https://example.com/a?b=c#d", "a@b.example", "the bearer of news", "eyebrow.raised"):
        assert scrub(text) == text


def test_long_text_and_endless_nesting_are_cut(journal: Journal) -> None:
    loop: list[object] = []
    loop.append(loop)
    structlog.get_logger().info("frame.refused", text="x" * 100_000, loop=loop)
    line = journal.line()
    assert len(line["text"]) == MAX_TEXT + 1
    assert "[…]" in str(line["loop"])


def test_half_a_surrogate_pair_or_a_line_break_does_not_break_the_line(journal: Journal) -> None:
    structlog.get_logger().info("frame.refused", user="a\ud800\nb\u2028c")
    assert journal.line()["user"] == "a\ud800\nb\u2028c"


def test_a_record_that_can_not_be_formatted_is_reported_without_its_arguments(journal: Journal) -> None:
    relay = next(handler for handler in logging.getLogger().handlers if isinstance(handler, Relay))
    # Handed over directly: pytest listens at the root as well and makes an error of such a record.
    relay.handle(logging.LogRecord("asyncpg", logging.WARNING, "pool.py", 7, "pool is %d", (SECRET,), None))
    line = journal.line()
    assert (line["event"], line["logger"]) == ("record.malformed", "asyncpg")
    assert SECRET not in str(line)


def test_the_console_format_is_readable(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "console")
    structlog.get_logger("notify.bridge").warning("listener.lost", attempt=2)
    structlog.get_logger("notify.bridge").error("listener.failed", exc_info=ValueError("no answer"))
    written = capsys.readouterr().err
    first = written.splitlines()[0]
    assert "listener.lost" in first
    assert "warning" in first
    assert "attempt=2" in first
    assert "[notify.bridge]" in first
    assert "\x1b[" not in written, "no colours into a file"
    assert "ValueError: no answer" in written


def test_a_stream_that_is_gone_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    configure_logging("info", "json")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", Gone())
        Line("notify").info("anything")
        structlog.get_logger().info("session.opened")
        logging.getLogger("asyncpg").warning("anything")
