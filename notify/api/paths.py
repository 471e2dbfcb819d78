"""Reading what paths and queries hold: encoded segments, limits, cursors.

Requests are routed on the raw path, so a segment arrives percent-encoded and any legal id works in it, `a/b` and `..`
included (contract, section 4).
"""

import base64
import binascii
from urllib.parse import unquote

from notify.errors import FieldError, InvalidRequest
from notify.model import ID_LENGTH, is_identifier

MAX_LIMIT = 500
DEFAULT_LIMIT = 50
"""Items of a page."""

MAX_SEQ = 2**63 - 1

PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f]*$"
"""A name's characters, as a JSON Schema says it: lone surrogates are no text there in the first place."""

IDENTIFIER_SCHEMA = {"type": "string", "minLength": 1, "maxLength": ID_LENGTH, "pattern": PRINTABLE}
"""What `is_identifier` takes, for the published reference."""


def read_segment(segment: str, name: str) -> str:
    """Return the id in a path segment. Raises InvalidRequest when it is none."""
    try:
        value = unquote(segment, errors="strict")
    except UnicodeDecodeError:
        value = ""
    if not is_identifier(value):
        raise invalid(name, "must have 1 to 255 characters, none a control character")
    return value


def read_name(text: str | None, name: str) -> str | None:
    """Return an id of a query. Raises InvalidRequest when it is none."""
    if text is not None and not is_identifier(text):
        raise invalid(name, "must have 1 to 255 characters, none a control character")
    return text


def read_integer(text: str | None, name: str, *, default: int, low: int, high: int) -> int:
    """Return a number of a query. Raises InvalidRequest when it is none, or out of bounds."""
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_SEQ)) and low <= int(text) <= high):
        raise invalid(name, f"must be a whole number from {low} to {high}")
    return int(text)


def read_limit(text: str | None) -> int:
    """Return `?limit=`."""
    return read_integer(text, "limit", default=DEFAULT_LIMIT, low=1, high=MAX_LIMIT)


def read_flag(text: str | None, name: str) -> bool:
    """Return a `true` or `false` of a query. Raises InvalidRequest for anything else."""
    if text not in {None, "true", "false"}:
        raise invalid(name, "must be `true` or `false`")
    return text == "true"


def write_cursor(value: str) -> str:
    """Return where a list goes on, as an opaque cursor."""
    return base64.urlsafe_b64encode(value.encode()).decode().rstrip("=")


def read_cursor(text: str | None) -> str:
    """Return what `write_cursor` was given; the empty string at the beginning. Raises InvalidRequest."""
    if text is None:
        return ""
    try:
        value = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        value = "\0"
    if not is_identifier(value):
        raise invalid("cursor", "is not one that this list gave out")
    return value


def invalid(name: str, detail: str) -> InvalidRequest:
    """Return the refusal of one parameter."""
    return InvalidRequest(f"{name}: {detail}", errors=[FieldError(f"/{name}", detail)])
