"""The keys tokens are checked with, and where they come from.

Three promises. A key only ever checks the one algorithm its type is for, so no header talks a public key into being
an HMAC secret (RFC 8725, section 3.1). Keys once held keep working while their issuer is slow or down, and stop as
soon as the issuer's document no longer has them. And nobody outside sets the pace at which that document is fetched.
"""

import asyncio
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit
from urllib.request import url2pathname

import httpx
import jwt
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from jwt.algorithms import HMACAlgorithm

from notify.errors import ConfigurationError, NotifyError
from notify.settings import Settings, read_pem

MIN_SECRET_BYTES: Final = 32  # bytes; as many as the hash of HS256 has (RFC 7518, section 3.2)
MIN_RSA_BITS: Final = 2048  # bits (RFC 7518, section 3.3)
MAX_JWKS_BYTES: Final = 1024 * 1024  # bytes; real ones have a few KiB, so this only stops a runaway
MAX_JWKS_KEYS: Final = 64  # keys; a token without a `kid` is tried with each of them, on the event loop
FETCH_TIMEOUT: Final = 5.0  # seconds for a whole fetch; a sign-in that had to wait for it can bear that long
MAX_AGE: Final = 600.0  # seconds; how long a key its issuer has withdrawn may go on working here
UNKNOWN_KID_INTERVAL: Final = 30.0  # seconds; anyone can invent a `kid`, so this is the most they can make us ask
RETRY_INTERVAL: Final = 5.0  # seconds between attempts while there are no keys yet and nobody gets in

NO_SUCH_TYPE: Final = "it is none of RSA, EC P-256 and Ed25519"
_PEM_BLOCK = re.compile(r"-----BEGIN (?P<label>[A-Z0-9 ]+)-----.*?-----END (?P=label)-----", re.DOTALL)

log = structlog.get_logger()


class UnusableKey(NotifyError):
    """A key, or a document of keys, that can't be used. The message says why, in our words: it is safe to show."""


class Algorithm(StrEnum):
    """The signature algorithms there are here, by their `alg` names (RFC 7518, section 3.1; RFC 8037)."""

    HS256 = "HS256"
    RS256 = "RS256"
    ES256 = "ES256"
    EDDSA = "EdDSA"


ALGORITHM_BY_JWK: Final = {  # by `kty` and `crv`
    ("RSA", None): Algorithm.RS256,
    ("EC", "P-256"): Algorithm.ES256,
    ("OKP", "Ed25519"): Algorithm.EDDSA,
}

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class Key:
    """One key and the one algorithm it checks. Two are equal when they are the same key under the same `kid`."""

    algorithm: Algorithm
    kid: str | None
    fingerprint: bytes = field(repr=False)
    material: PublicKey | bytes = field(compare=False, repr=False)

    def __hash__(self) -> int:
        """Return what bytes remember: each token that was verified before is looked up by its key."""
        return hash(self.fingerprint)


def choose_algorithm(material: object) -> Algorithm:
    """Return the algorithm a public key is for. Raises UnusableKey."""
    match material:
        case RSAPublicKey() if material.key_size < MIN_RSA_BITS:
            raise UnusableKey(f"the RSA key has {material.key_size} bits and needs at least {MIN_RSA_BITS}")
        case RSAPublicKey():
            return Algorithm.RS256
        case EllipticCurvePublicKey() if isinstance(material.curve, SECP256R1):
            return Algorithm.ES256
        case Ed25519PublicKey():
            return Algorithm.EDDSA
    raise UnusableKey(NO_SUCH_TYPE)


def read_secret(secret: str, name: str = "NOTIFY_JWT_SECRET") -> Key:
    """Make an HS256 key of a secret, which is used as the text it is (not base64-decoded).

    Raises ConfigurationError for one that is too short, or is a key rather than a secret.
    """
    material = secret.encode()
    try:
        HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(material)
    except jwt.InvalidKeyError:
        if material:
            raise ConfigurationError(
                f"{name} holds a key or certificate, not a secret. Public keys go in NOTIFY_JWT_PUBLIC_KEY."
            ) from None
    if len(material) < MIN_SECRET_BYTES:
        raise ConfigurationError(
            f"{name} has {len(material)} bytes; HS256 needs at least {MIN_SECRET_BYTES}. "
            "Make one with: openssl rand -base64 32"
        )
    return Key(Algorithm.HS256, None, hashlib.sha256(material).digest(), material)


