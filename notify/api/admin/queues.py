"""Who is not getting what, since when, and why; and replay, purge and erasure."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec
from litestar import Request, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery

from notify.api.admin.cluster import SessionItem, describe_session
from notify.api.admin.common import now, read_place, require_reader, require_writer, write_place
from notify.api.body import BodyReader
from notify.api.described import describe
from notify.api.inbox import read_request_body
from notify.api.paths import MAX_LIMIT, invalid, read_limit, read_segment
from notify.api.services import Services
from notify.errors import NotFound
from notify.frames import Seq
from notify.model import ID_LENGTH, is_identifier
from notify.store.backlog import Place
from notify.store.inbox import Device


class QueueItem(msgspec.Struct, frozen=True):
    """A mailbox with something pending."""

    user: str
    pending: int
    oldest_pending_at: datetime


class QueuePage(msgspec.Struct, frozen=True):
    """Mailboxes with something pending, the deepest or the oldest first."""

    items: list[QueueItem]
    next: str | None
    as_of: datetime


class Mailbox(msgspec.Struct, frozen=True):
    """Where a mailbox stands. `acknowledged`: some device has everything up to here, or it is gone."""

    epoch: str
    head: int
    floor: int
    acknowledged: int
    unread: int
    pending: int
    oldest_pending_at: datetime | None


class PendingNotification(msgspec.Struct, frozen=True):
    """A notification that no device has acknowledged. `bytes`: of its data, which is not shown here."""

    seq: int
    id: UUID
    type: str
    source: str
    created_at: datetime
    expires_at: datetime
    queued_at: datetime
    bytes: int


class RecentNotification(PendingNotification, frozen=True):
    """A notification and what became of it for this user."""

    status: Literal["pending", "delivered", "read", "expired", "cancelled", "collapsed"]
    delivered_at: datetime | None
    read_at: datetime | None
    ended_at: datetime | None


class Queue(msgspec.Struct, frozen=True):
    """One user's mailbox, in full."""

    user: str
    as_of: datetime
    mailbox: Mailbox
    devices: list[Device]
    pending: list[PendingNotification]
    """The oldest first, as many as `limit`; `mailbox` has their number."""
    recent: list[RecentNotification]
    """The newest first, as many as `limit`."""
    sessions: list[SessionItem]
    push_subscriptions: int
    """Browsers that are subscribed to Web Push."""


class ReplayRequest(msgspec.Struct, forbid_unknown_fields=True):
    """After which seq to begin."""

    after: Seq


class Replayed(msgspec.Struct, frozen=True):
    """How many notifications were queued again."""

    replayed: int


class Purged(msgspec.Struct, frozen=True):
    """How many notifications were withdrawn; they count as cancelled."""

    purged: int


class Erased(msgspec.Struct, frozen=True):
    """How many notifications went."""

    erased: int


_replay_request = BodyReader(ReplayRequest)


class _After(msgspec.Struct, frozen=True):
    """A place in the list of queues, under its sort."""

    sort: str
    place: Place


@get("/v1/admin/queues", summary="List the queues", tags=["Admins"])
async def list_queues(  # noqa: PLR0913, PLR0917 - one argument a parameter of the query
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    sort: FromQuery[str | None] = None,
    q: FromQuery[str | None] = None,
    limit: FromQuery[str | None] = None,
    cursor: FromQuery[str | None] = None,
) -> QueuePage:
    """Return the mailboxes with something pending: the deepest first, or (`sort=age`) those that wait longest."""
    await require_reader(request, services)
    if sort not in {None, "depth", "age"}:
        raise invalid("sort", "must be `depth` or `age`")
    order = sort or "depth"
    prefix = q or ""
    if prefix and not is_identifier(prefix):
        raise invalid("q", f"is the beginning of a user id: at most {ID_LENGTH} characters, none a control character")
    size = read_limit(limit)
    after = read_place(cursor, _After)
    if after is not None and after.sort != order:
        raise invalid("cursor", "belongs to a list with another `sort`")
    backlog = services.store.backlog
    as_of = (await backlog.sum()).as_of
    place = after.place if after is not None else None
    found = await (backlog.deepest if order == "depth" else backlog.oldest)(prefix=prefix, after=place, limit=size + 1)
    last = found[size - 1] if len(found) > size else None
    return QueuePage(
        items=[QueueItem(item.user, item.pending, item.oldest_at) for item in found[:size]],
        next=None if last is None else write_place(_After(order, Place(last.user, last.pending, last.oldest_at))),
        as_of=as_of,
    )


