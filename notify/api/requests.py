"""What producers may ask for: the bodies of the sending paths, and their checks beyond types."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Annotated, Any, ClassVar, Protocol

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from notify import clock
from notify.api.body import MAX_ERRORS, UNREADABLE, Checks, decode_as
from notify.api.paths import IDENTIFIER_SCHEMA
from notify.errors import FieldError, InvalidRequest, TooLarge
from notify.ids import mint_id
from notify.model import ID_LENGTH, Codec, Notification, is_identifier
from notify.payload import NOT_UTF8, TOO_DEEP, check_json, check_value, is_plain
from notify.settings import Settings

MAX_TYPE = 128
MAX_COLLAPSE_KEY = 64
MAX_TTL = 2_419_200
"""Seconds: 28 days, the longest that a notification waits, and the default."""

SHORTEST_PATIENCE, LONGEST_PATIENCE = 10, 604_800
"""Seconds after which an app can be told who still has not got it: up to a week."""

MAX_DELAY = timedelta(days=30)
"""How far ahead `deliver_at` may lie."""

NO_CONTROLS = r"^[^\x00-\x1f\x7f-\x9f\ud800-\udfff]*$(?!\n)"
"""A name: no control characters, no lone surrogates, so that it can be stored, logged and shown anywhere. Python's `$` would let
a line end pass at the end of it; to other dialects the last group means nothing."""

IDENTIFIER_RULE = "must have 1 to 255 characters, none a control character"

NULL = Raw(b"null")
NULLS: Mapping[Codec, bytes] = {Codec.JSON: b"null", Codec.MSGPACK: b"\xc0"}

NotificationType = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_TYPE,
        pattern=NO_CONTROLS,
        description="What it is, e.g. `order.shipped`.",
        examples=["order.shipped"],
    ),
]
CollapseKey = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_COLLAPSE_KEY,
        pattern=NO_CONTROLS,
        description="Replaces the user's pending notification with the same key.",
    ),
]
Ttl = Annotated[int, Meta(ge=0, le=MAX_TTL, description="Seconds from when it may be delivered.")]
DeliverAt = Annotated[datetime, Meta(tz=True, description="Not before this time; at most 30 days ahead.")]
UndeliveredAfter = Annotated[
    int,
    Meta(
        ge=SHORTEST_PATIENCE,
        le=LONGEST_PATIENCE,
        description="Seconds from when it may be delivered; if it is pending with anybody then, the app's webhook is called.",
    ),
]


TopicName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=ID_LENGTH,
        pattern=NO_CONTROLS,
        description="Instead of `to`: everyone subscribed to it at this moment.",
    ),
]


class SendRequest(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One notification to send, to users or to a topic."""

    published: ClassVar = {
        "oneOf": [{"required": ["to"]}, {"required": ["topic"]}],
        "properties": {
            "to": {
                "anyOf": [IDENTIFIER_SCHEMA, {"type": "array", "items": IDENTIFIER_SCHEMA, "minItems": 1}],
            }
        },
    }
    type: NotificationType
    # No constraints in here: msgspec 0.22 frees a pattern in a union with a list twice. See `check_recipients`.
    to: Annotated[str | list[str], Meta(description="A user id, or a list of them.")] | UnsetType = UNSET
    topic: TopicName | UnsetType = UNSET
    data: Annotated[Raw, Meta(description="Any JSON value; handed on as it came.")] = NULL
    ttl: Ttl = MAX_TTL
    collapse_key: CollapseKey | UnsetType = UNSET
    deliver_at: DeliverAt | UnsetType = UNSET
    undelivered_after: UndeliveredAfter | UnsetType = UNSET


def check_recipients(value: object, pointer: str) -> list[FieldError]:
    """Return what is wrong with the user ids of a body's `to`; what is no text at all is the decoder's to find."""
    if isinstance(value, str):
        return [] if is_identifier(value) else [FieldError(pointer, IDENTIFIER_RULE)]
    if isinstance(value, list):
        if not value:
            return [FieldError(pointer, "needs at least one recipient")]
        wrong = (at for at, user in enumerate(value) if isinstance(user, str) and not is_identifier(user))
        return [FieldError(f"{pointer}/{at}", IDENTIFIER_RULE) for at in islice(wrong, MAX_ERRORS)]
    return []


