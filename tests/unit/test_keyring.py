"""Where keys come from, and when they are fetched again: against a real HTTP server on a port of its own."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
import structlog

from notify.auth import Authenticator
from notify.errors import ConfigurationError, InvalidToken
from notify.keys import MAX_AGE, MAX_JWKS_BYTES, RETRY_INTERVAL, UNKNOWN_KID_INTERVAL, KeyRing
from notify.settings import Settings
from tests.issuer import Issuer, listening
from tests.keys import ED25519, FAR, OTHER_P256, P256, RSA, SECRET, jwk_of, pem_of, token_of
from tests.service import PATIENCE


class Clock:
    """A clock that only moves when told."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with listening(Issuer()) as issuer:
        yield issuer


@pytest.fixture
def clock() -> Clock:
    return Clock()


Trust = Callable[..., Authenticator]


@pytest.fixture
async def trust(issuer: Issuer, clock: Clock) -> AsyncIterator[Trust]:
    """Make authenticators that trust the issuer, and close them afterwards."""
    made = []

    def make(url: str = "", **options: Any) -> Authenticator:
        made.append(Authenticator(KeyRing(jwks_url=url or issuer.url, clock=clock, **options)))
        return made[-1]

    yield make
    for authenticator in made:
        await authenticator.close()


async def settled(authenticator: Authenticator) -> None:
    """Wait for the refresh in flight, which is where its owner keeps it."""
    task = authenticator.keys._refreshing
    assert task is not None
    await asyncio.wait_for(asyncio.wait({task}), PATIENCE)


@pytest.mark.parametrize(
    "url",
    ["ftp://id.example.com/jwks", "id.example.com", "https://", "file://elsewhere/jwks.json", "http://[::1/", "file:"],
)
def test_a_url_that_could_never_be_fetched_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError, match="NOTIFY_JWT_JWKS_URL"):
        KeyRing(jwks_url=url)


