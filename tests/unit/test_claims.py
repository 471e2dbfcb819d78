"""What a token says: which claims are taken, what its scopes allow, and that nothing but a refusal ever comes of the rest."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from notify import auth
from notify.auth import LEEWAY, MAX_TOKEN_BYTES, Scope
from notify.errors import InvalidToken
from tests.tokens import NOW, b64, refused, sign, sign_raw, with_secret

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
