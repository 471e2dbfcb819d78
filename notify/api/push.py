"""For front ends: Web Push, for browsers that want to hear of what arrives while their user is not connected."""

import asyncio
from typing import Annotated, Any

import msgspec
from litestar import Request, delete, get, put
from litestar.di import NamedDependency
from litestar.params import FromQuery
from msgspec import Meta

from notify import clock
from notify.api.body import BodyReader
from notify.api.described import describe
from notify.api.inbox import identify, read_request_body
from notify.api.services import Services
from notify.errors import FieldError, InvalidRequest
from notify.outbound import MAX_URL, ForbiddenAddress, Unreachable
from notify.webpush import UnusableSubscription, read_subscription

PROBE_SECONDS = 2.0
"""How long the name of an endpoint is looked up before it is taken as it is; every push looks again."""

MAX_KEY = 128
"""Characters of a key in base64url; the longer one has 87."""

MAX_TIME = 253_402_300_800.0
"""Unix seconds: the end of the year 9999."""

Endpoint = Annotated[
    str, Meta(min_length=1, max_length=MAX_URL, description="The push service's URL for this browser. Keep it secret.")
]


class PushKey(msgspec.Struct, frozen=True):
    """The service's VAPID public key, in base64url: what a browser subscribes with, its `applicationServerKey`."""

    key: str


class PushKeys(msgspec.Struct, frozen=True):
    """What a push to this browser is encrypted with, both in base64url."""

    p256dh: Annotated[str, Meta(max_length=MAX_KEY)]
    auth: Annotated[str, Meta(max_length=MAX_KEY)]


class PushSubscription(msgspec.Struct, frozen=True):
    """A browser's `PushSubscription`, as its `toJSON()` has it. What else it holds is ignored."""

    endpoint: Endpoint
    keys: PushKeys
    expiration_time: Annotated[
        float | None, Meta(description="Milliseconds since 1970; null if it doesn't end by itself.")
    ] = msgspec.field(default=None, name="expirationTime")


class PushEndpoint(msgspec.Struct, frozen=True):
    """Which subscription is meant. What else a `PushSubscription` holds is ignored."""

    endpoint: Endpoint


_subscription = BodyReader(PushSubscription)
_endpoint = BodyReader(PushEndpoint)

EXAMPLE = {
    "endpoint": "https://push.example.net/send/f8Hq",
    "expirationTime": None,
    "keys": {
        "p256dh": "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
        "auth": "BTBZMqHH6r4Tts7J_aSIgg",
    },
}


@get("/v1/push/key", summary="Get the key to subscribe with", tags=["Front ends"])
async def get_push_key(request: Request[Any, Any, Any], services: NamedDependency[Services]) -> PushKey:
    """Return the service's VAPID public key, for `pushManager.subscribe({applicationServerKey})`."""
    await identify(request, services)
    return PushKey((await services.signer.get()).public_key)


@put(
    "/v1/push/subscriptions",
    status_code=204,
    summary="Subscribe a browser",
    tags=["Front ends"],
    opt=describe(takes=PushSubscription, example=EXAMPLE),
)
async def subscribe_to_push(request: Request[Any, Any, Any], services: NamedDependency[Services]) -> None:
    """Push what arrives for the caller to this browser while no session is open.

    Only what arrives from now on. Twice is once, and the last user who subscribes a browser is the one it belongs to. The
    endpoint must be https and on the public internet. Beyond as many as a user may have devices the longest unseen one goes.
    """
    identity = await identify(request, services)
    wanted = _subscription.decode(*await read_request_body(request, services))
    try:
        subscription = read_subscription(wanted.endpoint, wanted.keys.p256dh, wanted.keys.auth)
    except UnusableSubscription as error:
        raise refuse(f"/keys/{error.field}", str(error)) from None
    expires_at = None if wanted.expiration_time is None else wanted.expiration_time / 1_000
    if expires_at is not None and not clock.now() < expires_at < MAX_TIME:
        raise refuse("/expirationTime", "is over, or no time in milliseconds")
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            await services.outbound.probe(wanted.endpoint)
    except ForbiddenAddress as error:
        raise refuse("/endpoint", str(error)) from None
    except (Unreachable, TimeoutError):
        pass  # a name server that is slow just now is no reason to refuse a browser
    await services.store.push.put(identity.subject, subscription, expires_at)


@delete(
    "/v1/push/subscriptions",
    summary="Unsubscribe a browser",
    tags=["Front ends"],
    opt=describe(takes=PushEndpoint, optional=True, example={"endpoint": EXAMPLE["endpoint"]}),
)
async def remove_push_subscription(
    request: Request[Any, Any, Any], services: NamedDependency[Services], endpoint: FromQuery[str | None] = None
) -> None:
    """Push nothing more to this browser: named by `?endpoint=`, or by a body like the one it was subscribed with. Idempotent."""
    identity = await identify(request, services)
    if (endpoint is None) == ("content-type" not in request.headers):
        raise refuse("/endpoint", "is required, either as a parameter or in a body")
    if endpoint is None:
        endpoint = _endpoint.decode(*await read_request_body(request, services)).endpoint
    await services.store.push.remove(identity.subject, endpoint)


def refuse(pointer: str, detail: str) -> InvalidRequest:
    """Return the refusal of one field."""
    return InvalidRequest(f"{pointer.rpartition('/')[2]}: {detail}", errors=[FieldError(pointer, detail)])
