"""Doing something in two steps: a page that says exactly what will be touched, and the POST that does it.

Keeps the promise that nobody touches more than they agreed to: what grew between page and click is shown and asked for again.
"""

from typing import Any

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.plugins.htmx import HTMXRequest

from notify.api.services import Services
from notify.console.acts import ACTS
from notify.console.plan import Act
from notify.console.rendering import go, show
from notify.console.session import (
    COOKIE,
    CSRF_FIELD,
    check_csrf,
    check_origin,
    derive_csrf,
    require_actor,
    require_visitor,
)
from notify.errors import NotFound


@get("/act/{name:str}")
async def confirm_page(request: HTMXRequest, services: NamedDependency[Services], name: FromPath[str]) -> Response[Any]:
    """Show what an act would touch."""
    visitor = await require_visitor(request, services)
    plan = await find_act(name).plan(services, request.query_params)
    return show(request, visitor, "confirm.html", name=name, plan=plan, agreed=None)


@post("/act/{name:str}", status_code=200)
async def act(request: HTMXRequest, services: NamedDependency[Services], name: FromPath[str]) -> Response[Any]:
    """Do it, unless it would touch more than was agreed to."""
    check_origin(request)
    visitor = await require_actor(request, services)
    form = {field: str(value) for field, value in (await request.form()).items()}
    check_csrf(form.get(CSRF_FIELD, ""), derive_csrf(request.cookies[COOKIE]))
    chosen = find_act(name)
    plan = await chosen.plan(services, form)
    agreed = read_agreed(form.get("agreed", ""))
    if plan.refusal or (plan.count > agreed and form.get("more") != "yes"):
        return show(request, visitor, "confirm.html", status=409, name=name, plan=plan, agreed=agreed)
    return go(request, plan.back, done=await chosen.perform(services, form, visitor.identity.subject))


def find_act(name: str) -> Act:
    """Return an act. Raises NotFound."""
    if name not in ACTS:
        raise NotFound("There is nothing of that name to do.")
    return ACTS[name]


def read_agreed(text: str) -> int:
    """Return how many somebody agreed to; what is no number agrees to nothing."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else -1  # noqa: PLR2004 - more than any count
