"""Who looks at the console: the sign-in cookie, and what proves that a POST comes from one of its own pages.

Keeps three promises. The cookie counts for `/admin` alone: nothing else reads it. Its token is verified afresh with each
request, so that expiry and the deny list end a visit at once. And nothing is changed by a page of another site: a POST has to
carry an `Origin` that is this very host's and a token that only a page of this visit knows (OWASP, "CSRF Prevention": signed
double submit, bound to the session).
"""

import hashlib
import hmac
import math
import secrets
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from litestar import Request
from litestar.datastructures import Cookie

from notify import clock
from notify.api.services import Services
from notify.auth import Identity, Scope
from notify.errors import Forbidden, InvalidToken, Unauthenticated
from notify.origins import OriginPolicy

PATH = "/admin"

COOKIE = "notify_admin"
"""Holds the admin's token."""

SEED_COOKIE = "notify_admin_form"
"""Holds what the CSRF token is made from while nobody is signed in."""

CSRF_FIELD = "csrf"

MAX_COOKIE_TOKEN = 4_000
"""Bytes: a browser drops a cookie of over 4,096, its name and attributes included, without a word."""

_own_pages = OriginPolicy(())


@dataclass(frozen=True, slots=True)
class Visitor:
    """An admin with a page open. `csrf` goes into each form."""

    identity: Identity
    csrf: str

    @property
    def may_act(self) -> bool:
        """Whether the token also allows changes."""
        return self.identity.may(Scope.QUEUES_WRITE)


def derive_csrf(secret: str) -> str:
    """Return the CSRF token that belongs to a cookie's value: every node derives the same one, and keeps nothing."""
    return hmac.new(secret.encode(), b"notify console form", hashlib.sha256).hexdigest()


def is_loopback(request: Request[Any, Any, Any]) -> bool:
    """Whether the browser calls this machine by a name that never leaves it, where plain HTTP is safe."""
    try:
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


async def require_visitor(request: Request[Any, Any, Any], services: Services) -> Visitor:
    """Return who is signed in and may look. Raises Unauthenticated or Forbidden."""
    token = request.cookies.get(COOKIE)
    if not token:
        raise Unauthenticated("Sign in to see this page.")
    identity = await check_token(token, services)
    return Visitor(identity, derive_csrf(token))


async def require_actor(request: Request[Any, Any, Any], services: Services) -> Visitor:
    """Return who is signed in and may act. Raises Unauthenticated or Forbidden."""
    visitor = await require_visitor(request, services)
    if not visitor.may_act:
        raise Forbidden("Your token has the scope queues:read, which sees; acting needs one with queues:write.")
    return visitor


async def check_token(token: str, services: Services) -> Identity:
    """Return who an admin's token speaks for. Raises Unauthenticated or Forbidden."""
    try:
        identity = await services.authenticator.verify(token)
    except InvalidToken as error:
        raise Unauthenticated(str(error)) from None
    if not identity.may(Scope.QUEUES_READ):
        raise Forbidden("This token is good, but not an admin's: it lacks the scope queues:read (or queues:write).")
    return identity


def check_origin(request: Request[Any, Any, Any]) -> None:
    """Refuse a POST that no page of this host sent. Raises Forbidden."""
    origin = request.headers.get("origin")
    if origin is None or not _own_pages.admits(origin, request.headers.get("host", "")):
        raise Forbidden(
            "This came from a page of another origin, and the console takes changes from its own pages only. "
            "Behind a proxy, let it pass the Host header on as the browser sent it."
        )


def check_csrf(presented: str, expected: str) -> None:
    """Refuse a form that is none of this visit's. Raises Forbidden."""
    if not hmac.compare_digest(presented.encode(), expected.encode()):
        raise Forbidden("This form belongs to an earlier visit. Go back, reload the page and try again.")


def make_seed() -> str:
    """Return a new seed for the sign-in form."""
    return secrets.token_urlsafe(32)


def keep(request: Request[Any, Any, Any], name: str, value: str, *, until: float | None = None) -> Cookie:
    """Return a cookie of the console's; `until` in unix seconds, or while the browser is open."""
    return Cookie(
        key=name,
        value=value,
        path=PATH,
        httponly=True,
        secure=not is_loopback(request),
        samesite="strict",
        max_age=None if until is None else max(0, math.ceil(until - clock.now())),
    )


def drop(request: Request[Any, Any, Any], name: str) -> Cookie:
    """Return what makes a browser forget a cookie."""
    return keep(request, name, "", until=0.0)
