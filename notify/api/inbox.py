"""For front ends: the inbox, its read marks, one's devices."""

from datetime import datetime
from typing import Annotated, Any, ClassVar, cast

import msgspec
from litestar import Request, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery
from msgspec import UNSET, Meta, UnsetType

from notify.api.access import require
from notify.api.body import BodyReader, Receive, media_codec, read_body
from notify.api.described import describe
from notify.api.paths import MAX_SEQ, read_flag, read_integer, read_limit, read_segment
from notify.api.requests import NO_CONTROLS
from notify.api.services import Services
from notify.auth import Identity, Scope
from notify.errors import FieldError, InvalidRequest, NotFound
from notify.frames import Seq, Seqs
from notify.gateway import DEFAULT_DEVICE, MAX_EPOCH
from notify.model import ID_LENGTH, Codec
from notify.settings import KIB
from notify.store.inbox import Device

MAX_BODY_BYTES = 64 * KIB
"""Of a body that sends nothing: the largest, a thousand seqs, has 20 KB. Any user may post one, and 8 MiB take a second."""


class InboxNotification(msgspec.Struct, frozen=True):
    """A notification as its user sees it."""

    seq: int
    id: str
    type: str
    data: msgspec.Raw
    source: str
    created_at: datetime
    read_at: datetime | None


class InboxPage(msgspec.Struct, frozen=True):
    """A page of the inbox, newest first. `next` goes into `before` (or `cursor`)."""

    items: list[InboxNotification]
    unread: int
    next: str | None


class Unread(msgspec.Struct, frozen=True):
    """How many notifications are left unread."""

    unread: int


class ReadRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What to mark read: everything up to a seq, or these seqs."""

    published: ClassVar = {"oneOf": [{"required": ["up_to"]}, {"required": ["seqs"]}]}
    up_to: Seq | UnsetType = UNSET
    seqs: Seqs | UnsetType = UNSET


class AckRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What a device has received: everything up to a seq."""

    seq: Seq
    device: Annotated[str, Meta(min_length=1, max_length=ID_LENGTH, pattern=NO_CONTROLS)] = DEFAULT_DEVICE
    epoch: (
        Annotated[str, Meta(max_length=MAX_EPOCH, description="The epoch that `seq` belongs to, from `welcome`.")]
        | UnsetType
    ) = UNSET


class Devices(msgspec.Struct, frozen=True):
    """A user's devices."""

    items: list[Device]
    next: None = None


_read_request = BodyReader(ReadRequest)
_ack_request = BodyReader(AckRequest)


async def identify(request: Request[Any, Any, Any], services: Services) -> Identity:
    """Return the user who calls."""
    return await require(services.authenticator, request.headers.get("authorization"), Scope.RECEIVE)


async def read_request_body(request: Request[Any, Any, Any], services: Services) -> tuple[bytes, Codec]:
    """Return the body of an ordinary handler's request, under the same rules as a lean route's, but for its size."""
    headers = dict(request.headers)
    codec = media_codec(headers)
    limit = min(MAX_BODY_BYTES, services.settings.max_body_bytes)
    return await read_body(headers, cast("Receive", request.receive), max_bytes=limit), codec


@get("/v1/inbox", summary="List the inbox", tags=["Front ends"])
async def list_inbox(  # noqa: PLR0913, PLR0917 - one parameter a query parameter; the framework passes keywords
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    before: FromQuery[str | None] = None,
    limit: FromQuery[str | None] = None,
    unread: FromQuery[str | None] = None,
    cursor: FromQuery[str | None] = None,
) -> InboxPage:
    """Return the caller's notifications, newest first; what expired, was cancelled or replaced is gone.

    A page ends early after 4 MiB of data; `next` goes on.
    """
    identity = await identify(request, services)
    size = read_limit(limit)
    name, place = ("before", before) if cursor is None else ("cursor", cursor)
    start = read_integer(place, name, default=MAX_SEQ, low=0, high=MAX_SEQ)
    found, more = await services.store.inbox.page(
        identity.subject, before=start, limit=size, unread=read_flag(unread, "unread")
    )
    return InboxPage(
        items=[
            InboxNotification(
                seq=item.seq,
                id=str(item.notification.id),
                type=item.notification.type,
                data=item.notification.data_as_json(),
                source=item.notification.source,
                created_at=item.notification.created_at,
                read_at=item.read_at,
            )
            for item in found
        ],
        unread=await services.store.inbox.unread(identity.subject),
        next=str(found[-1].seq) if more else None,
    )


@post(
    "/v1/inbox/read",
    status_code=200,
    summary="Mark notifications read",
    tags=["Front ends"],
    opt=describe(takes=ReadRequest, example={"up_to": 57}),
)
async def mark_read(request: Request[Any, Any, Any], services: NamedDependency[Services]) -> Unread:
    """Mark notifications read; every device of the user hears of it."""
    identity = await identify(request, services)
    mark = _read_request.decode(*await read_request_body(request, services))
    if isinstance(mark.up_to, int) and mark.seqs is UNSET:
        return Unread(await services.store.inbox.mark_up_to(identity.subject, mark.up_to))
    if isinstance(mark.seqs, list) and mark.up_to is UNSET:
        return Unread(await services.store.inbox.mark(identity.subject, mark.seqs))
    raise InvalidRequest("give either `up_to` or `seqs`", errors=[FieldError("", "needs either `up_to` or `seqs`")])


@post(
    "/v1/inbox/ack",
    status_code=204,
    summary="Acknowledge for an event stream",
    tags=["Front ends"],
    opt=describe(takes=AckRequest),
)
async def acknowledge(request: Request[Any, Any, Any], services: NamedDependency[Services]) -> None:
    """Acknowledge everything up to a seq for one of the caller's devices.

    Beyond the head it means nothing, nor does it when the `epoch` it names is another one by now.
    """
    identity = await identify(request, services)
    ack = _ack_request.decode(*await read_request_body(request, services))
    epoch = None if ack.epoch is UNSET else ack.epoch
    if await services.store.mailboxes.acknowledge(identity.subject, ack.device, ack.seq, epoch):
        await services.store.inbox.announce_ack(identity.subject, ack.device, ack.seq)


@get("/v1/inbox/devices", summary="List one's devices", tags=["Front ends"])
async def list_devices(request: Request[Any, Any, Any], services: NamedDependency[Services]) -> Devices:
    """Return the caller's devices and how far each has acknowledged."""
    identity = await identify(request, services)
    return Devices(list(await services.store.inbox.devices(identity.subject)))


@delete("/v1/inbox/devices/{device:str}", summary="Remove one of one's devices", tags=["Front ends"])
async def remove_device(
    request: Request[Any, Any, Any], services: NamedDependency[Services], device: FromPath[str]
) -> None:
    """Forget a device. What it acknowledged stays acknowledged; if it comes back it is new."""
    identity = await identify(request, services)
    if not await services.store.inbox.remove_device(identity.subject, read_segment(device, "device")):
        raise NotFound("no such device")
