"""Tokens: what is let in, what is refused, and that nothing else ever comes out of it."""

import base64
import hashlib
import hmac
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from notify import auth
from notify.auth import LEEWAY, MAX_TOKEN_BYTES, Authenticator, Identity, Scope, mint, mint_with_key
from notify.errors import ConfigurationError, InvalidToken
from notify.keys import KeyRing, read_public_keys, read_secret

NOW = 1_800_000_000.0  # unix seconds
SECRET = "an HS256 secret of 32 bytes or more"
NEXT_SECRET = "the one that replaces it while rotating"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
P256 = ec.generate_private_key(ec.SECP256R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def public_pem(private: PrivateKey) -> str:
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def private_pem(private: PrivateKey) -> str:
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


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


# Keys and algorithms


async def test_a_good_token_says_who_and_until_when() -> None:
    identity = await with_secret().verify(sign(scope="queues:read other notifications:send", jti="t1"))
    assert identity == Identity("alice", frozenset({"queues:read", "notifications:send"}), NOW + 3600, "t1")


@pytest.mark.parametrize("private", [RSA, P256, ED25519])
async def test_a_token_minted_with_a_private_key_verifies_with_its_public_one(private: PrivateKey) -> None:
    authenticator = Authenticator(KeyRing(read_public_keys(public_pem(private))), issuer="id", audience="notify")
    token = mint_with_key(
        private_pem(private), subject="shop", scope="notifications:send", issuer="id", audience="notify", token_id="t"
    )
    identity = await authenticator.verify(token)
    assert (identity.subject, identity.scopes, identity.token_id) == ("shop", frozenset({"notifications:send"}), "t")


async def test_while_rotating_tokens_of_either_secret_verify_whatever_their_kid() -> None:
    authenticator = Authenticator(KeyRing([read_secret(NEXT_SECRET), read_secret(SECRET)]))
    for secret in (SECRET, NEXT_SECRET):
        assert await authenticator.verify(mint(secret, subject="alice"))
        claims = {"sub": "alice", "exp": 4_000_000_000}
        assert await authenticator.verify(jwt.encode(claims, secret, headers={"kid": "2026"}))


async def test_a_token_of_another_secret_is_refused() -> None:
    await refused(mint(NEXT_SECRET, subject="alice"))


@pytest.mark.parametrize(
    "alg", ["none", "None", "NONE", "", "HS384", "HS512", "RS512", "ES384", "PS256", None, 1, [], {}]
)
async def test_a_token_with_another_alg_is_refused(alg: object) -> None:
    reason = await refused(sign(header={"alg": alg}))
    assert reason == "The token's `alg` must be one of HS256, RS256, ES256, EdDSA."


async def test_a_token_without_a_signature_is_refused() -> None:
    header, payload, _ = sign(header={"alg": "none"}).split(".")
    await refused(f"{header}.{payload}.")
    header, payload, _ = sign().split(".")
    await refused(f"{header}.{payload}.")


@pytest.mark.parametrize("private", [RSA, P256, ED25519])
async def test_a_public_key_is_never_an_hmac_secret(private: PrivateKey) -> None:
    key = private.public_key()
    known = [
        public_pem(private).encode(),
        public_pem(private).strip().encode(),
        key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    ]
    claims = json.dumps({"sub": "alice", "exp": NOW + 3600}).encode()
    authenticator = Authenticator(KeyRing([*read_public_keys(public_pem(private)), read_secret(SECRET)]), clock=Clock())
    for secret in known:
        for alg in (b"HS256", b"RS256", b"ES256", b"EdDSA"):
            await refused(sign_raw(b'{"alg":"%s"}' % alg, claims, secret), authenticator)


async def test_a_key_only_checks_the_algorithm_of_its_type() -> None:
    pss = jwt.encode({"sub": "alice", "exp": NOW + 3600}, RSA, "PS256")
    sha512 = jwt.encode({"sub": "alice", "exp": NOW + 3600}, RSA, "RS512")
    authenticator = Authenticator(KeyRing(read_public_keys(public_pem(RSA))), clock=Clock())
    await refused(pss, authenticator)
    await refused(sha512, authenticator)
    await refused(jwt.encode({"sub": "alice", "exp": NOW + 3600}, P256, "ES256"), authenticator)


@pytest.mark.parametrize("kid", [7, None, [], {}, True])
async def test_a_kid_that_is_no_string_is_refused(kid: object) -> None:
    await refused(sign(header={"kid": kid}))


@pytest.mark.parametrize(
    "kid", ["../../../dev/null", "' OR 1=1 --", "http://evil.example/jwks", "\x00", "k" * 2_500, ""]
)
async def test_a_kid_is_only_ever_a_name(kid: str) -> None:
    claims = json.dumps({"sub": "alice", "exp": NOW + 3600}).encode()
    header = json.dumps({"alg": "HS256", "kid": kid}).encode()
    await refused(sign_raw(header, claims, b""))
    assert await with_secret().verify(sign_raw(header, claims))


@pytest.mark.parametrize("name", ["jwk", "jku", "x5u", "x5c"])
async def test_a_key_the_token_brings_along_is_not_used(name: str) -> None:
    brought = {"kty": "oct", "k": b64(NEXT_SECRET.encode())}
    header = {"alg": "HS256", name: brought if name == "jwk" else "https://evil.example/key"}
    await refused(sign_raw(json.dumps(header).encode(), b'{"sub":"alice","exp":4000000000}', NEXT_SECRET.encode()))


@pytest.mark.parametrize("extra", [{"crit": ["b64"], "b64": True}, {"crit": []}, {"crit": ["exp"]}, {"b64": False}])
async def test_an_extension_that_is_not_understood_is_refused(extra: dict[str, object]) -> None:
    await refused(sign(header=extra))


async def test_an_encrypted_or_nested_token_is_refused() -> None:
    assert "five would be encrypted" in await refused("a.b.c.d.e")
    assert "inner" in await refused(sign(header={"cty": "JWT"}))


# Claims


@pytest.mark.parametrize(("late", "valid"), [(-1.0, True), (LEEWAY - 0.001, True), (LEEWAY, False), (3600.0, False)])
async def test_a_token_is_taken_until_30_seconds_after_its_exp(late: float, valid: bool) -> None:  # noqa: FBT001
    token = sign({"sub": "alice", "exp": NOW - late})
    if valid:
        assert (await with_secret().verify(token)).expires_at == NOW - late
    else:
        assert await refused(token) == "The token has expired."


@pytest.mark.parametrize("name", ["nbf", "iat"])
async def test_a_token_from_the_future_is_taken_within_the_leeway_only(name: str) -> None:
    claims = {"sub": "alice", "exp": NOW + 3600}
    assert await with_secret().verify(sign(claims | {name: NOW + LEEWAY}))
    assert name in await refused(sign(claims | {name: NOW + LEEWAY + 1}))


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("value", ['"4000000000"', "Infinity", "-Infinity", "NaN", "1e999", "true", "[]", "9" * 400])
async def test_a_time_that_is_no_finite_number_is_refused(name: str, value: str) -> None:
    claims = {"sub": '"alice"', "exp": str(NOW + 3600)} | {name: value}
    payload = "{" + ",".join(f'"{key}":{text}' for key, text in claims.items()) + "}"
    assert f"`{name}` must be a finite number" in await refused(sign_raw(b'{"alg":"HS256"}', payload.encode()))


async def test_an_exp_beyond_every_calendar_counts_as_the_last_day_of_it() -> None:
    identity = await with_secret().verify(sign(exp=1e300))
    assert identity.expires_at == auth.LAST_SECOND


@pytest.mark.parametrize("claims", [{"sub": "alice"}, {"sub": "alice", "exp": None}, {"exp": NOW + 1}])
async def test_sub_and_exp_are_required(claims: dict[str, object]) -> None:
    await refused(sign(claims))


@pytest.mark.parametrize("sub", ["a", "a" * 255, "ünï/\U0001f600", "..", " ", "\u200b"])
async def test_any_legal_subject_is_taken(sub: str) -> None:
    assert (await with_secret().verify(sign(sub=sub))).subject == sub


@pytest.mark.parametrize(
    "sub", ["", "a" * 256, "a\x00", "\x1f", "\x7f", "\x80", "\x9f", "a\nb", "\ud800", 7, None, ["a"]]
)
async def test_an_illegal_subject_is_refused(sub: object) -> None:
    assert "`sub`" in await refused(sign(sub=sub))


@pytest.mark.parametrize("jti", [7, [], "a\x00", "\ud800"])
async def test_a_jti_the_deny_list_could_not_name_is_refused(jti: object) -> None:
    assert "`jti`" in await refused(sign(jti=jti))


async def test_iss_is_checked_when_configured_and_only_then() -> None:
    authenticator = with_secret(issuer="https://id.example.com/")
    assert await authenticator.verify(sign(iss="https://id.example.com/"))
    for claims in ({}, {"iss": "https://id.example.com"}, {"iss": ["https://id.example.com/"]}, {"iss": None}):
        assert "`iss`" in await refused(sign(**claims), authenticator)
    assert await with_secret().verify(sign(iss=["whatever"]))


async def test_aud_is_checked_when_configured_and_only_then() -> None:
    authenticator = with_secret(audience="notify")
    assert await authenticator.verify(sign(aud="notify"))
    assert await authenticator.verify(sign(aud=["other", "notify"]))
    assert "`aud`" in await refused(sign(), authenticator)
    for audience in ("notify2", "x notify", [], [["notify"]], {"notify": 1}, None):
        assert "`aud`" in await refused(sign(aud=audience), authenticator)
    assert await with_secret().verify(sign(aud="another service"))


@pytest.mark.parametrize("payload", [b"", b"[]", b'"alice"', b"null", b"{", b"\xff", b"[" * 2_000])
async def test_a_signed_payload_that_is_no_object_is_refused(payload: bytes) -> None:
    await refused(sign_raw(b'{"alg":"HS256"}', payload))


def token_of_size(size: int) -> str:
    """Pad the header, then the payload, until the token has exactly so many bytes."""
    for pads in ((size * 3 // 4 - lost, more) for lost in range(60, 140) for more in range(3)):
        token = sign(header={"alg": "HS256", "x": "x" * pads[1]}, pad="p" * pads[0])
        if len(token) == size:
            return token
    raise AssertionError(size)


@pytest.mark.parametrize(
    "token", ["", "..", "a.b", "\ud800.a.b", "\u00e9.a.b", "e30.e30.\udfff", "e30.e30.e30", "a b.c.d"]
)
async def test_text_that_is_no_token_is_refused(token: str) -> None:
    await refused(token)


async def test_a_token_has_at_most_4096_bytes() -> None:
    assert await with_secret().verify(token_of_size(MAX_TOKEN_BYTES))
    assert "4096" in await refused(token_of_size(MAX_TOKEN_BYTES + 1))


# Scopes


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        ("", {Scope.RECEIVE}),
        ("openid profile", {Scope.RECEIVE}),
        ("notifications:receive", {Scope.RECEIVE}),
        ("notifications:send", {Scope.SEND}),
        ("notifications:send notifications:receive", {Scope.SEND, Scope.RECEIVE}),
        ("queues:read", {Scope.QUEUES_READ}),
        ("queues:write", {Scope.QUEUES_READ, Scope.QUEUES_WRITE}),
        ("NOTIFICATIONS:SEND", {Scope.RECEIVE}),
        ("notifications:sender", {Scope.RECEIVE}),
        ("notifications:send,queues:read", {Scope.RECEIVE}),
    ],
)
async def test_scopes_allow_what_the_contract_says_and_no_more(scope: str, allowed: set[Scope]) -> None:
    identity = await with_secret().verify(sign(scope=scope))
    assert {scope for scope in Scope if identity.may(scope)} == allowed


async def test_a_token_without_a_scope_claim_may_receive_only() -> None:
    identity = await with_secret().verify(sign())
    assert [scope for scope in Scope if identity.may(scope)] == [Scope.RECEIVE]


@pytest.mark.parametrize("scope", [["notifications:send"], {}, 1, None, True])
async def test_a_scope_that_is_no_string_is_refused(scope: object) -> None:
    assert "`scope`" in await refused(sign(scope=scope))


# Remembering


async def test_a_verified_token_is_recalled_until_the_leeway_after_its_exp_has_passed() -> None:
    clock = Clock()
    authenticator = with_secret(clock=clock)
    token = sign()
    assert authenticator.recall(token) is None
    identity = await authenticator.verify(token)
    clock.now = NOW + 3600 + LEEWAY - 0.001
    assert authenticator.recall(token) is identity
    clock.now = NOW + 3600 + LEEWAY
    assert authenticator.recall(token) is None
    await refused(token, authenticator)


async def test_forgetting_drops_whom_the_predicate_picks() -> None:
    authenticator = with_secret()
    alice, bob = sign(), sign(sub="bob")
    await authenticator.verify(alice)
    await authenticator.verify(bob)
    authenticator.forget(lambda identity: identity.subject == "alice")
    assert authenticator.recall(alice) is None
    assert authenticator.recall(bob) is not None


async def test_the_cache_is_bounded_and_the_longest_unused_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "CACHE_SIZE", 2)
    authenticator = with_secret()
    tokens = [sign(jti=str(number)) for number in range(3)]
    await authenticator.verify(tokens[0])
    await authenticator.verify(tokens[1])
    authenticator.recall(tokens[0])
    await authenticator.verify(tokens[2])
    assert [authenticator.recall(token) is not None for token in tokens] == [True, False, True]


