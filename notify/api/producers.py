"""For apps: sending (contract, section 4).

Sending is a lean route: a plain ASGI function, because at thousands of requests a second a framework's layers cost more
than the work. What it answers, its errors included, is what any other handler would.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from litestar.di import NamedDependency

from notify import clock, tracing
from notify.api.access import require
from notify.api.answers import answer, answer_problem, recognize, send_answer
from notify.api.body import MEDIA_TYPES, BodyReader, ClientGone, choose_media, read_body
from notify.api.plain import REFUSAL_SECONDS, PlainSending, Sent, compose_sent
from notify.api.requests import BatchRequest, Checker, SendRequest, build_checks
from notify.api.services import Services
from notify.auth import Scope
from notify.context import Context, read_traceparent, write_context
from notify.errors import (
    FieldError,
    InFlight,
    InvalidRequest,
    KeyReused,
    MethodNotAllowed,
    RateLimited,
    TooLarge,
)
from notify.model import Codec, Notification, is_identifier
from notify.momentary import Momentary, wrap
from notify.quota import Quota
from notify.store.database import KeyTaken
from notify.store.sends import Claim, Post

Handle = Callable[["Incoming", "Send"], Awaitable[None]]
"""Does what one request asks for, and answers it."""

AsgiScope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PATH_BATCH = "/v1/notifications/batch"

REPLAYED = {"idempotent-replayed": "true"}
"""The header of an answer that was given before."""


class BatchSent(msgspec.Struct, frozen=True):
    """The ids of a batch, in the order of its notifications."""

    ids: list[UUID]


class Sending:
    """The two sending paths."""

    def __init__(self, services: NamedDependency[Services]) -> None:
        self._services = services
        self._quota = Quota(services.settings.send_rate)
        checks = build_checks(services.settings.max_data_bytes)
        self._single = BodyReader(SendRequest, checks)
        self._batch = BodyReader(BatchRequest, checks)
        self.plain = PlainSending(services, self._quota, self._single)
        self._ones: dict[str, Handle] = dict.fromkeys(MEDIA_TYPES, self._send_one)
        self._batches: dict[str, Handle] = dict.fromkeys(MEDIA_TYPES, self._send_many)

    # These two return the coroutine rather than being one: each that waits in another costs at every turn of it.

    def send(self, scope: AsgiScope, receive: Receive, send: Send) -> Awaitable[None]:
        """`POST /v1/notifications`: answered after the commit."""
        return self._serve(scope, receive, send, self._ones)

    def send_batch(self, scope: AsgiScope, receive: Receive, send: Send) -> Awaitable[None]:
        """`POST /v1/notifications/batch`: all or nothing."""
        return self._serve(scope, receive, send, self._batches)

    async def _serve(
        self,
        scope: AsgiScope,
        receive: Receive,
        send: Send,
        handles: Mapping[str, Handle],
    ) -> None:
        try:
            if scope["method"] != "POST":
                problem = MethodNotAllowed("this path takes POST")
                problem.headers["Allow"] = "POST"
                raise problem
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            identity = await require(self._services.authenticator, headers.get("authorization"), Scope.SEND)
            media = self._choose(headers, handles)
            key = headers.get("idempotency-key")
            if key is not None and not is_identifier(key):
                detail = "must have 1 to 255 characters, none a control character"
                raise InvalidRequest(f"Idempotency-Key {detail}", errors=[FieldError("/Idempotency-Key", detail)])
            body = await read_body(headers, receive, max_bytes=self._services.settings.max_body_bytes)
            try:
                codec = MEDIA_TYPES.get(media, Codec.JSON)  # events are JSON
                incoming = Incoming(identity.subject, codec, body, key, headers)
                if tracing.active is None:
                    await handles[media](incoming, send)
                else:
                    with tracing.active.send(headers, identity.subject):
                        await handles[media](incoming, send)
            except Exception:
                self._services.store.activity.count_refusal(identity.subject)
                raise
        except ClientGone:
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets an answer
            if isinstance(error, RateLimited):
                await asyncio.sleep(REFUSAL_SECONDS)
            await answer_problem(send, recognize(error))

    def _choose(self, headers: Mapping[str, str], handles: Mapping[str, Handle]) -> str:
        """Return under which media type a request is handled. Raises UnsupportedMedia."""
        return choose_media(headers, handles)

    async def _send_one(self, incoming: "Incoming", send: Send) -> None:
        request = self._single.decode(incoming.body, incoming.codec)
        # Before it is checked against what may have changed since: the limits, the clock, a topic's subscribers.
        if incoming.key is not None and (known := await self._recall(incoming)) is not None:
            await answer_sent(send, known)
            return
        checker = self._checker(incoming)
        context = incoming.context
        notification = checker.pass_plain(request, context) or await checker.check(request, context=context)
        if notification.ttl == 0:
            refuse_key(incoming)
            checker.finish()
            self._quota.take(incoming.producer, len(notification.to))
            [sent] = await self._broadcast([notification])
            await answer(send, 202, sent)
            return
        checker.finish()
        await answer_sent(send, await self._store([notification], incoming))

    async def _send_many(self, incoming: "Incoming", send: Send) -> None:
        request = self._batch.decode(incoming.body, incoming.codec)
        if len(request.notifications) > self._services.settings.max_batch:
            raise TooLarge(f"a batch holds at most {self._services.settings.max_batch} notifications")
        if incoming.key is not None and (known := await self._recall(incoming)) is not None:
            await answer(send, 201, BatchSent(list(known.ids)), known.headers)
            return
        checker = self._checker(incoming)
        context = incoming.context
        notifications = [
            checker.pass_plain(item, context) or await checker.check(item, f"/notifications/{place}", context=context)
            for place, item in enumerate(request.notifications)
        ]
        if are_momentary(notifications, "/notifications"):
            refuse_key(incoming)
            checker.finish()
            self._quota.take(incoming.producer, count_recipients(notifications))
            await answer(send, 202, BatchSent([sent.id for sent in await self._broadcast(notifications)]))
            return
        checker.finish()
        stored = await self._store(notifications, incoming)
        await answer(send, 201, BatchSent(list(stored.ids)), stored.headers)

    def _checker(self, incoming: "Incoming") -> Checker:
        return Checker(self._services.settings, incoming.producer, incoming.codec, self._services.store.topics.users)

    async def _store(self, notifications: Sequence[Notification], incoming: "Incoming") -> "Stored":
        """Store what was sent, or give the answer that the same request just got elsewhere."""
        store = self._services.store
        recipients = count_recipients(notifications)
        self._quota.take(incoming.producer, recipients)
        claims = () if incoming.key is None else (Claim(incoming.key, incoming.digest),)
        try:
            moment = await store.sends.send(Post(notifications, claims))
        except KeyTaken as error:
            known = None if error.in_flight else await self._recall(incoming)
            if known is None:
                raise InFlight("a request with this Idempotency-Key is being answered; try again in a moment") from None
            return known
        store.activity.count_send(incoming.producer, len(notifications), recipients)
        return Stored([n.id for n in notifications], recipients, moment, {})

    async def _recall(self, incoming: "Incoming") -> "Stored | None":
        """Return what the same request was answered before. Raises KeyReused when it was another one."""
        if incoming.key is None:
            return None
        found = await self._services.store.notifications.find_answers(incoming.producer, [incoming.key])
        if (answered := found.get(incoming.key)) is None:
            return None
        if answered.digest != incoming.digest:
            raise KeyReused("this Idempotency-Key was used for another request in the last 24 hours")
        return Stored(answered.ids, answered.recipients, answered.created_at, REPLAYED)

    async def _broadcast(self, notifications: Sequence[Notification]) -> list[Sent]:
        """Hand over what is for now or never."""
        moment = datetime.fromtimestamp(clock.now(), UTC)
        await self._services.store.broadcasts.send(
            [
                Momentary(n.id, n.type, n.producer, moment, n.codec, wrap(n.data, n.codec), n.to, n.context)
                for n in notifications
            ]
        )
        self._services.store.activity.count_send(
            notifications[0].producer, len(notifications), count_recipients(notifications)
        )
        return [Sent(n.id, len(n.to), moment) for n in notifications]


class Incoming(NamedTuple):
    """A request to send, its caller known and its body read."""

    producer: str
    codec: Codec
    body: bytes
    key: str | None
    headers: Mapping[str, str]

    @property
    def context(self) -> str | None:
        """What travels with each of its notifications, as it is stored: the trace that the header tells of."""
        traceparent = self.headers.get("traceparent")
        return None if traceparent is None else write_context(Context(read_traceparent(traceparent)))

    @property
    def digest(self) -> bytes:
        """What tells this request from another with the same Idempotency-Key."""
        return hashlib.blake2b(self.codec.to_bytes() + self.body, digest_size=16).digest()


class Stored(NamedTuple):
    """What was stored, now or by the same request before."""

    ids: Sequence[UUID]
    recipients: int
    created_at: datetime
    headers: Mapping[str, str]


async def answer_sent(send: Send, stored: Stored) -> None:
    """Answer one stored notification with where it is."""
    [notification] = stored.ids
    await send_answer(send, compose_sent(notification, stored.recipients, stored.created_at, stored.headers))


def count_recipients(notifications: Sequence[Notification]) -> int:
    """Return the recipients of notifications together."""
    return sum([len(notification.to) for notification in notifications])


def are_momentary(notifications: Sequence[Notification], pointer: str) -> bool:
    """Whether none of a batch is stored. Raises InvalidRequest when only some are."""
    momentary = [notification.ttl for notification in notifications].count(0)
    if 0 < momentary < len(notifications):
        detail = "must be 0 for all notifications of a batch or for none"
        raise InvalidRequest(f"ttl {detail}", errors=[FieldError(pointer, f"ttl {detail}")])
    return momentary > 0


def refuse_key(incoming: Incoming) -> None:
    """Raise InvalidRequest for an Idempotency-Key on what is never stored: nothing could be given again."""
    if incoming.key is not None:
        detail = "can't go together with `ttl: 0`: nothing is stored"
        raise InvalidRequest(f"Idempotency-Key {detail}", errors=[FieldError("/Idempotency-Key", detail)])
