"""The demo's paths: its pages, tokens for its users, and sending as the app "demo".

Keeps two promises. It is there for this machine alone: both the peer and the `Host` must be loopback, so neither another
machine nor a name that was rebound to 127.0.0.1 gets in. And no other site's page can send through it: what changes
something must come from a page of the same origin. The tokens it makes are short-lived and only ever a demo user's.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any, cast
from urllib.parse import urlsplit
from uuid import UUID

import msgspec
from litestar import Request, Response, Router, get, post
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.handlers import BaseRouteHandler
from litestar.params import FromPath
from msgspec import UNSET

from notify import clock
from notify.api.assets import read_asset
from notify.api.body import BodyReader, Receive, choose_media, read_body
from notify.api.requests import BatchRequest, Checker, SendRequest
from notify.api.services import Services
from notify.auth import Scope, mint
from notify.errors import FieldError, Forbidden, InvalidRequest, NotFound, Unavailable
from notify.model import Codec
from notify.momentary import Momentary, wrap
from notify.store.sends import Post

PRODUCER = "demo"
"""The app that everything from here is sent by."""

TOKEN_SECONDS = 90
"""Life of a demo user's token: short enough to see the client refresh it while one plays."""

MAX_BODY_BYTES = 512 * 1024
"""Bytes of a request to the demo: its largest burst has a tenth of that."""

DEMO_NAME = re.compile(r"demo-[a-z0-9-]{1,40}")
"""The users and topics that the demo may touch, so that a click in it reaches nobody else's mailbox."""

PAGES = {
    "": "page.html",
    "chat": "chat.html",
    "game": "game.html",
    "prices": "prices.html",
    "document": "document.html",
}
ASSETS = {
    "notify.demo.assets": frozenset(
        {"icon.svg", "page.css", "page.js", "device.js", "network.js", "tour.js", "backend.js"}
    ),
    "notify.demo.examples": frozenset(
        {"examples.css", "sides.js", "chat.js", "game.js", "prices.js", "document.js", "plain.js", "msgpack.js"}
    ),
}


class TokenRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Whose token."""

    user: str


class Token(msgspec.Struct, frozen=True):
    """A token for the page."""

    token: str
    expires_in: int


class Accepted(msgspec.Struct, frozen=True):
    """What was sent."""

    ids: Sequence[UUID]
    recipients: int


class CancelRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Which notification to withdraw."""

    id: UUID


class SubscribeRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Who is to be subscribed to what."""

    topic: str
    users: list[str]


class Followed(msgspec.Struct, frozen=True):
    """How the recipients of a notification stand."""

    counts: Mapping[str, int]


_token_request = BodyReader(TokenRequest)
_batch_request = BodyReader(BatchRequest)
_cancel_request = BodyReader(CancelRequest)
_subscribe_request = BodyReader(SubscribeRequest)


def is_loopback(host: str | None) -> bool:
    """Tell whether a host name or address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ip_address(host or "").is_loopback
    except ValueError:
        return False


def read_host(authority: str) -> str | None:
    """Return the host in a `Host` header, without its port; None for what is none."""
    try:
        return urlsplit(f"//{authority}").hostname
    except ValueError:
        return None


