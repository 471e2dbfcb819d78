"""The whole examination, in the order in which things depend on each other; and the keys, which need nobody else."""

from collections.abc import AsyncIterator
from contextlib import suppress

import asyncpg

from notify.auth import Authenticator, mint
from notify.doctor.database import connect, examine_database
from notify.doctor.findings import ANSWER_SECONDS, Finding, Verdict, good, guard, wrong
from notify.doctor.outside import examine_service, examine_socket, examine_token
from notify.errors import ConfigurationError, InvalidToken
from notify.settings import Settings


async def examine(settings: Settings, *, url: str = "", token: str = "") -> AsyncIterator[Finding]:
    """Yield the findings as they come. `url` is where clients reach the service; `token` one that they would use."""
    connection: asyncpg.Connection | None = None
    try:
        connection = await connect(settings.database_url)
    except ConfigurationError as error:
        yield wrong(
            "database", str(error), "check NOTIFY_DATABASE_URL, and that PostgreSQL runs and lets this machine in"
        )
    if connection is not None:
        try:
            async for finding in examine_database(connection, settings):
                yield finding
        finally:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                await connection.close(timeout=ANSWER_SECONDS)
    yield await examine_keys(settings)
    if url:
        yield await guard("service", lambda: examine_service(url))
        yield await guard("websocket", lambda: examine_socket(url))
        if token:
            yield await guard("token", lambda: examine_token(url, token))
    else:
        yield Finding("websocket", Verdict.NOTE, "not tried: --url says where clients reach the service")


async def examine_keys(settings: Settings) -> Finding:
    """Find out whether tokens can be verified."""
    if not settings.has_key:
        return wrong(
            "keys",
            "no key: every token is refused",
            "set NOTIFY_JWT_SECRET, NOTIFY_JWT_PUBLIC_KEY or NOTIFY_JWT_JWKS_URL",
        )
    try:
        authenticator = Authenticator.from_settings(settings)
    except (ConfigurationError, OSError, ValueError) as error:
        return wrong("keys", str(error), "mend the setting it names")
    try:
        if settings.jwt_jwks_url and not await authenticator.keys.refresh():
            return wrong(
                "keys",
                "the JWKS could not be fetched",
                "see that NOTIFY_JWT_JWKS_URL can be reached from here: curl it",
            )
        if settings.jwt_secret:
            secret = settings.jwt_secret[0].get_secret_value()
            issuer, audience = settings.jwt_issuer, settings.jwt_audience
            await authenticator.verify(mint(secret, subject="doctor", ttl=60, issuer=issuer, audience=audience))
            return good("keys", "a token minted here is accepted here")
    except (InvalidToken, ConfigurationError) as error:
        return wrong("keys", str(error), "mend the setting it names")
    finally:
        await authenticator.close()
    return good("keys", "there is one to verify tokens with")