Configure = Callable[..., Settings]


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Read the settings from the environment, and from no `.env` file that may lie about."""
    monkeypatch.chdir(tmp_path)

    def read(**environment: str) -> Settings:
        for name, value in environment.items():
            monkeypatch.setenv(f"NOTIFY_{name.upper()}", value)
        return Settings()

    return read


def test_no_key_at_all_is_a_configuration_error_that_names_the_settings(configure: Configure) -> None:
    with pytest.raises(ConfigurationError, match="NOTIFY_JWT_SECRET"):
        KeyRing.from_settings(configure())


def test_a_key_file_that_is_missing_is_named_by_its_setting(configure: Configure) -> None:
    with pytest.raises(ConfigurationError, match="NOTIFY_JWT_PUBLIC_KEY"):
        KeyRing.from_settings(configure(jwt_public_key="absent.pem"))


def test_the_settings_say_which_of_several_secrets_is_too_short(configure: Configure) -> None:
    with pytest.raises(ConfigurationError, match="number 2"):
        KeyRing.from_settings(configure(jwt_secret=f"{SECRET},short"))


async def test_keys_of_every_source_are_trusted_together(issuer: Issuer, tmp_path: Path, configure: Configure) -> None:
    issuer.keys = [jwk_of(ED25519, "e")]
    path = tmp_path / "key.pem"
    path.write_text(pem_of(RSA))
    configured = configure(jwt_secret=SECRET, jwt_public_key=str(path), jwt_jwks_url=issuer.url, jwt_audience="notify")
    authenticator = Authenticator.from_settings(configured)
    tokens = [
        jwt.encode({"sub": "alice", "exp": FAR, "aud": "notify"}, SECRET),
        token_of(RSA, "a kid the PEM knows nothing of", aud="notify"),
        token_of(ED25519, "e", aud="notify"),
    ]
    assert [(await authenticator.verify(token)).subject for token in tokens] == ["alice"] * 3
    await authenticator.close()


async def test_a_jwks_file_is_read(tmp_path: Path, trust: Trust) -> None:
    path = tmp_path / "a b.json"
    path.write_text(json.dumps({"keys": [jwk_of(P256, "k")]}))
    authenticator = trust(path.as_uri())
    assert (await authenticator.verify(token_of(P256, "k"))).subject == "alice"


async def test_a_jwks_file_that_is_missing_refuses_tokens_and_nothing_else(tmp_path: Path, trust: Trust) -> None:
    with pytest.raises(InvalidToken):
        await trust((tmp_path / "absent.json").as_uri()).verify(token_of(P256, "k"))


async def test_the_kid_picks_the_key(issuer: Issuer, trust: Trust) -> None:
    issuer.keys = [jwk_of(P256, "one"), jwk_of(OTHER_P256, "two")]
    authenticator = trust()
    assert await authenticator.verify(token_of(OTHER_P256, "two"))
    with pytest.raises(InvalidToken):
        await authenticator.verify(token_of(OTHER_P256, "one"))


async def test_without_a_kid_every_key_of_the_type_is_tried(issuer: Issuer, trust: Trust) -> None:
    issuer.keys = [jwk_of(RSA, "r"), jwk_of(P256, "one"), jwk_of(OTHER_P256, "two")]
    assert await trust().verify(token_of(OTHER_P256))


async def test_a_published_symmetric_key_verifies_nothing(issuer: Issuer, trust: Trust) -> None:
    issuer.keys = [{"kty": "oct", "kid": "k", "k": "YW4gSFMyNTYgc2VjcmV0IG9mIDMyIGJ5dGVzIG9yIG1vcmU", "alg": "HS256"}]
    with pytest.raises(InvalidToken):
        await trust().verify(jwt.encode({"sub": "alice", "exp": FAR}, SECRET, headers={"kid": "k"}))


async def test_a_key_published_later_is_learnt_from_its_first_token(issuer: Issuer, trust: Trust) -> None:
    issuer.keys = [jwk_of(P256, "old")]
    authenticator = trust()
    await authenticator.verify(token_of(P256, "old"))
    issuer.keys.append(jwk_of(OTHER_P256, "new"))
    assert await authenticator.verify(token_of(OTHER_P256, "new"))
    assert issuer.fetches == 2


async def test_a_key_that_was_withdrawn_stops_working_even_for_a_remembered_token(issuer: Issuer, trust: Trust) -> None:
    issuer.keys = [jwk_of(P256, "old")]
    authenticator = trust()
    token = token_of(P256, "old")
    await authenticator.verify(token)
    issuer.keys = [jwk_of(OTHER_P256, "new")]
    await authenticator.verify(token_of(OTHER_P256, "new"))
    assert authenticator.recall(token) is None
    with pytest.raises(InvalidToken):
        await authenticator.verify(token)


async def test_a_key_that_stayed_keeps_its_remembered_tokens(issuer: Issuer, trust: Trust) -> None:
    issuer.keys = [jwk_of(P256, "stays")]
    authenticator = trust()
    token = token_of(P256, "stays")
    await authenticator.verify(token)
    issuer.keys.append(jwk_of(OTHER_P256, "new"))
    await authenticator.verify(token_of(OTHER_P256, "new"))
    assert authenticator.recall(token) is not None


async def test_a_storm_of_unknown_kids_makes_one_more_fetch_in_30_seconds(
    issuer: Issuer, trust: Trust, clock: Clock
) -> None:
    issuer.keys = [jwk_of(P256, "known")]
    authenticator = trust()
    await authenticator.verify(token_of(P256, "known"))

    async def storm(name: str) -> None:
        tokens = [token_of(OTHER_P256, f"{name}{number}") for number in range(20)]
        outcomes = await asyncio.gather(*map(authenticator.verify, tokens), return_exceptions=True)
        assert all(isinstance(outcome, InvalidToken) for outcome in outcomes)

    await storm("first")
    assert issuer.fetches == 2
    clock.now += UNKNOWN_KID_INTERVAL - 1
    await storm("second")
    assert issuer.fetches == 2
    clock.now += 1
    await storm("third")
    assert issuer.fetches == 3


async def test_a_forged_signature_under_a_known_kid_fetches_nothing(issuer: Issuer, trust: Trust) -> None:
    issuer.keys = [jwk_of(P256, "known")]
    authenticator = trust()
    await authenticator.verify(token_of(P256, "known"))
    with pytest.raises(InvalidToken):
        await authenticator.verify(token_of(OTHER_P256, "known"))
    assert issuer.fetches == 1


async def test_concurrent_first_tokens_share_one_fetch(issuer: Issuer, trust: Trust) -> None:
    issuer.keys = [jwk_of(P256, "k")]
    authenticator = trust()
    await asyncio.gather(*(authenticator.verify(token_of(P256, "k", jti=str(number))) for number in range(20)))
    assert issuer.fetches == 1


async def test_a_caller_that_gives_up_does_not_cancel_the_fetch_of_the_others(issuer: Issuer, trust: Trust) -> None:
    issuer.keys = [jwk_of(P256, "k")]
    issuer.open.clear()
    authenticator = trust()
    first = asyncio.create_task(authenticator.verify(token_of(P256, "k", jti="1")))
    second = asyncio.create_task(authenticator.verify(token_of(P256, "k", jti="2")))
    await asyncio.wait_for(issuer.asked.wait(), PATIENCE)
    first.cancel()
    await asyncio.wait({first})
    issuer.open.set()
    assert (await asyncio.wait_for(second, PATIENCE)).subject == "alice"
    assert first.cancelled()
    assert issuer.fetches == 1


async def test_a_key_published_during_a_fetch_in_flight_is_still_found(issuer: Issuer, trust: Trust) -> None:
    issuer.keys = [jwk_of(P256, "old")]
    issuer.open.clear()
    authenticator = trust()
    first = asyncio.create_task(authenticator.verify(token_of(P256, "old")))
    await asyncio.wait_for(issuer.asked.wait(), PATIENCE)  # the document has been read
    issuer.keys = [jwk_of(P256, "old"), jwk_of(OTHER_P256, "new")]
    second = asyncio.create_task(authenticator.verify(token_of(OTHER_P256, "new")))
    await asyncio.sleep(0)  # so that it joins
    issuer.open.set()
    assert await asyncio.wait_for(asyncio.gather(first, second), PATIENCE)
    assert issuer.fetches == 2


async def test_old_keys_serve_while_a_hanging_issuer_is_asked_again(issuer: Issuer, trust: Trust, clock: Clock) -> None:
    issuer.keys = [jwk_of(P256, "k")]
    authenticator = trust()
    remembered = token_of(P256, "k")
    await authenticator.verify(remembered)
    issuer.asked.clear()
    issuer.open.clear()
    clock.now += MAX_AGE
    assert authenticator.recall(remembered) is not None  # and this use starts the refresh
    await asyncio.wait_for(issuer.asked.wait(), PATIENCE)
    assert await authenticator.verify(token_of(P256, "k", jti="another"))
    assert issuer.fetches == 2


async def test_keys_younger_than_10_minutes_are_not_fetched_again(issuer: Issuer, trust: Trust, clock: Clock) -> None:
    issuer.keys = [jwk_of(P256, "k")]
    authenticator = trust()
    await authenticator.verify(token_of(P256, "k"))
    clock.now += MAX_AGE - 1
    await authenticator.verify(token_of(P256, "k", jti="another"))
    assert authenticator.keys._in_flight() is None
    assert issuer.fetches == 1


async def test_a_background_refresh_takes_away_a_withdrawn_key(issuer: Issuer, trust: Trust, clock: Clock) -> None:
    issuer.keys = [jwk_of(P256, "k")]
    authenticator = trust()
    token = token_of(P256, "k")
    await authenticator.verify(token)
    issuer.keys = []
    clock.now += MAX_AGE
    assert authenticator.recall(token) is not None
    await settled(authenticator)
    assert authenticator.recall(token) is None


OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n",
        OK + b"Content-Length: 5\r\n\r\nhello",
        OK + b"Content-Length: 500\r\n\r\ncut",
        OK + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
        b"garbage\r\n\r\n",
        b"",
    ],
)
async def test_a_bad_answer_leaves_the_keys_as_they_were(
    issuer: Issuer, trust: Trust, clock: Clock, answer: bytes
) -> None:
    issuer.keys = [jwk_of(P256, "k")]
    authenticator = trust()
    await authenticator.verify(token_of(P256, "k"))
    issuer.answer = answer
    clock.now += MAX_AGE
    assert not await authenticator.keys.refresh()
    assert await authenticator.verify(token_of(P256, "k", jti="another"))


async def test_a_redirect_is_not_followed(issuer: Issuer, trust: Trust) -> None:
    issuer.keys = [jwk_of(P256, "k")]
    async with listening(Issuer()) as detour:
        detour.answer = f"HTTP/1.1 302 Found\r\nLocation: {issuer.url}\r\nContent-Length: 0\r\n\r\n".encode()
        with structlog.testing.capture_logs() as logs, pytest.raises(InvalidToken):
            await trust(detour.url).verify(token_of(P256, "k"))
    assert issuer.fetches == 0
    assert "redirect" in logs[0]["reason"]


async def test_a_document_over_the_limit_is_refused_before_it_is_all_here(issuer: Issuer, trust: Trust) -> None:
    document = json.dumps({"keys": [jwk_of(P256, "k")]}).encode() + b" " * (MAX_JWKS_BYTES + 1)
    # The last chunk never comes: reading on would end in a broken connection, not in this reason.
    issuer.answer = OK + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(document), document)
    with structlog.testing.capture_logs() as logs, pytest.raises(InvalidToken):
        await trust().verify(token_of(P256, "k"))
    assert "bytes" in logs[0]["reason"]


async def test_an_issuer_that_is_down_at_the_start_is_asked_again_after_5_seconds(
    issuer: Issuer, trust: Trust, clock: Clock
) -> None:
    issuer.answer = b"HTTP/1.1 503 Down\r\nContent-Length: 0\r\n\r\n"
    authenticator = trust()
    token = token_of(P256, "k")
    for _ in range(3):
        with pytest.raises(InvalidToken, match="could not be fetched yet"):
            await authenticator.verify(token)
    assert issuer.fetches == 1
    issuer.answer, issuer.keys = None, [jwk_of(P256, "k")]
    clock.now += RETRY_INTERVAL
    assert await authenticator.verify(token)
    assert issuer.fetches == 2


async def test_an_issuer_nobody_listens_for_refuses_tokens_until_it_is_back(trust: Trust, clock: Clock) -> None:
    async with listening(Issuer()) as issuer:
        url, port = issuer.url, int(issuer.url.split(":")[2].split("/")[0])
    authenticator = trust(url)
    with pytest.raises(InvalidToken):
        await authenticator.verify(token_of(P256, "k"))
    clock.now += RETRY_INTERVAL
    async with listening(Issuer(), port) as issuer:
        issuer.keys = [jwk_of(P256, "k")]
        assert await authenticator.verify(token_of(P256, "k"))


async def test_an_issuer_that_never_answers_is_given_up(issuer: Issuer, trust: Trust) -> None:
    issuer.open.clear()
    authenticator = trust(fetch_timeout=0.05)
    with structlog.testing.capture_logs() as logs:
        with pytest.raises(InvalidToken, match="could not be fetched yet"):
            await authenticator.verify(token_of(P256, "k"))
        await settled(authenticator)
    assert [entry["reason"] for entry in logs] == ["TimeoutError"]  # of all of it; one read's would be httpx's own


async def test_a_failed_fetch_logs_no_password_of_the_url(issuer: Issuer, trust: Trust) -> None:
    issuer.answer = b"garbage\r\n\r\n"
    authenticator = trust(issuer.url.replace("http://", "http://user:hunter2@"))
    with structlog.testing.capture_logs() as logs:
        assert not await authenticator.keys.refresh()
    assert logs[0]["event"] == "key.refresh_failed"
    assert "hunter2" not in repr(logs)


async def test_closing_ends_the_refresh_in_flight_and_starts_no_other(
    issuer: Issuer, trust: Trust, clock: Clock
) -> None:
    issuer.open.clear()
    authenticator = trust()
    waiting = asyncio.create_task(authenticator.verify(token_of(P256, "k")))
    await asyncio.wait_for(issuer.asked.wait(), PATIENCE)
    await asyncio.wait_for(authenticator.close(), PATIENCE)
    with pytest.raises(InvalidToken):
        await asyncio.wait_for(waiting, PATIENCE)
    issuer.open.set()
    clock.now += RETRY_INTERVAL
    with pytest.raises(InvalidToken):
        await authenticator.verify(token_of(P256, "k"))
    assert issuer.fetches == 1
