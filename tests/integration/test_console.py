"""The console's doors: who gets in, what a cookie is good for, and that no other site's page can act through an admin."""

import re
from html import unescape
from typing import Self
from urllib.parse import quote, unquote
from uuid import UUID

import httpx
import pytest

from notify.console.cluster import list_settings
from notify.settings import Settings
from tests.service import SECRET, Service, bearer, mint_token, until

READ = "queues:read"
WRITE = "queues:write"
COOKIE = "notify_admin"
PAGES = (
    "", "/queues", "/user?id=alice", "/sessions", "/producers", "/webhooks", "/system", "/audit", "/denylist", "/send",
    "/act/purge?user=alice",
)  # fmt: skip


class Browser:
    """What a browser does, without one: keeps cookies, sends Origin, fills in the form's hidden fields."""

    def __init__(self, service: Service) -> None:
        self.origin = service.url
        self.client = httpx.AsyncClient(base_url=service.url, timeout=10)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.client.get(f"/admin{path}", headers=headers)

    async def post(
        self, path: str, fields: dict[str, str], *, origin: str | None = "", **headers: str
    ) -> httpx.Response:
        sent = headers if origin is None else {"Origin": origin or self.origin, **headers}
        return await self.client.post(f"/admin{path}", data=fields, headers=sent)

    async def read_form(self, path: str) -> dict[str, str]:
        """Return the hidden fields of a page's main form."""
        page = (await self.get(path)).text
        found = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page[page.index("<main") :])
        return {name: unescape(value) for name, value in found}

    async def sign_in(self, scope: str = WRITE, *, token: str | None = None, **fields: str) -> httpx.Response:
        form = await self.read_form("/sign-in")
        return await self.post("/sign-in", {**form, "token": token or mint_token("root", scope=scope), **fields})

    async def act(self, name: str, query: str) -> httpx.Response:
        """Look at what an act would touch, and agree."""
        return await self.post(f"/act/{name}", await self.read_form(f"/act/{name}?{query}"))


@pytest.fixture
def browser(service: Service) -> Browser:
    return Browser(service)


async def test_nobody_sees_a_page_without_signing_in(browser: Browser) -> None:
    async with browser:
        for path in PAGES:
            answer = await browser.get(path)
            assert answer.status_code == 303, path
            assert answer.headers["location"].startswith("/admin/sign-in"), path
        polled = await browser.get("/queues?q=a", **{"HX-Request": "true"})
        assert unquote(polled.headers["hx-redirect"]) == "/admin/sign-in?next=/admin/queues?q=a"


async def test_an_admin_gets_in_and_out(browser: Browser) -> None:
    async with browser:
        answer = await browser.sign_in()
        assert (answer.status_code, answer.headers["location"]) == (303, "/admin")
        for path in PAGES[:2] + PAGES[3:]:
            assert (await browser.get(path)).status_code == 200, path
        page = await browser.get("/send")
        csrf = re.findall(r'name="csrf" value="(\w+)"', page.text)[0]
        assert (await browser.post("/sign-out", {"csrf": csrf})).status_code == 303
        assert (await browser.get("")).status_code == 303


async def test_the_cookie_is_kept_from_scripts_other_sites_and_other_paths(browser: Browser) -> None:
    async with browser:
        lines = [
            line for line in (await browser.sign_in()).headers.get_list("set-cookie") if line.startswith(f"{COOKIE}=")
        ]
        [line] = lines
        attributes = {part.strip().lower() for part in line.split(";")[1:]}
        assert {"httponly", "samesite=strict", "path=/admin"} <= attributes
        assert "secure" not in attributes
        age = next(int(part.removeprefix("max-age=")) for part in attributes if part.startswith("max-age="))
        assert 3500 < age <= 3630


async def test_away_from_loopback_the_cookie_is_secure(browser: Browser) -> None:
    async with browser:
        page = await browser.get("/sign-in", Host="notify.example")
        assert all("Secure" in line for line in page.headers.get_list("set-cookie"))


