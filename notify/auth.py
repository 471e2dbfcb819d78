"""Tokens: who is calling, and what they may do (contract, section 3).

Promise: whatever text arrives, the answer is an `Identity` whose every field has been checked, or `InvalidToken` with
a reason that is safe to show; no reason, log line or cache ever holds a token. The order is that of RFC 8725: size and
shape first, then the signature by a key whose type fits `alg`, and only then the claims.
"""

import hashlib
import json
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final, NamedTuple, Self

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt.algorithms import HMACAlgorithm

from notify import clock
from notify.errors import ConfigurationError, InvalidToken
from notify.keys import NO_SUCH_TYPE, Algorithm, Key, KeyRing, UnusableKey, choose_algorithm, read_secret
from notify.settings import Settings

MAX_TOKEN_BYTES: Final = 4_096  # bytes; a browser sends it in a header line, and those end at about 8 KiB
LEEWAY: Final = 30.0  # seconds; what the clocks of two well-kept machines and a slow network may differ by
MAX_SUBJECT: Final = 255  # characters; a subject is a user id or an app id, and those have no more
CACHE_SIZE: Final = 16_384  # identities; about 1 KiB each, and more than the sockets a process usually has
LAST_SECOND: Final = 253_402_300_799.0  # unix seconds; 9999-12-31, the last day RFC 3339 can write
HEADERS: Final = 64  # remembered; the tokens of an issuer have the same one for each of its keys
SEGMENTS: Final = 3  # header, payload, signature (RFC 7515, section 7.1); an encrypted token has 5

# Unicode's Cc, which never grows, and lone surrogates, which no database takes.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class _Hmac(HMACAlgorithm):
    """HMAC with secrets that read_secret has looked at; PyJWT looks again, at each token, whether one is a key in disguise."""

    def prepare_key(self, key: str | bytes) -> bytes:
        """Take it as it is."""
        return key if isinstance(key, bytes) else key.encode()


_signatures = jwt.PyJWS(algorithms=[str(algorithm) for algorithm in Algorithm if algorithm is not Algorithm.HS256])
_signatures.register_algorithm(Algorithm.HS256, _Hmac(HMACAlgorithm.SHA256))


class Scope(StrEnum):
    """What a token may allow, as words of its `scope` claim (RFC 8693, section 4.2)."""

    RECEIVE = "notifications:receive"
    SEND = "notifications:send"
    QUEUES_READ = "queues:read"
    QUEUES_WRITE = "queues:write"


KNOWN_SCOPES: Final = frozenset(str(scope) for scope in Scope)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a verified token speaks for, and until when.

    `scopes` are the known ones the token has, `expires_at` its `exp` in unix seconds, `token_id` its `jti`.
    """

    subject: str
    scopes: frozenset[str]
    expires_at: float
    token_id: str | None

    def may(self, scope: Scope) -> bool:
        """Tell whether the token allows this. One without any of our scopes is a user's, and may receive."""
        if scope in self.scopes:
            return True
        if scope is Scope.RECEIVE:
            return not self.scopes
        return scope is Scope.QUEUES_READ and Scope.QUEUES_WRITE in self.scopes


class DenyList:
    """Whom an admin has locked out: tokens by their subject or by their `jti`. A copy of what the database holds."""

    def __init__(self) -> None:
        self._subjects: frozenset[str] = frozenset()
        self._token_ids: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self._subjects) + len(self._token_ids)

    def replace(self, entries: Iterable[tuple[str, str]]) -> bool:
        """Take a new copy, of (`sub` or `jti`, value). Returns whether it denies anybody whom the old one did not."""
        entries = list(entries)
        subjects = frozenset(value for kind, value in entries if kind == "sub")
        token_ids = frozenset(value for kind, value in entries if kind == "jti")
        grown = not (subjects <= self._subjects and token_ids <= self._token_ids)
        self._subjects, self._token_ids = subjects, token_ids
        return grown

    def denies(self, identity: Identity) -> bool:
        """Tell whether a token that says this is refused."""
        return identity.subject in self._subjects or identity.token_id in self._token_ids


class _Remembered(NamedTuple):
    identity: Identity
    key: Key  # which signed the token: once it is withdrawn, the identity is not believed either


