"""Web Push, as push services and browsers expect it: encryption (RFC 8291), identification (RFC 8292), topics (RFC 8030).

Keeps the promise that a push service never learns what it passes on: only the browser that subscribed can read it. Pure but
for `Signer`, which keeps the one key that all nodes identify themselves with. On the `cryptography` package alone: the
libraries for this bring two HTTP clients, of which none may be used, since requests to other people's URLs go through
outbound.py.
"""

import asyncio
import base64
import binascii
import hmac
import os
from collections.abc import Awaitable, Callable
from typing import Final, Self

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from notify import clock
from notify.errors import ConfigurationError, NotifyError
from notify.settings import Settings, read_pem

RECORD_BYTES: Final = 4_096  # bytes of a whole message that every push service takes (RFC 8030, section 7.2)
OVERHEAD: Final = (
    16 + 4 + 1 + 65 + 1 + 16
)  # bytes: salt, record size, key length, key, delimiter, tag (RFC 8188, section 2)
MAX_PLAINTEXT: Final = RECORD_BYTES - OVERHEAD  # bytes that fit into one record

POINT_BYTES: Final = 65  # an uncompressed point of P-256
AUTH_BYTES: Final = 16
SCALAR_BYTES: Final = 32
LIFETIME: Final = 12 * 3_600  # seconds a signature is good for; at most 24 hours (RFC 8292, section 2)
TOPIC_BYTES: Final = 24  # of a hash: 32 characters in base64url, as many as a topic may have (RFC 8030, section 5.4)

CURVE: Final = ec.SECP256R1()


