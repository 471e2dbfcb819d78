"""What makes a key, and what is refused as one."""

import json
from contextlib import suppress

import pytest
import structlog
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm

from notify.errors import ConfigurationError
from notify.keys import (
    MAX_JWKS_KEYS,
    Algorithm,
    KeyRing,
    UnusableKey,
    read_jwk,
    read_jwks,
    read_public_keys,
    read_secret,
)
from tests.keys import ED25519, P256, P384, RSA, SECRET, WEAK_RSA, Jwk, PrivateKey, jwk_of, pem_of


def test_a_secret_shorter_than_the_hash_is_refused_with_the_command_that_makes_one() -> None:
    with pytest.raises(ConfigurationError, match="openssl rand -base64 32") as refusal:
        read_secret("short secret")
    assert "short secret" not in str(refusal.value)
    assert read_secret("x" * 32).algorithm is Algorithm.HS256


@pytest.mark.parametrize("secret", [pem_of(RSA), json.dumps(jwk_of(P256)), ""], ids=["PEM", "JWK", "empty"])
def test_a_public_key_is_no_secret(secret: str) -> None:
    with pytest.raises(ConfigurationError):
        read_secret(secret)


@pytest.mark.parametrize(("private", "algorithm"), [(RSA, "RS256"), (P256, "ES256"), (ED25519, "EdDSA")])
def test_the_type_of_a_public_key_decides_its_algorithm(private: PrivateKey, algorithm: str) -> None:
    (key,) = read_public_keys(pem_of(private))
    assert key.algorithm == algorithm


def test_two_public_keys_in_one_pem_are_both_read() -> None:
    keys = read_public_keys(pem_of(RSA) + pem_of(P256))
    assert [key.algorithm for key in keys] == ["RS256", "ES256"]


@pytest.mark.parametrize(
    ("pem", "says"),
    [
        (pem_of(WEAK_RSA), "1024 bits"),
        (pem_of(P384), "none of RSA, EC P-256 and Ed25519"),
        (RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(), "openssl pkey"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "openssl x509"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "damaged"),
        ("-----BEGIN nothing", "no PEM public key"),
    ],
    ids=["weak", "another curve", "private", "certificate", "damaged", "no PEM"],  # a key made anew names no test
)
def test_an_unfit_pem_is_refused_in_words_that_help(pem: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as refusal:
        read_public_keys(pem)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "jwk",
    [
        {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA", "alg": "HS256"},
        jwk_of(RSA, use="enc"),
        jwk_of(RSA, key_ops=["encrypt"]),
        jwk_of(RSA, alg="RS512"),
        jwk_of(P384),
        {"kty": "XYZ"},
    ],
)
def test_a_jwk_for_something_else_is_ignored(jwk: Jwk) -> None:
    assert read_jwk(jwk) is None


@pytest.mark.parametrize(
    "jwk",
    [
        None,
        {},
        jwk_of(WEAK_RSA),
        jwk_of(RSA) | {"n": 5},
        jwk_of(RSA) | {"n": "AQ"},
        jwk_of(P256) | {"x": "AAAA"},
        jwk_of(P256, kid="k") | {"kid": 7},
        {"kty": ["RSA"]},
        {"kty": "OKP", "crv": "Ed25519"},
    ],
)
def test_a_broken_jwk_is_refused(jwk: object) -> None:
    with pytest.raises(UnusableKey):
        read_jwk(jwk)


def test_a_private_key_that_was_published_is_refused_as_such() -> None:
    with pytest.raises(UnusableKey, match="private key"):
        read_jwk(ECAlgorithm.to_jwk(P256, as_dict=True))


def test_a_broken_key_among_good_ones_is_skipped_and_logged() -> None:
    document = json.dumps({"keys": [jwk_of(RSA, "good"), {"kty": "RSA", "n": "!"}, jwk_of(P256, "too")]}).encode()
    with structlog.testing.capture_logs() as logs:
        keys = read_jwks(document)
    assert [key.kid for key in keys] == ["good", "too"]
    assert [(entry["event"], entry["position"]) for entry in logs] == [("key.skipped", 1)]


def test_no_more_keys_are_held_than_a_token_may_be_tried_with() -> None:
    document = json.dumps({"keys": [jwk_of(P256, f"k{number}") for number in range(MAX_JWKS_KEYS + 5)]}).encode()
    assert len(read_jwks(document)) == MAX_JWKS_KEYS


@pytest.mark.parametrize(
    "document", [b"", b"[]", b"{}", b'{"keys": {}}', b"\xff\xfe", b"[" * 100_000, b" " * 1_048_577]
)
def test_what_is_no_jwks_is_refused(document: bytes) -> None:
    with pytest.raises(UnusableKey):
        read_jwks(document)


json_values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8), st.lists)
members = st.sampled_from(["kty", "kid", "use", "alg", "crv", "n", "e", "x", "y", "d", "key_ops", "oth"])
words = st.sampled_from(["RSA", "EC", "OKP", "P-256", "Ed25519", "sig", "AQAB", "AAAA", "oct"])


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([jwk_of(RSA), jwk_of(P256), jwk_of(ED25519)]), st.dictionaries(members, words | json_values))
def test_no_jwk_raises_anything_else(jwk: Jwk, changes: Jwk) -> None:
    with suppress(UnusableKey):
        read_jwk(jwk | changes)


def test_only_keys_of_the_type_are_ever_found() -> None:
    ring = KeyRing([read_secret(SECRET), *read_public_keys(pem_of(RSA) + pem_of(P256) + pem_of(ED25519))])
    for algorithm in Algorithm:
        for kid in (None, "any"):
            assert [key.algorithm for key in ring.find(algorithm, kid)] == [algorithm]