async def test_a_cookie_counts_for_the_console_alone(service: Service) -> None:
    cookie = {"Cookie": f"{COOKIE}={mint_token('root', scope=WRITE)}"}
    assert (await service.client.get("/admin", headers=cookie)).status_code == 200
    for path in ("/v1/admin/overview", "/v1/inbox", "/v1/stream"):
        assert (await service.client.get(path, headers=cookie)).status_code == 401, path
    assert (await service.client.get("/admin", headers=bearer("root", scope=WRITE))).status_code == 303


@pytest.mark.parametrize("scope", ["", "notifications:send", "notifications:receive"])
async def test_a_token_that_is_no_admins_gets_nobody_in(browser: Browser, scope: str) -> None:
    async with browser:
        answer = await browser.sign_in(scope)
        assert answer.status_code == 403
        assert COOKIE not in browser.client.cookies
        cookie = {"Cookie": f"{COOKIE}={mint_token('alice', scope=scope)}"}
        assert (await browser.client.get("/admin", headers=cookie)).status_code == 403


async def test_who_may_look_may_not_act(browser: Browser, service: Service) -> None:
    await service.send("alice")
    async with browser:
        await browser.sign_in(READ)
        assert (await browser.get("/user?id=alice")).status_code == 200
        assert (await browser.act("purge", "user=alice")).status_code == 403
    mailbox = await service.store.queues.find("alice")
    assert mailbox is not None
    assert mailbox.pending == 1


async def test_a_denied_admin_is_out_at_once(browser: Browser, service: Service) -> None:
    async with browser:
        await browser.sign_in()
        assert (await browser.get("")).status_code == 200
        answer = await service.client.put("/v1/admin/denylist/sub/root", headers=bearer("boss", scope=WRITE))
        assert answer.status_code == 204
        assert (await browser.get("")).status_code == 303


async def test_an_expired_token_opens_nothing(service: Service) -> None:
    cookie = {"Cookie": f"{COOKIE}={mint_token('root', scope=WRITE, ttl=-60)}"}
    assert (await service.client.get("/admin", headers=cookie)).status_code == 303


@pytest.mark.parametrize("origin", [None, "null", "https://evil.example", "http://127.0.0.1:1", "http://localhost"])
async def test_a_post_from_another_origin_changes_nothing(
    browser: Browser, service: Service, origin: str | None
) -> None:
    await service.send("alice")
    async with browser:
        await browser.sign_in()
        form = await browser.read_form("/act/purge?user=alice")
        assert (await browser.post("/act/purge", form, origin=origin)).status_code == 403
        assert (await browser.post("/sign-in", {"token": "x"}, origin=origin)).status_code == 403
        assert (await browser.post("/sign-out", form, origin=origin)).status_code == 403
    mailbox = await service.store.queues.find("alice")
    assert mailbox is not None
    assert mailbox.pending == 1


@pytest.mark.parametrize("wrong", ["", "0" * 64, "\N{SNOWMAN}"])
async def test_a_post_without_the_visits_own_csrf_token_changes_nothing(
    browser: Browser, service: Service, wrong: str
) -> None:
    await service.send("alice")
    async with browser:
        await browser.sign_in()
        form = await browser.read_form("/act/purge?user=alice")
        assert (await browser.post("/act/purge", {**form, "csrf": wrong})).status_code == 403
        assert (await browser.post("/sign-out", {"csrf": wrong})).status_code == 403
    async with Browser(service) as fresh:
        assert (await fresh.sign_in(csrf=wrong)).status_code == 403
    async with Browser(service) as other:
        await other.sign_in(token=mint_token("other", scope=WRITE))
        assert (await other.post("/act/purge", form)).status_code == 403
    mailbox = await service.store.queues.find("alice")
    assert mailbox is not None
    assert mailbox.pending == 1


async def test_an_act_touches_what_was_agreed_to_and_is_written_down(browser: Browser, service: Service) -> None:
    await service.send_many("alice", 3)
    async with browser:
        await browser.sign_in()
        page = await browser.get("/act/purge?user=alice")
        assert "3 notifications" in page.text
        answer = await browser.act("purge", "user=alice")
        assert (answer.status_code, answer.headers["location"]) == (303, "/admin/user?id=alice")
        after = await browser.get("/user?id=alice")
        assert "3 notifications withdrawn." in after.text
        assert "3 notifications withdrawn." not in (await browser.get("/user?id=alice")).text
    [act] = await service.store.audit.page(limit=10)
    assert (act.actor, act.action, act.target, act.affected) == ("root", "purge", "alice", 3)


