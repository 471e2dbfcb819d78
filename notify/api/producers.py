"""For apps: sending, and following what was sent (contract, section 4).

Sending is a lean route: a plain ASGI function, because at thousands of requests a second a framework's layers cost more
than the work. What it answers, its errors included, is what any other handler would.
"""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Request, get
from litestar.params import Parameter

from notify.api.access import require
from notify.api.answers import answer, answer_problem, recognize
from notify.api.body import BodyReader, ClientGone, media_codec, read_body
from notify.api.requests import BatchRequest, Checker, SendRequest
from notify.api.services import Services
from notify.auth import Identity, Scope
from notify.errors import MethodNotAllowed, NotFound, TooLarge
from notify.model import Codec
from notify.store.sends import Post

AsgiScope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PATH_SEND = "/v1/notifications"
PATH_BATCH = "/v1/notifications/batch"

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Sent(msgspec.Struct, frozen=True):
    """What a producer learns once its notification is stored."""

    id: UUID
    recipients: int
    created_at: datetime


class BatchSent(msgspec.Struct, frozen=True):
    """The ids of a batch, in the order of its notifications."""

    ids: list[UUID]


class SentNotification(msgspec.Struct, frozen=True):
    """A notification as its producer sees it."""

    id: UUID
    type: str
    data: msgspec.Raw
    recipients: int
    created_at: datetime
    expires_at: datetime
    deliver_at: datetime | None
    collapse_key: str | None
    counts: dict[str, int]


class Sending:
    """The two sending paths."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._single = BodyReader(SendRequest)
        self._batch = BodyReader(BatchRequest)

    async def send(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """`POST /v1/notifications`: answered after the commit."""
        await self._serve(scope, receive, send, self._send_one)

    async def send_batch(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """`POST /v1/notifications/batch`: all or nothing."""
        await self._serve(scope, receive, send, self._send_many)

    async def _serve(
        self,
        scope: AsgiScope,
        receive: Receive,
        send: Send,
        handle: Callable[[Identity, bytes, Codec, Send], Awaitable[None]],
    ) -> None:
        try:
            if scope["method"] != "POST":
                problem = MethodNotAllowed("this path takes POST")
                problem.headers["Allow"] = "POST"
                raise problem
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            identity = await require(self._services.authenticator, headers.get("authorization"), Scope.SEND)
            codec = media_codec(headers)
            body = await read_body(headers, receive, max_bytes=self._services.settings.max_body_bytes)
            await handle(identity, body, codec, send)
        except ClientGone:
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets an answer
            await answer_problem(send, recognize(error))

    async def _send_one(self, identity: Identity, body: bytes, codec: Codec, send: Send) -> None:
        checker = Checker(self._services.settings, identity.subject, codec)
        notification = checker.check(self._single.decode(body, codec))
        checker.finish()
        moment = await self._services.store.sends.send(Post((notification,)))
        await answer(
            send,
            201,
            Sent(notification.id, len(notification.to), moment),
            {"location": f"{PATH_SEND}/{notification.id}"},
        )

    async def _send_many(self, identity: Identity, body: bytes, codec: Codec, send: Send) -> None:
        request = self._batch.decode(body, codec)
        if len(request.notifications) > self._services.settings.max_batch:
            raise TooLarge(f"a batch holds at most {self._services.settings.max_batch} notifications")
        checker = Checker(self._services.settings, identity.subject, codec)
        notifications = [checker.check(item, f"/notifications/{at}") for at, item in enumerate(request.notifications)]
        checker.finish()
        await self._services.store.sends.send(Post(notifications))
        await answer(send, 201, BatchSent([notification.id for notification in notifications]))


NotificationId = Annotated[str, Parameter(description="The id that sending answered with.")]


@get("/v1/notifications/{notification_id:str}", summary="Follow a notification", tags=["Apps"])
async def get_notification(
    request: Request[Any, Any, Any], services: Services, notification_id: NotificationId
) -> SentNotification:
    """Return one of the caller's own notifications, with how many recipients stand at each status."""
    identity = await require(services.authenticator, request.headers.get("authorization"), Scope.SEND)
    found = await services.store.notifications.find(read_id(notification_id), identity.subject)
    if found is None:
        raise NotFound("no such notification, or not one of yours")
    return SentNotification(
        id=found.id,
        type=found.type,
        data=found.data_as_json(),
        recipients=found.recipients,
        created_at=found.created_at,
        expires_at=found.expires_at,
        deliver_at=found.deliver_at,
        collapse_key=found.collapse_key,
        counts=await services.store.notifications.count(found.id),
    )


def read_id(text: str) -> UUID:
    """Return the id in a path. One that can't be an id names nothing: raises NotFound."""
    if _ID.fullmatch(text) is None:
        raise NotFound("no such notification, or not one of yours")
    return UUID(text)
