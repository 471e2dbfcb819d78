"""The guide to Web Push does what it says, in a real browser: its page subscribes, its service worker shows what comes.

The one thing that is ours is the push service: a real one is on the internet. So what the browser would subscribe to is
made up here, and what arrives there is decrypted and handed to the browser as its push service would.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from notify import pusher
from tests.receiver import Receiver
from tests.service import Service, mint_token
from tests.subscriber import Browser as Subscriber
from tests.subscriber import lead_to, list_endpoints

if TYPE_CHECKING:
    from playwright.async_api import Browser

pytestmark = pytest.mark.browser

GUIDE = Path(__file__).parents[2] / "docs" / "web-push.md"
PAGE, WORKER = re.findall(r"```js\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)

PRETEND = """(json) => {
    const made = { toJSON: () => json, unsubscribe: async () => { window.unsubscribed = true; } };
    PushManager.prototype.subscribe = async (options) => { window.options = options; return made; };
    PushManager.prototype.getSubscription = async () => made;
}"""

# Asking what is shown while the browser is showing it makes it forget the notification: it takes what it has noted down
# and not yet put up for one that the user has closed. So the worker says when it is up, and nobody asks before.
LISTEN = """() => {
    const show = registration.showNotification.bind(registration);
    self.shown = new Promise((resolve, reject) => {
        registration.showNotification = (...of) => show(...of).then(resolve, reject);
    });
}"""

FIND_SHOWN = """async () => (await (await navigator.serviceWorker.ready).getNotifications())
    .map(({ title, body, tag }) => [title, body, tag])"""


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with the page, or with its service worker."""
    request = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    media, body = (
        ("text/javascript", WORKER) if request.startswith("GET /worker.js ") else ("text/html", "<!doctype html>")
    )
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: {media}\r\nContent-Length: {len(body.encode())}\r\nConnection: close\r\n\r\n"
    )
    writer.write((head + body).encode())
    await writer.drain()
    writer.close()


@pytest.fixture
async def origin() -> AsyncIterator[str]:
    """Serve the page on an origin of its own."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_the_guides_page_subscribes_and_its_worker_shows_what_comes(
    browser: "Browser", origin: str, database_url: str, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pusher, "GRACE_SECONDS", 0.05)
    async with (
        Receiver() as push_service,
        lead_to(push_service, Service(database_url, allowed_origins=[origin])) as service,
    ):
        subscriber = Subscriber(push_service)
        context = await browser.new_context()
        await context.grant_permissions(["notifications"], origin=origin)
        page = await context.new_page()
        await page.goto(origin)
        await page.evaluate(PRETEND, subscriber.describe())
        await page.add_script_tag(content=f'const notify = "{service.url}";\n{PAGE}')
        await page.evaluate("(token) => subscribe(token)", mint_token("alice"))
        assert await page.evaluate("[options.userVisibleOnly, options.applicationServerKey.length]") == [True, 65]
        assert await list_endpoints(connection) == [subscriber.endpoint]

        await service.send("alice", {"order": 7})
        frame = subscriber.read((await push_service.take()).body)
        registrations: asyncio.Queue[str] = asyncio.Queue()
        devtools = await context.new_cdp_session(page)

        def note(event: dict[str, Any]) -> None:
            for registration in event["registrations"]:
                registrations.put_nowait(registration["registrationId"])

        devtools.on("ServiceWorker.workerRegistrationUpdated", note)
        await devtools.send("ServiceWorker.enable")
        async with asyncio.timeout(10):
            registration = await registrations.get()
        message = {"origin": origin, "registrationId": registration, "data": json.dumps(frame)}
        worker = next(iter(context.service_workers), None) or await context.wait_for_event("serviceworker")
        await worker.evaluate(LISTEN)
        await devtools.send("ServiceWorker.deliverPushMessage", message)
        async with asyncio.timeout(10):
            await worker.evaluate("shown")
        found = await page.evaluate(FIND_SHOWN)
        assert found == [["t", '{"order":7}', frame["id"]]]

        await page.evaluate("(token) => unsubscribe(token)", mint_token("alice"))
        assert await page.evaluate("unsubscribed")
        assert await list_endpoints(connection) == []
        await context.close()
