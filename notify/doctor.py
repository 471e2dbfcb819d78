"""What `notify doctor` looks at: everything that has to be right for a notification to arrive, one check at a time.

Keeps the promise that a finding says what is wrong and how to mend it, in the operator's words, and never holds a secret.
Each check stands alone and is bounded: one that can't be made says so, and the others go on.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum

import asyncpg
import httpx
import websockets
from websockets.typing import Subprotocol

from notify import clock
from notify.auth import Authenticator, mint
from notify.bridge import CHANNEL_BEAT
from notify.client.address import authorize, base_url, is_loopback, socket_url
from notify.errors import Close, ConfigurationError, InvalidToken, NotifyError, SchemaOutdated
from notify.frames import SUBPROTOCOL_JSON
from notify.migrate import require_current
from notify.settings import Settings
from notify.sql import query

ANSWER_SECONDS = 5.0
"""How long anything may take to answer."""

OLDEST_SERVER = 150_000
"""PostgreSQL 15, as server_version_num has it."""

OFFSET_SECONDS = 5.0
"""A clock further off than this wants mending; tokens are judged by the database's, whatever this one says."""

OPEN_SECONDS = 30.0
"""A transaction that has held rows of ours for longer than this was forgotten."""

SLOW_SECONDS = 1.0
"""A LISTEN round trip longer than this delays every notification."""


class Verdict(StrEnum):
    """How a check came out."""

    GOOD = "good"
    NOTE = "note"
    """Nothing is wrong, but it should be known."""
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found; `remedy` is how to mend it."""

    check: str
    verdict: Verdict
    text: str
    remedy: str = ""


def good(check: str, text: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(check, Verdict.GOOD, text)


def wrong(check: str, text: str, remedy: str) -> Finding:
    """Return a finding that it isn't."""
    return Finding(check, Verdict.WRONG, text, remedy)


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


async def examine_database(connection: asyncpg.Connection, settings: Settings) -> AsyncIterator[Finding]:
    """Yield what the database's side says."""
    yield await guard("database", lambda: check_server(connection))
    yield await guard("clock", lambda: check_clock(connection))
    schema = await guard("schema", lambda: check_schema(connection))
    yield schema
    yield await guard("listen", lambda: check_listen(connection, settings.listener_url))
    if schema.verdict is Verdict.GOOD:
        yield await guard("transactions", lambda: check_transactions(connection))
        yield await guard("outbox", lambda: check_outbox(connection))
        yield await guard("nodes", lambda: check_nodes(connection))


async def guard(check: str, examine_it: Callable[[], Awaitable[Finding]]) -> Finding:
    """Make a check, within its time; one that breaks is a finding too."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS * 3):
            return await examine_it()
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, NotifyError) as error:
        return wrong(
            check, f"the check could not be made: {error or type(error).__name__}", "mend what this says first"
        )


async def connect(url: str) -> asyncpg.Connection:
    """Open a connection. Raises ConfigurationError."""
    if not url:
        raise ConfigurationError("NOTIFY_DATABASE_URL is not set")
    try:
        return await asyncpg.connect(
            url,
            timeout=ANSWER_SECONDS,
            command_timeout=ANSWER_SECONDS,
            server_settings={"application_name": "notify doctor"},
        )
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError, TimeoutError) as error:
        raise ConfigurationError(f"the database can't be reached: {error or type(error).__name__}") from None


async def check_server(connection: asyncpg.Connection) -> Finding:
    """Find out whether this PostgreSQL will do."""
    server = await connection.fetchrow(query("describe_server"))
    assert server is not None, "it always answers with a row"
    version = f"PostgreSQL {server['version'] // 10_000}.{server['version'] % 10_000}"
    if server["version"] < OLDEST_SERVER:
        return wrong("database", f"{version} is too old", "use PostgreSQL 15 or newer")
    if server["replica"] or server["read_only"]:
        what = "a replica" if server["replica"] else "set to read-only"
        return wrong(
            "database", f"{version} is {what}: nothing can be stored", "point NOTIFY_DATABASE_URL at the primary"
        )
    return good("database", f"{version}, takes writes")


async def check_clock(connection: asyncpg.Connection) -> Finding:
    """Compare this machine's clock with the database's."""
    asked = clock.system()
    server = await connection.fetchrow(query("describe_server"))
    assert server is not None, "it always answers with a row"
    offset = server["now"] - (asked + clock.system()) / 2
    if abs(offset) > OFFSET_SECONDS:
        which = "behind" if offset > 0 else "ahead of"
        return wrong(
            "clock",
            f"this machine's clock is {abs(offset):.1f} s {which} the database's, which decides",
            "run an NTP client (chrony, systemd-timesyncd) on both; tokens minted here are off by as much",
        )
    return good("clock", f"within {abs(offset):.2f} s of the database's")


async def check_schema(connection: asyncpg.Connection) -> Finding:
    """Find out whether the schema is this version's."""
    try:
        await require_current(connection)
    except SchemaOutdated as error:
        return wrong("schema", str(error).partition(":")[0], "run `notify migrate`")
    except ConfigurationError as error:
        return wrong("schema", str(error), "install the version that this database was migrated with, or a newer one")
    return good("schema", "up to date")