def check_together(names: Collection[str], ttl: object, pointer: str) -> list[FieldError]:
    """Return which of the fields that a request has don't go together, or what it lacks."""
    found = []
    if "to" not in names and "topic" not in names:
        found.append(FieldError(f"{pointer}/to", "is required, unless there is a `topic`"))
    elif "to" in names and "topic" in names:
        found.append(FieldError(f"{pointer}/topic", "can't go together with `to`"))
    if ttl == 0 and ttl is not False:
        if "collapse_key" in names:
            found.append(FieldError(f"{pointer}/collapse_key", "can't go together with `ttl: 0`: nothing waits"))
        if "deliver_at" in names:
            found.append(FieldError(f"{pointer}/deliver_at", "can't go together with `ttl: 0`: it is now or never"))
        if "undelivered_after" in names:
            found.append(FieldError(f"{pointer}/undelivered_after", "can't go together with `ttl: 0`: nothing waits"))
    return found


def check_data(data: bytes, codec: Codec, pointer: str, *, max_bytes: int) -> list[FieldError]:
    """Return what is wrong with a body's `data`. Raises TooLarge."""
    if len(data) > max_bytes:
        raise TooLarge(f"{pointer} has {len(data)} bytes; at most {max_bytes} are taken")
    if codec is Codec.JSON:
        wrong = check_json(data, max_bytes=max_bytes)
    else:
        try:
            wrong = check_value(msgspec.msgpack.decode(data))
        except UnicodeDecodeError:
            wrong = NOT_UTF8
        except (msgspec.DecodeError, RecursionError):
            wrong = TOO_DEEP
    return [FieldError(pointer, wrong)] if wrong else []


def check_time(at: datetime, pointer: str) -> list[FieldError]:
    """Return what is wrong with a body's `deliver_at`, by the clock of the moment."""
    try:
        at.astimezone(UTC)
        late = at > datetime.fromtimestamp(clock.now(), UTC) + MAX_DELAY
    except OverflowError:
        return [FieldError(pointer, "is not a time that can be kept")]
    return [FieldError(pointer, "must be at most 30 days ahead")] if late else []


def pass_plain(
    request: SendRequest, producer: str, context: str | None = None, *, max_bytes: int
) -> Notification | None:
    """Return the notification of a request in JSON for one user that is plainly fit, `data` of at most `max_bytes` included.

    Everything is looked at that a Checker looks at, but nothing is taken apart, and there is nothing to wait for. None says
    nothing yet.
    """
    user, data = request.to, request.data
    if not (
        isinstance(user, str)
        and request.topic is UNSET
        and request.deliver_at is UNSET
        and request.ttl
        and len(data) <= max_bytes
        and is_identifier(user)
        and is_plain(text := bytes(data))
    ):
        return None
    key, patience = request.collapse_key, request.undelivered_after
    return Notification(
        mint_id(),
        producer,
        request.type,
        text,
        (user,),
        Codec.JSON,
        request.ttl,
        None,
        None if key is UNSET else key,
        context,
        None if patience is UNSET else patience,
    )


def build_checks(max_data_bytes: int) -> Checks:
    """Return what is looked at, beyond types, in a body that is refused, so that its refusal names every bad field."""

    def look(body: bytes, codec: Codec, kind: Any) -> Any:
        try:
            return decode_as(body, codec, kind)
        except UNREADABLE:
            return None  # the decoder has found that already

    def look_at_time(body: bytes, codec: Codec, pointer: str) -> list[FieldError]:
        at = look(body, codec, DeliverAt)
        return [] if at is None else check_time(at, pointer)

    def look_at_all(body: bytes, codec: Codec, pointer: str) -> list[FieldError]:
        fields = look(body, codec, dict[str, Raw])
        return check_together(fields, look(fields["ttl"], codec, Any) if "ttl" in fields else MAX_TTL, pointer)

    return {
        "to": lambda body, codec, pointer: check_recipients(look(body, codec, Any), pointer),
        "data": lambda body, codec, pointer: check_data(body, codec, pointer, max_bytes=max_data_bytes),
        "deliver_at": look_at_time,
        SendRequest: look_at_all,
    }


