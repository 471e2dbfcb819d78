"""What producers may ask for: the bodies of the sending paths, and their checks beyond types."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from notify.errors import FieldError, InvalidRequest, TooLarge
from notify.ids import mint_id
from notify.model import Codec, Notification, is_identifier
from notify.payload import check_json, check_value
from notify.settings import Settings

MAX_TYPE = 128
MAX_COLLAPSE_KEY = 64
MAX_TTL = 2_419_200
"""Seconds: 28 days, the longest that a notification waits, and the default."""

MAX_DELAY = timedelta(days=30)
"""How far ahead `deliver_at` may lie."""

IDENTIFIER_RULE = "must have 1 to 255 characters, none a control character"
NULL = Raw(b"null")
NULLS: Mapping[Codec, bytes] = {Codec.JSON: b"null", Codec.MSGPACK: b"\xc0"}

NotificationType = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_TYPE,
        pattern=r"^[^\x00-\x1f\x7f-\x9f]*$",
        description="What it is, e.g. `order.shipped`.",
        examples=["order.shipped"],
    ),
]
CollapseKey = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_COLLAPSE_KEY,
        pattern=r"^[^\x00-\x1f\x7f-\x9f]*$",
        description="Replaces the user's pending notification with the same key.",
    ),
]
Ttl = Annotated[int, Meta(ge=0, le=MAX_TTL, description="Seconds from when it may be delivered.")]
DeliverAt = Annotated[datetime, Meta(tz=True, description="Not before this time; at most 30 days ahead.")]


class SendRequest(msgspec.Struct, forbid_unknown_fields=True):
    """One notification to send."""

    type: NotificationType
    to: Annotated[str | list[str], Meta(description="A user id, or a list of them.", examples=["alice"])]
    data: Annotated[Raw, Meta(description="Any JSON value; handed on as it came.")] = NULL
    ttl: Ttl = MAX_TTL
    collapse_key: CollapseKey | UnsetType = UNSET
    deliver_at: DeliverAt | UnsetType = UNSET


class BatchRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Several notifications, stored together or not at all."""

    notifications: Annotated[list[SendRequest], Meta(min_length=1)]


class Checker:
    """Turns requests into notifications, or into a refusal that names every bad field."""

    def __init__(self, settings: Settings, producer: str, codec: Codec) -> None:
        self._settings = settings
        self._producer = producer
        self._codec = codec
        self._errors: list[FieldError] = []
        self._recipients = 0

    def check(self, request: SendRequest, pointer: str = "") -> Notification:
        """Return the notification of one request; what is wrong is kept for `finish`. Raises TooLarge."""
        to = self._check_recipients(request.to, f"{pointer}/to")
        data = NULLS[self._codec] if request.data is NULL else bytes(request.data)
        self._check_data(data, f"{pointer}/data")
        deliver_at = None if request.deliver_at is UNSET else self._check_time(request.deliver_at, f"{pointer}/deliver_at")
        if request.ttl == 0:
            self._errors.append(FieldError(f"{pointer}/ttl", "must be at least 1 second here"))
        return Notification(
            id=mint_id(),
            producer=self._producer,
            type=request.type,
            data=data,
            to=to,
            codec=self._codec,
            ttl=request.ttl,
            deliver_at=deliver_at,
            collapse_key=None if request.collapse_key is UNSET else request.collapse_key,
        )

    def finish(self) -> None:
        """Refuse the whole request if anything was wrong with any part of it."""
        if self._errors:
            raise InvalidRequest("some fields are not valid", errors=self._errors)

    def _check_recipients(self, to: str | list[str], pointer: str) -> list[str]:
        users = [to] if isinstance(to, str) else list(dict.fromkeys(to))
        self._recipients += len(users)
        if self._recipients > self._settings.max_recipients:
            raise TooLarge(f"more than {self._settings.max_recipients} recipients in one request; send it in parts")
        if not users:
            self._errors.append(FieldError(pointer, "needs at least one recipient"))
        if isinstance(to, str):
            if not is_identifier(to):
                self._errors.append(FieldError(pointer, IDENTIFIER_RULE))
        else:
            self._errors.extend(
                FieldError(f"{pointer}/{at}", IDENTIFIER_RULE) for at, user in enumerate(to) if not is_identifier(user)
            )
        return users

    def _check_data(self, data: bytes, pointer: str) -> None:
        if len(data) > self._settings.max_data_bytes:
            raise TooLarge(f"{pointer} has {len(data)} bytes; at most {self._settings.max_data_bytes} are taken")
        if self._codec is Codec.JSON:
            wrong = check_json(data, max_bytes=self._settings.max_data_bytes)
        else:
            wrong = check_value(msgspec.msgpack.decode(data))
        if wrong:
            self._errors.append(FieldError(pointer, wrong))

    def _check_time(self, at: datetime, pointer: str) -> datetime:
        try:
            if at > datetime.now(UTC) + MAX_DELAY:
                self._errors.append(FieldError(pointer, "must be at most 30 days ahead"))
            return at.astimezone(UTC)
        except OverflowError:
            self._errors.append(FieldError(pointer, "is not a time that can be kept"))
            return datetime.now(UTC)
