"""What can go wrong for a client, by what it can do about it.

    NotifyClientError
    ├── BadData          a value that can't be sent; nothing left this process
    ├── Refused          the service answered, with an error (RFC 9457); carries status, slug and the bad fields
    ├── Unreachable      no answer, however often it was tried; the outcome is unknown
    └── Disconnected     the service closed the socket and coming back as it is would not help

No message ever holds a token or a payload.
"""

from collections.abc import Sequence

from notify.errors import Close, FieldError, NotifyError


class NotifyClientError(NotifyError):
    """The root of what the client raises."""


class BadData(NotifyClientError):
    """`data`, the URL or the token can't be put on the wire; the message says why."""


class Refused(NotifyClientError):
    """The service answered with an error (RFC 9457 problem details).

    status: the HTTP status; slug: the stable word that tells problems apart (`invalid-request`, …; empty where
    something between here and the service answered); detail: what is wrong, for a person; errors: every bad field,
    by JSON pointer; retry_after: seconds the service asks to wait, if it does; request_id: to find it in the log.
    """

    def __init__(  # noqa: PLR0913 - one argument a member of the answer
        self,
        detail: str,
        *,
        status: int,
        slug: str = "",
        errors: Sequence[FieldError] = (),
        retry_after: float | None = None,
        request_id: str = "",
    ) -> None:
        fields = "; ".join(f"{error.pointer}: {error.detail}" for error in errors)
        super().__init__(f"{status} {slug}: {detail}" + (f" ({fields})" if fields else ""))
        self.detail = detail
        self.status = status
        self.slug = slug
        self.errors = list(errors)
        self.retry_after = retry_after
        self.request_id = request_id


class Unreachable(NotifyClientError):
    """No answer came. What was sent may be stored or not: to find out, send it again with the same idempotency key.

    `idempotency_key` is the one that was used; None where there is none (`ttl=0`).
    """

    def __init__(self, detail: str, *, idempotency_key: str | None = None) -> None:
        super().__init__(detail)
        self.idempotency_key = idempotency_key


class Disconnected(NotifyClientError):
    """The service ended the connection for good (contract, section 5: 44xx), or would not open it.

    `code` is the close code, or the HTTP status of a refused handshake.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}: {ADVICE.get(code, 'the service does not take this connection')}")
        self.code = code
        self.reason = reason


ADVICE: dict[int, str] = {
    Close.BAD_FRAME: "the service did not understand device, after or epoch, or a frame",
    Close.UNAUTHENTICATED: "the token is missing, expired, denied or signed by another key; get another one",
    Close.FORBIDDEN: "the token does not allow receiving",
    Close.TOO_MANY_SESSIONS: "this user has too many open connections; another one took its place",
    Close.TOKEN_EXPIRED: "the token has expired; get another one",
    Close.DISCONNECTED: "an admin ended the session",
    404: "there is no notify service at this URL",
    431: "the token is too long; 4,096 bytes are the limit",
}
"""What a person should know about a code that ends it."""