def read_public_keys(pem: str, name: str = "NOTIFY_JWT_PUBLIC_KEY") -> list[Key]:
    """Read every public key of a PEM text (RFC 7468); several while rotating. Raises ConfigurationError."""
    keys = []
    for block in _PEM_BLOCK.finditer(pem):
        label = block["label"]
        if "PRIVATE" in label:
            raise ConfigurationError(
                f"{name} is a private key; the service needs only its public half: openssl pkey -in KEY.pem -pubout"
            )
        if "CERTIFICATE" in label:
            raise ConfigurationError(
                f"{name} is a certificate; take the key out of it with: openssl x509 -in CERT.pem -pubkey -noout"
            )
        try:
            keys.append(_make_key(load_pem_public_key(block[0].encode()), kid=None))
        except UnusableKey as error:
            raise ConfigurationError(f"{name} can't be used: {error}") from None
        except (ValueError, UnsupportedAlgorithm):
            raise ConfigurationError(f"{name} can't be used: it is damaged, or of an unknown kind") from None
    if not keys:
        raise ConfigurationError(f"{name} holds no PEM public key (-----BEGIN PUBLIC KEY-----).")
    return keys


def read_jwk(jwk: object) -> Key | None:
    """Read one JWK (RFC 7517); None when it is for something else. Raises UnusableKey when it is broken."""
    if not isinstance(jwk, dict):
        raise UnusableKey("it is not an object")
    if jwk.get("kty") == "oct" or jwk.get("use", "sig") != "sig":
        return None  # a symmetric key that was published is no secret; an encryption key signs nothing
    if isinstance(operations := jwk.get("key_ops"), list) and "verify" not in operations:
        return None
    kid = jwk.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise UnusableKey("its kid is not a string")
    if "d" in jwk:
        raise UnusableKey("it is a private key, and whoever reads the document can sign with it")
    kind, curve = jwk.get("kty"), jwk.get("crv")
    if not (isinstance(kind, str) and (curve is None or isinstance(curve, str))):
        raise UnusableKey("its kty or crv is not a string")
    algorithm = ALGORITHM_BY_JWK.get((kind, curve))
    if algorithm is None or jwk.get("alg", algorithm) != algorithm:
        return None
    try:
        material = jwt.PyJWK(jwk, algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, UnsupportedAlgorithm):
        raise UnusableKey("its numbers make no key") from None
    return _make_key(material, kid)


def read_jwks(document: bytes) -> list[Key]:
    """Read the keys of a JWKS document (RFC 7517, section 5), skipping the broken ones.

    Raises UnusableKey when the document itself is none.
    """
    if len(document) > MAX_JWKS_BYTES:
        raise UnusableKey(f"it has more than {MAX_JWKS_BYTES} bytes")
    try:
        jwks = json.loads(document)
    except (ValueError, RecursionError):
        raise UnusableKey("it is not JSON") from None
    if not (isinstance(jwks, dict) and isinstance(jwks.get("keys"), list)):
        raise UnusableKey('it is not an object with a list of "keys"')
    keys: dict[Key, None] = {}
    for position, jwk in enumerate(jwks["keys"]):
        if len(keys) == MAX_JWKS_KEYS:
            log.warning("key.skipped", position=position, reason=f"there are more than {MAX_JWKS_KEYS} keys")
            break
        try:
            key = read_jwk(jwk)
        except UnusableKey as error:
            log.warning("key.skipped", position=position, reason=str(error))
            continue
        if key is not None:
            keys[key] = None
    return list(keys)


