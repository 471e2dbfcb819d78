"""Every problem there is: as responses of the OpenAPI document, and as openapi/problems.md, both out of errors.py."""

import textwrap
from typing import Any

from notify.api.answers import PROBLEM_MEDIA_TYPE, describe
from notify.errors import (
    PROBLEMS,
    FieldError,
    Forbidden,
    HeadersTooLarge,
    InFlight,
    InvalidRequest,
    KeyReused,
    MethodNotAllowed,
    NotFound,
    Problem,
    RateLimited,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UnsupportedMedia,
)

WIDTH = 120  # characters of a line

REMEDIES: dict[type[Problem], str] = {
    InvalidRequest: "Mend every field that `errors` names; each `pointer` is a JSON pointer (RFC 6901) into the body.",
    Unauthenticated: "Get a fresh token and send it as `Authorization: Bearer <JWT>`; then try again.",
    Forbidden: "Use a token whose `scope` names what `detail` asks for. The same token will be refused again.",
    NotFound: "Check the id, and that the token is the one that the thing belongs to.",
    MethodNotAllowed: "Use one of the methods that the `Allow` header names.",
    InFlight: "Wait a moment and send the same request with the same key again.",
    TooLarge: "Send less at once: split the recipients or the batch, or put the bulk elsewhere and send a link.",
    UnsupportedMedia: "Set `Content-Type` to what the body is, and leave it uncompressed.",
    KeyReused: "Take a new key for a new request; to repeat an old one, send exactly what it stood for.",
    HeadersTooLarge: "Send fewer or shorter headers; most often the token carries too many claims.",
    RateLimited: "Wait as many seconds as `Retry-After` says, then go on more slowly.",
    Problem: "Try again later, with the same Idempotency-Key if it was a send. If it stays, tell the operator.",
    Unavailable: "Wait as many seconds as `Retry-After` says and try again, with backoff when it stays.",
}
"""What to do about each problem."""

DETAILS: dict[type[Problem], str] = {
    InvalidRequest: "some fields are not valid",
    Unauthenticated: "send a token: `Authorization: Bearer <JWT>`",
    Forbidden: "the token lacks the scope notifications:send",
    NotFound: "no such notification, or not one of yours",
    InFlight: "the first request with this key is still being answered",
    TooLarge: "the body is longer than 8388608 bytes",
    UnsupportedMedia: "the Content-Type must be one of: application/json, application/msgpack",
    KeyReused: "this key stood for another body",
    RateLimited: "more recipients than you may address in a second",
    Unavailable: "the database can't answer at the moment",
}
"""A `detail` to show where a problem is an example."""

HEADERS = {
    "WWW-Authenticate": "How to authenticate: `Bearer`.",
    "Retry-After": "Seconds to wait before trying again.",
    "RateLimit-Policy": "The quota: `q` of the unit `qu` in `w` seconds (draft-ietf-httpapi-ratelimit-headers).",
    "RateLimit": "What is left of it: `r` for the next `t` seconds.",
}

PROBLEM_SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "description": "Why a request was refused (RFC 9457). `type` is stable: decide on it, never on the words.",
    "type": "object",
    "properties": {
        "type": {"type": "string", "enum": [problem.slug for problem in PROBLEMS], "description": "The stable slug."},
        "title": {"type": "string", "description": "The same words for every problem of this type."},
        "status": {"type": "integer", "description": "The HTTP status again."},
        "detail": {"type": "string", "description": "What is wrong with this request, for the person who reads it."},
        "errors": {
            "type": "array",
            "items": {"$ref": "#/components/schemas/FieldError"},
            "description": "Every bad field, where there are any.",
        },
    },
    "required": ["type", "title", "status", "detail"],
}


def build_example(problem: type[Problem]) -> dict[str, Any]:
    """Return what a problem looks like on the wire."""
    sample = problem(DETAILS.get(problem, problem.title.lower()))
    if problem is InvalidRequest:
        sample.errors.append(FieldError("/to/0", "must have 1 to 255 characters, none a control character"))
    body = describe(sample)
    if sample.errors:
        body["errors"] = [{"pointer": error.pointer, "detail": error.detail} for error in sample.errors]
    return body


def build_response(problem: type[Problem]) -> dict[str, Any]:
    """Return a problem as a response of the OpenAPI document."""
    response: dict[str, Any] = {"description": f"{problem.title}. {problem.meaning}"}
    if sent := problem("").headers:
        response["headers"] = {
            name: {"description": HEADERS[name], "schema": {"type": "string"}} for name in sorted(sent)
        }
    response["content"] = {
        PROBLEM_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": build_example(problem)}
    }
    return response


def refer_to(problem: type[Problem]) -> dict[str, str]:
    """Return a reference to a problem's response."""
    return {"$ref": f"#/components/responses/{problem.slug}"}


def write_problems() -> str:
    """Return openapi/problems.md."""
    lines = [
        "# Problems",
        "",
        "Every refusal is an `application/problem+json` document (RFC 9457). Its `type` is one of the slugs below and",
        "never changes its meaning; `title` and `detail` are for people, and may.",
        "",
        "Written by `notify openapi` from the code. Don't edit it here.",
        "",
        "| status | `type` | title |",
        "|---|---|---|",
        *(f"| {problem.status} | [`{problem.slug}`](#{problem.slug}) | {problem.title} |" for problem in PROBLEMS),
    ]
    for problem in PROBLEMS:
        lines += ["", f"## {problem.slug}", "", f"**{problem.status} · {problem.title}**", ""]
        lines += textwrap.wrap(f"What it means: {problem.meaning}", WIDTH)
        lines += ["", *textwrap.wrap(f"What to do: {REMEDIES[problem]}", WIDTH)]
    return "\n".join(lines) + "\n"
