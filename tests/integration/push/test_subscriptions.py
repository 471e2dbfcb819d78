"""Browsers are subscribed by their users alone, once, a few of them each, and never at an address inside."""

import asyncio
from collections.abc import Sequence

import asyncpg
import httpx
import pytest

from notify.outbound import Outbound
from notify.webpush import decode_base64url
from tests.admin import Admin
from tests.integration.support import from_now
from tests.receiver import Receiver
from tests.service import Service, bearer, until
from tests.subscriber import PATH, Browser, list_endpoints, looked_at, put, settled, subscribe


async def test_an_endpoint_inside_is_refused(
    database_url: str, push_service: Receiver, connection: asyncpg.Connection
) -> None:
    browser = Browser(push_service)
    addresses: list[str] = ["10.0.0.1"]
    service = Service(database_url)
    service.app.outbound = Outbound(allow_private=False, resolve=lambda *_: addresses, trust=push_service.trust)
    async with service:
        for endpoint in (
            browser.endpoint,
            "https://127.0.0.1/send/1",
            "https://[::1]/send/1",
            "https://169.254.169.254/latest/meta-data/",
            "http://push.example.net/send/1",
            "https://localhost/send/1",
        ):
            answer = await put(service, browser.describe(endpoint=endpoint))
            assert answer.status_code == 400
            assert answer.json()["errors"][0]["pointer"] == "/endpoint"
        # One that leads inside only later, when it is pushed to, gets no farther.
        addresses[:] = ["8.8.8.8"]
        await subscribe(service, browser)
        addresses[:] = ["127.0.0.1"]
        await service.send("alice")

        async def has_failed() -> bool:
            return bool(await connection.fetchval("SELECT attempts FROM notify.push_subscription"))

        await until(has_failed)
    assert not push_service.connections


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"endpoint": 7}, "/endpoint"),
        ({"keys": {"p256dh": "AAAA", "auth": "BTBZMqHH6r4Tts7J_aSIgg"}}, "/keys/p256dh"),
        ({"keys": {"auth": "BTBZMqHH6r4Tts7J_aSIgg"}}, "/keys/p256dh"),
        ({"expirationTime": 1_000}, "/expirationTime"),
    ],
)
async def test_what_is_no_subscription_is_refused_by_field(
    service: Service, push_service: Receiver, fields: dict[str, object], pointer: str
) -> None:
    answer = await put(service, Browser(push_service).describe(**fields, contentEncodings=["aes128gcm"]))
    assert answer.status_code == 400
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


async def test_a_browser_is_subscribed_once_and_for_its_last_user(
    service: Service, push_service: Receiver, connection: asyncpg.Connection
) -> None:
    browser = Browser(push_service)
    await subscribe(service, browser, "bob")
    await service.send("bob", "for bob", deliver_at=from_now(3600))
    for _ in range(2):
        await subscribe(service, browser, "alice")
    assert await list_endpoints(connection, "bob") == []
    await service.send(["alice", "bob"], "for both")
    await push_service.take()
    await settled(connection, 1)
    assert push_service.requests.empty()
    # Only her own browser can she unsubscribe.
    for user, left in (("bob", 1), ("alice", 0), ("alice", 0)):
        answer = await service.client.request("DELETE", PATH, json=browser.describe(), headers=bearer(user))
        assert answer.status_code == 204
        assert len(await list_endpoints(connection)) == left


async def test_unsubscribing_takes_a_parameter_as_well(
    service: Service, push_service: Receiver, connection: asyncpg.Connection
) -> None:
    browser = Browser(push_service)
    await subscribe(service, browser)
    answer = await service.client.delete(PATH, headers=bearer("alice"))
    assert answer.status_code == 400
    answer = await service.client.delete(PATH, params={"endpoint": browser.endpoint}, headers=bearer("alice"))
    assert answer.status_code == 204
    assert await list_endpoints(connection) == []


async def test_a_user_has_only_so_many(
    service: Service, push_service: Receiver, connection: asyncpg.Connection
) -> None:
    browsers = [Browser(push_service, str(number)) for number in range(5)]
    for browser in browsers:
        await subscribe(service, browser)
    assert await list_endpoints(connection) == [browser.endpoint for browser in browsers[2:]]
    await service.send("alice")
    assert (await Admin(service).get("/queues/alice"))["push_subscriptions"] == 3


async def test_erasing_or_denying_a_user_ends_it(
    service: Service, push_service: Receiver, connection: asyncpg.Connection
) -> None:
    admin = Admin(service)
    await subscribe(service, Browser(push_service))
    await admin.act("PUT", "/denylist/sub/alice", status=204)
    await service.send("alice")
    await looked_at(service, push_service)
    await admin.act("DELETE", "/users/alice")
    assert await list_endpoints(connection) == []


async def test_all_nodes_have_the_same_key(database_url: str) -> None:
    async with Service(database_url) as one, Service(database_url) as other:
        answers: Sequence[httpx.Response] = await asyncio.gather(
            *(node.client.get("/v1/push/key", headers=bearer("alice")) for node in (one, other))
        )
    keys = {answer.json()["key"] for answer in answers}
    assert len(keys) == 1
    assert len(decode_base64url(keys.pop())) == 65
