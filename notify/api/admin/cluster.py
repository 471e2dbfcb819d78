"""Sessions and nodes of the whole cluster, and what was done by whom."""

import asyncio
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from litestar import Request, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery

from notify import clock
from notify.api.admin.common import now, read_place, require_reader, require_writer, write_place
from notify.api.paths import read_limit, read_name, read_segment
from notify.api.services import Services
from notify.errors import NotFound
from notify.ids import read_time
from notify.store.audit import LATEST, Act
from notify.store.sessions import LAST_ID, NodeState, SessionState

TELL_SECONDS = (0.0, 0.4, 0.8, 1.0)
"""Pauses before a session is looked for (again): one just opened elsewhere is known within a second or, in a storm, two."""

FRESH_SECONDS = 600.0
"""Only for one whose id was minted this close to now: a wrong id is told at once. The nodes' clocks may be minutes off."""


class SessionItem(msgspec.Struct, frozen=True):
    """An open session. `jti` is its token's, if it has one."""

    session: UUID
    node: UUID
    user: str
    device: str
    protocol: str
    jti: str | None
    opened_at: datetime


class SessionPage(msgspec.Struct, frozen=True):
    """Open sessions, the newest first."""

    items: list[SessionItem]
    next: str | None
    as_of: datetime


class NodeItem(msgspec.Struct, frozen=True):
    """A process of the service. `lag_ms`: what the last heartbeat of its LISTEN link took."""

    node: UUID
    host: str
    pid: int
    version: str
    started_at: datetime
    seen_at: datetime
    sessions: int
    users: int
    draining: bool
    listening: bool
    lag_ms: float
    reconnects: int


class NodePage(msgspec.Struct, frozen=True):
    """The nodes that are alive, the oldest first."""

    items: list[NodeItem]
    as_of: datetime
    next: None = None


class AuditPage(msgspec.Struct, frozen=True):
    """What was done, the latest first."""

    items: list[Act]
    next: str | None
    as_of: datetime


class Closed(msgspec.Struct, frozen=True):
    """How many sessions were closed."""

    closed: int


def describe_session(session: SessionState) -> SessionItem:
    """Return a session as an admin sees it."""
    return SessionItem(
        session.id, session.node, session.user, session.device, session.protocol, session.token_id, session.opened_at
    )


def describe_node(node: NodeState) -> NodeItem:
    """Return a node as an admin sees it."""
    return NodeItem(
        node=node.id,
        host=node.host,
        pid=node.pid,
        version=node.version,
        started_at=node.started_at,
        seen_at=node.seen_at,
        sessions=node.sessions,
        users=node.users,
        draining=node.draining,
        listening=node.listening,
        lag_ms=round(node.lag * 1000, 3),
        reconnects=node.reconnects,
    )


@get("/v1/admin/sessions", summary="List the open sessions", tags=["Admins"])
async def list_sessions(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    user: FromQuery[str | None] = None,
    limit: FromQuery[str | None] = None,
    cursor: FromQuery[str | None] = None,
) -> SessionPage:
    """Return the open sessions of all nodes, the newest first."""
    await require_reader(request, services)
    size = read_limit(limit)
    before = read_place(cursor, UUID) or LAST_ID
    nodes = await services.store.sessions.nodes()
    found = await services.store.sessions.page(user=read_name(user, "user"), before=before, limit=size + 1)
    return SessionPage(
        items=[describe_session(session) for session in found[:size]],
        next=write_place(found[size - 1].id) if len(found) > size else None,
        as_of=min((node.seen_at for node in nodes), default=now()),
    )


@delete("/v1/admin/sessions/{session:str}", summary="Close a session", tags=["Admins"])
async def close_session(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    session: FromPath[str],
) -> None:
    """Close one session with 4410, on whatever node it is."""
    identity = await require_writer(request, services)
    try:
        session_id = UUID(read_segment(session, "session"))
    except ValueError:
        raise NotFound("no such session") from None
    await services.roster.report()
    for pause in TELL_SECONDS if abs(read_time(session_id) - clock.now()) < FRESH_SECONDS else (0.0,):
        await asyncio.sleep(pause)
        if await services.store.sessions.close(identity.subject, session_id):
            return
    raise NotFound("no such session; it may have closed by itself")


@post("/v1/admin/users/{user:str}/disconnect", status_code=200, summary="Disconnect a user", tags=["Admins"])
async def disconnect_user(
    request: Request[Any, Any, Any], services: NamedDependency[Services], user: FromPath[str]
) -> Closed:
    """Close every session of a user with 4410, on all nodes. To keep the user out, put the `sub` on the deny list."""
    identity = await require_writer(request, services)
    await services.roster.report()
    return Closed(await services.store.sessions.disconnect(identity.subject, read_segment(user, "user")))


@get("/v1/admin/nodes", summary="List the nodes", tags=["Admins"])
async def list_nodes(request: Request[Any, Any, Any], services: NamedDependency[Services]) -> NodePage:
    """Return the processes of the service that are alive; one that died is gone within a minute."""
    await require_reader(request, services)
    nodes = [describe_node(node) for node in await services.store.sessions.nodes()]
    return NodePage(items=nodes, as_of=min((node.seen_at for node in nodes), default=now()))


@get("/v1/admin/audit", summary="What admins did", tags=["Admins"])
async def list_audit(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    target: FromQuery[str | None] = None,
    limit: FromQuery[str | None] = None,
    cursor: FromQuery[str | None] = None,
) -> AuditPage:
    """Return who did what to whom, the latest first. Kept for a year."""
    await require_reader(request, services)
    size = read_limit(limit)
    before = read_place(cursor, int)
    found = await services.store.audit.page(
        target=read_name(target, "target"), before=LATEST if before is None else before, limit=size + 1
    )
    return AuditPage(
        items=list(found[:size]),
        next=write_place(found[size - 1].id) if len(found) > size else None,
        as_of=now(),
    )
