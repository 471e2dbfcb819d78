"""Answers: problem details (RFC 9457) and plain JSON, for handlers of the framework and lean routes alike."""

import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException

from notify import metrics
from notify.batch import Blocked, Interrupted, Poisoned
from notify.errors import InvalidRequest, MethodNotAllowed, NotFound, Problem, Unavailable

log = structlog.get_logger()

PROBLEM_MEDIA_TYPE = "application/problem+json"
JSON = (b"content-type", b"application/json")

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]
"""Header lines: names, in lower case where a client sent them, and values."""

Fields: TypeAlias = Mapping[bytes, bytes]
"""Headers by their names, in lower case; of one that comes more than once, the last."""

Answering: TypeAlias = Callable[[int, bytes, bytes], None]
"""Writes a whole answer past ASGI, to be called once: its status, its headers as `write_lines` has them, its body."""

FIT = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+: [^\x00-\x08\x0a-\x1f\x7f]*\r\n)*")
"""Header lines (RFC 9110, section 5): a name is a token, a value has no control character but the tab."""

encode = msgspec.json.Encoder().encode


class Answer(NamedTuple):
    """A whole answer: its status, its headers, and its body, whose length is a header added by who sends it."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


def compose(status: int, content: object, headers: Mapping[str, str] | None = None) -> Answer:
    """Return a JSON answer."""
    body = encode(content)
    return Answer(status, [JSON, *encode_headers(headers or {})], body)


def compose_problem(problem: Problem) -> Answer:
    """Return the answer that a problem is."""
    body = encode(describe(problem))
    return Answer(problem.status, encode_headers({"content-type": PROBLEM_MEDIA_TYPE, **problem.headers}), body)


async def answer(send: Send, status: int, content: object, headers: Mapping[str, str] | None = None) -> None:
    """Send a whole JSON answer through ASGI."""
    await send_answer(send, compose(status, content, headers))


async def answer_problem(send: Send, problem: Problem) -> None:
    """Send a problem through ASGI."""
    await send_answer(send, compose_problem(problem))


async def send_answer(send: Send, answer: Answer) -> None:
    """Send an answer through ASGI."""
    headers = [*answer.headers, (b"content-length", b"%d" % len(answer.body))]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


def encode_headers(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Return headers as ASGI wants them."""
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


def write_lines(headers: Headers) -> bytes:
    """Return headers as they are sent, each on its line. Raises ValueError for one that does not fit on it."""
    lines = b"".join([b"%b: %b\r\n" % (name, value) for name, value in headers])
    if FIT.fullmatch(lines) is None or lines.count(b"\r\n") != len(headers):
        raise ValueError("a header does not fit on its line")
    return lines


def describe(problem: Problem) -> dict[str, object]:
    """Return a problem as its JSON object."""
    members: dict[str, object] = {
        "type": problem.slug,
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
    }
    if problem.errors:
        members["errors"] = problem.errors
    return members


def recognize(error: Exception) -> Problem:
    """Return the problem that an exception is to the person who called, and count it."""
    problem = name_problem(error)
    metrics.REFUSED.labels(problem.status).inc()
    return problem


def name_problem(error: Exception) -> Problem:
    """Return the problem that an exception is."""
    problem: Problem
    match error:
        case Problem():
            problem = error
        case NotFoundException():
            problem = NotFound("no such path")
        case MethodNotAllowedException():
            problem = MethodNotAllowed("this path does not take that method")
            problem.headers.update(error.headers or {})
        case HTTPException() if 400 <= error.status_code < 500:  # noqa: PLR2004 - the range of HTTP's client errors
            problem = InvalidRequest(error.detail)
        case Poisoned():
            problem = InvalidRequest("the database refuses a value in this request")
        case Interrupted() | Blocked():
            problem = Unavailable(f"the database can't answer at the moment ({error})")
        case _:
            log.error("request.broken", exc_info=error)
            problem = Problem("this is a fault of the service; it has been logged")
    return problem


def handle_exception(_request: Request[Any, Any, Any], error: Exception) -> Response[dict[str, object]]:
    """Turn whatever a handler raises into a problem (the framework's exception handler)."""
    problem = recognize(error)
    return Response(
        describe(problem), status_code=problem.status, media_type=PROBLEM_MEDIA_TYPE, headers=problem.headers
    )
