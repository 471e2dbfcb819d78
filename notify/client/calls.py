"""One call of the sending paths: how it is written, what its answer means, when it may be tried again.

Keeps the promise that a call is repeated only where that can't make two notifications of one.
"""

import base64
import json
import random
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx
import msgspec

from notify.client.errors import BadData, NotifyClientError, Refused, Unreachable
from notify.errors import FieldError, InFlight

SEND_PATH = "/v1/notifications"
BATCH_PATH = "/v1/notifications/batch"

TIMEOUT = httpx.Timeout(10.0, connect=5.0)
"""Seconds for one attempt: the service itself gives up on its database after 5."""

ATTEMPTS = 6
PATIENCE_SECONDS = 30.0
"""A call is tried at most this often and for this long, then its caller hears of it."""

LONGEST_PAUSE = 20.0  # seconds; a service that asks for more patience than this is told to the caller instead

UNPROCESSED = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
"""What fails before a byte of the request is out."""

LOST = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError, httpx.ProxyError)
"""What may fail after the service has got the request."""

TRY_LATER = frozenset({429, 503})
"""Nothing was accepted."""

GATEWAY_FAILED = frozenset({502, 504})
"""A proxy got no answer from the service, which may have done its work all the same."""

JSON = "application/json"
MSGPACK = "application/msgpack"
EVENT = "application/cloudevents+json"
MAX_KEY = 255  # characters of an idempotency key

AnswerT = TypeVar("AnswerT", bound=msgspec.Struct)


class Problem(msgspec.Struct):
    """An error as it comes (RFC 9457); something on the way may have answered with less."""

    type: str = ""
    title: str = ""
    detail: str = ""
    errors: list[FieldError] = []


@dataclass(frozen=True, slots=True)
class Call:
    """A request, ready to be sent as often as it takes. `key` is its idempotency key; None where it can't have one.

    An event's key is in the event.
    """

    path: str
    body: bytes
    media: str
    key: str | None

    @property
    def headers(self) -> dict[str, str]:
        """The headers that belong to this request."""
        keyless = self.key is None or self.media == EVENT
        return {"Content-Type": self.media} | ({} if keyless else {"Idempotency-Key": str(self.key)})

    def pause(self, error: Exception) -> bool | float:
        """Tell whether to try again after `error`: no, yes, or yes after so many seconds. A hook of stamina's."""
        if isinstance(error, Refused):
            repeatable = error.status in TRY_LATER or (
                self.key is not None and (error.status in GATEWAY_FAILED or error.slug == InFlight.slug)
            )
            if not repeatable or error.retry_after is None:
                return repeatable
            if error.retry_after > LONGEST_PAUSE:
                return False
            return error.retry_after * random.uniform(1.0, 1.25)  # noqa: S311 - jitter, not a secret
        return isinstance(error, UNPROCESSED if self.key is None else LOST)


def write_notification(  # noqa: PLR0913 - one argument a field of the contract
    to: str | Sequence[str] | None = None,
    type: str = "",  # noqa: A002 - the field's name
    data: Any = None,
    *,
    ttl: int | None = None,
    collapse_key: str | None = None,
    deliver_at: datetime | str | None = None,
    undelivered_after: int | None = None,
    topic: str | None = None,
) -> dict[str, Any]:
    """Return a notification as the service takes it; what is None stays away. Raises BadData."""
    if isinstance(deliver_at, datetime):
        if deliver_at.tzinfo is None:
            raise BadData("deliver_at needs a time zone, e.g. datetime.now(UTC)")
        deliver_at = deliver_at.astimezone(UTC).isoformat()
    fields = {
        "to": to if to is None or isinstance(to, str) else list(to),
        "topic": topic,
        "type": type,
        "data": data,
        "ttl": ttl,
        "collapse_key": collapse_key,
        "deliver_at": deliver_at,
        "undelivered_after": undelivered_after,
    }
    return {name: value for name, value in fields.items() if value is not None}


def write_call(notification: Mapping[str, Any], key: str | None) -> Call:
    """Return the request that sends one notification. Raises BadData."""
    return Call(SEND_PATH, *encode_body(notification), choose_key(key, [notification]))


def write_batch(notifications: Iterable[Mapping[str, Any]], key: str | None) -> Call:
    """Return the request that sends several. Raises BadData."""
    try:
        items = [write_notification(**item) for item in notifications]
    except TypeError as error:
        raise BadData(f"a notification of the batch is not a mapping of send's arguments: {error}") from None
    return Call(BATCH_PATH, *encode_body({"notifications": items}), choose_key(key, items))


