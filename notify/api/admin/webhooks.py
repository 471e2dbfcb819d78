"""Where apps want to hear of what nobody took in time (contract, section 6).

A webhook's URL may hold a credential of its receiver's, so looking needs `queues:write` as well. Its secret is told once, in the
answer to whoever set it.
"""

from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
from litestar import Request, delete, get, put
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery
from msgspec import UNSET, Meta, UnsetType

from notify.api.admin.common import now, read_place, require_writer, write_place
from notify.api.body import BodyReader
from notify.api.described import describe
from notify.api.inbox import read_request_body
from notify.api.paths import invalid, read_limit, read_segment
from notify.api.services import Services
from notify.auth import Scope
from notify.errors import NotFound
from notify.outbound import ForbiddenAddress, Unreachable
from notify.signing import mint_secret, read_secret, write_secret
from notify.store.webhooks import WaitingCall, Webhook

PATH = "/v1/admin/webhooks/{app:str}"


class WebhookRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Where to call, and what to sign with."""

    url: Annotated[
        str,
        Meta(
            description="https, to an address of the public internet.",
            examples=["https://shop.example/hook"],
            extra_json_schema={"format": "uri"},
        ),
    ]
    secret: (
        Annotated[
            str,
            Meta(
                description="`whsec_` and 24 to 64 bytes in base64; made and told once when it is left out.",
                extra_json_schema={"pattern": "^whsec_[A-Za-z0-9+/]{32,86}={0,2}$"},
            ),
        ]
        | UnsetType
    ) = UNSET


class WebhookSet(msgspec.Struct, frozen=True):
    """A webhook with its secret, which no other answer has."""

    app: str
    url: str
    secret: str


class WebhookState(Webhook, frozen=True):
    """An app's webhook, and the latest calls that wait or were given up, as many as `limit`."""

    calls: list[WaitingCall]
    as_of: datetime


class WebhookPage(msgspec.Struct, frozen=True):
    """The webhooks, in the order of their apps."""

    items: list[Webhook]
    next: str | None
    as_of: datetime


_request = BodyReader(WebhookRequest)


def read_host(url: str) -> str:
    """Return where a webhook's URL leads, without its path, which may hold a credential."""
    return urlsplit(url).netloc


async def check_url(services: Services, url: str) -> str:
    """Return a URL that may be called. Raises InvalidRequest; a name that can't be resolved now may be later."""
    try:
        with suppress(Unreachable):
            await services.outbound.probe(url)
    except ForbiddenAddress as error:
        raise invalid("url", str(error)) from None
    return url


@get(
    "/v1/admin/webhooks",
    summary="List the webhooks",
    tags=["Admins"],
    opt=describe(needs=Scope.QUEUES_WRITE),
)
async def list_webhooks(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    limit: FromQuery[str | None] = None,
    cursor: FromQuery[str | None] = None,
) -> WebhookPage:
    """Return the webhooks of all apps, how their last call ended, and how many wait."""
    await require_writer(request, services)
    size = read_limit(limit)
    found = await services.store.webhooks.page(after=read_place(cursor, str) or "", limit=size + 1)
    return WebhookPage(
        items=list(found[:size]),
        next=write_place(found[size - 1].app) if len(found) > size else None,
        as_of=now(),
    )


@get(PATH, summary="Look at an app's webhook", tags=["Admins"], opt=describe(needs=Scope.QUEUES_WRITE))
async def get_webhook(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    app: FromPath[str],
    limit: FromQuery[str | None] = None,
) -> WebhookState:
    """Return where an app is called when nobody is there, and the calls that wait or were given up, the latest first."""
    await require_writer(request, services)
    wanted = read_segment(app, "app")
    found = await services.store.webhooks.find(wanted)
    if found is None:
        raise NotFound("this app has no webhook")
    calls = await services.store.webhooks.calls(wanted, read_limit(limit))
    return WebhookState(
        **msgspec.structs.asdict(found),
        calls=list(calls),
        as_of=now(),
    )


@put(
    PATH,
    status_code=200,
    summary="Set an app's webhook",
    tags=["Admins"],
    opt=describe(takes=WebhookRequest, example={"url": "https://shop.example/hook"}),
)
async def set_webhook(
    request: Request[Any, Any, Any], services: NamedDependency[Services], app: FromPath[str]
) -> WebhookSet:
    """Call this URL when a notification of the app's is still pending after its `undelivered_after`.

    Replaces the one before, its secret included; what waits is tried there. The answer is the only one that has the secret.
    """
    identity = await require_writer(request, services)
    wanted = read_segment(app, "app")
    asked = _request.decode(*await read_request_body(request, services))
    try:
        secret = mint_secret() if asked.secret is UNSET else read_secret(asked.secret)
    except ValueError as error:
        raise invalid("secret", str(error)) from None
    url = await check_url(services, asked.url)
    await services.store.webhooks.set(identity.subject, wanted, url=url, secret=secret, host=read_host(url))
    return WebhookSet(wanted, url, write_secret(secret))


@delete(PATH, summary="Remove an app's webhook", tags=["Admins"])
async def remove_webhook(
    request: Request[Any, Any, Any], services: NamedDependency[Services], app: FromPath[str]
) -> None:
    """Call the app no more; what waits is dropped. Idempotent."""
    identity = await require_writer(request, services)
    await services.store.webhooks.remove(identity.subject, read_segment(app, "app"))
