"""The console as admins use it: in a real browser, beside an app that sends and clients that receive."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from notify.errors import Close
from tests.service import Service, mint_token

if TYPE_CHECKING:
    from playwright.async_api import Browser, BrowserContext, Page

pytestmark = pytest.mark.browser

AXE = Path(__file__).parent / "vendor" / "axe.min.js"

HOSTILE = "<script>window.hacked = 1</script>\"'><img src=x onerror='window.hacked = 1'>&amp;"

CHECK = """async () => (await axe.run()).violations
    .filter((found) => ["serious", "critical"].includes(found.impact))
    .map((found) => `${found.id}: ${found.nodes.map((node) => node.html).join(" ")}`)"""


class Console:
    """A tab of an admin's. Whatever the page's policy stopped, or a script threw, is in `faults`."""

    def __init__(self, page: "Page", service: Service) -> None:
        self.page = page
        self.faults: list[str] = []
        self._url = service.url
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on(
            "console",
            lambda line: (
                self.faults.append(line.text) if line.type == "error" and "status of 4" not in line.text else None
            ),
        )

    async def open(self, path: str = "") -> None:
        """Go to a page of the console."""
        await self.page.goto(f"{self._url}/admin{path}")

    async def sign_in(self, scope: str = "queues:write", path: str = "") -> None:
        """Paste a token, as an admin would."""
        await self.open(path)
        await self.page.get_by_label("Token").fill(mint_token("root", scope=scope))
        await self.page.get_by_role("button", name="Sign in").click()
        await self.page.wait_for_url(f"{self._url}/admin{path}")

    async def see(self, text: str, *, inside: str = "#live") -> None:
        """Wait until a text is there."""
        await self.page.locator(inside).get_by_text(text).first.wait_for(timeout=15_000)

    async def pending(self, count: int) -> None:
        """Wait until a user's page shows so many pending."""
        await self.page.locator("#pending-count").filter(has_text=str(count)).wait_for(timeout=15_000)
        assert await self.page.locator("#pending-count").inner_text() == str(count)


@pytest.fixture
async def console(context: "BrowserContext", service: Service) -> AsyncIterator[Console]:
    """Open a tab, and see in the end that nothing in it went wrong."""
    tab = Console(await context.new_page(), service)
    yield tab
    assert tab.faults == []


@pytest.fixture
def make_console(browser: "Browser", service: Service) -> "Callable[..., AbstractAsyncContextManager[Console]]":
    """Open tabs in browsers that prefer other colours or are of another size."""

    @asynccontextmanager
    async def make(**options: Any) -> AsyncIterator[Console]:
        context = await browser.new_context(**options)
        yield Console(await context.new_page(), service)
        await context.close()

    return make


async def test_an_admin_watches_a_queue_grow_and_drain(console: Console, service: Service) -> None:
    await console.sign_in(path="/user?id=alice")
    await console.see("Nothing was ever sent to this id")
    await service.send("alice", type="order.shipped")
    await console.pending(1)
    await service.send_many("alice", 4)
    await console.pending(5)
    async with service.connect("alice", device="phone") as socket:
        await console.see("phone")
        await socket.take_backlog()
        await socket.ack(5)
        await console.pending(0)
    await console.see("Not connected")
    await console.open("/queues")
    await console.see("Every queue is empty")


async def test_a_paused_page_stands_still_until_it_is_resumed(console: Console, service: Service) -> None:
    await service.send("alice")
    await console.sign_in(path="/user?id=alice")
    await console.pending(1)
    await console.page.get_by_role("button", name="Live").click()
    await console.page.get_by_role("button", name="Paused").wait_for()
    await service.send("alice")
    polls: list[str] = []
    console.page.on("request", lambda request: polls.append(request.url))
    await console.page.wait_for_timeout(
        4_000
    )  # longer than the pause between two refreshes: nothing else shows their absence
    assert polls == []
    await console.page.get_by_role("button", name="Paused").click()
    await console.pending(2)


async def test_a_purge_says_how_many_it_touches_and_touches_them(console: Console, service: Service) -> None:
    await service.send_many("alice", 3)
    await console.sign_in(path="/user?id=alice")
    await console.page.get_by_role("link", name="Purge…").click()
    await console.see("3 notifications")
    await console.page.get_by_role("button", name="Purge").click()
    await console.see("3 notifications withdrawn.", inside="main")
    await console.pending(0)
    await console.open("/audit")
    await console.see("purge")