async def test_what_grew_since_the_count_is_asked_for_again(browser: Browser, service: Service) -> None:
    await service.send("alice")
    async with browser:
        await browser.sign_in()
        form = await browser.read_form("/act/purge?user=alice")
        await service.send("alice")
        again = await browser.post("/act/purge", form)
        assert again.status_code == 409
        assert "2 notifications" in again.text
        assert (await browser.post("/act/purge", {**form, "more": "yes"})).status_code == 303
    mailbox = await service.store.queues.find("alice")
    assert mailbox is not None
    assert mailbox.pending == 0


async def test_replay_counts_first_and_then_queues_again(browser: Browser, service: Service) -> None:
    await service.send_many("alice", 4)
    async with service.connect("alice") as socket:
        await socket.take_backlog()
        await socket.ack(4)
        await service.wait_for_acks()
        async with browser:
            await browser.sign_in()
            assert "2 notifications" in (await browser.get("/act/replay?user=alice&after=2")).text
            await browser.act("replay", "user=alice&after=2")
        assert [frame["data"] for frame in await socket.take_notifications(2)] == [2, 3]


async def test_a_test_notification_arrives_and_is_in_the_audit_log(browser: Browser, service: Service) -> None:
    async with service.connect("a/b ü") as socket, browser:
        await browser.sign_in()
        await browser.act("send", "user=a%2Fb+%C3%BC&type=test&data=%7B%22n%22:1%7D")
        [frame] = await socket.take_notifications(1)
        assert (frame["type"], frame["data"], frame["source"]) == ("test", {"n": 1}, "root")
        bad = await browser.get("/act/send?user=alice&type=test&data=%7Bnope")
        assert bad.status_code == 400
    [act] = await service.store.audit.page(limit=10)
    assert (act.actor, act.action, act.target, act.detail) == ("root", "send", "a/b ü", f"test {frame['id']}")


async def test_a_notification_can_be_found_followed_and_cancelled(browser: Browser, service: Service) -> None:
    found = await service.send(["alice", "bob"], {"secret": "lunch"})
    async with browser:
        await browser.sign_in()
        to = (await browser.get(f"/find?q={found}")).headers["location"]
        page = (await service.client.get(to, headers={"Cookie": f"{COOKIE}={mint_token('root', scope=READ)}"})).text
        assert "alice" in page
        assert "lunch" not in page
        assert "lunch" in (await browser.get(f"/notification?id={found}&payload=shown")).text
        assert "2 recipients" in (await browser.get(f"/act/cancel?id={found}")).text
        assert (await browser.act("cancel", f"id={found}")).status_code == 303
    assert (await service.store.notifications.count(UUID(found)))["cancelled"] == 2


async def test_denying_says_how_many_sessions_it_closes(browser: Browser, service: Service) -> None:
    async with service.connect("mallory") as socket, browser:
        await browser.sign_in()
        await until(lambda: _shows(browser, "/act/deny?kind=sub&value=mallory", "1 open session<"))
        await browser.act("deny", "kind=sub&value=mallory")
        code, _, _ = await socket.take_close()
        assert code == 4401
        assert "mallory" in (await browser.get("/denylist")).text
        await browser.act("allow", "kind=sub&value=mallory")
        assert "Nobody is denied" in (await browser.get("/denylist")).text


async def test_a_webhook_is_set_and_removed_and_its_secret_shown_once(browser: Browser, service: Service) -> None:
    query = "app=a%2Fb&url=https%3A%2F%2Fshop.example%2Fhook%3Fkey%3Dhunter2"
    async with browser:
        await browser.sign_in()
        assert (await browser.get("/act/set-webhook?app=shop&url=https%3A%2F%2F10.0.0.1%2F")).status_code == 400
        to = (await browser.act("set-webhook", query)).headers["location"].removeprefix("/admin")
        [secret] = re.findall(r"whsec_[A-Za-z0-9+/=]+", unescape((await browser.get(to)).text))
        for path in (to, "/webhook?app=a%2Fb", "/audit", "/system"):
            page = await browser.get(path)
            assert page.status_code == 200, path
            assert secret not in unescape(page.text), path
            assert ("hunter2" in page.text) == path.startswith("/webhook"), path
        reader = {"Cookie": f"{COOKIE}={mint_token('reader', scope=READ)}"}
        for path in ("/admin/webhooks", "/admin/webhook?app=a%2Fb"):
            page = await service.client.get(path, headers=reader)
            assert "shop.example" in page.text
            assert "hunter2" not in page.text
        assert (await browser.act("remove-webhook", "app=a%2Fb")).status_code == 303
        assert "No app has a webhook" in (await browser.get("/webhooks")).text
    acts = [(act.actor, act.action, act.target, act.detail) for act in await service.store.audit.page(limit=10)]
    assert acts == [("root", "remove webhook", "a/b", None), ("root", "set webhook", "a/b", "shop.example")]


