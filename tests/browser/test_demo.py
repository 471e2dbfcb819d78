"""The demo and its examples work, in a real Chromium, without breaking their own content security policy."""

import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

from notify.errors import Close
from tests.service import Service

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext, Locator, Page

pytestmark = pytest.mark.browser


@pytest.fixture
async def page(context: "BrowserContext") -> AsyncIterator["Page"]:
    """Open a page that may not complain."""
    page = await context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in {"error", "warning"} else None
    )
    yield page
    assert not complaints


async def wait_count(found: "Locator", count: int) -> None:
    from playwright.async_api import expect  # noqa: PLC0415 - not needed where the tests skip

    await expect(found).to_have_count(count, timeout=15_000)


async def wait_text(found: "Locator", text: str) -> None:
    from playwright.async_api import expect  # noqa: PLC0415 - not needed where the tests skip

    await expect(found).to_have_text(text, timeout=15_000)


async def open_demo(page: "Page", service: Service) -> None:
    await page.goto(f"{service.url}/demo")
    await wait_count(page.locator(".device[data-state=live]"), 2)


async def test_a_click_reaches_both_devices_and_reading_on_one_marks_it_on_the_other(
    service: Service, page: "Page"
) -> None:
    await open_demo(page, service)
    await page.click("[data-kind=plain]")
    await wait_count(page.locator(".list li.unread"), 2)
    await wait_text(page.locator(".laptop .badge"), "1")
    await page.locator(".phone .list button").click()
    await wait_count(page.locator(".list li.unread"), 0)
    await wait_count(page.locator(".receipts .read"), 1)


async def test_what_a_device_misses_offline_is_replayed_when_it_is_back(service: Service, page: "Page") -> None:
    await open_demo(page, service)
    await page.click("[data-kind=plain]")
    await wait_count(page.locator(".phone .list li"), 1)
    await page.locator(".phone .switch").click()
    await wait_count(page.locator(".phone[data-state=offline]"), 1)
    for _ in range(3):
        await page.click("[data-kind=plain]")
    await wait_count(page.locator(".laptop .list li"), 4)
    await wait_count(page.locator(".phone .list li"), 1)
    await page.locator(".phone .switch").click()
    await wait_count(page.locator(".phone .list li"), 4)
    await wait_count(page.locator(".phone .list em i"), 3)
    await wait_count(page.locator("[data-step=replay].done"), 1)
    await wait_text(page.locator(".phone .state"), "live")


async def test_every_kind_of_notification_has_its_button(service: Service, page: "Page") -> None:
    await open_demo(page, service)
    for device in ("laptop", "phone"):
        await page.locator(f".{device} .switch").click()
    for _ in range(3):
        await page.click("[data-kind=collapse]")
    await wait_count(page.locator(".receipts .collapsed"), 2)
    await page.click("[data-kind=topic]")
    await wait_count(page.locator(".receipts li"), 4)
    await page.click("[data-kind=scheduled]")
    await wait_count(page.locator(".receipts .scheduled"), 1)
    await page.click("[data-kind=cancel]")
    await wait_count(page.locator(".receipts .cancelled"), 1)
    for device in ("laptop", "phone"):
        await page.locator(f".{device} .switch").click()
        await wait_count(page.locator(f".{device} .list li"), 2)
    await page.click("[data-kind=momentary]")
    await wait_count(page.locator(".toast i"), 2)
    await page.click("[data-kind=burst]")
    await wait_count(page.locator(".toast.good", has_text="500 arrived"), 2)


async def test_what_expires_leaves_the_screen_and_the_count(service: Service, page: "Page") -> None:
    await open_demo(page, service)
    await page.clock.install()
    await page.click("[data-kind=expiring]")
    await wait_count(page.locator(".laptop .list li"), 1)
    await page.clock.fast_forward(13_000)
    await wait_count(page.locator(".laptop .list li"), 0)


async def test_no_token_is_shown_on_the_wire(service: Service, page: "Page") -> None:
    await open_demo(page, service)
    await page.locator(".laptop summary").click()
    await wait_count(page.locator(".laptop .wire li", has_text="welcome"), 1)
    assert "eyJ" not in await page.content()


