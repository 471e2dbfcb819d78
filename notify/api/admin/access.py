"""The deny list: whose tokens are refused although they are signed."""

from datetime import datetime
from typing import Any, cast

import msgspec
from litestar import Request, delete, get, put
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery

from notify.api.admin.common import now, read_place, require_reader, require_writer, write_place
from notify.api.described import describe
from notify.api.paths import read_limit, read_segment
from notify.api.services import Services
from notify.errors import NotFound
from notify.store.denials import DenialKind


class DenialItem(msgspec.Struct, frozen=True):
    """An entry of the deny list, and who put it there."""

    kind: DenialKind
    value: str
    actor: str
    at: datetime


class DenylistPage(msgspec.Struct, frozen=True):
    """The deny list."""

    items: list[DenialItem]
    next: str | None
    as_of: datetime


def read_kind(kind: str) -> DenialKind:
    """Return the kind in a path. Raises NotFound when it is none."""
    if kind not in {"sub", "jti"}:
        raise NotFound("a token is denied by its `sub` or its `jti`")
    return cast("DenialKind", kind)


@get("/v1/admin/denylist", summary="List whom is denied", tags=["Admins"])
async def list_denylist(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    limit: FromQuery[str | None] = None,
    cursor: FromQuery[str | None] = None,
) -> DenylistPage:
    """Return the deny list."""
    await require_reader(request, services)
    size = read_limit(limit)
    found = await services.store.denials.page(after=read_place(cursor, tuple[str, str]) or ("", ""), limit=size + 1)
    return DenylistPage(
        items=[DenialItem(denial.kind, denial.value, denial.actor, denial.at) for denial in found[:size]],
        next=write_place((found[size - 1].kind, found[size - 1].value)) if len(found) > size else None,
        as_of=now(),
    )


@put(
    "/v1/admin/denylist/{kind:str}/{value:str}",
    status_code=204,
    summary="Deny a token or a subject",
    tags=["Admins"],
    opt=describe(problems=(NotFound,)),
)
async def deny(
    request: Request[Any, Any, Any], services: NamedDependency[Services], kind: FromPath[str], value: FromPath[str]
) -> None:
    """Refuse these tokens from now on, everywhere; open sockets close with 4401 within a second. Twice is once."""
    identity = await require_writer(request, services)
    await services.store.denials.deny(identity.subject, read_kind(kind), read_segment(value, "value"))
    await services.orders.obey()


@delete("/v1/admin/denylist/{kind:str}/{value:str}", summary="Take one off the deny list", tags=["Admins"])
async def allow_denied(
    request: Request[Any, Any, Any], services: NamedDependency[Services], kind: FromPath[str], value: FromPath[str]
) -> None:
    """Accept these tokens again. Idempotent."""
    identity = await require_writer(request, services)
    await services.store.denials.allow(identity.subject, read_kind(kind), read_segment(value, "value"))
    await services.orders.obey()
