"""Who a path is for, and the scope that follows from it (contract, section 3)."""

from collections.abc import Sequence
from dataclasses import dataclass

from notify.auth import Scope


@dataclass(frozen=True, slots=True)
class Audience:
    """A group of operations with one kind of caller."""

    tag: str
    text: str
    prefixes: Sequence[str]
    reads: Scope | None
    """The scope that GET needs; None is open to all."""
    writes: Scope | None


OPERATORS = Audience(
    "Operators", "Health, metrics and this reference: no token is needed. Keep `/metrics` inside.", (), None, None
)

AUDIENCES: tuple[Audience, ...] = (
    Audience(
        "Apps",
        "Sending, and following what was sent. An app is the `sub` of its token.",
        ("/v1/notifications", "/v1/topics"),
        Scope.SEND,
        Scope.SEND,
    ),
    Audience(
        "Front ends",
        "A user's own mailbox. The user is the `sub` of the token. Live delivery is the WebSocket `/v1/ws`.",
        ("/v1/inbox", "/v1/stream", "/v1/push"),
        Scope.RECEIVE,
        Scope.RECEIVE,
    ),
    Audience(
        "Admins",
        "Everybody's mailboxes, sessions and nodes. What is listed may be up to 5 s old.",
        ("/v1/admin", "/admin"),
        Scope.QUEUES_READ,
        Scope.QUEUES_WRITE,
    ),
    OPERATORS,
)
"""In the order in which the reference shows them."""

SCOPES = {
    Scope.RECEIVE: "receive and manage its own mailbox, as user `sub`; also without any of these scopes",
    Scope.SEND: "send, and follow or cancel what it sent itself, as app `sub`",
    Scope.QUEUES_READ: "look at everything an admin can see",
    Scope.QUEUES_WRITE: "the same, and act: replay, purge, cancel, disconnect, deny, erase",
}
"""What each scope allows."""


def find_audience(path: str) -> Audience:
    """Return who a path is for; whatever is nobody else's is the operators'."""
    for audience in AUDIENCES:
        if any(path == prefix or path.startswith(f"{prefix}/") for prefix in audience.prefixes):
            return audience
    return OPERATORS