@pytest.mark.parametrize("size", [(390, 844), (768, 1024), (1440, 900)])
async def test_nothing_is_wider_than_the_screen(service: Service, page: "Page", size: tuple[int, int]) -> None:
    await page.set_viewport_size({"width": size[0], "height": size[1]})
    for path in ("", "/chat", "/game", "/prices", "/document"):
        await page.goto(f"{service.url}/demo{path}")
        assert await page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), path


async def open_example(page: "Page", service: Service, name: str) -> tuple["Locator", "Locator"]:
    await page.goto(f"{service.url}/demo/{name}")
    await wait_count(page.locator(".status[data-state=live]"), 2)
    return page.locator("[data-who=ada]"), page.locator("[data-who=ben]")


async def test_chat_keeps_what_one_wrote_while_the_other_was_away(service: Service, page: "Page") -> None:
    for first, second in (("ada", "ben"), ("ben", "ada")):
        await open_example(page, service, "chat")
        writer, reader = page.locator(f"[data-who={first}]"), page.locator(f"[data-who={second}]")
        before = await reader.locator(".talk li").count()
        await reader.locator(".leave").click()
        for text in ("one", "two"):
            await writer.locator("input").fill(text)
            await writer.locator("input").press("Enter")
            await wait_count(writer.locator(".talk li"), before + 1 if text == "one" else before + 2)
        await reader.locator(".leave").click()
        await wait_count(reader.locator(".talk li"), before + 2)
        await wait_text(reader.locator(".talk li").last, "two")


async def test_chat_tells_that_somebody_is_typing(service: Service, page: "Page") -> None:
    ada, ben = await open_example(page, service, "chat")
    await ada.locator("input").press_sequentially("h")
    await wait_text(ben.locator(".typing"), "Ada is typing…")


async def test_an_example_shows_that_the_service_ended_it_and_why(service: Service, page: "Page") -> None:
    ada, ben = await open_example(page, service, "chat")
    for session in service.app.hub:
        session.leave(Close.DISCONNECTED)
    for side in (ada, ben):
        await wait_count(side.locator(".status[data-state=stopped]", has_text="disconnected"), 1)


async def test_game_agrees_on_every_coin_and_hears_where_the_other_one_is(service: Service, page: "Page") -> None:
    ada, ben = await open_example(page, service, "game")
    await page.click("#bots")
    await wait_text(page.locator(".rate").first, "20")

    from playwright.async_api import expect  # noqa: PLC0415 - not needed where the tests skip

    await expect(ada.locator(".coins")).not_to_have_text("0", timeout=15_000)
    await expect(ben.locator(".delay")).to_have_text(re.compile(r"\d+"), timeout=15_000)


async def test_prices_come_as_json_and_as_messagepack_with_the_same_content(service: Service, page: "Page") -> None:
    ada, ben = await open_example(page, service, "prices")
    await page.click("#run")
    await wait_count(ben.locator(".prices tbody tr"), 4)
    await wait_count(ada.locator(".prices tbody tr"), 4)
    await wait_count(ben.locator(".alerts li").nth(0), 1)
    await page.click("#run")
    await page.wait_for_timeout(300)  # for ticks on their way: none follows them that could be waited for
    assert (
        await ada.locator("td:nth-child(2)").all_text_contents()
        == await ben.locator("td:nth-child(2)").all_text_contents()
    )


async def test_document_merges_what_both_type(service: Service, page: "Page") -> None:
    from playwright.async_api import expect  # noqa: PLC0415 - not needed where the tests skip

    ada, ben = await open_example(page, service, "document")
    left, right = ada.locator("textarea"), ben.locator("textarea")
    await left.press_sequentially("brown fox")
    await expect(right).to_have_value("brown fox", timeout=15_000)
    await right.press("Control+Home")
    await right.press_sequentially("quick ")
    await left.press("Control+End")
    await left.press_sequentially(" jumps")
    for area in (left, right):
        await expect(area).to_have_value("quick brown fox jumps", timeout=15_000)
    await wait_count(page.locator(".carets i"), 2)
    await page.reload()
    for area in (left, right):
        await expect(area).to_have_value("quick brown fox jumps", timeout=15_000)