async def test_no_token_stays_in_memory() -> None:
    authenticator = with_secret()
    token = sign()
    await authenticator.verify(token)
    assert token not in repr(authenticator._cache)


async def test_no_refusal_repeats_the_token() -> None:
    secretive = "s3cr3t-marker"
    for token in (
        secretive,
        f"{secretive}.{secretive}.{secretive}",
        sign(header={"alg": secretive}),
        sign(header={"kid": secretive, "crit": [secretive]}),
        sign(sub=secretive * 30),
        sign(exp=secretive),
        sign(scope=[secretive]),
    ):
        assert secretive not in await refused(token)


# Minting


async def test_a_minted_token_has_what_was_asked_for() -> None:
    authenticator = Authenticator(KeyRing([read_secret(SECRET)]), issuer="id", audience="notify")
    token = mint(SECRET, subject="ops", scope="queues:write", ttl=60, issuer="id", audience="notify", token_id="t")
    identity = await authenticator.verify(token)
    assert (identity.subject, identity.scopes, identity.token_id) == ("ops", frozenset({"queues:write"}), "t")
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 60


def test_nothing_is_minted_that_would_be_refused() -> None:
    with pytest.raises(InvalidToken):
        mint(SECRET, subject="a\nb")
    with pytest.raises(InvalidToken):
        mint(SECRET, subject="alice", scope="s" * MAX_TOKEN_BYTES)
    with pytest.raises(ConfigurationError, match="openssl rand"):
        mint("short", subject="alice")