def only_here(connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
    """Refuse whoever is not a page of this demo on this machine (a guard of the framework). Raises Forbidden."""
    authority = connection.headers.get("host", "")
    peer = connection.client.host if connection.client is not None else None
    if not (is_loopback(read_host(authority)) and is_loopback(peer)):
        raise Forbidden("the demo is for this machine alone: open it at http://127.0.0.1 or http://localhost")
    if isinstance(connection, Request) and connection.method in {"GET", "HEAD"}:
        return
    # Browsers send `Origin` with every POST; whatever sends none is no page of ours.
    if connection.headers.get("origin", "").lower() not in {
        f"http://{authority}".lower(),
        f"https://{authority}".lower(),
    }:
        raise Forbidden("the demo takes requests from its own pages only")


def write_policy(authority: str) -> str:
    """Return the content security policy of a page served to this `Host`, which `only_here` has checked."""
    # Older browsers don't count a WebSocket to the same host as 'self'.
    return (
        f"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' ws://{authority} wss://{authority}; "
        "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


async def read_request(request: Request[Any, Any, Any], reader: "BodyReader[Any]") -> Any:
    """Return the checked JSON body."""
    headers = dict(request.headers)
    choose_media(headers, ("application/json",))
    body = await read_body(headers, cast("Receive", request.receive), max_bytes=MAX_BODY_BYTES)
    return reader.decode(body, Codec.JSON)


def check_names(names: Sequence[str], pointer: str) -> None:
    """Refuse users and topics that are not the demo's. Raises InvalidRequest."""
    if not all(DEMO_NAME.fullmatch(name) for name in names):
        detail = "must be the demo's own: demo- and then small letters, digits and dashes"
        raise InvalidRequest(f"{pointer} {detail}", errors=[FieldError(pointer, detail)])


def list_names(request: SendRequest) -> Sequence[str]:
    """Return the users and topics that a notification is for."""
    to = [request.to] if isinstance(request.to, str) else [] if request.to is UNSET else list(request.to)
    return to if request.topic is UNSET else [*to, request.topic]


@get("/")
async def first_page(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Serve the page that a newcomer opens first."""
    return serve_asset(request, "")


@get("/{name:str}")
async def other_page(request: Request[Any, Any, Any], name: FromPath[str]) -> Response[bytes]:
    """Serve an example, or a file that belongs to a page."""
    return serve_asset(request, name)


def serve_asset(request: Request[Any, Any, Any], name: str) -> Response[bytes]:
    """Answer with what goes by this name. Raises NotFound."""
    headers = {
        "Cache-Control": "no-cache",  # asked for again each time: whoever works on it sees each change
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
    }
    if name in PAGES:
        headers["Content-Security-Policy"] = write_policy(request.headers.get("host", ""))
        package = "notify.demo.examples" if name else "notify.demo.assets"
        return read_asset(package, PAGES[name]).answer(request, headers)
    for package, names in ASSETS.items():
        if name in names:
            return read_asset(package, name).answer(request, headers)
    raise NotFound("the demo has no such page; it begins at /demo")


@post("/token", status_code=200)
async def token(request: Request[Any, Any, Any], services: NamedDependency[Services]) -> Response[Token]:
    """Make a short-lived token for a demo user, which may receive and nothing else."""
    body: TokenRequest = await read_request(request, _token_request)
    check_names([body.user], "/user")
    settings = services.settings
    if not settings.jwt_secret:
        raise Unavailable(
            "the demo makes its tokens with NOTIFY_JWT_SECRET, which is not set; start it without other keys"
        )
    made = mint(
        settings.jwt_secret[0].get_secret_value(),
        subject=body.user,
        scope=Scope.RECEIVE,
        ttl=TOKEN_SECONDS,
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
    )
    return Response(Token(made, TOKEN_SECONDS), headers={"Cache-Control": "no-store"})


@post("/send", status_code=201)
async def send(request: Request[Any, Any, Any], services: NamedDependency[Services]) -> Accepted:
    """Send as the app "demo": the body is that of `POST /v1/notifications/batch`."""
    body: BatchRequest = await read_request(request, _batch_request)
    checker = Checker(services.settings, PRODUCER, Codec.JSON, services.store.topics.users)
    notifications = []
    for place, item in enumerate(body.notifications):
        check_names(list_names(item), f"/notifications/{place}/to")
        notifications.append(await checker.check(item, f"/notifications/{place}"))
    checker.finish()
    stored = [notification for notification in notifications if notification.ttl > 0]
    moment = datetime.fromtimestamp(clock.now(), UTC)
    if stored:
        await services.store.sends.send(Post(stored))
    if len(stored) < len(notifications):
        await services.store.broadcasts.send(
            [
                Momentary(n.id, n.type, n.producer, moment, n.codec, wrap(n.data, n.codec), n.to)
                for n in notifications
                if n.ttl == 0
            ]
        )
    return Accepted([n.id for n in notifications], sum(len(n.to) for n in notifications))


@post("/cancel", status_code=204)
async def cancel(request: Request[Any, Any, Any], services: NamedDependency[Services]) -> None:
    """Withdraw something that the demo sent."""
    body: CancelRequest = await read_request(request, _cancel_request)
    if await services.store.notifications.cancel(body.id, PRODUCER) is None:
        raise NotFound("the demo has not sent that")


@post("/subscribe", status_code=204)
async def subscribe_users(request: Request[Any, Any, Any], services: NamedDependency[Services]) -> None:
    """Subscribe demo users to one of the demo's topics."""
    body: SubscribeRequest = await read_request(request, _subscribe_request)
    check_names([body.topic], "/topic")
    check_names(body.users, "/users")
    for user in body.users:
        await services.store.topics.subscribe(body.topic, user)


@get("/follow/{notification:uuid}")
async def follow(services: NamedDependency[Services], notification: FromPath[UUID]) -> Followed:
    """Return how the recipients of something that the demo sent stand."""
    if await services.store.notifications.find(notification, PRODUCER) is None:
        raise NotFound("the demo has not sent that")
    return Followed(await services.store.notifications.count(notification))


def demo_router() -> Router:
    """Return the demo's routes, for an application in development."""
    return Router(
        "/demo",
        route_handlers=[first_page, other_page, token, send, cancel, subscribe_users, follow],
        guards=[only_here],
        include_in_schema=False,
    )
