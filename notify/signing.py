"""Signing webhooks, so that a receiver knows who calls: Standard Webhooks 1.0.

Pure. The secret is shared with the receiver, which computes the same signature over the very bytes it got and compares.
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Mapping

PREFIX = "whsec_"
"""What a secret begins with where people handle it, so that it is known for one."""

SECRET_BYTES = 32
SHORTEST, LONGEST = 24, 64
"""Bytes of a secret that is made here, and of one that is taken (the specification's bounds)."""


def mint_secret() -> bytes:
    """Return a new secret."""
    return secrets.token_bytes(SECRET_BYTES)


def write_secret(secret: bytes) -> str:
    """Return a secret as people hand it on."""
    return PREFIX + base64.b64encode(secret).decode()


def read_secret(text: str) -> bytes:
    """Return what `write_secret` was given. Raises ValueError that says what is wrong without quoting any of it."""
    if not text.startswith(PREFIX):
        raise ValueError(f"must begin with {PREFIX}")
    try:
        secret = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        raise ValueError(f"must be base64 after {PREFIX}") from None
    if not SHORTEST <= len(secret) <= LONGEST:
        raise ValueError(f"must hold {SHORTEST} to {LONGEST} bytes")
    return secret


def sign(secret: bytes, message: str, timestamp: int, body: bytes) -> Mapping[str, str]:
    """Return the headers of one attempt at `timestamp` (unix seconds). `message` is the same for every attempt at it."""
    digest = hmac.digest(secret, f"{message}.{timestamp}.".encode() + body, hashlib.sha256)
    return {
        "webhook-id": message,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
