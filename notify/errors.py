"""Everything that can go wrong, by who has to hear of it.

    NotifyError
    ├── Problem              an HTTP answer: RFC 9457 problem details with a stable slug
    │   ├── InvalidRequest (400) · Unauthenticated (401) · Forbidden (403) · NotFound (404)
    │   ├── InFlight (409) · TooLarge (413) · UnsupportedMedia (415) · KeyReused (422)
    │   └── RateLimited (429) · Unavailable (503)
    ├── SessionClosed        a socket has to go: carries a `Close`
    ├── InvalidToken         a credential that doesn't verify; the reason is safe to show
    ├── SchemaOutdated       the database is older than the code
    └── ConfigurationError   a setting that can't work, said in the operator's words

Close codes are grouped by what the client does next, because that is the only thing it needs them for.
"""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import ClassVar

import msgspec


class NotifyError(Exception):
    """The root: whatever notify itself raises."""


class FieldError(msgspec.Struct, frozen=True):
    """One bad field of a request: a JSON pointer (RFC 6901) and what is wrong with it."""

    pointer: str
    detail: str


class Problem(NotifyError):
    """An HTTP error (RFC 9457). `detail` is for the person who reads it: what is wrong, what to do."""

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal"
    title: ClassVar[str] = "Something broke on our side"
    meaning: ClassVar[str] = "A bug or a fault of the service. Safe to retry with an Idempotency-Key."

    def __init__(
        self, detail: str, *, errors: Sequence[FieldError] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = list(errors)
        self.headers = dict(headers or {})


class InvalidRequest(Problem):
    """The request itself is wrong; sending it again changes nothing."""

    status = 400
    slug = "invalid-request"
    title = "The request is not valid"
    meaning = "`errors` names every bad field by JSON pointer. Mend them; retrying as it is changes nothing."


class Unauthenticated(Problem):
    """No credentials, or credentials that don't verify."""

    status = 401
    slug = "unauthenticated"
    title = "A valid bearer token is needed"
    meaning = "The `Authorization: Bearer` token is missing, malformed, expired, denied or signed by another key."

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": "Bearer"})


class Forbidden(Problem):
    """The token is good, but not for this."""

    status = 403
    slug = "forbidden"
    title = "The token does not allow this"
    meaning = "The token lacks the scope this needs, or the request comes from a foreign origin."


class NotFound(Problem):
    """No such thing, or none the caller may know of."""

    status = 404
    slug = "not-found"
    title = "There is no such thing"
    meaning = "The id is unknown, was removed by retention, or belongs to somebody else."


class MethodNotAllowed(Problem):
    """The path exists, with other methods."""

    status = 405
    slug = "method-not-allowed"
    title = "This path does not take that method"
    meaning = "The `Allow` header lists the methods that work here."


class InFlight(Problem):
    """The same idempotency key is being worked on right now."""

    status = 409
    slug = "idempotency-in-flight"
    title = "A request with this Idempotency-Key is still being answered"
    meaning = "Retry after a moment; the first answer will then be given again."


class TooLarge(Problem):
    """A body, a `data` or a number of recipients is over its limit."""

    status = 413
    slug = "too-large"
    title = "The request is over a limit"
    meaning = "A body, one notification's `data` or the number of recipients exceeds its limit; `detail` says which."


class UnsupportedMedia(Problem):
    """A body in a format this path does not read."""

    status = 415
    slug = "unsupported-media-type"
    title = "This media type is not understood here"
    meaning = "Send `application/json` or `application/msgpack`, or a CloudEvent, without a Content-Encoding."


class KeyReused(Problem):
    """An idempotency key that was used for another body."""

    status = 422
    slug = "idempotency-key-reused"
    title = "This Idempotency-Key was used for another request"
    meaning = (
        "A key stands for one request body for 24 hours, an event's `source` and `id` for one event. "
        "Use fresh ones for another."
    )


class HeadersTooLarge(Problem):
    """Request headers longer than the server reads."""

    status = 431
    slug = "headers-too-large"
    title = "The request headers are too long"
    meaning = "All header lines together exceed the limit; a token has at most 4,096 bytes."


class RateLimited(Problem):
    """More than this producer may send. `policy` and `left` are what RateLimit-Policy and RateLimit say.

    https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/
    """

    status = 429
    slug = "rate-limited"
    title = "Too many requests"
    meaning = "Wait for `Retry-After` seconds. The RateLimit header fields tell the quota."

    def __init__(
        self, detail: str, *, retry_after: int = 1, policy: str = '"default";q=1', left: str = '"default";r=0'
    ) -> None:
        super().__init__(
            detail, headers={"Retry-After": str(retry_after), "RateLimit-Policy": policy, "RateLimit": left}
        )


class Unavailable(Problem):
    """Not now: nothing was stored, or it is not known to be."""

    status = 503
    slug = "unavailable"
    title = "The service can't do this right now"
    meaning = "Nothing was accepted. Wait for `Retry-After` seconds and send it again."

    def __init__(self, detail: str, *, retry_after: int = 1) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)})


PROBLEMS: tuple[type[Problem], ...] = (
    InvalidRequest,
    Unauthenticated,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    InFlight,
    TooLarge,
    UnsupportedMedia,
    KeyReused,
    RateLimited,
    HeadersTooLarge,
    Problem,
    Unavailable,
)
"""Every problem there is, in the order of its status: openapi/problems.md is written from it."""


class Close(IntEnum):
    """Why a socket is closed. The reason is the name in lower case."""

    # The client stops: trying again as it is can't work.
    BAD_FRAME = 4400
    UNAUTHENTICATED = 4401
    FORBIDDEN = 4403
    TOO_MANY_SESSIONS = 4409
    DISCONNECTED = 4410
    # The client reconnects at once, with a fresh token.
    TOKEN_EXPIRED = 4501
    # The client reconnects, after `retry_after_ms` where the frame has one.
    DRAINING = 4503
    SLOW_CONSUMER = 4508
    RESTART = 1013
    # Plain WebSocket codes (RFC 6455, section 7.4.1).
    NORMAL = 1000
    TOO_BIG = 1009

    @property
    def reason(self) -> str:
        """The word that goes with the code, in the close frame and in the `disconnect` frame."""
        return self.name.lower()

    @property
    def reconnect(self) -> bool:
        """Whether a client should come back by itself."""
        return self in RECONNECTING


RECONNECTING = frozenset({Close.TOKEN_EXPIRED, Close.DRAINING, Close.SLOW_CONSUMER, Close.RESTART, Close.TOO_BIG})


class SessionClosed(NotifyError):
    """A session has to end, and why."""

    def __init__(self, close: Close, detail: str = "") -> None:
        super().__init__(detail or close.reason)
        self.close = close
        self.detail = detail or close.reason


class InvalidToken(NotifyError):
    """A credential that does not verify. The message says why and never holds any of the token."""


class SchemaOutdated(NotifyError):
    """The database's schema is older than this code; the message names the command that mends it."""


class ConfigurationError(NotifyError):
    """A setting that can't work, in the operator's words."""
