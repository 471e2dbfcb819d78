"""The database's side: the server, its clock, the schema, LISTEN, and what is stuck or missing there."""

import asyncio
import time
from collections.abc import AsyncIterator

import asyncpg

from notify import clock
from notify.bridge import CHANNEL_BEAT
from notify.doctor.findings import ANSWER_SECONDS, Finding, Verdict, good, guard, wrong
from notify.errors import ConfigurationError, SchemaOutdated
from notify.migrate import require_current
from notify.settings import Settings
from notify.sql import query

OLDEST_SERVER = 150_000
"""PostgreSQL 15, as server_version_num has it."""

OFFSET_SECONDS = 5.0
"""A clock further off than this wants mending; tokens are judged by the database's, whatever this one says."""

OPEN_SECONDS = 30.0
"""A transaction that has held rows of ours for longer than this was forgotten."""

SLOW_SECONDS = 1.0
"""A LISTEN round trip longer than this delays every notification."""


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
