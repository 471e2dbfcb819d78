"""Answers of the console: pages, redirects, failures; and the headers that all of them carry.

Keeps the promise that nothing which came from outside is ever markup: templates escape by default, none switches that off, and
what Python composes goes through Markup.format. Should that fail one day, the content policy lets no script of a page run.
"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, unquote

from jinja2 import Environment, PackageLoader, StrictUndefined
from litestar import Request, Response
from litestar.datastructures import Cookie
from litestar.plugins.htmx import ClientRedirect, HTMXRequest
from litestar.plugins.jinja import JinjaTemplateEngine
from litestar.response import Redirect, Template
from litestar.template import TemplateConfig

from notify import __version__, clock
from notify.api.answers import recognize
from notify.api.paths import invalid
from notify.console import wording
from notify.console.session import COOKIE, PATH, Visitor, drop, keep
from notify.errors import Problem, Unauthenticated
from notify.model import is_identifier

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with `no-referrer` a browser's form posts say `Origin: null`
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Vary": "HX-Request",
}

DONE_COOKIE = "notify_admin_done"
"""Holds what an act did, for the one page that follows it."""

DONE_SECONDS = 60.0
"""After which nobody is told any more."""

MAX_DONE = 1_000
"""Characters of it."""

SECTIONS = (
    ("overview", "Overview", PATH),
    ("queues", "Queues", f"{PATH}/queues"),
    ("sessions", "Sessions", f"{PATH}/sessions"),
    ("producers", "Producers", f"{PATH}/producers"),
    ("webhooks", "Webhooks", f"{PATH}/webhooks"),
    ("system", "System", f"{PATH}/system"),
    ("audit", "Audit", f"{PATH}/audit"),
    ("denylist", "Deny list", f"{PATH}/denylist"),
    ("send", "Send a test", f"{PATH}/send"),
)
"""Of the navigation: name, label, path."""


def build_templates() -> TemplateConfig[JinjaTemplateEngine]:
    """Return the console's templates, as the framework takes them."""
    environment = Environment(
        loader=PackageLoader("notify.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        time=wording.mark_time,
        number=wording.say_number,
        rate=wording.say_rate,
        size=wording.say_bytes,
        ms=wording.say_milliseconds,
        duration=wording.say_duration,
    )
    environment.globals.update(link=wording.link, count=wording.say_count, sections=SECTIONS, version=__version__)
    return TemplateConfig(instance=JinjaTemplateEngine.from_environment(environment))


def show(
    request: HTMXRequest, visitor: Visitor | None, template: str, /, *, status: int = 200, **context: object
) -> Template:
    """Return a page; only its live part to htmx, which has the rest."""
    partial = bool(request.htmx)
    done = None if partial else request.cookies.get(DONE_COOKIE)
    return Template(
        template,
        context={
            "visitor": visitor,
            "layout": "live.html" if partial else "page.html",
            "here": read_here(request),
            "now": clock.now(),
            "done": unquote(done)[:MAX_DONE] if done else None,
            "section": "",
            **context,
        },
        media_type="text/html",
        status_code=status,
        headers=dict(HEADERS),
        cookies=[drop(request, DONE_COOKIE)] if done else [],
    )


def go(
    request: Request[Any, Any, Any], path: str, *, done: str | None = None, cookies: Sequence[Cookie] = ()
) -> Response[Any]:
    """Send the browser to another page, which says what was done."""
    kept = list(cookies)
    if done is not None:
        kept.append(keep(request, DONE_COOKIE, quote(done[:MAX_DONE], safe=""), until=clock.now() + DONE_SECONDS))
    return Redirect(path, status_code=303, headers=dict(HEADERS), cookies=kept)


def handle_error(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    """Say what went wrong: the sign-in page to who is not signed in, a page to everybody else (an exception handler)."""
    problem = recognize(error)
    htmx_request: HTMXRequest = HTMXRequest(request.scope)
    if isinstance(problem, Unauthenticated):
        here = read_here(request) if request.method == "GET" else PATH
        path = wording.link(f"{PATH}/sign-in", next=None if here == PATH else here)
        cookies = [drop(request, COOKIE)] if COOKIE in request.cookies else []
        if htmx_request.htmx:
            answer: Response[Any] = ClientRedirect(path)
            answer.headers.update(HEADERS)
            answer.cookies.extend(cookies)
            return answer
        return go(request, path, done=problem.detail if cookies else None, cookies=cookies)
    return fail(htmx_request, problem)


def fail(request: HTMXRequest, problem: Problem) -> Template:
    """Return the page of a failure."""
    return show(request, None, "error.html", status=problem.status, problem=problem)


def read_here(request: Request[Any, Any, Any]) -> str:
    """Return the path and query of this page, as it was asked for."""
    query = request.scope.get("query_string", b"").decode("latin-1")
    path: str = request.scope["path"]
    return path + (f"?{query}" if query else "")


def read_next(path: str | None) -> str:
    """Return where to go after signing in: a page of the console's, whatever the link said."""
    if path is None or not path.isprintable() or "\\" in path:
        return PATH
    place = path.partition("?")[0]
    within = place == PATH or place.startswith(f"{PATH}/")
    return path if within and ".." not in place.split("/") else PATH


def read_name(value: str | None, name: str) -> str:
    """Return an id from a query or a form. Raises InvalidRequest when it is none."""
    if value is None or not is_identifier(value):
        raise invalid(name, "must have 1 to 255 characters, none a control character")
    return value
