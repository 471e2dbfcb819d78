"""Webhooks: where apps are called when nobody is there, what waits for them and what was given up.

Keeps the promise that a secret is seen once, by whoever had it made. A URL may hold a credential of its receiver's, so who may
only look sees no more than its host.
"""

from typing import Any

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.plugins.htmx import HTMXRequest

from notify.api.admin.common import read_place, write_place
from notify.api.admin.webhooks import check_url, read_host
from notify.api.services import Services
from notify.console.plan import Plan, Query
from notify.console.rendering import read_name, show
from notify.console.session import PATH, Visitor, require_visitor
from notify.console.wording import say_count
from notify.errors import NotFound
from notify.signing import mint_secret, write_secret

PAGE = 50
"""Rows of a page."""


def show_url(visitor: Visitor, url: str) -> str:
    """Return as much of a webhook's URL as a visitor may see."""
    return url if visitor.may_act else read_host(url)


@get("/webhooks")
async def webhooks_page(request: HTMXRequest, services: NamedDependency[Services]) -> Response[Any]:
    """Show every app's webhook, and how its calls go."""
    visitor = await require_visitor(request, services)
    after = read_place(request.query_params.get("cursor"), str)
    found = await services.store.webhooks.page(after=after or "", limit=PAGE + 1)
    return show(
        request,
        visitor,
        "webhooks.html",
        section="webhooks",
        items=[(item, show_url(visitor, item.url)) for item in found[:PAGE]],
        is_first=after is None,
        next=write_place(found[PAGE - 1].app) if len(found) > PAGE else None,
    )


@get("/webhook")
async def webhook_page(request: HTMXRequest, services: NamedDependency[Services]) -> Response[Any]:
    """Show one app's webhook, and the calls that nobody took yet."""
    visitor = await require_visitor(request, services)
    app = read_name(request.query_params.get("app"), "app")
    found = await services.store.webhooks.find(app)
    if found is None:
        raise NotFound("This app has no webhook.")
    return show(
        request,
        visitor,
        "webhook.html",
        section="webhooks",
        item=found,
        url=show_url(visitor, found.url),
        calls=await services.store.webhooks.calls(app, PAGE),
    )


async def plan_set(services: Services, query: Query) -> Plan:
    """Check where an app is to be called, and count what waits for it."""
    app = read_name(query.get("app"), "app")
    url = await check_url(services, (query.get("url") or "").strip())
    found = await services.store.webhooks.find(app)
    before = f" Replaces the one at {read_host(found.url)}, its secret included." if found else ""
    return Plan(
        title=f"Set the webhook of {app}",
        sentence=f"Calls {url} when a notification of this app is pending for longer than its undelivered_after.{before} "
        "A secret is made and shown once, on the page that follows: give it to the receiver.",
        button="Set it",
        count=found.waiting if found else 0,
        what="waiting call",
        fields={"app": app, "url": url},
        back=f"{PATH}/webhooks",
    )


async def set_webhook(services: Services, query: Query, actor: str) -> str:
    """Set a webhook, with a new secret."""
    app = read_name(query.get("app"), "app")
    url = await check_url(services, query.get("url") or "")
    secret = mint_secret()
    await services.store.webhooks.set(actor, app, url=url, secret=secret, host=read_host(url))
    return f"{app} has a webhook. Its secret, shown this once: {write_secret(secret)}"


async def plan_remove(services: Services, query: Query) -> Plan:
    """Count what waits."""
    app = read_name(query.get("app"), "app")
    found = await services.store.webhooks.find(app)
    if found is None:
        raise NotFound("This app has no webhook any more.")
    return Plan(
        title=f"Remove the webhook of {app}",
        sentence=f"Calls {read_host(found.url)} no more. What waits for it is dropped, and so is the list of what was given up.",
        button="Remove it",
        count=found.waiting,
        what="waiting call",
        fields={"app": app},
        back=f"{PATH}/webhooks",
    )


async def remove_webhook(services: Services, query: Query, actor: str) -> str:
    """Remove a webhook and its calls."""
    app = read_name(query.get("app"), "app")
    waiting = await services.store.webhooks.remove(actor, app)
    if waiting is None:
        raise NotFound("This app has no webhook any more.")
    return f"The webhook of {app} is removed, and {say_count(waiting, 'waiting call')} with it."
