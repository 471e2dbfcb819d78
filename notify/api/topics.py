"""For apps: who is subscribed to which topic."""

from typing import Any

import msgspec
from litestar import Request, delete, get, put
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery

from notify.api.access import require
from notify.api.paths import read_cursor, read_limit, read_segment, write_cursor
from notify.api.services import Services
from notify.auth import Scope


class Subscriber(msgspec.Struct, frozen=True):
    """A user who gets what is sent to a topic."""

    user: str


class Subscribers(msgspec.Struct, frozen=True):
    """A page of a topic's subscribers."""

    items: list[Subscriber]
    next: str | None


@put("/v1/topics/{topic:str}/subscribers/{user:str}", status_code=204, summary="Subscribe a user", tags=["Apps"])
async def subscribe(
    request: Request[Any, Any, Any], services: NamedDependency[Services], topic: FromPath[str], user: FromPath[str]
) -> None:
    """Subscribe a user to a topic. Twice is once."""
    await require(services.authenticator, request.headers.get("authorization"), Scope.SEND)
    await services.store.topics.subscribe(read_segment(topic, "topic"), read_segment(user, "user"))


@delete("/v1/topics/{topic:str}/subscribers/{user:str}", summary="Unsubscribe a user", tags=["Apps"])
async def unsubscribe(
    request: Request[Any, Any, Any], services: NamedDependency[Services], topic: FromPath[str], user: FromPath[str]
) -> None:
    """Take a user off a topic. Idempotent."""
    await require(services.authenticator, request.headers.get("authorization"), Scope.SEND)
    await services.store.topics.unsubscribe(read_segment(topic, "topic"), read_segment(user, "user"))


@get("/v1/topics/{topic:str}/subscribers", summary="List a topic's subscribers", tags=["Apps"])
async def list_subscribers(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    topic: FromPath[str],
    limit: FromQuery[str | None] = None,
    cursor: FromQuery[str | None] = None,
) -> Subscribers:
    """Return who is subscribed, in the order of their ids."""
    await require(services.authenticator, request.headers.get("authorization"), Scope.SEND)
    size = read_limit(limit)
    users = await services.store.topics.page(read_segment(topic, "topic"), after=read_cursor(cursor), limit=size + 1)
    return Subscribers(
        [Subscriber(user) for user in users[:size]], write_cursor(users[size - 1]) if len(users) > size else None
    )