async def fetch_jwks(url: str) -> bytes:
    """Fetch a JWKS document, or the first MiB of it. Redirects are not followed: they could lead off https.

    Raises UnusableKey, OSError or httpx.HTTPError. Put a bound on it: httpx times each read, not all of them.
    """
    if url.startswith("file:"):
        return await asyncio.to_thread(_read_file, url)
    body = bytearray()
    # Uncompressed, because a small answer that inflates would pass a limit on what arrives.
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    async with (
        httpx.AsyncClient(timeout=FETCH_TIMEOUT, follow_redirects=False) as client,
        client.stream("GET", url, headers=headers) as response,
    ):
        if response.is_redirect:
            raise UnusableKey("the server redirects, which is not followed; set the address it redirects to")
        if response.status_code != httpx.codes.OK:
            raise UnusableKey(f"the server answered {response.status_code}")
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > MAX_JWKS_BYTES:
                break  # no need for the rest: read_jwks refuses it
    return bytes(body)


class KeyRing:
    """The keys this process trusts: fixed ones, and those of a JWKS document, kept fresh.

    It lives in one event loop and owns at most one task, the refresh in flight, which every caller shares.
    """

    def __init__(
        self,
        keys: Iterable[Key] = (),
        *,
        jwks_url: str = "",
        clock: Callable[[], float] = time.monotonic,
        fetch_timeout: float = FETCH_TIMEOUT,
    ) -> None:
        """Hold `keys`, and fetch `jwks_url` (https, http, file) when first needed.

        Raises ConfigurationError for a URL that could never be fetched.
        """
        if jwks_url:
            _check_url(jwks_url)
        self._fixed = tuple(keys)
        self._trusted = dict.fromkeys(self._fixed)
        self._url = jwks_url
        self._clock = clock
        self._fetch_timeout = fetch_timeout
        self._loaded_at = self._tried_at = self._asked_at = float("-inf")
        self._refreshing: asyncio.Task[None] | None = None
        self._closed = False

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Read every key the settings name. Raises ConfigurationError; an issuer that is down raises nothing."""
        if not settings.has_key:
            raise ConfigurationError(
                "No key to check tokens with: set NOTIFY_JWT_SECRET (openssl rand -base64 32), "
                "NOTIFY_JWT_PUBLIC_KEY or NOTIFY_JWT_JWKS_URL."
            )
        keys = [
            read_secret(secret.get_secret_value(), f"NOTIFY_JWT_SECRET (number {number})")
            for number, secret in enumerate(settings.jwt_secret, start=1)
        ]
        if settings.jwt_public_key:
            try:
                pem = read_pem(settings.jwt_public_key)
            except (OSError, ValueError) as error:
                # The value stays out of the message: what is no path may be a key pasted without its frame.
                reason = error.strerror if isinstance(error, OSError) else "not text"
                raise ConfigurationError(f"NOTIFY_JWT_PUBLIC_KEY is neither PEM nor a file to read: {reason}") from None
            keys += read_public_keys(pem)
        return cls(keys, jwks_url=settings.jwt_jwks_url)

    @property
    def ready(self) -> bool:
        """Whether every source has given its keys at least once."""
        return not self._url or self._loaded_at > float("-inf")

    def __contains__(self, key: Key) -> bool:
        """Whether `key` is still trusted."""
        return key in self._trusted

    def find(self, algorithm: Algorithm, kid: str | None) -> list[Key]:
        """Return the keys that may have signed this: `kid` picks among those that have one, type among all."""
        fitting = (key for key in self._trusted if key.algorithm is algorithm)
        return [key for key in fitting if kid is None or key.kid in {None, kid}]

    def touch(self) -> None:
        """Start a refresh in the background if the keys are old; those there go on working meanwhile."""
        if self._url and self._in_flight() is None and self._is_due():
            self._start()

    async def learn(self, algorithm: Algorithm, kid: str | None) -> bool:
        """Ask the issuer for a key that is not here, if it may be asked again already.

        Takes at most two fetches' time. Tells whether it asked, so that another `find` may find more.
        """
        if not self._url or algorithm is Algorithm.HS256 or self._knows(kid):
            return False
        if (joined := self._in_flight()) is not None:
            await self._settle(joined)
            if self._knows(kid):
                return True
            # That one may have read the document before the key was in it, so one of our own may follow.
        if (own := self._in_flight() or self._ask()) is not None:
            await self._settle(own)
        return (joined or own) is not None

    async def refresh(self) -> bool:
        """Fetch now, or join the fetch in flight; for start-up and `notify doctor`. Tells whether it worked."""
        if not self._url or self._closed:
            return self.ready
        await self._settle(self._in_flight() or self._start())
        return self._loaded_at >= self._tried_at

    async def close(self) -> None:
        """End the refresh in flight; none starts any more."""
        self._closed = True
        if (task := self._in_flight()) is not None:
            task.cancel()
            await self._settle(task)

    def _knows(self, kid: str | None) -> bool:
        return kid is not None and any(key.kid == kid for key in self._trusted)

    def _is_due(self) -> bool:
        now = self._clock()
        if not self.ready:
            return now - self._tried_at >= RETRY_INTERVAL
        return now - self._loaded_at >= MAX_AGE and now - self._tried_at >= UNKNOWN_KID_INTERVAL

    def _ask(self) -> asyncio.Task[None] | None:
        now = self._clock()
        last, pause = (self._asked_at, UNKNOWN_KID_INTERVAL) if self.ready else (self._tried_at, RETRY_INTERVAL)
        if now - last < pause:
            return None
        if self.ready:  # a made-up kid uses up the turn, but brings everyone's new keys: it locks nobody out
            self._asked_at = now
        return self._start()

    def _in_flight(self) -> asyncio.Task[None] | None:
        task = self._refreshing
        return None if task is None or task.done() else task

    def _start(self) -> asyncio.Task[None] | None:
        if self._closed:
            return None
        self._tried_at = self._clock()
        self._refreshing = asyncio.create_task(self._replace(), name="notify-key-refresh")
        return self._refreshing

    async def _settle(self, task: asyncio.Task[None] | None) -> None:
        # asyncio.wait, because it neither cancels the task with its caller nor hands the task's end on to it.
        if task is not None:
            await asyncio.wait({task}, timeout=2 * self._fetch_timeout)

    async def _replace(self) -> None:
        try:
            async with asyncio.timeout(self._fetch_timeout):
                fetched = read_jwks(await fetch_jwks(self._url))
        except (UnusableKey, httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError) as error:
            # The messages of others may hold the URL, and that a password.
            reason = str(error) if isinstance(error, UnusableKey) else type(error).__name__
            log.warning("key.refresh_failed", reason=reason, keys_kept=len(self._trusted))
            return
        before = set(self._trusted)
        self._trusted = dict.fromkeys((*self._fixed, *fetched))
        self._loaded_at = self._clock()
        after = set(self._trusted)
        if not fetched:
            log.warning("key.none_usable", removed=len(before - after))
        elif before != after:
            log.info("key.refreshed", added=len(after - before), removed=len(before - after), keys=len(after))


def _make_key(material: object, kid: str | None) -> Key:
    if not isinstance(material, PublicKey):
        raise UnusableKey(NO_SUCH_TYPE)
    der = material.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Key(choose_algorithm(material), kid, hashlib.sha256(der).digest(), material)


def _check_url(url: str) -> None:
    with suppress(ValueError):  # from urlsplit, for brackets that hold no address
        parts = urlsplit(url)
        local = parts.scheme == "file" and parts.netloc in {"", "localhost"} and parts.path
        if local or (parts.scheme in {"https", "http"} and parts.hostname):
            return
    raise ConfigurationError(
        "NOTIFY_JWT_JWKS_URL must be an https, http or file URL, such as https://id.example.com/.well-known/jwks.json"
    )


def _read_file(url: str) -> bytes:
    path = Path(url2pathname(urlsplit(url).path))
    if not path.is_file():  # a pipe or a terminal would block the thread for good
        raise UnusableKey("there is no such file")
    with path.open("rb") as file:
        return file.read(MAX_JWKS_BYTES + 1)
