"""What is served for browsers: the client's files to anybody, the demo to this machine alone."""

import re

import httpx
import jwt
import pytest

from notify.demo.routes import DEMO_NAME
from tests.service import SECRET, Service


@pytest.mark.parametrize(
    ("name", "media"),
    [("notify.js", "text/javascript; charset=utf-8"), ("notify.d.ts", "application/typescript; charset=utf-8")],
)
async def test_any_page_may_import_the_client(service: Service, name: str, media: str) -> None:
    answer = await service.client.get(f"/client/{name}", headers={"Origin": "https://shop.example"})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["content-type"] == media
    assert "export" in answer.text


async def test_who_has_the_client_already_is_told_so(service: Service) -> None:
    first = await service.client.head("/client/notify.js")
    assert first.content == b""
    assert "max-age" in first.headers["cache-control"]
    again = await service.client.get("/client/notify.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


async def test_nothing_else_of_the_package_is_served(service: Service) -> None:
    for path in ("/client/__init__.py", "/client/..%2Fauth.py", "/demo/routes.py", "/demo/..%2Froutes.py"):
        assert (await service.client.get(path)).status_code == 404, path


async def test_a_service_in_production_has_no_demo(database_url: str) -> None:
    async with Service(database_url) as service:
        assert (await service.client.get("/demo")).status_code == 404
        assert (await service.client.get("/client/notify.js")).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "demo.evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", ""]
)
async def test_a_host_that_is_not_this_machine_is_refused(service: Service, host: str) -> None:
    for path in ("/demo", "/demo/page.js", "/demo/follow/01a20b8c-02a2-71c3-aad7-2defb2861b6f"):
        assert (await service.client.get(path, headers={"Host": host})).status_code in {400, 403}, path
    headers = {"Host": host, "Origin": f"http://{host}"}
    answer = await service.client.post("/demo/token", json={"user": "demo-a"}, headers=headers)
    assert answer.status_code in {400, 403}


@pytest.mark.parametrize("origin", [None, "null", "https://evil.example", "http://127.0.0.1:1", "http://localhost"])
async def test_a_page_of_another_origin_can_not_use_the_demo(service: Service, origin: str | None) -> None:
    headers = {} if origin is None else {"Origin": origin}
    for path, body in (
        ("token", {"user": "demo-a"}),
        ("send", {"notifications": [{"to": "demo-a", "type": "t"}]}),
        ("cancel", {"id": "01a20b8c-02a2-71c3-aad7-2defb2861b6f"}),
        ("subscribe", {"topic": "demo-t", "users": ["demo-a"]}),
    ):
        assert (await service.client.post(f"/demo/{path}", json=body, headers=headers)).status_code == 403, path


async def use_demo(service: Service, path: str, body: object) -> httpx.Response:
    """POST as the demo's own page does."""
    return await service.client.post(f"/demo/{path}", json=body, headers={"Origin": service.url})


async def test_the_demo_touches_nobody_but_its_own_users(service: Service) -> None:
    for path, body in (
        ("token", {"user": "alice"}),
        ("token", {"user": "demo-a\n"}),
        ("send", {"notifications": [{"to": "alice", "type": "t"}]}),
        ("send", {"notifications": [{"to": ["demo-a", "alice"], "type": "t"}]}),
        ("send", {"notifications": [{"topic": "news", "type": "t"}]}),
        ("subscribe", {"topic": "demo-t", "users": ["alice"]}),
        ("subscribe", {"topic": "news", "users": ["demo-a"]}),
    ):
        answer = await use_demo(service, path, body)
        assert (answer.status_code, answer.json()["type"]) == (400, "invalid-request"), (path, body)
    assert DEMO_NAME.fullmatch("demo-") is None


async def test_a_demo_token_is_short_and_may_receive_and_nothing_else(service: Service) -> None:
    answer = await use_demo(service, "token", {"user": "demo-a"})
    assert answer.headers["cache-control"] == "no-store"
    claims = jwt.decode(answer.json()["token"], SECRET, algorithms=["HS256"])
    assert (claims["sub"], claims["scope"]) == ("demo-a", "notifications:receive")
    assert claims["exp"] - claims["iat"] == answer.json()["expires_in"] <= 120


async def test_what_the_demo_sends_is_stored_and_can_be_withdrawn_by_it(service: Service) -> None:
    [sent] = (await use_demo(service, "send", {"notifications": [{"to": "demo-a", "type": "t"}]})).json()["ids"]
    assert (await service.client.get(f"/demo/follow/{sent}")).json()["counts"]["pending"] == 1
    assert (await use_demo(service, "cancel", {"id": sent})).status_code == 204
    assert (await service.client.get(f"/demo/follow/{sent}")).json()["counts"]["cancelled"] == 1
    others = await service.send("alice", 1)
    assert (await use_demo(service, "cancel", {"id": others})).status_code == 404
    assert (await service.client.get(f"/demo/follow/{others}")).status_code == 404


@pytest.mark.parametrize("path", ["/demo", "/demo/chat", "/demo/game", "/demo/prices", "/demo/document"])
async def test_a_page_of_the_demo_is_whole_and_runs_nothing_that_stands_in_it(service: Service, path: str) -> None:
    answer = await service.client.get(path)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert f"ws://127.0.0.1:{service.port}" in policy
    assert not re.search(r"<script(?![^>]* src=)|\son\w+=|\sstyle=|https?://|eyJ", answer.text)
    for found in re.findall(r'(?:src|href)="(/demo/[^"#]+)"', answer.text):
        assert (await service.client.get(found)).status_code == 200, found
