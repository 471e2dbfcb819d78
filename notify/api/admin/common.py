"""What all admin handlers do: know who calls, read places in lists, say how old a list is."""

import base64
import binascii
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
from litestar import Request

from notify import clock
from notify.api.access import require
from notify.api.paths import invalid
from notify.api.services import Services
from notify.auth import Identity, Scope

PlaceT = TypeVar("PlaceT")

MAX_CURSOR = 4_096
"""Characters of a cursor: a user id of 255 characters, encoded twice, and two numbers fit."""


async def require_reader(request: Request[Any, Any, Any], services: Services) -> Identity:
    """Return who calls, if they may look."""
    return await require(services.authenticator, request.headers.get("authorization"), Scope.QUEUES_READ)


async def require_writer(request: Request[Any, Any, Any], services: Services) -> Identity:
    """Return who calls, if they may act."""
    return await require(services.authenticator, request.headers.get("authorization"), Scope.QUEUES_WRITE)


def write_place(place: object) -> str:
    """Return where a list goes on, as an opaque cursor."""
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def read_place(cursor: str | None, kind: type[PlaceT]) -> PlaceT | None:
    """Return what `write_place` was given; None at the beginning. Raises InvalidRequest."""
    if cursor is None:
        return None
    try:
        if len(cursor) > MAX_CURSOR:
            raise ValueError
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        return msgspec.json.decode(text, type=kind)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        raise invalid("cursor", "is not one that this list gave out") from None


def now() -> datetime:
    """Return the time by the database's clock: when a list that is read afresh is from."""
    return datetime.fromtimestamp(clock.now(), UTC)
