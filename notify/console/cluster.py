"""The service itself: sessions, producers, nodes and database, what admins did, and who is denied."""

from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.plugins.htmx import HTMXRequest

from notify.api.admin.common import read_place, write_place
from notify.api.services import Services
from notify.console.rendering import read_name, show
from notify.console.session import require_visitor
from notify.settings import Settings
from notify.store.audit import LATEST
from notify.store.sessions import LAST_ID
from notify.store.survey import Survey

PAGE = 50
"""Rows of a page."""

MAX_PRODUCERS = 500
"""Producers shown, the busiest."""

SHOWN_TEXTS = frozenset({"jwt_issuer", "jwt_audience", "allowed_origins", "trusted_proxies", "log_level", "log_format"})
"""Settings shown as they are although they are text: anything else that is no number could be a secret, or hold one."""


@get("/sessions")
async def sessions_page(request: HTMXRequest, services: NamedDependency[Services]) -> Response[Any]:
    """Show who is connected where, the newest first."""
    visitor = await require_visitor(request, services)
    before = read_place(request.query_params.get("cursor"), UUID)
    found = await services.store.sessions.page(before=before or LAST_ID, limit=PAGE + 1)
    total, users = await services.store.sessions.count()
    return show(
        request,
        visitor,
        "sessions.html",
        section="sessions",
        items=found[:PAGE],
        total=total,
        users=users,
        nodes={node.id: node for node in await services.store.sessions.nodes()},
        is_first=before is None,
        next=write_place(found[PAGE - 1].id) if len(found) > PAGE else None,
    )


@get("/producers")
async def producers_page(request: HTMXRequest, services: NamedDependency[Services]) -> Response[Any]:
    """Show who sends how much."""
    visitor = await require_visitor(request, services)
    found = await services.store.activity_log.producers(MAX_PRODUCERS)
    most = max((item.recipients for item in found), default=0)
    return show(request, visitor, "producers.html", section="producers", items=found, most=max(1, most))


@get("/system")
async def system_page(request: HTMXRequest, services: NamedDependency[Services]) -> Response[Any]:
    """Show nodes, schema, table sizes and settings."""
    visitor = await require_visitor(request, services)
    survey = Survey(services.store.database)
    return show(
        request,
        visitor,
        "system.html",
        section="system",
        nodes=await services.store.sessions.nodes(),
        database=await survey.database(),
        epoch=services.store.mailboxes.epoch,
        migrations=await survey.migrations(),
        tables=await survey.tables(),
        settings=list_settings(services.settings),
    )


@get("/audit")
async def audit_page(request: HTMXRequest, services: NamedDependency[Services]) -> Response[Any]:
    """Show what admins did."""
    visitor = await require_visitor(request, services)
    target = request.query_params.get("target") or None
    if target is not None:
        read_name(target, "target")
    before = read_place(request.query_params.get("cursor"), int)
    found = await services.store.audit.page(target=target, before=LATEST if before is None else before, limit=PAGE + 1)
    return show(
        request,
        visitor,
        "audit.html",
        section="audit",
        items=found[:PAGE],
        target=target,
        is_first=before is None,
        next=write_place(found[PAGE - 1].id) if len(found) > PAGE else None,
    )


@get("/denylist")
async def denylist_page(request: HTMXRequest, services: NamedDependency[Services]) -> Response[Any]:
    """Show whose tokens are refused."""
    visitor = await require_visitor(request, services)
    after = read_place(request.query_params.get("cursor"), tuple[str, str])
    found = await services.store.denials.page(after=after or ("", ""), limit=PAGE + 1)
    return show(
        request,
        visitor,
        "denylist.html",
        section="denylist",
        items=found[:PAGE],
        is_first=after is None,
        next=write_place((found[PAGE - 1].kind, found[PAGE - 1].value)) if len(found) > PAGE else None,
    )


@get("/send")
async def send_page(request: HTMXRequest, services: NamedDependency[Services]) -> Response[Any]:
    """Show the form for a test notification."""
    visitor = await require_visitor(request, services)
    return show(request, visitor, "send.html", section="send", user=request.query_params.get("user", ""))


def list_settings(settings: Settings) -> list[tuple[str, str, str]]:
    """Return each setting's name, its value as far as it may be seen, and what it is for."""
    return [
        (f"NOTIFY_{name.upper()}", show_setting(name, getattr(settings, name)), field.description or "")
        for name, field in type(settings).model_fields.items()
    ]


def show_setting(name: str, value: object) -> str:
    """Return a setting's value, or no more than whether there is one."""
    if isinstance(value, int | float) or name in SHOWN_TEXTS:
        shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        return shown or "not set"
    if not value:
        return "not set"
    if name in {"database_url", "listen_url"}:
        return f"set ({show_address(str(value))})"
    return f"set ({len(value)})" if isinstance(value, list) and len(value) > 1 else "set"


def show_address(url: str) -> str:
    """Return host and database of a libpq URL: no user, no password, no parameters."""
    try:
        parts = urlsplit(url)
        return (
            f"{parts.hostname or 'a local socket'}{parts.path}" if parts.scheme.startswith("postgres") else "not shown"
        )
    except ValueError:
        return "not shown"