@get("/v1/admin/queues/{user:str}", summary="Look at one queue", tags=["Admins"])
async def get_queue(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    user: FromPath[str],
    limit: FromQuery[str | None] = None,
) -> Queue:
    """Return a user's mailbox: its devices and their cursors, what is pending, what was lately, the open sessions."""
    await require_reader(request, services)
    owner = read_segment(user, "user")
    size = read_limit(limit)
    store = services.store
    mailbox = await store.queues.find(owner)
    if mailbox is None:
        raise NotFound("no such user: nothing was ever sent to that id, and nobody ever connected under it")
    return Queue(
        user=owner,
        as_of=now(),
        mailbox=Mailbox(
            epoch=mailbox.epoch,
            head=mailbox.head,
            floor=mailbox.floor,
            acknowledged=mailbox.base,
            unread=mailbox.unread,
            pending=mailbox.pending,
            oldest_pending_at=mailbox.oldest_at,
        ),
        devices=list(await store.inbox.devices(owner)),
        pending=[
            PendingNotification(
                seq=item.seq,
                id=item.id,
                type=item.type,
                source=item.producer,
                created_at=item.created_at,
                expires_at=item.expires_at,
                queued_at=item.queued_at,
                bytes=item.bytes,
            )
            for item in await store.queues.pending(owner, size)
        ],
        recent=[
            RecentNotification(
                seq=item.seq,
                id=item.id,
                type=item.type,
                source=item.producer,
                created_at=item.created_at,
                expires_at=item.expires_at,
                queued_at=item.queued_at,
                bytes=item.bytes,
                status=item.status,  # type: ignore[arg-type]  # one of the statuses, as notify.receipts has it
                delivered_at=item.delivered_at,
                read_at=item.read_at,
                ended_at=item.ended_at,
            )
            for item in await store.queues.recent(owner, size)
        ],
        sessions=[describe_session(s) for s in await store.sessions.page(user=owner, limit=MAX_LIMIT)],
        push_subscriptions=await store.push.count(owner),
    )


@post(
    "/v1/admin/queues/{user:str}/replay",
    status_code=200,
    summary="Queue notifications again",
    tags=["Admins"],
    opt=describe(takes=ReplayRequest, example={"after": 41}),
)
async def replay_queue(
    request: Request[Any, Any, Any], services: NamedDependency[Services], user: FromPath[str]
) -> Replayed:
    """Queue every notification after a seq that is not over again, under a new seq and with its old id."""
    identity = await require_writer(request, services)
    wanted = _replay_request.decode(*await read_request_body(request, services))
    return Replayed(await services.store.queues.replay(identity.subject, read_segment(user, "user"), wanted.after))


@delete("/v1/admin/queues/{user:str}", status_code=200, summary="Empty a queue", tags=["Admins"])
async def purge_queue(
    request: Request[Any, Any, Any], services: NamedDependency[Services], user: FromPath[str]
) -> Purged:
    """Withdraw everything that is pending in a mailbox. A device that holds some of it is told."""
    identity = await require_writer(request, services)
    return Purged(await services.store.queues.purge(identity.subject, read_segment(user, "user")))


@delete("/v1/admin/users/{user:str}", status_code=200, summary="Erase a user", tags=["Admins"])
async def erase_user(
    request: Request[Any, Any, Any], services: NamedDependency[Services], user: FromPath[str]
) -> Erased:
    """Erase everything about a user: mailbox, devices, marks, subscriptions, and data that was sent to nobody else.

    Open sessions close with 1013 and begin anew under another epoch. What remains is the deny list and the audit log.
    """
    identity = await require_writer(request, services)
    return Erased(await services.store.queues.erase(identity.subject, read_segment(user, "user")))
