"""For apps: sending at its plainest, past everything that only other requests need.

Nearly every request to send is one JSON notification for one user, with a token that was seen before, and nothing special about
it. It is stored without a task or an event of its own: a call when it came, a callback when it is committed. Keeps the promise
that it is answered as `Sending` would have: whatever is not plain, or not right, is left to that, untouched.
"""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from uuid import UUID

import msgspec

from notify import tracing
from notify.api.answers import Answer, Answering, Fields, compose, compose_problem, encode, recognize, write_lines
from notify.api.body import BodyReader
from notify.api.requests import SendRequest, pass_plain
from notify.api.services import Services
from notify.auth import Identity, Scope
from notify.errors import RateLimited
from notify.model import Notification
from notify.quota import Quota
from notify.store.sends import Post

PATH_SEND = "/v1/notifications"

REFUSAL_SECONDS = 0.1
"""How long a producer over its quota waits to hear of it: else one that takes no notice keeps the others' requests waiting."""

SCHEME = b"Bearer "

SENT_LINES = b"content-type: application/json\r\nlocation: " + PATH_SEND.encode() + b"/%b\r\n"
"""What `compose_sent` says of a plain notification, with its id to be filled in: composing it costs more than the rest."""

SPECIAL = frozenset({b"ce-specversion", b"content-encoding", b"idempotency-key", b"origin", b"traceparent"})
"""Headers that mean more than a plain request says."""


class Sent(msgspec.Struct, frozen=True):
    """What a producer learns once its notification is stored."""

    id: UUID
    recipients: int
    created_at: datetime


class PlainSending:
    """The shortcut of `POST /v1/notifications`. Shares with `Sending` what counts and what reads."""

    def __init__(self, services: Services, quota: Quota, reader: BodyReader[SendRequest]) -> None:
        self._services = services
        self._quota = quota
        self._reader = reader

    def take(self, headers: Fields, body: bytes, answer: Answering) -> bool:
        """Store a notification, and answer after the commit. Returns False, having done nothing, if it is not a plain one."""
        identity = self._recognize(headers, body)
        if identity is None or (request := self._reader.read_plain(body)) is None:
            return False
        settings, store = self._services.settings, self._services.store
        notification = pass_plain(request, identity.subject, max_bytes=settings.max_data_bytes)
        if notification is None:
            return False
        try:
            self._quota.take(identity.subject, 1)
            stored = store.sends.put(Post((notification,)))
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets an answer
            # Not before this returns: the server is in the middle of a packet.
            asyncio.get_running_loop().call_soon(self._refuse, identity.subject, error, answer)
        else:
            stored.add_done_callback(partial(self._finish, notification, answer))
        return True

    def _recognize(self, headers: Fields, body: bytes) -> Identity | None:
        """Return who sends, if the headers have nothing special and the token was verified before."""
        authorization = headers.get(b"authorization", b"")
        if (
            headers.get(b"content-type") != b"application/json"
            or not SPECIAL.isdisjoint(headers)
            or not authorization.startswith(SCHEME)
            or len(body) > self._services.settings.max_body_bytes
            or tracing.active is not None
        ):
            return None
        identity = self._services.authenticator.recall(authorization[len(SCHEME) :].decode("latin-1"))
        return identity if identity is not None and identity.may(Scope.SEND) else None

    def _finish(self, notification: Notification, answer: Answering, stored: asyncio.Future[datetime]) -> None:
        error = stored.exception()
        if isinstance(error, Exception):
            self._refuse(notification.producer, error, answer)
            return
        self._services.store.activity.count_send(notification.producer, 1, 1)
        sent = Sent(notification.id, 1, stored.result())
        answer(201, SENT_LINES % str(notification.id).encode(), encode(sent))

    def _refuse(self, producer: str, error: Exception, answer: Answering) -> None:
        self._services.store.activity.count_refusal(producer)
        problem = compose_problem(recognize(error))
        lines = write_lines(problem.headers)
        if isinstance(error, RateLimited):
            asyncio.get_running_loop().call_later(REFUSAL_SECONDS, answer, problem.status, lines, problem.body)
        else:
            answer(problem.status, lines, problem.body)


def compose_sent(
    notification: UUID, recipients: int, moment: datetime, headers: Mapping[str, str] | None = None
) -> Answer:
    """Return the answer to one stored notification, with where it is."""
    location = {"location": f"{PATH_SEND}/{notification}"}
    return compose(201, Sent(notification, recipients, moment), {**location, **headers} if headers else location)
