"""A real Chromium, the real service, and a network between them that can be cut."""

import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.relay import Relay
from tests.service import Service, mint_token

if TYPE_CHECKING:
    from playwright.async_api import Browser, BrowserContext, Page

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

START = """async ([options, plain]) => {
    const { connect } = await import("/client/notify.js");
    Object.assign(window, { seen: [], states: [], unreads: [], ops: [], failures: [] });
    const settings = { url: location.origin, token: () => window.mint(), device: "web", share: false, ...options };
    if (plain.blocked) settings.WebSocket = class {
        constructor() { setTimeout(() => this.onclose({ code: 1006, reason: "" })); }
        close() {}
    };
    window.client = connect(settings);
    client.on("notification", (frame) => { seen.push(frame.data); });
    client.on("state", (state) => states.push(state));
    client.on("unread", ({ unread }) => unreads.push(unread));
    client.on("error", (failure) => failures.push(String(failure.error)));
    for (const op of ["welcome", "caught_up", "truncated", "retract", "read"]) client.on(op, (frame) => ops.push(frame));
}"""


def find_browser() -> str | None:
    """Return where a Chromium is; `CHROMIUM` names one outside the path."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Tab:
    """A page with a client in it: `seen` holds the data of what came."""

    def __init__(self, page: "Page") -> None:
        self.page = page

    async def wait(self, condition: str, *, seconds: float = 15.0) -> None:
        """Wait until an expression of the page is true."""
        try:
            await self.page.wait_for_function(condition, timeout=seconds * 1000, polling=20)
        except Exception as error:
            told = await self.page.evaluate("() => JSON.stringify([seen, states, failures])")
            raise AssertionError(f"never: {condition}; the page has {told}") from error

    async def wait_seen(self, *expected: object) -> None:
        """Wait until exactly this came, in this order."""
        await self.wait(f"JSON.stringify(seen) === JSON.stringify({list(expected)})".replace("True", "true"))

    async def wait_live(self) -> None:
        """Wait until the client is live."""
        await self.wait("client.state === 'live'")

    async def run(self, expression: str) -> Any:
        """Evaluate in the page."""
        return await self.page.evaluate(expression)


class Web:
    """Opens tabs on a service."""

    def __init__(self, context: "BrowserContext") -> None:
        self.context = context
        self.minted = 0
        self.ttl: int | None = None  # seconds of the next tokens, in place of what `open` was told

    async def open(
        self, url: str, user: str = "alice", *, ttl: int = 3600, blocked: bool = False, **options: object
    ) -> Tab:
        """Open a tab at `url` with a client for `user`; `blocked`: its WebSockets come to nothing."""
        page = await self.context.new_page()

        def mint() -> str:
            self.minted += 1
            return mint_token(user, ttl=self.ttl or ttl)

        await page.expose_function("mint", mint)
        await page.goto(f"{url}/livez")
        await page.evaluate(START, [options, {"blocked": blocked}])
        return Tab(page)


@pytest.fixture
def chromium() -> str:
    """Find a Chromium and what drives it, or skip."""
    pytest.importorskip("playwright", reason="no browser test: `pip install playwright` is missing")
    found = find_browser()
    if found is None:
        pytest.skip("no browser test: there is no Chromium here (apt-get install chromium, or set CHROMIUM)")
    return found


@pytest.fixture
async def browser(chromium: str) -> AsyncIterator["Browser"]:
    """Run a Chromium with an empty profile."""
    from playwright.async_api import async_playwright  # noqa: PLC0415 - not needed where the tests skip

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        await browser.close()


@pytest.fixture
async def context(browser: "Browser") -> AsyncIterator["BrowserContext"]:
    """Give an empty profile."""
    context = await browser.new_context()
    yield context
    await context.close()


@pytest.fixture
def web(context: "BrowserContext") -> Web:
    """Open tabs."""
    return Web(context)


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    """Run the service as `notify dev` does."""
    async with Service(database_url, dev=True) as service:
        yield service


@pytest.fixture
async def relay(service: Service) -> AsyncIterator[Relay]:
    """Stand a network between browser and service."""
    async with Relay(service.port) as relay:
        yield relay


@pytest.fixture
def make_service(database_url: str) -> "Callable[..., Any]":
    """Make a service with other settings."""

    @asynccontextmanager
    async def make(**settings: Any) -> AsyncIterator[Service]:
        async with Service(database_url, dev=True, **settings) as service:
            yield service

    return make