async def test_every_answer_carries_the_strict_headers(browser: Browser) -> None:
    async with browser:
        answers = [
            await browser.get(path) for path in ("", "/sign-in", "/nowhere", "/static/console.js", "/static/nothing")
        ]
        answers.append(await browser.post("/sign-in", {}, origin="https://evil.example"))
        await browser.sign_in()
        answers += [await browser.get(path) for path in ("", "/user", "/act/nothing")]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy, answer.url
        assert "unsafe" not in policy
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-type"].partition(";")[0] in {"text/html", "text/javascript", "text/plain"}, (
            answer.url
        )


@pytest.mark.parametrize(
    "evil", ["https://evil.example", "//evil.example", "/admin/../v1", "/adminx", "/admin/\\evil", "/admin\n"]
)
async def test_signing_in_leads_to_a_page_of_the_console_only(browser: Browser, evil: str) -> None:
    async with browser:
        answer = await browser.sign_in(next=evil)
        assert answer.status_code == 303
        assert answer.headers["location"] == "/admin"


HOSTILE = "<script>alert(1)</script>'\"&{{7*7}}"


async def test_hostile_ids_are_escaped_everywhere(browser: Browser, service: Service) -> None:
    found = await service.send(HOSTILE, HOSTILE, collapse_key="<b>")
    hook = await service.client.put(
        f"/v1/admin/webhooks/{quote(HOSTILE, safe='')}",
        json={"url": "https://hook.invalid/<script>alert(1)</script>"},
        headers=bearer(HOSTILE, scope=WRITE),
    )
    assert hook.status_code == 200, hook.text
    async with browser:
        await browser.sign_in()
        await until(lambda: _shows(browser, "/queues", "{{7*7}}"))
        for path, query in (
            ("/queues", {"q": HOSTILE}),
            ("/user", {"id": HOSTILE}),
            ("/notification", {"id": found, "payload": "shown"}),
            ("/audit", {"target": HOSTILE}),
            ("/act/purge", {"user": HOSTILE}),
            ("/act/deny", {"kind": "sub", "value": HOSTILE}),
            ("/send", {"user": HOSTILE}),
            ("/webhooks", {}),
            ("/webhook", {"app": HOSTILE}),
            ("/" + HOSTILE.replace("/", ""), {}),
        ):
            answer = await browser.client.get(f"/admin{path}", params=query)
            assert "<script>alert" not in answer.text, path
            assert "49" not in re.findall(r"&amp;(.{6})", answer.text), path


def test_no_secret_is_among_the_settings_shown() -> None:
    settings = Settings(
        _env_file=None,
        database_url="postgresql://me:hunter2@db.example/app?password=hunter2",
        listen_url="host=db password=hunter2",
        jwt_secret=[SECRET, "hunter2 the second, long enough too"],
        jwt_private_key="hunter2",
        jwt_jwks_url="https://me:hunter2@keys.example/",
        jwt_issuer="https://issuer.example",
    )
    shown = {name: value for name, value, _ in list_settings(settings)}
    assert "hunter2" not in str(shown)
    assert SECRET not in str(shown)
    assert shown["NOTIFY_DATABASE_URL"] == "set (db.example/app)"
    assert shown["NOTIFY_JWT_ISSUER"] == "https://issuer.example"
    assert shown["NOTIFY_MAX_PENDING"] == "10000"


async def _shows(browser: Browser, path: str, text: str) -> bool:
    return text in (await browser.get(path)).text