async def test_a_disconnected_client_is_told_4410(console: Console, service: Service) -> None:
    async with service.connect("alice", device="phone") as socket:
        await console.sign_in(path="/user?id=alice")
        await console.see("phone")
        await console.page.get_by_role("link", name="Disconnect…").click()
        await console.see("1 session")
        await console.page.get_by_role("button", name="Disconnect").click()
        code, _, _ = await socket.take_close()
        assert code == Close.DISCONNECTED
        await console.see("1 session told to close.", inside="main")
        await console.see("Not connected")


async def test_who_may_only_look_is_shown_nothing_to_act_with(console: Console, service: Service) -> None:
    await service.send("alice")
    await console.sign_in("queues:read", "/user?id=alice")
    await console.pending(1)
    assert await console.page.get_by_role("link", name="Purge…").count() == 0
    await console.open("/act/purge?user=alice")
    assert await console.page.get_by_role("button", name="Purge").count() == 0


async def test_hostile_content_is_shown_as_text(console: Console, service: Service) -> None:
    kind = "<script>hacked=1</script>"
    found = await service.send(HOSTILE, HOSTILE, type=kind)
    await console.sign_in(path="/queues")
    for path in (
        "/queues",
        f"/user?id={quote(HOSTILE, safe='')}",
        f"/notification?id={found}&payload=shown",
        f"/act/purge?user={quote(HOSTILE, safe='')}",
        f"/queues?q={quote(HOSTILE, safe='')}",
    ):
        await console.open(path)
        await console.see(HOSTILE, inside="main")
        assert await console.page.evaluate("window.hacked") is None, path
        assert await console.page.locator("main script, main img").count() == 0, path
    await console.open(f"/user?id={quote(HOSTILE, safe='')}")
    await console.see(kind)
    await service.send(HOSTILE, 1, type=kind)
    await console.pending(2)  # so the refresh has been through as well
    assert await console.page.evaluate("window.hacked") is None
    assert await console.page.locator("main script, main img").count() == 0


async def test_a_script_in_a_page_would_not_run(console: Console) -> None:
    await console.open()
    await console.page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), { text: 'hacked = 1' }))"
    )
    assert await console.page.evaluate("window.hacked") is None
    assert any("Content Security Policy" in fault for fault in console.faults)
    console.faults.clear()


async def test_the_keyboard_reaches_the_content_first(console: Console) -> None:
    await console.sign_in(path="/queues")
    await console.page.keyboard.press("Tab")
    await console.page.keyboard.press("Enter")
    assert await console.page.evaluate("document.activeElement.id") == "content"


@pytest.mark.slow
@pytest.mark.timeout(180)  # thirty pages, each looked through by axe
async def test_nothing_stands_in_the_way_of_assistive_technology(
    service: Service, make_console: "Callable[..., AbstractAsyncContextManager[Console]]"
) -> None:
    found = await service.send(["alice", "bob"], {"order": 7}, type="order.shipped")
    await service.store.webhooks.set(
        "root", "shop", url=f"https://shop.example/{'hook' * 50}", secret=b"s" * 32, host="shop.example"
    )
    pages = (
        "", "/queues", "/queues?sort=age&q=none", "/user?id=alice", "/user?id=nobody", f"/notification?id={found}&payload=shown",
        "/sessions", "/producers", "/webhooks", "/webhook?app=shop",
        "/system", "/audit", "/denylist", "/send", "/act/purge?user=alice", "/nowhere",
    )  # fmt: skip
    rules = AXE.read_text(encoding="utf-8")
    faults = {}
    async with service.connect("alice"):
        for scheme, width in (("light", 1280), ("dark", 390)):
            async with make_console(color_scheme=scheme, viewport={"width": width, "height": 800}) as console:
                await console.open("/sign-in")
                await console.page.evaluate(rules)  # past the page's policy, which lets in no script of ours either
                faults[f"{scheme} sign-in"] = await console.page.evaluate(CHECK)
                await console.sign_in()
                for path in pages:
                    await console.open(path)
                    await console.page.evaluate(rules)
                    faults[f"{scheme} {path}"] = await console.page.evaluate(CHECK)
                    wide = await console.page.evaluate("document.documentElement.scrollWidth > innerWidth")
                    assert not wide, f"{path} is wider than {width}"
    assert {page: found for page, found in faults.items() if found} == {}, json.dumps(faults, indent=1)
