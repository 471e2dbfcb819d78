"""What a handler can't say with its signature, for the published reference.

Keeps the promise that the OpenAPI document is whole without being written by hand. Most handlers need none of this:
path, query and header parameters, a `data` argument, the return type, `summary=`, `tags=` and the docstring are read
from them; the scope, and with it 401 and 403, follows from the path (see `reference/audiences.py`), and what `limit`,
`cursor`, `device` and their like mean from `reference/parameters.py`. `describe` adds the rest, for a handler that
reads its own body, answers in several ways, or needs another scope than its neighbours:

    @post(
        "/v1/inbox/read",
        summary="Mark as read",
        status_code=200,
        opt=describe(takes=ReadRequest, example={"up_to": 57}),
    )
    async def mark_read(request: Request[Any, Any, Any], services: Services) -> Unread: ...

    @get("/readyz", summary="…", opt=describe(answers={503: Answer("Not now; `checks` says why.", Health)}))
    @put("/v1/admin/webhooks/{app:str}", summary="…", opt=describe(takes=Webhook, needs=Scope.QUEUES_WRITE))
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from notify.auth import Scope
from notify.errors import Problem

OPT = "described"
"""Where a handler's `opt` carries its description."""

JSON = "application/json"
MSGPACK = "application/msgpack"


@dataclass(frozen=True, slots=True)
class Answer:
    """One way of answering. `body` is a type that msgspec encodes, or None where there is only `media` or nothing."""

    text: str
    body: Any = None
    media: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    """What each header of the answer says."""
    example: object = None


@dataclass(frozen=True, slots=True)
class Body:
    """What a body is under a media type of its own: a struct or a list of them, and one to show."""

    kind: Any
    example: object = None


@dataclass(frozen=True, slots=True)
class Description:
    """What `describe` was told; see there. `besides` are bodies of another shape, by their media type."""

    takes: type[msgspec.Struct] | None = None
    media: Sequence[str] = (JSON,)
    example: object = None
    besides: Mapping[str, Body] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    answers: Mapping[int, Answer] = field(default_factory=dict)
    problems: Sequence[type[Problem]] = ()
    needs: Scope | None = None
    public: bool = False
    optional: bool = False


def describe(  # noqa: PLR0913 - keywords only, every one of them optional
    *,
    takes: type[msgspec.Struct] | None = None,
    optional: bool = False,
    media: Sequence[str] = (JSON,),
    example: object = None,
    headers: Mapping[str, str] | None = None,
    answers: Mapping[int, Answer] | None = None,
    problems: Sequence[type[Problem]] = (),
    needs: Scope | None = None,
    public: bool = False,
) -> dict[str, object]:
    """Return the `opt` of a handler.

    takes: the struct that its body is; optional: it may be left out; media: the body's media types; example: a body to
    show and to try; headers: request headers, each with what it is for; answers: what it answers by status code, in
    place of what the return type says for that status; problems: refusals beyond those that follow from all this (400
    with a body or parameters, 401 and 403 with a scope, 404 with a path parameter, 413 and 415 with a body, 503
    everywhere);
    needs: the scope, where it is not that of the path; public: no token is needed.
    """
    return {
        OPT: Description(
            takes, media, example, {}, headers or {}, answers or {}, problems, needs, public, optional=optional
        )
    }
