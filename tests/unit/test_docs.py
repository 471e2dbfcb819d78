"""The reference as a page: it works offline, runs nothing, and shows everything."""

import asyncio
import base64
import hashlib
import re
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import uvicorn
from litestar import Litestar

from notify.api.docs import docs, openapi_config, openapi_json
from notify.api.reference.markup import inline, tag
from notify.api.reference.page import POLICY, STYLE, render_page
from notify.api.reference.rest import build_openapi
from notify.api.reference.socket import build_asyncapi
from notify.app import Application
from notify.settings import Settings

Document = dict[str, Any]


@pytest.fixture(scope="module")
def document() -> Document:
    """Build the OpenAPI document."""
    return build_openapi(Application(Settings.model_construct()).web)


@pytest.fixture(scope="module")
def live() -> Document:
    """Build the AsyncAPI document."""
    return build_asyncapi()


@pytest.fixture(scope="module")
def page(document: Document, live: Document) -> str:
    """Render the page."""
    return render_page(document, live)


def test_the_page_asks_nobody_for_anything(page: str) -> None:
    assert "<script" not in page
    assert not re.search(r"\son\w+=", page)
    assert not re.search(r"(src|srcset|action)=", page)
    assert "@import" not in STYLE
    assert "url(" not in STYLE
    for target in re.findall(r'href="([^"]*)"', page):
        assert target.startswith("#") or target in {"openapi.json", "data:,"}, target


def test_the_pages_policy_admits_its_own_style_and_nothing_else(page: str) -> None:
    [style] = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in POLICY
    assert POLICY.startswith("default-src 'none'")
    assert "unsafe" not in POLICY
    assert ' style="' not in page


def test_the_page_shows_every_operation_and_every_frame(page: str, document: Document, live: Document) -> None:
    for item in document["paths"].values():
        for operation in item.values():
            assert f'<section id="{operation["operationId"]}">' in page
    for message in live["components"]["messages"].values():
        assert f"<h4><code>{message['name']}</code></h4>" in page


def test_every_link_of_the_page_leads_somewhere(page: str) -> None:
    targets = re.findall(r'id="([^"]+)"', page)
    assert len(set(targets)) == len(targets)
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(targets)


def test_text_never_becomes_markup() -> None:
    assert tag("p", "<script>", title='"&') == '<p title="&quot;&amp;">&lt;script&gt;</p>'
    assert inline("`<b>` & **<i>**") == "<code>&lt;b&gt;</code> &amp; <strong>&lt;i&gt;</strong>"


# Served


class Announcing(uvicorn.Server):
    """A server that says when it has started."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        self.ready.set()


@pytest.fixture
async def served() -> AsyncIterator[httpx.AsyncClient]:
    """Serve the reference for real."""
    web = Litestar([openapi_json, docs], openapi_config=openapi_config())
    server = Announcing(uvicorn.Config(web, port=0, log_level="error", lifespan="on"))
    running = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(10):
            await server.ready.wait()
        port = server.servers[0].sockets[0].getsockname()[1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            yield client
    finally:
        server.should_exit = True
        async with asyncio.timeout(10):
            await running


async def test_the_document_is_served(served: httpx.AsyncClient) -> None:
    answer = await served.get("/openapi.json")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert {"/v1/notifications", "/openapi.json", "/docs"} <= set(answer.json()["paths"])


async def test_the_page_is_served_with_its_policy(served: httpx.AsyncClient) -> None:
    answer = await served.get("/docs")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.text.startswith("<!doctype html>")


@pytest.mark.parametrize("path", ["/schema", "/schema/swagger", "/schema/openapi.json", "/docs/swagger"])
async def test_the_frameworks_own_pages_are_not_mounted(served: httpx.AsyncClient, path: str) -> None:
    assert (await served.get(path)).status_code == 404
