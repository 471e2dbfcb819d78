"""Who is not getting what: the queues, one user, and where a search leads."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.plugins.htmx import HTMXRequest

from notify.api.admin.common import read_place, write_place
from notify.api.paths import MAX_LIMIT, invalid
from notify.api.services import Services
from notify.console.rendering import go, read_name, show
from notify.console.session import PATH, require_visitor
from notify.console.wording import link
from notify.model import ID_LENGTH
from notify.store.audit import Act
from notify.store.backlog import Place
from notify.store.queues import RecentItem
from notify.store.sessions import SessionState
from notify.store.survey import Survey

PAGE = 50
"""Rows of a page."""

SHOWN = 50
"""Pending notifications, and recent ones, on a user's page."""

TIMELINE = 60
"""Events on a user's page."""

_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class After(msgspec.Struct, frozen=True):
    """A place in the list of queues, under its sort."""

    sort: str
    place: Place


class Event(NamedTuple):
    """Something that happened to a user. `notification` is what it happened to, if anything."""

    at: datetime
    mark: str
    text: str
    notification: UUID | None = None
    kind: str = ""


@get("/queues")
async def queues_page(request: HTMXRequest, services: NamedDependency[Services]) -> Response[Any]:
    """Show the mailboxes with something pending."""
    visitor = await require_visitor(request, services)
    sort = request.query_params.get("sort", "depth")
    if sort not in {"depth", "age"}:
        raise invalid("sort", "must be `depth` or `age`")
    prefix = request.query_params.get("q", "")
    if len(prefix) > ID_LENGTH or "\0" in prefix:
        raise invalid("q", f"is the beginning of a user id, at most {ID_LENGTH} characters")
    after = read_place(request.query_params.get("cursor"), After)
    if after is not None and after.sort != sort:
        raise invalid("cursor", "belongs to a list with another `sort`")
    backlog = services.store.backlog
    total = await backlog.sum()
    listing = backlog.deepest if sort == "depth" else backlog.oldest
    found = await listing(prefix=prefix, after=after.place if after else None, limit=PAGE + 1)
    last = found[PAGE - 1] if len(found) > PAGE else None
    return show(
        request,
        visitor,
        "queues.html",
        section="queues",
        total=total,
        sort=sort,
        q=prefix,
        items=found[:PAGE],
        most=max((item.pending for item in found), default=1),
        is_first=after is None,
        next=None if last is None else write_place(After(sort, Place(last.user, last.pending, last.oldest_at))),
    )


@get("/user")
async def user_page(request: HTMXRequest, services: NamedDependency[Services]) -> Response[Any]:
    """Show one user: sessions, devices and cursors, what is pending, what happened."""
    visitor = await require_visitor(request, services)
    user = read_name(request.query_params.get("id"), "id")
    store = services.store
    mailbox = await store.queues.find(user)
    recent = await store.queues.recent(user, SHOWN)
    sessions = await store.sessions.page(user=user, limit=MAX_LIMIT)
    acts = await store.audit.page(target=user, limit=TIMELINE)
    return show(
        request,
        visitor,
        "user.html",
        section="queues",
        status=200 if mailbox is not None or sessions or acts or request.htmx else 404,
        user=user,
        mailbox=mailbox,
        devices=await store.inbox.devices(user),
        pending=await store.queues.pending(user, SHOWN),
        sessions=sessions,
        subscribed=await store.push.count(user),
        nodes={node.id: node for node in await store.sessions.nodes()},
        timeline=tell(recent, sessions, acts),
        is_denied=await Survey(store.database).is_denied("sub", user),
    )


@get("/find")
async def find(request: HTMXRequest, services: NamedDependency[Services]) -> Response[Any]:
    """Go to what somebody typed: a notification by its id, or else a user."""
    await require_visitor(request, services)
    wanted = request.query_params.get("q", "").strip()
    if not wanted:
        return go(request, f"{PATH}/queues")
    if _ID.fullmatch(wanted) and await services.store.notifications.find(UUID(wanted)) is not None:
        return go(request, link(f"{PATH}/notification", id=wanted))
    return go(request, link(f"{PATH}/user", id=read_name(wanted, "q")))


def tell(recent: Sequence[RecentItem], sessions: Sequence[SessionState], acts: Sequence[Act]) -> list[Event]:
    """Return what happened to a user, the latest first."""
    events = [
        Event(item.opened_at, "session", f"session opened on device {item.device} ({item.protocol})")
        for item in sessions
    ]
    for item in recent:
        events.append(Event(item.queued_at, "queued", f"queued as {item.seq}", item.id, item.type))
        if item.delivered_at:
            events.append(Event(item.delivered_at, "delivered", f"{item.seq} acknowledged", item.id, item.type))
        if item.read_at:
            events.append(Event(item.read_at, "read", f"{item.seq} read", item.id, item.type))
        if item.ended_at:
            events.append(Event(item.ended_at, item.status, f"{item.seq} {item.status}", item.id, item.type))
        elif item.status == "expired":
            events.append(Event(item.expires_at, "expired", f"{item.seq} expired", item.id, item.type))
    events.extend(
        Event(
            act.at,
            "act",
            f"{act.actor}: {act.action}, {act.affected} touched" + (f" ({act.detail})" if act.detail else ""),
        )
        for act in acts
    )
    return sorted(events, key=lambda event: event.at, reverse=True)[:TIMELINE]