class Authenticator:
    """Turns tokens into identities. Use it from one event loop."""

    def __init__(
        self, keys: KeyRing, *, issuer: str = "", audience: str = "", clock: Callable[[], float] = clock.now
    ) -> None:
        """Check with `keys`, of which it becomes the owner; empty `issuer` and `audience` are not checked."""
        self.keys = keys
        self.denials = DenyList()
        self._issuer = issuer
        self._audience = audience
        self._clock = clock
        self._cache: OrderedDict[bytes, _Remembered] = OrderedDict()

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Build one as the settings say. Raises ConfigurationError; an issuer that is down raises nothing."""
        keys = KeyRing.from_settings(settings)
        return cls(keys, issuer=settings.jwt_issuer, audience=settings.jwt_audience)

    async def verify(self, token: str) -> Identity:
        """Return who the token speaks for.

        Waits only for a key that is not here yet, and at most two fetches' time. Raises InvalidToken.
        """
        if (identity := self.recall(token)) is not None:
            return identity
        _check_shape(token)
        algorithm, kid = _read_header(token.partition(".")[0])
        found = _open(token, self.keys.find(algorithm, kid))
        if found is None and await self.keys.learn(algorithm, kid):
            found = _open(token, self.keys.find(algorithm, kid))
        if found is None:
            raise InvalidToken(
                "No key that is known here fits the token's signature."
                if self.keys.ready or algorithm is Algorithm.HS256
                else "The token can't be checked: the issuer's keys could not be fetched yet. Try again shortly."
            )
        payload, key = found
        identity = self._read_claims(payload)
        if self.denials.denies(identity):
            raise InvalidToken("An admin has denied this token.")
        self._remember(token, _Remembered(identity, key))
        return identity

    def recall(self, token: str) -> Identity | None:
        """Return the identity of a token verified before, if it still holds; None says nothing against the token."""
        self.keys.touch()
        if len(token) > MAX_TOKEN_BYTES or not token.isascii():
            return None
        digest = _digest(token)
        remembered = self._cache.get(digest)
        if remembered is None:
            return None
        if (
            remembered.key not in self.keys
            or self._clock() >= remembered.identity.expires_at + LEEWAY
            or self.denials.denies(remembered.identity)
        ):
            del self._cache[digest]
            return None
        self._cache.move_to_end(digest)
        return remembered.identity

    def forget(self, predicate: Callable[[Identity], bool]) -> None:
        """Drop the remembered identities that `predicate` picks: their tokens are verified afresh."""
        for digest in [digest for digest, remembered in self._cache.items() if predicate(remembered.identity)]:
            del self._cache[digest]

    async def close(self) -> None:
        """Forget everything and end what runs in the background."""
        self._cache.clear()
        await self.keys.close()

    def _remember(self, token: str, remembered: _Remembered) -> None:
        self._cache[_digest(token)] = remembered
        if len(self._cache) > CACHE_SIZE:
            self._cache.popitem(last=False)

    def _read_claims(self, payload: bytes) -> Identity:
        try:
            claims = json.loads(payload)
        except (ValueError, RecursionError):
            raise InvalidToken("The token's payload is not JSON.") from None
        if not isinstance(claims, dict):
            raise InvalidToken("The token's payload is not a JSON object.")
        expires_at = self._check_times(claims)
        if self._issuer and claims.get("iss") != self._issuer:
            raise InvalidToken("The token's `iss` is not the issuer this service trusts.")
        if self._audience and not _is_for(self._audience, claims.get("aud")):
            raise InvalidToken("The token's `aud` does not name this service.")
        token_id = claims.get("jti")
        if token_id is not None and not (isinstance(token_id, str) and _UNPRINTABLE.search(token_id) is None):
            raise InvalidToken("The token's `jti` must be text without control characters.")
        return Identity(_read_subject(claims.get("sub")), _read_scopes(claims), expires_at, token_id)

    def _check_times(self, claims: dict[str, object]) -> float:
        now = self._clock()
        expires_at = _read_time(claims, "exp")
        if expires_at is None:
            raise InvalidToken("The token has no `exp`; one that never expires is not taken.")
        if now >= expires_at + LEEWAY:
            raise InvalidToken("The token has expired.")
        for name in ("nbf", "iat"):
            starts_at = _read_time(claims, name)
            if starts_at is not None and now < starts_at - LEEWAY:
                raise InvalidToken(f"The token is not valid yet: its `{name}` is in the future. Are the clocks right?")
        return min(expires_at, LAST_SECOND)


def mint(  # noqa: PLR0913 - one keyword a claim
    secret: str,
    *,
    subject: str,
    scope: str = "",
    ttl: int = 3600,
    issuer: str = "",
    audience: str = "",
    token_id: str | None = None,
) -> str:
    """Make an HS256 token that is valid for `ttl` seconds, for `notify token` and `notify dev`.

    Raises ConfigurationError for an unfit secret and InvalidToken for a token that would be refused.
    """
    read_secret(secret)
    claims = _make_claims(subject, ttl, {"scope": scope, "iss": issuer, "aud": audience, "jti": token_id})
    return _check_shape(jwt.encode(claims, secret, Algorithm.HS256))


def mint_with_key(  # noqa: PLR0913 - one keyword a claim
    private_pem: str,
    *,
    subject: str,
    scope: str = "",
    ttl: int = 3600,
    issuer: str = "",
    audience: str = "",
    token_id: str | None = None,
) -> str:
    """Make the same with a private key, by its type: RSA is RS256, EC P-256 is ES256, Ed25519 is EdDSA.

    Raises ConfigurationError for an unfit key and InvalidToken for a token that would be refused.
    """
    try:
        key = load_pem_private_key(private_pem.encode(), password=None)
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError("NOTIFY_JWT_PRIVATE_KEY holds no PEM private key that can be read") from None
    except TypeError:
        raise ConfigurationError(
            "NOTIFY_JWT_PRIVATE_KEY is encrypted; decrypt it first: openssl pkey -in KEY.pem -out PLAIN.pem"
        ) from None
    if not isinstance(key, RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey):
        raise ConfigurationError(f"NOTIFY_JWT_PRIVATE_KEY can't be used: {NO_SUCH_TYPE}")
    try:
        algorithm = choose_algorithm(key.public_key())
    except UnusableKey as error:
        raise ConfigurationError(f"NOTIFY_JWT_PRIVATE_KEY can't be used: {error}") from None
    claims = _make_claims(subject, ttl, {"scope": scope, "iss": issuer, "aud": audience, "jti": token_id})
    return _check_shape(jwt.encode(claims, key, algorithm))


def _make_claims(subject: str, ttl: int, optional: dict[str, str | None]) -> dict[str, object]:
    now = int(clock.now())
    return {"sub": _read_subject(subject), "iat": now, "exp": now + ttl} | {
        name: value for name, value in optional.items() if value
    }


def _check_shape(token: str) -> str:
    if len(token) > MAX_TOKEN_BYTES:
        raise InvalidToken(f"The token has more than {MAX_TOKEN_BYTES} bytes.")
    if not token.isascii() or token.count(".") != SEGMENTS - 1:
        raise InvalidToken("This is not a signed JWT: three base64url parts joined by dots (five would be encrypted).")
    return token


@lru_cache(HEADERS)
def _read_header(segment: str) -> tuple[Algorithm, str | None]:
    """Read what picks the key out of the first part of a token: nothing in it can be trusted yet."""
    try:
        header = _signatures.get_unverified_header(f"{segment}..")
    except jwt.PyJWTError:
        raise InvalidToken("The token's header can't be read.") from None
    if "crit" in header or "b64" in header:
        raise InvalidToken("The token demands an extension (`crit`) that is not understood here.")
    if isinstance(header.get("cty"), str) and header["cty"].lower() in {"jwt", "application/jwt"}:
        raise InvalidToken("The token holds another token (`cty`); send the inner one.")
    if header.get("alg") not in list(Algorithm):
        raise InvalidToken(f"The token's `alg` must be one of {', '.join(Algorithm)}.")
    return Algorithm(header["alg"]), header.get("kid")  # which PyJWT has found to be a string


def _open(token: str, keys: Iterable[Key]) -> tuple[bytes, Key] | None:
    """Return the payload and the key that signed it, or None when none of `keys` did."""
    for key in keys:
        try:
            payload: bytes = _signatures.decode_complete(token, key.material, algorithms=[key.algorithm])["payload"]
        except jwt.PyJWTError:
            continue
        return payload, key
    return None


def _read_time(claims: dict[str, object], name: str) -> float | None:
    """Read a NumericDate (RFC 7519, section 2). JSON of Python's has infinities, and True is an int there."""
    value = claims.get(name)
    if value is None:
        return None
    try:
        seconds = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds):
        raise InvalidToken(f"The token's `{name}` must be a finite number of seconds since 1970.")
    return seconds


def _read_subject(value: object) -> str:
    if not (isinstance(value, str) and 1 <= len(value) <= MAX_SUBJECT and _UNPRINTABLE.search(value) is None):
        raise InvalidToken(f"The token's `sub` must be 1 to {MAX_SUBJECT} characters, none a control character.")
    return value


def _read_scopes(claims: dict[str, object]) -> frozenset[str]:
    scope = claims.get("scope", "")
    if not isinstance(scope, str):
        raise InvalidToken("The token's `scope` must be one string, its scopes separated by spaces.")
    return KNOWN_SCOPES.intersection(scope.split(" "))


def _is_for(audience: str, claim: object) -> bool:
    return audience in claim if isinstance(claim, list) else audience == claim


def _digest(token: str) -> bytes:
    """Return what stands for a token in memory, so that a dump of it gives nobody a token."""
    return hashlib.sha256(token.encode("ascii")).digest()
