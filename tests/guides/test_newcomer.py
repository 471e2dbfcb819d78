"""Ten minutes to a bell, and the README's first half: followed to the letter, with a real browser, until the bell rings."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from notify.embedded import EmbeddedPostgres
from tests.guides.conftest import ROOT
from tests.guides.guide import Block, read_blocks
from tests.guides.reader import FOLLOWED, Reader

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext, Page

pytestmark = [pytest.mark.docs, pytest.mark.timeout(150)]

TUTORIAL = ROOT / "docs/ten-minutes-to-a-bell.md"
CLOUDEVENTS = ROOT / "docs/cloudevents.md"
MIGRATING = ROOT / "docs/migrating.md"
OPERATIONS = ROOT / "docs/operations.md"
README = ROOT / "README.md"
PAGE = "http://127.0.0.1:3000"
SERVICE = "http://127.0.0.1:8000"


def take(path: Path, section: str, language: str) -> Block:
    """Return the one block of a language under a heading, which the caller runs itself."""
    [block] = [block for block in read_blocks(path) if (block.section, block.language) == (section, language)]
    FOLLOWED.add((block.path, block.line))
    return block


@pytest.fixture
async def reader(checkout: Path, offline: dict[str, str]) -> AsyncIterator[Reader]:
    """Let somebody who knows nothing begin in a fresh checkout."""
    reader = Reader(checkout, environment=offline, given={})
    yield reader
    await reader.close()


async def look(page: "Page", badge: int, *lines: str) -> None:
    """See the badge and the list say this."""
    from playwright.async_api import expect  # noqa: PLC0415 - not needed where the tests skip

    await expect(page.locator("#state")).to_have_text("live", timeout=30_000)
    await expect(page.locator("#badge")).to_have_text(str(badge))
    await expect(page.locator("#list li")).to_have_text(list(lines))


async def test_ten_minutes_to_a_bell(reader: Reader, context: "BrowserContext") -> None:
    await reader.follow(TUTORIAL, "1. The service")
    await reader.follow(TUTORIAL, "2. The page")
    page = await context.new_page()
    await page.goto(PAGE)
    await look(page, 0)
    order = 'order.shipped {"order":7}'
    await reader.follow(TUTORIAL, "3. Ring it")
    await look(page, 1, order)
    other = await context.new_page()
    await other.goto(PAGE)
    await look(other, 1, order)
    await page.click("#bell")
    await look(page, 0, order)
    await look(other, 0, order)

    await other.close()
    await page.close()
    await reader.follow(TUTORIAL, "3. Ring it")
    page = await context.new_page()
    await page.goto(PAGE)
    await look(page, 1, order, order)

    await reader.stop(TUTORIAL, "1. The service")
    await reader.follow(TUTORIAL, "1. The service")
    await look(page, 1, order, order)

    reader.given["app_token"] = await reader.ask('printf %s "$NOTIFY_TOKEN"')
    await reader.follow(TUTORIAL, "4. From your back end")
    await look(page, 3, order, order, order, order)

    reader.given["SECRET"] = (reader.directory / ".notify/jwt-secret").read_text().strip()
    token_for = take(TUTORIAL, "5. Tokens of your users", "python")
    token = await reader.run(token_for, then="\nprint(token_for('alice'), end='')")
    await context.route("**/my/token", lambda route: route.fulfill(body=token))
    connecting = take(TUTORIAL, "5. Tokens of your users", "js").text.strip().removesuffix(";")
    script = f"""
        import {{ connect }} from "{SERVICE}/client/notify.js";
        window.client = {connecting};
    """
    await page.add_script_tag(type="module", content=script)
    await page.wait_for_function("window.client?.state === 'live' && client.user === 'alice'")

    await follow_readme(reader, page)


def read_answer(printed: str) -> dict[str, object]:
    """Return the object that curl printed, between its words on how far it is."""
    [found] = re.findall(r"\{.*\}", printed)
    answer: dict[str, object] = json.loads(found)
    return answer


async def follow_readme(reader: Reader, page: "Page") -> None:
    """Send and receive as the README and the migration guide say, in the same directory."""
    database = EmbeddedPostgres(reader.directory / ".notify")
    reader.given |= {"user_token": await reader.ask(".venv/bin/notify token --sub alice"), "DATABASE": database.url()}
    await page.goto("about:blank")  # a device that is new starts after what the page has acknowledged
    sent = await reader.follow(README, "Send")
    assert read_answer(sent[0])["recipients"] == 1
    [received] = await reader.follow(README, "Receive")
    assert "order.shipped {'order': 7}" in received

    await page.goto(PAGE)
    handlers = take(MIGRATING, "From Socket.IO", "js").text
    async with page.expect_console_message(lambda message: message.text == "shipped 7"):
        await page.add_script_tag(
            type="module",
            content=f"""
                import {{ connect as open }} from "{SERVICE}/client/notify.js";
                const connect = (options) => (window.moved = open(options));
                const token = {json.dumps(reader.given["user_token"])};
                {handlers}
            """,
        )
        await page.wait_for_function("window.moved?.state === 'live'")
        await reader.ask(".venv/bin/notify send alice shipped '{\"order\": 7}'")

    for answer in (await reader.follow(CLOUDEVENTS, "In"))[:3]:
        assert {"id", "ids"} & read_answer(answer).keys(), answer
    [events] = await reader.follow(CLOUDEVENTS, "Out")
    assert "/shops/7 order.lost {'order': 9}" in events

    await page.goto(f"{SERVICE}/livez")
    await reader.ask(".venv/bin/notify send alice order.shipped '{\"order\": 8}'")
    plain = take(README, "Receive", "js").text
    async with page.expect_console_message(lambda message: message.text.startswith("order.shipped")):
        await page.evaluate(f"(token) => {{ {plain}; connect(token); }}", reader.given["user_token"])

    await reader.follow(OPERATIONS, "Traces")