def write_event(event: Mapping[str, Any]) -> Call:
    """Return the request that sends a CloudEvent. Raises BadData."""
    data = event.get("data")
    fields: dict[str, Any] = {"specversion": "1.0", "id": uuid.uuid4().hex, **event}
    if isinstance(data, bytes | bytearray | memoryview):
        fields["data_base64"] = base64.b64encode(fields.pop("data")).decode()
    for name, value in fields.items():
        if isinstance(value, datetime):
            if value.tzinfo is None:
                raise BadData(f"{name} needs a time zone, e.g. datetime.now(UTC)")
            fields[name] = value.isoformat()
    try:
        body = json.dumps(fields, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadData(f"the event can't be written as JSON: {explain(error)}") from None
    return Call(SEND_PATH, body, EVENT, None if event.get("ttl") == 0 else str(fields["id"]))


def choose_key(given: str | None, items: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the idempotency key: the caller's, a fresh one, or None where the service takes none (`ttl: 0`).

    Raises BadData.
    """
    if given is None:
        return None if any(item.get("ttl") == 0 for item in items) else uuid.uuid4().hex
    if not (0 < len(given) <= MAX_KEY and given.isascii() and given.isprintable()):
        raise BadData(f"an idempotency key has 1 to {MAX_KEY} printable ASCII characters")
    return given


def encode_body(body: Mapping[str, Any]) -> tuple[bytes, str]:
    """Return a body and its media type: JSON, or MessagePack when there are bytes in it. Raises BadData.

    The standard library's encoder, because it is the strict one: it refuses NaN rather than turning it into null.
    """
    try:
        return json.dumps(body, allow_nan=False, ensure_ascii=False, separators=(",", ":"), default=mind).encode(), JSON
    except BinaryFound:
        pass
    except (TypeError, ValueError, RecursionError) as error:
        raise BadData(f"the notification can't be written as JSON: {explain(error)}") from None
    try:
        return msgspec.msgpack.encode(body), MSGPACK
    except (TypeError, ValueError, RecursionError) as error:
        raise BadData(f"the notification can't be written as MessagePack: {explain(error)}") from None


class BinaryFound(Exception):
    """There are bytes in the data: JSON can't hold them, MessagePack can."""


def mind(value: object) -> object:
    """Decide on a value that JSON doesn't know."""
    if isinstance(value, bytes | bytearray | memoryview):
        raise BinaryFound
    raise TypeError(f"{type(value).__name__} is no JSON value")


def explain(error: Exception) -> str:
    """Say what is wrong without quoting any of the payload."""
    if isinstance(error, UnicodeError):
        return "a string holds half of a surrogate pair"
    return "it is nested too deep" if isinstance(error, RecursionError) else str(error)


def check(response: httpx.Response) -> None:
    """Raise Refused unless the service said yes."""
    if response.is_success:
        return
    problem = Problem()
    if response.headers.get("content-type", "").partition(";")[0] == "application/problem+json":
        try:
            problem = msgspec.json.decode(response.content, type=Problem)
        except msgspec.MsgspecError:
            problem = Problem()
    raise Refused(
        problem.detail or problem.title or f"{response.reason_phrase} (not from the service itself: is the URL right?)",
        status=response.status_code,
        slug=problem.type,
        errors=problem.errors,
        retry_after=read_retry_after(response.headers.get("retry-after")),
        request_id=response.headers.get("x-request-id", ""),
    )


def read_retry_after(text: str | None) -> float | None:
    """Return the seconds of a Retry-After header, which holds seconds or a date (RFC 9110, section 10.2.3)."""
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def read_answer(response: httpx.Response, shape: type[AnswerT]) -> AnswerT:
    """Return what a good answer says. Raises Refused when it is not one of the service's."""
    try:
        return msgspec.json.decode(response.content, type=shape)
    except msgspec.MsgspecError:
        raise Refused("the answer is not one of notify's: is the URL right?", status=response.status_code) from None


def give_up(error: httpx.HTTPError | httpx.InvalidURL, base: str, call: Call) -> NotifyClientError:
    """Return what the caller hears of an error that no repetition mended."""
    reason = str(error) or type(error).__name__
    return Unreachable(f"no answer from {base}: {reason}", idempotency_key=call.key)