async def check_listen(connection: asyncpg.Connection, listener_url: str) -> Finding:
    """Send a NOTIFY through the one connection and wait for it on the other, as the nodes do."""
    remedy = (
        "set NOTIFY_LISTEN_URL to a direct connection to the same database: a pooler in transaction mode takes a `LISTEN` "
        "and forgets it"
    )
    try:
        listener = await connect(listener_url)
    except ConfigurationError as error:
        return wrong("listen", str(error), "check NOTIFY_LISTEN_URL")
    try:
        heard = asyncio.Event()
        mark = f"doctor {time.monotonic_ns()}"

        def hear(_connection: object, _pid: int, _channel: str, payload: object) -> None:
            if payload == mark:
                heard.set()

        await listener.add_listener(CHANNEL_BEAT, hear)
        started = time.monotonic()
        await connection.fetchrow(query("beat"), mark)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await heard.wait()
        except TimeoutError:
            return wrong("listen", f"a `NOTIFY` did not arrive within {ANSWER_SECONDS:g} s", remedy)
        seconds = time.monotonic() - started
        if seconds > SLOW_SECONDS:
            return wrong(
                "listen", f"a `NOTIFY` took {seconds:.1f} s", "see what keeps PostgreSQL busy: pg_stat_activity"
            )
        return good("listen", f"a `NOTIFY` came back in {seconds * 1000:.1f} ms")
    finally:
        listener.terminate()


async def check_transactions(connection: asyncpg.Connection) -> Finding:
    """Find transactions of others that hold what they sent, or a mailbox, and were forgotten."""
    rows = await connection.fetch(query("list_open_transactions"), OPEN_SECONDS)
    if not rows:
        return good("transactions", f"none has held rows of ours for over {OPEN_SECONDS:g} s")
    listed = "; ".join(
        f"process {row['pid']} ({row['role'] or 'a role that can not be seen'}, {row['application'] or 'unnamed'}"
        f"{', ' + row['state'] if row['state'] else ''}), "
        f"{'of unknown age' if row['age'] is None else 'open for ' + format(row['age'], '.0f') + ' s'}, "
        f"in {', '.join(row['tables'])}"
        for row in rows
    )
    return wrong(
        "transactions",
        f"left open, so that what they sent waits: {listed}",
        "commit or end them where they come from, or with pg_terminate_backend(process); "
        "idle_in_transaction_session_timeout does so by itself",
    )


async def check_outbox(connection: asyncpg.Connection) -> Finding:
    """Find what could not be released."""
    row = await connection.fetchrow(query("count_set_aside"))
    if row is None or not row["rows"]:
        return good("outbox", "nothing is set aside")
    return wrong(
        "outbox",
        f"{row['rows']} rows could not be released and are set aside; PostgreSQL said: {row['problem']}",
        "see notify.outbox, column problem; once mended, set problem to NULL and it is released",
    )


async def check_nodes(connection: asyncpg.Connection) -> Finding:
    """Find nodes whose link is down."""
    nodes = await connection.fetch(query("list_nodes"))
    deaf = [node for node in nodes if not node["listening"] and not node["draining"]]
    if deaf:
        names = ", ".join(f"{node['host']} (process {node['pid']})" for node in deaf)
        return wrong(
            "nodes",
            f"no `LISTEN` link at {names}: sessions there wait for the sweep",
            "see that node's log for bridge.failed",
        )
    if not nodes:
        return Finding("nodes", Verdict.NOTE, "no node is running on this database", "start one with `notify serve`")
    sessions = sum(node["sessions"] for node in nodes)
    return good("nodes", f"{len(nodes)} alive and listening, {sessions} sessions")


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


