"""Tokens as the tests sign them, whatever they say, and a verifier at a time of its own."""

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest

from notify.auth import Authenticator
from notify.errors import InvalidToken
from notify.keys import KeyRing, read_secret
from tests.keys import SECRET

NOW = 1_800_000_000.0  # unix seconds


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign_raw(header: bytes, payload: bytes, secret: bytes = SECRET.encode()) -> str:
    """Sign anything at all with HMAC, past every check a library makes when it signs."""
    signed = f"{b64(header)}.{b64(payload)}"
    return f"{signed}.{b64(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


def sign(claims: dict[str, Any] | None = None, *, header: dict[str, Any] | None = None, **more: Any) -> str:
    """Sign claims as they are; by default alice's for an hour."""
    claims = {"sub": "alice", "exp": NOW + 3600} if claims is None else claims
    return sign_raw(json.dumps({"alg": "HS256"} | (header or {})).encode(), json.dumps(claims | more).encode())


def with_secret(**options: Any) -> Authenticator:
    return Authenticator(KeyRing([read_secret(SECRET)]), **({"clock": Clock()} | options))


async def refused(token: str, authenticator: Authenticator | None = None) -> str:
    authenticator = authenticator or with_secret()
    with pytest.raises(InvalidToken) as refusal:
        await authenticator.verify(token)
    assert authenticator.recall(token) is None, "a refused token was remembered"
    return str(refusal.value)
