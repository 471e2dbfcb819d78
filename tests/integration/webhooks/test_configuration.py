"""Asking to be told, and saying where: what can't be done is refused, only admins look, and a secret is told once."""

import base64

import asyncpg
import msgspec
import pytest

from tests.admin import READ, Admin
from tests.integration.support import encode
from tests.integration.webhooks.calls import SECRET, URL, has_failed, hook, let_pass, nothing_waits
from tests.receiver import Receiver, Reply
from tests.service import SEND, Service, bearer, until

# Asking for it


async def test_how_long_is_too_long_has_bounds_at_every_door(service: Service, connection: asyncpg.Connection) -> None:
    refused: list[dict[str, object]] = [{"undelivered_after": value} for value in (9, 604_801, "60", 10.5, None, -1)]
    refused.append({"undelivered_after": 10, "ttl": 0})
    for fields in refused:
        answer = await service.post({"to": "alice", "type": "t", **fields})
        assert answer.status_code == 400, fields
        assert [error["pointer"] for error in answer.json()["errors"]] == ["/undelivered_after"], fields
    for value in (9, 604_801):
        with pytest.raises(asyncpg.InvalidParameterValueError, match="undelivered_after"):
            await connection.execute("SELECT notify.send('t', 'alice', undelivered_after => $1)", value)


async def test_a_batch_and_messagepack_may_ask_for_it(service: Service, connection: asyncpg.Connection) -> None:
    one = {"to": "alice", "type": "t", "undelivered_after": 604_800}
    answer = await service.client.post(
        "/v1/notifications/batch",
        content=msgspec.msgpack.encode({"notifications": [one, {"to": "bob", "type": "t"}]}),
        headers=bearer("shop", scope=SEND) | {"Content-Type": "application/msgpack"},
    )
    assert answer.status_code == 201
    [first, _] = answer.json()["ids"]
    assert [str(row[0]) for row in await connection.fetch("SELECT id FROM notify.deadline")] == [first]


# Setting it


UNFIT: list[tuple[dict[str, str], str]] = [
    ({"url": "http://shop.example/hook"}, "/url"),
    ({"url": "https://127.0.0.1/hook"}, "/url"),
    ({"url": "https://localhost/hook"}, "/url"),
    ({"url": "https://[::1]:8443/hook"}, "/url"),
    ({"url": "https://169.254.169.254/latest"}, "/url"),
    ({"url": "https://0x7f000001/hook"}, "/url"),
    ({"url": "nonsense"}, "/url"),
    ({}, "/url"),
    ({"url": URL, "secret": "whsec_short"}, "/secret"),
    ({"url": URL, "secret": "whsec_" + base64.b64encode(b"s" * 23).decode()}, "/secret"),
    ({"url": URL, "secret": "whsec_" + base64.b64encode(b"s" * 65).decode()}, "/secret"),
    ({"url": URL, "secret": base64.b64encode(b"s" * 32).decode()}, "/secret"),
    ({"url": URL, "scret": "x"}, "/scret"),
]


async def test_what_can_not_be_called_or_signed_is_refused(service: Service) -> None:
    for body, pointer in UNFIT:
        answer = await Admin(service).call("PUT", "/webhooks/shop", json=body)
        assert answer.status_code == 400, body
        assert [error["pointer"] for error in answer.json()["errors"]] == [pointer], body
    assert (await Admin(service).call("GET", "/webhooks/shop")).status_code == 404


async def test_an_admin_sets_looks_at_and_removes_it_and_the_secret_is_told_once(service: Service) -> None:
    for app in ("shop", "a/b", "..", "ü & co?"):
        admin, path = Admin(service), f"/webhooks/{encode(app)}"
        assert (await admin.call("GET", path)).status_code == 404
        first = await admin.act("PUT", path, json={"url": URL})
        assert (first["app"], first["url"]) == (app, URL)
        second = await admin.act("PUT", path, json={"url": URL})
        assert len(base64.b64decode(first["secret"].removeprefix("whsec_"), validate=True)) == 32
        assert first["secret"] != second["secret"]
        assert (await admin.act("PUT", path, json={"url": URL, "secret": SECRET}))["secret"] == SECRET
        looked = await admin.call("GET", path)
        listed = await admin.call("GET", "/webhooks")
        audited = await admin.call("GET", "/audit", params={"target": app})
        assert looked.json()["url"] == listed.json()["items"][0]["url"] == URL
        assert looked.json()["set_by"] == "root"
        for answer in (looked, listed, audited):
            assert "whsec_" not in answer.text
            assert "secret" not in answer.text
        await admin.act("DELETE", path, status=204)
        await admin.act("DELETE", path, status=204)
        assert (await admin.call("GET", path)).status_code == 404
        items = (await admin.get("/audit", target=app))["items"]
        assert [item["action"] for item in items] == ["remove webhook", *["set webhook"] * 3]
        assert "hunter2" not in str(items)


async def test_looking_needs_the_right_to_act_since_a_url_may_hold_a_credential(service: Service) -> None:
    for scope in (READ, SEND, ""):
        for method, path in (("GET", "/webhooks"), ("GET", "/webhooks/shop"), ("DELETE", "/webhooks/shop")):
            assert (await Admin(service, scope).call(method, path)).status_code == 403
        assert (await Admin(service, scope).call("PUT", "/webhooks/shop", json={"url": URL})).status_code == 403


async def test_webhooks_are_listed_in_pages(service: Service) -> None:
    for app in ("a", "b", "c"):
        await Admin(service).act("PUT", f"/webhooks/{app}", json={"url": URL})
    first = await Admin(service).get("/webhooks", limit=2)
    rest = await Admin(service).get("/webhooks", limit=2, cursor=first["next"])
    assert [item["app"] for item in first["items"] + rest["items"]] == ["a", "b", "c"]
    assert rest["next"] is None


async def test_another_receiver_gets_what_waits_at_once_and_without_one_it_is_gone(
    node: Service, connection: asyncpg.Connection, receiver: Receiver
) -> None:
    async with Receiver(plain=True) as broken:
        broken.reply = Reply(503, {"Retry-After": "3600"})
        await hook(node, broken.url)
        sent = await node.send("alice", undelivered_after=10)
        await let_pass(connection)
        await broken.take()
        await until(lambda: has_failed(connection))
        receiver.reply = Reply(500)
        await hook(node, receiver.url)
        assert (await receiver.take()).headers["webhook-id"] == sent
    await until(lambda: has_failed(connection, 2))
    await Admin(node).act("DELETE", "/webhooks/shop", status=204)
    assert await nothing_waits(connection)
    [act, *_] = await node.store.audit.page(limit=1)
    assert (act.action, act.affected) == ("remove webhook", 1)
