"""The reference, served: `/openapi.json` for machines and `/docs` for people.

Keeps the promise that it works offline: the framework's own pages, which load their scripts from elsewhere, are never
mounted.
"""

from typing import Any

import msgspec
from litestar import Litestar, Request, Response, Router, get
from litestar.openapi import OpenAPIConfig
from litestar.types import ControllerRouterHandler

from notify import __version__
from notify.api.described import JSON, Answer, describe
from notify.api.reference.page import POLICY, render_page
from notify.api.reference.rest import build_openapi
from notify.api.reference.socket import build_asyncapi

HTML = "text/html"


class NoPages(Router):
    """Where the framework would put its own reference pages; it keeps none of them."""

    def register(self, value: ControllerRouterHandler) -> list[Any]:  # noqa: ARG002 - the framework's interface
        """Leave a page out."""
        return []


def openapi_config() -> OpenAPIConfig:
    """Return what makes the framework describe its handlers, for `build_openapi`, and serve nothing of it."""
    return OpenAPIConfig(
        title="notify",
        version=__version__,
        use_handler_docstrings=True,
        openapi_router=NoPages("/schema", route_handlers=[], include_in_schema=False),
    )


def load(web: Litestar, name: str) -> bytes:
    """Return one of the two renderings, made when it is first asked for: its handlers never change while it runs."""
    if name not in web.state:
        document = build_openapi(web)
        web.state["openapi.json"] = msgspec.json.format(msgspec.json.encode(document))
        web.state["docs"] = render_page(document, build_asyncapi()).encode()
    rendered: bytes = web.state[name]
    return rendered


# Both run in a thread: the first one to ask waits for some tens of milliseconds of building, sockets don't.


@get(
    "/openapi.json",
    summary="This reference, for machines",
    tags=["Operators"],
    sync_to_thread=True,
    opt=describe(answers={200: Answer("The OpenAPI 3.1 document.", dict[str, object])}),
)
def openapi_json(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Return the document that this page is made of."""
    return Response(load(request.app, "openapi.json"), media_type=JSON)


@get(
    "/docs",
    summary="This reference, for people",
    tags=["Operators"],
    sync_to_thread=True,
    opt=describe(answers={200: Answer("The page.", str, media=HTML)}),
)
def docs(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Return this page. It works without the internet and runs no script."""
    headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
    return Response(load(request.app, "docs"), media_type=HTML, headers=headers)
