"""Whoever subscribes to Web Push, as the tests play it: a browser's keys, its subscription, and the way to a push service."""

import json
from typing import Any

import asyncpg
import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from notify.outbound import Outbound
from notify.webpush import derive, encode_base64url, load_point, write_point
from tests.receiver import Receiver
from tests.service import Service, bearer, until

PATH = "/v1/push/subscriptions"


class Browser:
    """A browser that is subscribed at a push service, and reads what comes from there (RFC 8291, the other way round)."""

    def __init__(self, push_service: Receiver, name: str = "1") -> None:
        self.endpoint = f"{push_service.url}/send/{name}"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._auth = b"an auth secret.."

    def describe(self, **fields: object) -> dict[str, object]:
        """Return what `PushSubscription.toJSON()` does."""
        keys = {"p256dh": encode_base64url(write_point(self._key)), "auth": encode_base64url(self._auth)}
        return {"endpoint": self.endpoint, "expirationTime": None, "keys": keys, **fields}

    def read(self, body: bytes) -> Any:
        salt, size, theirs, record = body[:16], body[16:20], body[21 : 21 + body[20]], body[21 + body[20] :]
        assert int.from_bytes(size, "big") >= len(record)
        shared = self._key.exchange(ec.ECDH(), load_point(theirs))
        material = derive(shared, self._auth, b"WebPush: info\0" + write_point(self._key) + theirs, 32)
        key = derive(material, salt, b"Content-Encoding: aes128gcm\0", 16)
        nonce = derive(material, salt, b"Content-Encoding: nonce\0", 12)
        plaintext = AESGCM(key).decrypt(nonce, record, None)
        assert plaintext.endswith(b"\x02")
        return json.loads(plaintext[:-1])


def lead_to(push_service: Receiver, service: Service) -> Service:
    """Let a service find its way to the push service of the test."""
    service.app.outbound = Outbound(allow_private=True, resolve=lambda *_: ["127.0.0.1"], trust=push_service.trust)
    return service


async def list_endpoints(connection: asyncpg.Connection, user: str = "alice") -> list[str]:
    rows = await connection.fetch(
        "SELECT endpoint FROM notify.push_subscription WHERE user_id = $1 ORDER BY seen_at", user
    )
    return [row["endpoint"] for row in rows]


async def put(service: Service, subscription: object, user: str = "alice") -> httpx.Response:
    return await service.client.put(PATH, json=subscription, headers=bearer(user))


async def subscribe(service: Service, browser: Browser, user: str = "alice") -> None:
    answer = await put(service, browser.describe(), user)
    assert answer.status_code == 204, answer.text


async def is_settled(connection: asyncpg.Connection, seq: int) -> bool:
    """Whether every subscription is done with up to a seq, and nothing is claimed or waiting."""
    unsettled = "SELECT count(*) FROM notify.push_subscription WHERE pushed_to < $1 OR next_at IS NOT NULL"
    return not await connection.fetchval(unsettled, seq)


async def settled(connection: asyncpg.Connection, seq: int) -> None:
    await until(lambda: is_settled(connection, seq))


async def take(push_service: Receiver, browser: Browser) -> Any:
    return browser.read((await push_service.take()).body)


async def looked_at(service: Service, push_service: Receiver) -> None:
    """Return when all who were woken so far have been looked at, and nothing came of it: somebody woken later got a push."""
    browser = Browser(push_service, "canary")
    await subscribe(service, browser, "canary")
    await service.send("canary")
    request = await push_service.take()
    assert request.target == "/send/canary"
    answer = await service.client.request("DELETE", PATH, json=browser.describe(), headers=bearer("canary"))
    assert answer.status_code == 204
    assert push_service.requests.empty()
