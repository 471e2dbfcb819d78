"""Tokens: whose signature is good, how long that is remembered, and what is minted."""

import json

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from notify import auth
from notify.auth import LEEWAY, MAX_TOKEN_BYTES, Authenticator, Identity, mint, mint_with_key
from notify.errors import ConfigurationError, InvalidToken
from notify.keys import KeyRing, read_public_keys, read_secret
from tests.keys import ED25519, P256, RSA, SECRET, PrivateKey, pem_of
from tests.tokens import NOW, Clock, b64, refused, sign, sign_raw, with_secret

NEXT_SECRET = "the one that replaces it while rotating"


def private_pem(private: PrivateKey) -> str:
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


# Keys and algorithms


async def test_a_good_token_says_who_and_until_when() -> None:
    identity = await with_secret().verify(sign(scope="queues:read other notifications:send", jti="t1"))
    assert identity == Identity("alice", frozenset({"queues:read", "notifications:send"}), NOW + 3600, "t1")


@pytest.mark.parametrize("private", [RSA, P256, ED25519])
async def test_a_token_minted_with_a_private_key_verifies_with_its_public_one(private: PrivateKey) -> None:
    authenticator = Authenticator(KeyRing(read_public_keys(pem_of(private))), issuer="id", audience="notify")
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
        pem_of(private).encode(),
        pem_of(private).strip().encode(),
        key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    ]
    claims = json.dumps({"sub": "alice", "exp": NOW + 3600}).encode()
    authenticator = Authenticator(KeyRing([*read_public_keys(pem_of(private)), read_secret(SECRET)]), clock=Clock())
    for secret in known:
        for alg in (b"HS256", b"RS256", b"ES256", b"EdDSA"):
            await refused(sign_raw(b'{"alg":"%s"}' % alg, claims, secret), authenticator)


async def test_a_key_only_checks_the_algorithm_of_its_type() -> None:
    pss = jwt.encode({"sub": "alice", "exp": NOW + 3600}, RSA, "PS256")
    sha512 = jwt.encode({"sub": "alice", "exp": NOW + 3600}, RSA, "RS512")
    authenticator = Authenticator(KeyRing(read_public_keys(pem_of(RSA))), clock=Clock())
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
        pem_of(RSA),
        private_pem(ec.generate_private_key(ec.SECP384R1())),
        private_pem(rsa.generate_private_key(public_exponent=65537, key_size=1024)),  # noqa: S505 - to be refused
        P256.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")).decode(),
    ],
    ids=["empty", "no key", "public", "another curve", "weak", "encrypted"],  # a key made anew names no test
)
def test_an_unfit_private_key_is_a_configuration_error(pem: str) -> None:
    with pytest.raises(ConfigurationError, match="NOTIFY_JWT_PRIVATE_KEY"):
        mint_with_key(pem, subject="alice")
