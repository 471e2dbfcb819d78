"""Signing in with an admin's token, and out again."""

from typing import Any

from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.plugins.htmx import HTMXRequest

from notify.api.services import Services
from notify.auth import LEEWAY
from notify.console.rendering import go, read_next, show
from notify.console.session import (
    COOKIE,
    CSRF_FIELD,
    MAX_COOKIE_TOKEN,
    PATH,
    SEED_COOKIE,
    check_csrf,
    check_origin,
    check_token,
    derive_csrf,
    drop,
    is_loopback,
    keep,
    make_seed,
)
from notify.errors import Forbidden, Problem, Unauthenticated


@get("/sign-in")
async def sign_in_page(request: HTMXRequest) -> Response[Any]:
    """Show the form that takes a token."""
    return ask(request, read_next(request.query_params.get("next")))


@post("/sign-in", status_code=200)
async def sign_in(request: HTMXRequest, services: NamedDependency[Services]) -> Response[Any]:
    """Take a token, if it is an admin's."""
    check_origin(request)
    form = await request.form()
    to = read_next(str(form.get("next", "")))
    seed = request.cookies.get(SEED_COOKIE, "")
    token = str(form.get("token", "")).strip().removeprefix("Bearer ").strip()
    try:
        if not seed:
            raise Forbidden(explain_lost_cookie(request))
        check_csrf(str(form.get(CSRF_FIELD, "")), derive_csrf(seed))
        if not token:
            raise Unauthenticated("Paste a token first.")
        identity = await check_token(token, services)
        if len(token) > MAX_COOKIE_TOKEN:
            raise Forbidden(
                f"This token has {len(token)} characters; a browser keeps {MAX_COOKIE_TOKEN}. Take one with fewer claims."
            )
    except (Unauthenticated, Forbidden) as problem:
        return ask(request, to, problem)
    return go(
        request,
        to,
        cookies=[keep(request, COOKIE, token, until=identity.expires_at + LEEWAY), drop(request, SEED_COOKIE)],
    )


@post("/sign-out", status_code=200)
async def sign_out(request: Request[Any, Any, Any]) -> Response[Any]:
    """Forget the token in this browser."""
    check_origin(request)
    form = await request.form()
    check_csrf(str(form.get(CSRF_FIELD, "")), derive_csrf(request.cookies.get(COOKIE, "")))
    return go(request, f"{PATH}/sign-in", done="You are signed out.", cookies=[drop(request, COOKIE)])


def ask(request: HTMXRequest, to: str, problem: Problem | None = None) -> Response[Any]:
    """Return the form, with what was wrong with the last try."""
    seed = request.cookies.get(SEED_COOKIE) or make_seed()
    page = show(
        request,
        None,
        "sign_in.html",
        status=200 if problem is None else problem.status,
        problem=problem,
        csrf=derive_csrf(seed),
        next=to,
    )
    page.cookies.append(keep(request, SEED_COOKIE, seed))
    return page


def explain_lost_cookie(request: Request[Any, Any, Any]) -> str:
    """Say why the form's own cookie did not come back."""
    if request.headers.get("origin", "").startswith("http://") and not is_loopback(request):
        return "Away from the machine itself the console needs HTTPS: over plain HTTP a browser keeps no secure cookie."
    return "The browser did not send the console's cookie back. Allow cookies for this address, reload and try again."
