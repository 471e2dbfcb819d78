"""The console's paths."""

from typing import Any

from litestar import Request, Response, Router, get
from litestar.params import FromPath
from litestar.plugins.htmx import HTMXRequest

from notify.api.assets import read_asset
from notify.console.cluster import audit_page, denylist_page, producers_page, send_page, sessions_page, system_page
from notify.console.confirming import act, confirm_page
from notify.console.notifications import notification_page
from notify.console.overview import overview_page
from notify.console.queues import find, queues_page, user_page
from notify.console.rendering import HEADERS, handle_error
from notify.console.session import PATH
from notify.console.sign_in import sign_in, sign_in_page, sign_out
from notify.console.webhooks import webhook_page, webhooks_page
from notify.errors import NotFound

ASSETS = frozenset({"console.css", "console.js", "icon.svg", "htmx.min.js", "idiomorph-ext.min.js"})

MAX_FORM_BYTES = 64 * 1024
"""Of a form: a token has 4 KiB, a test notification a little more."""


@get("/static/{name:str}")
async def static_asset(request: Request[Any, Any, Any], name: FromPath[str]) -> Response[bytes]:
    """Serve a file that belongs to the pages; anybody may have it."""
    if name not in ASSETS:
        raise NotFound("The console has no such file.")
    return read_asset("notify.console.static", name).answer(request, {**HEADERS, "Cache-Control": "no-cache"})


@get("/{rest:path}")
async def unknown_page(rest: FromPath[str]) -> Response[Any]:
    """Say that there is no such page, as a page."""
    raise NotFound(f"The console has no page {rest}.")


def console_router() -> Router:
    """Return the console's routes."""
    return Router(
        PATH,
        route_handlers=[
            overview_page,
            queues_page,
            user_page,
            find,
            notification_page,
            sessions_page,
            producers_page,
            webhooks_page,
            webhook_page,
            system_page,
            audit_page,
            denylist_page,
            send_page,
            confirm_page,
            act,
            sign_in_page,
            sign_in,
            sign_out,
            static_asset,
            unknown_page,
        ],
        request_class=HTMXRequest,
        exception_handlers={Exception: handle_error},
        request_max_body_size=MAX_FORM_BYTES,
        include_in_schema=False,
    )
