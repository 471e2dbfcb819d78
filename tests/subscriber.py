"""Whoever subscribes to Web Push, as the tests play it: a browser's keys, and the way to a push service of the test's own."""

import json
from typing import Any

import asyncpg
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from notify.outbound import Outbound
from notify.webpush import derive, encode_base64url, load_point, write_point
from tests.receiver import Receiver
from tests.service import Service


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
