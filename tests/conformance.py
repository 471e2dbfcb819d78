r"""What schemathesis is told of this service: how MessagePack is written, and which refusals no schema can foretell.

Run by hand against a running service, from the top of the repository:

    SCHEMATHESIS_HOOKS=tests.conformance .venv/bin/st run http://127.0.0.1:8000/openapi.json \
        -H "Authorization: Bearer $NOTIFY_TOKEN" --exclude-path /v1/stream
"""

import re
from typing import Any

import msgspec
import schemathesis
from schemathesis.core.failures import Failure
from schemathesis.core.transport import Response
from schemathesis.openapi.checks import RejectedPositiveData

MSGPACK = "application/msgpack"
CALLER = "conformance"
"""The `sub` of the token to be used."""

EXPLAINED = {
    "/cursor: .*": "a cursor is opaque: which ones there are depends on what is stored",
    ".*/deliver_?at: (must be at most 30 days ahead|is not a time that can be kept)": "depends on the clock, and the calendar",
    ".*: expected `int`, got `float`": "JSON Schema counts 1.0 among the integers; who means an integer writes one",
    ".*/(collapse_?key|deliver_?at|undelivered_?after): can't go together with `ttl: 0`.*": "the combination is told in words",
    "/Idempotency-Key: can't go together with `ttl: 0`.*": "the same, of a header and the body",
    "/notifications: ttl must be 0 for all notifications of a batch or for none": "the same, of a batch",
    ".*: can't go together with `data`": "the same, of an event's data and its bytes",
    ".*: must be (text without control characters|a media type|a string, an integer of 32 bits or a boolean)": (
        "what CloudEvents says of every attribute of an event, those that nobody knows included"
    ),
    "/(url|endpoint): .*": "where a URL leads is looked at; and no schema spans a parameter and a body",
    "/keys/.*: .*": "whether a key is a point of its curve is computed",
    "/expirationTime: .*": "depends on the clock",
    "/secret: .*": "base64 says more than a pattern can",
    ".*/data.*: .*": "what not every client can read back: numbers beyond 64 bits or doubles, NUL, 64 levels and more",
}
"""What is refused although it fits the schema, as `pointer: detail`, and why the schema doesn't say so."""

_EXPLAINED = re.compile("|".join(f"(?:{each})" for each in EXPLAINED))


@schemathesis.serializer(MSGPACK)
def write_msgpack(_context: object, value: object) -> bytes:
    """Write a body as MessagePack."""
    return msgspec.msgpack.encode(value)


@schemathesis.hook
def filter_case(_context: object, case: schemathesis.Case[Any]) -> bool:
    """Tell whether a case is to be tried: none that MessagePack can't write, none that locks its own caller out."""
    if case.media_type == MSGPACK:
        try:
            msgspec.msgpack.encode(case.body)
        except (OverflowError, TypeError):
            return False
    return (case.path_parameters or {}).get("value") != CALLER


@schemathesis.hook
def filter_failure(_context: object, failure: Failure, _case: object, response: Response) -> bool:
    """Tell whether a failure counts: all do, but for a refusal of what fits the schema whose every reason is explained."""
    if not isinstance(failure, RejectedPositiveData):
        return True
    problem = response.json()
    if problem["type"] == "idempotency-key-reused":
        return False  # so it was: the few keys that are tried come again
    reasons = [f"{error['pointer']}: {error['detail']}" for error in problem.get("errors", ())]
    return not reasons or not all(_EXPLAINED.fullmatch(reason) for reason in reasons)