class BatchRequest(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """Several notifications, stored together or not at all."""

    notifications: Annotated[list[SendRequest], Meta(min_length=1)]


class Subscribers(Protocol):
    """Looks up who is subscribed to a topic."""

    async def __call__(self, topic: str, *, limit: int) -> Sequence[str]:
        """Return up to `limit` of them."""
        ...


class Checker:
    """Turns the requests of one body into notifications, or into a refusal that names every bad field.

    `subscribers` looks up a topic, up to a limit. Recipients are counted over all requests, topics expanded.
    """

    def __init__(self, settings: Settings, producer: str, codec: Codec, subscribers: Subscribers) -> None:
        self._settings = settings
        self._producer = producer
        self._codec = codec
        self._subscribers = subscribers
        self._errors: list[FieldError] = []
        self._recipients = 0

    def pass_plain(self, request: SendRequest, context: str | None = None) -> Notification | None:
        """Return the notification of a request that is plainly fit, as nearly all are; None if it wants `check`."""
        if self._codec is not Codec.JSON or self._recipients >= self._settings.max_recipients:
            return None
        notification = pass_plain(request, self._producer, context, max_bytes=self._settings.max_data_bytes)
        if notification is not None:
            self._recipients += 1
        return notification

    async def check(self, request: SendRequest, pointer: str = "", *, context: str | None = None) -> Notification:
        """Return the notification of one request; what is wrong is kept for `finish`. Raises TooLarge.

        `context` is what travels with it, as it is stored.
        """
        self._errors += check_together(name_given(request), request.ttl, pointer)
        data = NULLS[self._codec] if request.data is NULL else bytes(request.data)
        self._errors += check_data(data, self._codec, f"{pointer}/data", max_bytes=self._settings.max_data_bytes)
        late = [] if request.deliver_at is UNSET else check_time(request.deliver_at, f"{pointer}/deliver_at")
        self._errors += late
        return Notification(
            id=mint_id(),
            producer=self._producer,
            type=request.type,
            data=data,
            to=await self._find_recipients(request, pointer),
            codec=self._codec,
            ttl=request.ttl,
            deliver_at=None if request.deliver_at is UNSET or late else request.deliver_at.astimezone(UTC),
            collapse_key=None if request.collapse_key is UNSET else request.collapse_key,
            context=context,
            undelivered_after=None if request.undelivered_after is UNSET else request.undelivered_after,
        )

    def finish(self) -> None:
        """Refuse the whole request if anything was wrong with any part of it."""
        if self._errors:
            raise InvalidRequest("some fields are not valid", errors=self._errors[:MAX_ERRORS])

    async def _find_recipients(self, request: SendRequest, pointer: str) -> Sequence[str]:
        limit = self._settings.max_recipients
        users: Sequence[str]
        if isinstance(request.to, str):
            users = (request.to,)
        elif isinstance(request.to, list):
            users = list(dict.fromkeys(request.to))
        elif isinstance(request.topic, str) and not self._errors:
            users = await self._subscribers(request.topic, limit=limit - self._recipients + 1)
        else:
            users = ()
        self._recipients += len(users)
        if self._recipients > limit:
            raise TooLarge(f"more than {limit} recipients in one request; send it in parts")
        # Only now, and each once: a body has room for two million.
        if request.to is not UNSET and not (users and all(map(is_identifier, users))):
            self._errors.extend(check_recipients(request.to, f"{pointer}/to"))
        return users


def name_given(request: SendRequest) -> list[str]:
    """Return which of the fields that may be left out a request has."""
    optional = ("to", "topic", "collapse_key", "deliver_at", "undelivered_after")
    return [name for name in optional if getattr(request, name) is not UNSET]