class UnusableSubscription(NotifyError):
    """A browser's keys with which nothing can be encrypted. `field` is the one; the message is safe to show."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(detail)
        self.field = field


class Subscription(msgspec.Struct, frozen=True):
    """Where and how one browser is reached. `endpoint` is a secret: whoever knows it may try to push there."""

    endpoint: str
    p256dh: bytes
    auth: bytes


def encode_base64url(data: bytes) -> str:
    """Write bytes as base64url without padding (RFC 7515, section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode_base64url(text: str) -> bytes:
    """Read base64url, padded or not, and plain base64, which some libraries write. Raises ValueError."""
    text = text.rstrip("=").translate(str.maketrans("+/", "-_"))
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars="-_", validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not base64url") from None


def read_subscription(endpoint: str, p256dh: str, auth: str) -> Subscription:
    """Read a browser's keys. Raises UnusableSubscription."""
    try:
        point = decode_base64url(p256dh)
        load_point(point)
    except ValueError:
        raise UnusableSubscription(
            "p256dh", "is not a public key: an uncompressed point of P-256 in base64url"
        ) from None
    try:
        secret = decode_base64url(auth)
    except ValueError:
        secret = b""
    if len(secret) != AUTH_BYTES:
        raise UnusableSubscription("auth", f"is not a secret of {AUTH_BYTES} bytes in base64url")
    return Subscription(endpoint, point, secret)


def load_point(point: bytes) -> ec.EllipticCurvePublicKey:
    """Return the public key that a point is. Raises ValueError when it is none."""
    if len(point) != POINT_BYTES:
        raise ValueError("not an uncompressed point of P-256")
    return ec.EllipticCurvePublicKey.from_encoded_point(CURVE, point)


def write_point(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the public half of a key as a point."""
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def encrypt(
    plaintext: bytes,
    subscription: Subscription,
    *,
    key: ec.EllipticCurvePrivateKey | None = None,
    salt: bytes | None = None,
) -> bytes:
    """Return the body of a push message: `aes128gcm`, one record (RFC 8291, section 3.4).

    `key` and `salt` are made afresh for each message, but for the RFC's own example. Raises ValueError for more than
    MAX_PLAINTEXT bytes.
    """
    if len(plaintext) > MAX_PLAINTEXT:
        raise ValueError(f"{len(plaintext)} bytes don't fit into a push message")
    key = key or ec.generate_private_key(CURVE)
    salt = salt or os.urandom(16)
    ours = write_point(key)
    shared = key.exchange(ec.ECDH(), load_point(subscription.p256dh))
    material = derive(shared, subscription.auth, b"WebPush: info\0" + subscription.p256dh + ours, 32)
    content_key = derive(material, salt, b"Content-Encoding: aes128gcm\0", 16)
    nonce = derive(material, salt, b"Content-Encoding: nonce\0", 12)
    # The delimiter says that this record is the last (RFC 8188, section 2).
    record = AESGCM(content_key).encrypt(nonce, plaintext + b"\x02", None)
    return salt + RECORD_BYTES.to_bytes(4, "big") + bytes([len(ours)]) + ours + record


def derive(material: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """Return so many bytes of HKDF-SHA-256 (RFC 5869)."""
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(material)


def name_topic(subscription: Subscription, collapse_key: str) -> str:
    """Return the topic under which a push service replaces what it has not delivered; nobody can guess the key from it."""
    return encode_base64url(hmac.digest(subscription.auth, collapse_key.encode(), "sha256")[:TOPIC_BYTES])


class Vapid:
    """The key this service identifies itself with to push services (RFC 8292)."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, subject: str = "") -> None:
        self._key = key
        self._subject = subject
        self.public_key = encode_base64url(write_point(key))
        """What a browser subscribes with: its `applicationServerKey`."""

    @classmethod
    def from_scalar(cls, scalar: bytes, subject: str = "") -> Self:
        """Make it of a private key's 32 bytes. Raises ValueError."""
        return cls(ec.derive_private_key(int.from_bytes(scalar, "big"), CURVE), subject)

    def authorize(self, audience: str) -> str:
        """Return the Authorization header for a push service, named by its origin."""
        claims: dict[str, object] = {"aud": audience, "exp": int(clock.now()) + LIFETIME}
        if self._subject:
            claims["sub"] = self._subject
        return f"vapid t={jwt.encode(claims, self._key, algorithm='ES256')}, k={self.public_key}"


def mint_scalar() -> bytes:
    """Make a private key, as its 32 bytes."""
    return ec.generate_private_key(CURVE).private_numbers().private_value.to_bytes(SCALAR_BYTES, "big")


def read_private_key(value: str, name: str = "NOTIFY_VAPID_PRIVATE_KEY") -> ec.EllipticCurvePrivateKey:
    """Read a private key of P-256: its 32 bytes in base64url, a PEM or the path of one. Raises ConfigurationError."""
    try:
        scalar = decode_base64url(value.strip())
    except ValueError:
        scalar = b""
    try:
        if len(scalar) == SCALAR_BYTES:
            return ec.derive_private_key(int.from_bytes(scalar, "big"), CURVE)
        key = load_pem_private_key(read_pem(value).encode(), password=None)
    except OSError:
        raise ConfigurationError(f"{name} is neither a key in base64url or PEM nor a file that can be read") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it has a password
        raise ConfigurationError(f"{name} can't be used: it is damaged, or of an unknown kind") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigurationError(f"{name} is not a key of EC P-256, the only kind that push services take")
    return key


class Signer:
    """Knows the service's key: the operator's, or else one that is minted once for all nodes.

    `keep` stores a private key unless there is one already, and returns the one that is stored.
    """

    def __init__(self, settings: Settings, keep: Callable[[bytes], Awaitable[bytes]]) -> None:
        self._subject = settings.vapid_subject
        self._keep = keep
        self._vapid: Vapid | None = None
        self._asking = asyncio.Lock()
        if secret := settings.vapid_private_key.get_secret_value():
            self._vapid = Vapid(read_private_key(secret), self._subject)

    async def get(self) -> Vapid:
        """Return the key. Raises what `keep` raises."""
        async with self._asking:
            if self._vapid is None:
                self._vapid = Vapid.from_scalar(await self._keep(mint_scalar()), self._subject)
            return self._vapid
