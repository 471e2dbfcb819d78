"""What the service says about itself: one stream of log lines on standard error.

The promise kept here: a line never holds a token, a secret or a payload. Callers don't log them in the first place;
`redact` is the second line of defence, for whatever an exception or a library drags in. Lines of structlog and of the
standard library (uvicorn, asyncpg, litestar, warnings) pass the same processors and look the same.
"""

import logging
import math
import re
import sys
from datetime import date
from enum import Enum
from functools import partial
from json import dumps
from pathlib import Path
from typing import Literal
from uuid import UUID

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

REDACTED = "[redacted]"
MAX_TEXT = 8_192  # characters of one value: a traceback fits, a payload inside an error message does not flood the log
MAX_NESTING = 12  # levels of a value: chained exceptions with their frames take 5, groups of them a few more
MAX_FRAMES = 20  # of a traceback, the outermost and innermost ones

PRIVATE_KEY = re.compile(
    r"token|secret|passw|authorization|cookie|credential|private_key|api_?key|^(?:data|payload|body|dsn|jwt|bearer)$",
    re.IGNORECASE,
)
PRIVATE_TEXT = (
    # JSON Web Tokens, whole or cut off: base64url of `{"` and what follows, with a dot in it.
    (re.compile(r"\bey[JA][A-Za-z0-9_-]{6,}\.[A-Za-z0-9_.-]*"), REDACTED),
    (re.compile(r"\b(bearer[ .])[A-Za-z0-9_~+/=.-]{8,}", re.IGNORECASE), rf"\1{REDACTED}"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), REDACTED),
    # Credentials in a URL, up to the last @ before the host, and in a libpq connection string or query.
    (re.compile(r"\b([a-z][a-z0-9+.-]*://)[^\s/?#]*@", re.IGNORECASE), rf"\1{REDACTED}@"),
    (re.compile(r"\b((?:password|passwd|secret|token)\s*=\s*)(?:'[^']*'|[^\s&'\"]+)", re.IGNORECASE), rf"\1{REDACTED}"),
    # What PostgreSQL (`Failing row contains (…)`) and pydantic quote of the values they refuse.
    (re.compile(r"(DETAIL:).*?(?=\n\s*(?:HINT:|Traceback|The above|During|[|+])|\Z)", re.DOTALL), rf"\1 {REDACTED}"),
    (re.compile(r"\binput_value=.*?(?=, input_type=|\]|$)", re.MULTILINE), f"input_value={REDACTED}"),
)


def configure_logging(level: str, log_format: Literal["json", "console"]) -> None:
    """Send every log line from `level` (debug, info, warning, error) up to standard error, in `log_format`.

    uvicorn and litestar must be started without a logging configuration of their own (`log_config=None`,
    `logging_config=None`). Raises KeyError for an unknown level.
    """
    least = LEVELS[level]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    finish = render_json() if log_format == "json" else render_console()
    structlog.configure(
        processors=[*shared, *finish],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=Line,
        cache_logger_on_first_use=True,
    )
    relay = Relay()
    relay.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *finish]
        )
    )
    # From libraries, warnings and worse whatever the level: at debug, websockets would log every frame's payload.
    root = logging.getLogger()
    root.handlers[:] = [relay]
    root.setLevel(max(least, logging.WARNING))
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "litestar", "asyncio"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(logging.NOTSET)
    logging.captureWarnings(capture=True)


def render_json() -> list[Processor]:
    """Build the end of the chain for machines: one JSON object a line, an exception as a list of its frames."""
    frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=MAX_FRAMES)
    return [
        structlog.processors.ExceptionRenderer(frames),
        redact,
        # ASCII only, so that no terminal or collector chokes on half a surrogate pair or a U+2028.
        structlog.processors.JSONRenderer(serializer=partial(dumps, separators=(",", ":"))),
    ]


def render_console() -> list[Processor]:
    """Build the end of the chain for people: aligned columns, tracebacks below them, colours on a terminal."""
    return [
        structlog.processors.format_exc_info,
        redact,
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=24
        ),
    ]


class Line:
    """Where structlog writes: standard error, under the name of whoever logs.

    Without a name of its own a logger goes by the module that used it first.
    """

    __slots__ = ("name",)

    def __init__(self, *names: str) -> None:
        self.name = names[0] if names else find_caller()

    def msg(self, line: str) -> None:
        """Write one line."""
        write_line(line)

    debug = info = warning = error = critical = fatal = exception = msg


class Relay(logging.Handler):
    """Where the standard library's logging goes: the same stream."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record as a line."""
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - whatever a library's arguments do; the default would print them as they are
            place = f"{record.pathname}:{record.lineno}"
            structlog.get_logger(record.name).error("record.malformed", place=place)
        else:
            write_line(line)


def write_line(line: str) -> None:
    """Write one line to standard error in one call, so that lines of several threads or workers don't mix.

    A stream that is gone is no reason to fail whatever was being logged about.
    """
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):  # a closed pipe, a closed stream
        return


def find_caller() -> str:
    """Name the module that logs: the nearest one up the stack that isn't structlog's or this."""
    frame = sys._getframe(1)  # noqa: SLF001 - how the standard library's logging finds it, once a logger
    while frame.f_back is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name != __name__ and not name.startswith("structlog"):
            return name
        frame = frame.f_back
    return "notify"


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Make every value plain and take out what looks like a token, a secret or a payload. A structlog processor."""
    for key, value in event.items():
        event[key] = REDACTED if PRIVATE_KEY.search(key) else make_plain(value)
    return event


def make_plain(value: object, nesting: int = 0) -> object:
    """Return `value` as JSON can hold it; objects that could carry anything become the name of their type."""
    plain: object
    match value:
        case str():
            plain = scrub(value)
        case None | int():
            plain = value
        case float():
            plain = value if math.isfinite(value) else str(value)
        case dict() | list() | tuple() | set() | frozenset() if nesting >= MAX_NESTING:
            plain = "[…]"
        case dict():
            plain = {
                str(key): REDACTED if PRIVATE_KEY.search(str(key)) else make_plain(inner, nesting + 1)
                for key, inner in value.items()
            }
        case list() | tuple() | set() | frozenset():
            plain = [make_plain(inner, nesting + 1) for inner in value]
        case UUID() | date() | Path() | Enum() | BaseException():
            plain = scrub(str(value))
        case _:
            plain = f"[{type(value).__name__}]"
    return plain


def scrub(text: str) -> str:
    """Take out what looks like a token, a secret or a quoted payload, and cut to MAX_TEXT characters."""
    # Scrubbed before it is cut: half a secret may not look like one.
    for pattern, replacement in PRIVATE_TEXT:
        text = pattern.sub(replacement, text)
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"
