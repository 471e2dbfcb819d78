"""What travels with a notification beside its data: the trace it belongs to, and the event it came as. Pure.

It is stored as JSON text, and NULL for most notifications: those never reach this module. The trace is W3C's
`traceparent` (https://www.w3.org/TR/trace-context/), the event CloudEvents 1.0
(https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md).
"""

import re
from collections.abc import Mapping

import msgspec

EXTENSION = str | bool | int
"""The value of an extension attribute."""

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class Context(msgspec.Struct, frozen=True, omit_defaults=True):
    """The attributes of an event that notify has no column for, and the trace. Times and URIs stay the text they were.

    `source` and `id` are there if, and only if, it came as an event.
    """

    traceparent: str | None = None
    source: str | None = None
    id: str | None = None
    time: str | None = None
    dataschema: str | None = None
    datacontenttype: str | None = None
    extensions: Mapping[str, EXTENSION] = {}


NOTHING = Context()
"""The context of what has none."""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Context)


def read_context(text: str | None) -> Context:
    """Return a stored context."""
    return NOTHING if text is None else _decoder.decode(text)


def write_context(context: Context) -> str | None:
    """Return a context as it is stored: None when there is nothing in it."""
    return None if context == NOTHING else _encoder.encode(context).decode()


def read_traceparent(text: object) -> str | None:
    """Return a valid `traceparent` as version 00 has it; None for any other, as W3C's section 3.2 wants it ignored.

    A later version may have more fields: its first four mean the same.
    """
    if not isinstance(text, str) or (match := _TRACEPARENT.fullmatch(text)) is None:
        return None
    version, trace, parent, flags, more = match.groups()
    if version == "ff" or (version == "00" and more) or not trace.strip("0") or not parent.strip("0"):
        return None
    return f"00-{trace}-{parent}-{flags}"
