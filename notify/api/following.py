"""For apps: following and withdrawing what they sent (contract, section 4)."""

import re
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from litestar import Request, delete, get
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery

from notify.api.access import require
from notify.api.paths import read_cursor, read_limit, write_cursor
from notify.api.services import Services
from notify.auth import Scope
from notify.errors import NotFound
from notify.store.notifications import StoredNotification

UNKNOWN = "no such notification, or not one of yours"

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class SentNotification(msgspec.Struct, frozen=True):
    """A notification as its producer sees it."""

    id: UUID
    type: str
    data: msgspec.Raw
    source: str
    recipients: int
    created_at: datetime
    expires_at: datetime
    deliver_at: datetime | None
    collapse_key: str | None
    undelivered_at: datetime | None
    counts: dict[str, int]


@get("/v1/notifications/{notification_id:str}", summary="Follow a notification", tags=["Apps"])
async def get_notification(
    request: Request[Any, Any, Any], services: NamedDependency[Services], notification_id: FromPath[str]
) -> SentNotification:
    """Return one of the caller's own notifications, with how many recipients stand at each status.

    With `queues:read`, anybody's.
    """
    found = await find_notification(request, services, notification_id)
    return SentNotification(
        id=found.id,
        type=found.type,
        data=found.data_as_json(),
        source=found.source,
        recipients=found.recipients,
        created_at=found.created_at,
        expires_at=found.expires_at,
        deliver_at=found.deliver_at,
        collapse_key=found.collapse_key,
        undelivered_at=found.undelivered_at,
        counts=await services.store.notifications.count(found.id),
    )


async def find_notification(
    request: Request[Any, Any, Any], services: Services, notification_id: str
) -> StoredNotification:
    """Return the notification in a path, if the caller may see it. Raises NotFound, Unauthenticated or Forbidden."""
    authorization = request.headers.get("authorization")
    identity = await require(services.authenticator, authorization, Scope.SEND, Scope.QUEUES_READ)
    producer = None if identity.may(Scope.QUEUES_READ) else identity.subject
    found = await services.store.notifications.find(read_id(notification_id), producer)
    if found is None:
        raise NotFound(UNKNOWN)
    return found


def read_id(text: str) -> UUID:
    """Return the id in a path. One that can't be an id names nothing: raises NotFound."""
    if _ID.fullmatch(text) is None:
        raise NotFound(UNKNOWN)
    return UUID(text)


class ReceiptItem(msgspec.Struct, frozen=True):
    """How one recipient stands."""

    user: str
    seq: int | None
    status: str
    delivered_at: datetime | None
    read_at: datetime | None


class Receipts(msgspec.Struct, frozen=True):
    """A page of a notification's recipients."""

    items: list[ReceiptItem]
    next: str | None


@get("/v1/notifications/{notification_id:str}/recipients", summary="List a notification's recipients", tags=["Apps"])
async def list_recipients(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    notification_id: FromPath[str],
    limit: FromQuery[str | None] = None,
    cursor: FromQuery[str | None] = None,
) -> Receipts:
    """Return how each recipient of one of the caller's notifications stands, in the order of their ids.

    With `queues:read`, of anybody's.
    """
    found = await find_notification(request, services, notification_id)
    size = read_limit(limit)
    receipts = await services.store.notifications.list_receipts(found.id, after=read_cursor(cursor), limit=size + 1)
    return Receipts(
        [ReceiptItem(r.user, r.seq, r.status, r.delivered_at, r.read_at) for r in receipts[:size]],
        write_cursor(receipts[size - 1].user) if len(receipts) > size else None,
    )


@delete("/v1/notifications/{notification_id:str}", summary="Withdraw a notification", tags=["Apps"])
async def cancel_notification(
    request: Request[Any, Any, Any], services: NamedDependency[Services], notification_id: FromPath[str]
) -> None:
    """Withdraw one of the caller's notifications from everyone who has not acknowledged it. Again changes nothing.

    With `queues:write`, anybody's.
    """
    authorization = request.headers.get("authorization")
    identity = await require(services.authenticator, authorization, Scope.SEND, Scope.QUEUES_WRITE)
    wanted, store = read_id(notification_id), services.store
    withdrawn: int | None
    if identity.may(Scope.QUEUES_WRITE):
        withdrawn = await store.queues.cancel(identity.subject, wanted)
    else:
        withdrawn = await store.notifications.cancel(wanted, identity.subject)
    if withdrawn is None:
        raise NotFound(UNKNOWN)