@pytest.mark.parametrize(
    "pem",
    [
        "",
        "not a key",
        public_pem(RSA),
        private_pem(ec.generate_private_key(ec.SECP384R1())),
        private_pem(rsa.generate_private_key(public_exponent=65537, key_size=1024)),  # noqa: S505 - to be refused
        P256.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")).decode(),
    ],
    ids=["empty", "no key", "public", "another curve", "weak", "encrypted"],  # a key made anew names no test
)
def test_an_unfit_private_key_is_a_configuration_error(pem: str) -> None:
    with pytest.raises(ConfigurationError, match="NOTIFY_JWT_PRIVATE_KEY"):
        mint_with_key(pem, subject="alice")


# Anything at all

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
headers = st.dictionaries(st.sampled_from(["alg", "kid", "crit", "b64", "cty", "typ", "enc"]), json_values)
claims_of = st.dictionaries(st.sampled_from(["sub", "exp", "nbf", "iat", "iss", "aud", "scope", "jti"]), json_values)
segments = st.text(st.sampled_from("eyJhbGciOiJ_-.=01"), max_size=30) | st.text() | st.binary().map(b64)
shapes = st.lists(segments, max_size=6).map(".".join)


@hypothesis_settings(max_examples=300, deadline=None)
@given(st.text(st.characters(), max_size=50) | shapes)
async def test_no_text_raises_anything_but_invalid_token(token: str) -> None:
    await refused(token)


@hypothesis_settings(max_examples=300, deadline=None)
@given(headers, claims_of)
async def test_no_signed_token_raises_anything_but_invalid_token(
    header: dict[str, Any], claims: dict[str, Any]
) -> None:
    authenticator = with_secret(issuer="id", audience="notify")
    claims = {"sub": "alice", "exp": NOW + 1, "iss": "id", "aud": "notify"} | claims
    try:
        identity = await authenticator.verify(sign(claims, header=header))
    except InvalidToken:
        return
    assert isinstance(identity.subject, str)
    assert identity.expires_at > NOW - LEEWAY