async def examine_service(url: str) -> Finding:
    """Ask the service itself, the way clients reach it."""
    async with http_client(url) as client:
        try:
            answer = await client.get("/readyz")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return wrong(
                "service", f"no answer from {base_url(url)}: {error or type(error).__name__}", "is it running there?"
            )
    try:
        checks = answer.json()["checks"]
        failed = [name for name, verdict in checks.items() if verdict != "ok"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return wrong(
            "service",
            f"what answers at {base_url(url)} is not notify (status {answer.status_code})",
            "check --url, and where the proxy in front sends /readyz",
        )
    if failed:
        return wrong("service", f"it is not ready: {', '.join(failed)} failed", "see its log")
    return good("service", "ready")


async def examine_socket(url: str) -> Finding:
    """Upgrade to a WebSocket as a browser would, and exchange a frame each way.

    Without credentials, so that nothing is left behind: what answers a frame that is no `auth` with 4401 is the service.
    """
    try:
        async with websockets.connect(
            socket_url(url, {}),
            subprotocols=[Subprotocol(SUBPROTOCOL_JSON)],
            open_timeout=ANSWER_SECONDS,
            close_timeout=1,
            proxy=None if is_loopback(url) else True,
        ) as socket:
            if socket.subprotocol != SUBPROTOCOL_JSON:
                return wrong(
                    "websocket",
                    "the subprotocol was lost on the way",
                    "let the proxy pass the header Sec-WebSocket-Protocol in both directions",
                )
            await socket.send(json.dumps({"op": "ping"}))
            with suppress(websockets.ConnectionClosed):
                async with asyncio.timeout(ANSWER_SECONDS):
                    while True:
                        await socket.recv()
            if socket.close_code != Close.UNAUTHENTICATED:
                return wrong(
                    "websocket",
                    f"it was closed with {socket.close_code} {socket.close_reason or ''}, where notify closes with 4401",
                    "is it notify that answers there? See what the proxy in front does with WebSockets",
                )
    except websockets.InvalidStatus as error:
        return explain_status(error.response.status_code)
    except (websockets.WebSocketException, OSError, TimeoutError, EOFError) as error:
        return wrong(
            "websocket",
            f"the upgrade failed: {error or type(error).__name__}",
            "see that the proxy in front speaks HTTP/1.1 to the service and passes Upgrade and Connection",
        )
    return good("websocket", "upgraded, and frames go both ways")


def explain_status(status: int) -> Finding:
    """Say what a handshake that was answered with this status means."""
    if status == 503:  # noqa: PLR2004 - HTTP's own number
        return wrong(
            "websocket", "the node takes no more sockets now (503)", "it is draining or full: NOTIFY_MAX_CONNECTIONS"
        )
    if status == 431:  # noqa: PLR2004 - HTTP's own number
        return wrong("websocket", "the request headers are too long (431)", "make tokens and cookies shorter")
    return wrong(
        "websocket",
        f"the upgrade was answered with {status} instead of 101: something in between does not pass it on",
        "nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; "
        "other proxies: switch WebSockets on for /v1/ws",
    )


async def examine_token(url: str, token: str) -> Finding:
    """Find out whether the service believes NOTIFY_TOKEN."""
    async with http_client(url) as client:
        try:
            answer = await client.get("/v1/inbox/devices", headers=authorize(token))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return wrong("token", f"no answer: {error or type(error).__name__}", "is the service running there?")
    if answer.status_code == 401:  # noqa: PLR2004 - HTTP's own number
        try:
            detail = answer.json()["detail"]
        except (ValueError, KeyError, TypeError):
            detail = "no reason given"
        return wrong(
            "token", f"NOTIFY_TOKEN is refused: {detail}", "mint one with a key that the service knows: `notify token`"
        )
    return good("token", "NOTIFY_TOKEN is accepted")


@asynccontextmanager
async def http_client(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """Hold an HTTP client for the service."""
    async with httpx.AsyncClient(
        base_url=base_url(url), timeout=ANSWER_SECONDS, trust_env=not is_loopback(url)
    ) as client:
        yield client
