"""The transactional door: `notify.send()` in somebody else's transaction, as a role with only the documented grants."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import nullcontext
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import pytest

from tests.integration.support import find_statuses, follow, list_inbox, subscribe
from tests.service import SEND, Service, bearer, data_of, until

ROLE = "webshop"
GRANTS = f"GRANT USAGE ON SCHEMA notify TO {ROLE}; GRANT EXECUTE ON FUNCTION notify.send TO {ROLE}"
"""What the documentation of the function says."""


async def connect_app(database_url: str) -> asyncpg.Connection:
    """Connect as an app that has a schema of its own in the same database."""
    return await asyncpg.connect(database_url, user=ROLE)


@pytest.fixture
async def app(connection: asyncpg.Connection, database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Be the app."""
    if not await connection.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", ROLE):  # roles outlive databases
        await connection.execute(f"CREATE ROLE {ROLE} LOGIN NOSUPERUSER")
    await connection.execute(GRANTS)
    await connection.execute(f"CREATE SCHEMA {ROLE} AUTHORIZATION {ROLE}; CREATE TABLE {ROLE}.orders (id integer)")
    await connection.execute(f"GRANT ALL ON {ROLE}.orders TO {ROLE}")
    app = await connect_app(database_url)
    try:
        yield app
    finally:
        await app.close()


async def test_what_is_committed_is_delivered_within_a_second_and_says_who_sent_it(
    service: Service, app: asyncpg.Connection
) -> None:
    async with service.connect("alice") as alice:
        await alice.take_backlog()
        async with app.transaction():
            await app.execute("INSERT INTO orders VALUES (7)")
            notification = await app.fetchval(
                """SELECT notify.send(recipient => 'alice', type => 'order.shipped', data => '{"order": 7}')"""
            )
        committed = time.monotonic()
        frame = await alice.take()
        assert time.monotonic() - committed < 1
    assert (frame["id"], frame["type"], frame["data"]) == (str(notification), "order.shipped", {"order": 7})
    assert frame["source"] == ROLE
    assert await find_statuses_as(service, notification) == {"alice": "pending"}


async def find_statuses_as(service: Service, notification: UUID) -> dict[str, str]:
    """Follow it as the app whose name is the role's."""
    found = await follow(service, str(notification), app=ROLE)
    return {"alice": next(status for status, count in found["counts"].items() if count)}


async def test_what_is_rolled_back_is_never_delivered(service: Service, app: asyncpg.Connection) -> None:
    transaction = app.transaction()
    await transaction.start()
    await app.fetchval("SELECT notify.send('t', recipient => 'alice', data => '1')")
    await transaction.rollback()
    async with app.transaction():
        await app.execute("SAVEPOINT s")
        await app.fetchval("SELECT notify.send('t', recipient => 'alice', data => '2')")
        await app.execute("ROLLBACK TO SAVEPOINT s")
        await app.fetchval("SELECT notify.send('t', recipient => 'alice', data => '3')")
    async with service.connect("alice") as alice:
        [frame] = await alice.take_notifications(1)
        assert frame["data"] == 3
        await service.send("alice", "last")
        assert data_of(await alice.take_notifications(1)) == ["last"]


async def test_a_transaction_left_open_delays_nobody_else(
    service: Service, app: asyncpg.Connection, database_url: str
) -> None:
    other = await connect_app(database_url)
    try:
        async with service.connect("alice") as alice, service.connect("bob") as bob:
            await alice.take_backlog()
            await bob.take_backlog()
            async with app.transaction():
                forgotten = await app.fetchval(
                    "SELECT notify.send('t', recipients => '{alice,bob}', collapse_key => 'k')"
                )
                started = time.monotonic()
                sent = [await service.send("alice", collapse_key=key) for key in ("k", "l", "m")]
                sent.append(
                    str(await other.fetchval("SELECT notify.send('t', recipient => 'alice', collapse_key => 'n')"))
                )
                frames = await alice.take_notifications(4)
                assert time.monotonic() - started < 2
                assert [frame["id"] for frame in frames] == sent
            assert (await bob.take())["id"] == str(forgotten)
    finally:
        await other.close()


async def test_every_kind_of_recipient_and_field_works(service: Service, app: asyncpg.Connection) -> None:
    await subscribe(service, "news", "alice", "bob")
    many = await app.fetchval("SELECT notify.send('many', recipients => ARRAY['bob', 'alice', 'bob'], ttl => 60)")
    topic = await app.fetchval("SELECT notify.send('topic', topic => 'news')")
    nobody = await app.fetchval("SELECT notify.send('nobody', topic => 'nothing')")
    past = await app.fetchval(
        "SELECT notify.send('past', recipient => 'alice', deliver_at => now() - interval '1 day')"
    )
    later = await app.fetchval(
        "SELECT notify.send('later', recipient => 'alice', deliver_at => now() + interval '29 days')"
    )

    async def is_there() -> bool:
        return len((await list_inbox(service, "alice"))["items"]) == 3

    await until(is_there)
    found = {one: await follow(service, str(one), app=ROLE) for one in (many, topic, nobody, past, later)}
    assert [one["recipients"] for one in found.values()] == [2, 2, 0, 1, 1]
    assert found[later]["counts"]["scheduled"] == 1
    assert found[past]["counts"]["pending"] == 1


async def test_one_transactions_notifications_keep_their_order(service: Service, app: asyncpg.Connection) -> None:
    async with app.transaction():
        for n in range(20):
            await app.fetchval("SELECT notify.send('t', recipient => 'alice', data => $1)", str(n))
    async with service.connect("alice") as alice:
        assert [frame["data"] for frame in await alice.take_notifications(20)] == list(range(20))


async def test_the_documented_grants_open_nothing_else(app: asyncpg.Connection, connection: asyncpg.Connection) -> None:
    tables = [
        row[0]
        for row in await connection.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'notify'::regnamespace AND relkind = 'r'"
        )
    ]
    assert "notification" in tables
    for table in tables:
        for act in ("SELECT", "DELETE"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await app.execute(f"{act} FROM notify.{table}")
    for call in (
        "notify.release(1, 1)",
        "notify.unread('alice')",
        "notify.cancel(gen_random_uuid(), NULL)",
        "notify.wake('{alice}')",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await app.execute(f"SELECT {call}")


async def test_without_the_grant_nobody_may_send(app: asyncpg.Connection, connection: asyncpg.Connection) -> None:
    await connection.execute(f"REVOKE EXECUTE ON FUNCTION notify.send FROM {ROLE}")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await app.execute("SELECT notify.send('t', recipient => 'alice')")


async def test_a_hostile_search_path_is_not_looked_at(app: asyncpg.Connection, connection: asyncpg.Connection) -> None:
    """Functions and operators in schemas of the caller's, the temporary one included, are never run with the owner's rights."""
    await app.execute(
        f"""
        CREATE TABLE {ROLE}.notification (id uuid); CREATE TABLE pg_temp.notification (id uuid);
        CREATE FUNCTION {ROLE}.trap() RETURNS void LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'run as %', current_user; END $$;
        CREATE FUNCTION {ROLE}.length(text) RETURNS integer LANGUAGE sql AS $$ SELECT {ROLE}.trap(); SELECT 1 $$;
        CREATE FUNCTION {ROLE}.octet_length(text) RETURNS integer LANGUAGE sql AS $$ SELECT {ROLE}.trap(); SELECT 1 $$;
        CREATE FUNCTION {ROLE}.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$ SELECT {ROLE}.trap(); SELECT now() $$;
        CREATE FUNCTION {ROLE}.gen_random_uuid() RETURNS uuid LANGUAGE sql AS $$ SELECT {ROLE}.trap(); SELECT NULL::uuid $$;
        CREATE FUNCTION {ROLE}.check_name(text, text, integer) RETURNS void LANGUAGE sql AS $$ SELECT {ROLE}.trap() $$;
        CREATE FUNCTION {ROLE}.compare(text, text) RETURNS boolean LANGUAGE sql AS $$ SELECT {ROLE}.trap(); SELECT true $$;
        CREATE OPERATOR {ROLE}.~ (LEFTARG = text, RIGHTARG = text, FUNCTION = {ROLE}.compare);
        CREATE OPERATOR {ROLE}.= (LEFTARG = text, RIGHTARG = text, FUNCTION = {ROLE}.compare);
        SET search_path = {ROLE}, pg_temp, pg_catalog;
        """
    )
    await app.fetchval("""SELECT notify.send('t', recipient => 'alice', data => '["\\u00e9"]')""")
    assert await connection.fetchval("SELECT count(*) FROM notify.notification WHERE producer = $1", ROLE) == 1


BAD_ARGUMENTS = [
    ("type => 't'", "22023"),
    ("type => 't', recipient => NULL", "22023"),
    ("type => 't', recipient => 'a', topic => 't'", "22023"),
    ("type => 't', recipient => 'a', recipients => '{b}'", "22023"),
    ("type => '', recipient => 'a'", "22023"),
    ("type => NULL, recipient => 'a'", "22023"),
    ("type => repeat('t', 129), recipient => 'a'", "22023"),
    ("type => E'a\\tb', recipient => 'a'", "22023"),
    ("type => 't', recipient => ''", "22023"),
    ("type => 't', recipient => repeat('a', 256)", "22023"),
    ("type => 't', recipient => E'a\\u0085'", "22023"),
    ("type => 't', recipients => '{}'", "22023"),
    ("type => 't', recipients => '{a,NULL}'", "22023"),
    ("type => 't', recipients => (SELECT array_agg(n::text) FROM generate_series(1, 10001) AS n)", "54000"),
    ("type => 't', topic => repeat('t', 256)", "22023"),
    ("type => 't', recipient => 'a', collapse_key => ''", "22023"),
    ("type => 't', recipient => 'a', collapse_key => repeat('k', 65)", "22023"),
    ("type => 't', recipient => 'a', ttl => 0", "22023"),
    ("type => 't', recipient => 'a', ttl => NULL", "22023"),
    ("type => 't', recipient => 'a', ttl => 2419201", "22023"),
    ("type => 't', recipient => 'a', deliver_at => now() + interval '31 days'", "22023"),
    ("type => 't', recipient => 'a', deliver_at => 'infinity'", "22023"),
    ("type => 't', recipient => 'a', deliver_at => '-infinity'", "22023"),
]
"""Of `notify.send()`, and the code it raises."""


async def test_every_limit_is_checked_inside(app: asyncpg.Connection, connection: asyncpg.Connection) -> None:
    for arguments, code in BAD_ARGUMENTS:
        with pytest.raises(asyncpg.PostgresError) as refused:
            await app.fetchval(f"SELECT notify.send({arguments})")
        assert refused.value.sqlstate == code, arguments
        assert str(refused.value).startswith("notify.send: ")
    assert await connection.fetchval("SELECT count(*) FROM notify.notification") == 0


async def test_the_longest_of_everything_is_taken(service: Service, app: asyncpg.Connection) -> None:
    user, key = "日" * 255, "k" * 64
    await app.fetchval(
        "SELECT notify.send($1, recipient => $2, data => $3, collapse_key => $4)",
        "t" * 128,
        user,
        json.dumps("x" * 65_534),
        key,
    )
    async with service.connect(user) as one:
        [frame] = await one.take_notifications(1)
    assert (len(frame["data"]), frame["type"]) == (65_534, "t" * 128)


DATA = [
    ("null", True),
    ('{"a": 1, "a": 2}', True),
    ("[18446744073709551615, -9223372036854775808, 1e308, 1e-400, 0.1]", True),
    ('"a string with 1e999 and \\\\u0000 in it"', True),
    ('"\\ud83d\\ude00 \\u00e9 \\" [[["', True),
    ("[" * 64 + "]" * 64, True),
    ("[" * 65 + "]" * 65, False),
    ("[18446744073709551616]", False),
    ("[-9223372036854775809]", False),
    ("1e309", False),
    ("-1E+309", False),
    ("1" + "0" * 400, False),
    ("1" + "0" * 400 + ".5", False),
    ("1" + "0" * 400 + "e-1", False),
    ('{"a\\u0000": 1}', False),
    ('"\\ud800"', False),
    ('"\\ude00\\ud83d"', False),
    ('"' + "x" * 65_535 + '"', False),
    ("[" + "1e131071," * 60 + "1]", False),
]
"""JSON texts, and whether they may be stored."""


async def test_data_is_held_to_the_same_rules_as_at_the_other_door(service: Service, app: asyncpg.Connection) -> None:
    for text, fit in DATA:
        headers = {"Content-Type": "application/json"}
        body = b'{"to": "alice", "type": "t", "data": ' + text.encode() + b"}"
        answer = await service.client.post(
            "/v1/notifications", content=body, headers=headers | bearer("shop", scope=SEND)
        )
        assert (answer.status_code == 201) == fit, text[:100]
        with nullcontext() if fit else pytest.raises(asyncpg.InvalidParameterValueError, match="data"):
            await app.fetchval("SELECT notify.send('t', recipient => 'bob', data => $1)", text)
    stored = [item["data"] for item in (await list_inbox(service, "alice"))["items"]]

    async def is_there() -> bool:
        return len((await list_inbox(service, "bob"))["items"]) == len(stored)

    await until(is_there)
    assert [item["data"] for item in (await list_inbox(service, "bob"))["items"]] == stored


async def test_text_that_would_take_for_ever_takes_no_time(app: asyncpg.Connection) -> None:
    for text in (
        '"' + '\\"' * 32_000 + '"',
        "[" + "[]," * 21_000 + "[]]",
        "[" + '"\\u0041",' * 7_000 + "1]",
        "[" + "1e1," * 16_000 + "1]",
    ):
        started = time.monotonic()
        await app.fetchval("SELECT notify.send('t', recipient => 'alice', data => $1)", text)
        assert time.monotonic() - started < 2


async def test_apps_that_send_at_once_do_not_wait_for_each_other(app: asyncpg.Connection, database_url: str) -> None:
    others = [await connect_app(database_url) for _ in range(4)]
    transactions = [other.transaction() for other in others]
    try:
        for transaction in transactions:
            await transaction.start()
        async with asyncio.timeout(5):
            for other in others:
                await other.fetchval("SELECT notify.send('t', recipients => '{b,a,c}', collapse_key => 'k')")
            await app.fetchval("SELECT notify.send('t', recipients => '{c,a,b}', collapse_key => 'k')")
        for transaction in reversed(transactions):
            await transaction.commit()
    finally:
        for other in others:
            await other.close()


async def test_a_row_that_can_not_be_delivered_is_set_aside_and_visible(
    service: Service, app: asyncpg.Connection, connection: asyncpg.Connection
) -> None:
    async with connection.transaction():
        bad = await connection.fetchval("SELECT notify.send('t', recipient => 'alice')")
        await connection.execute("UPDATE notify.outbox SET users = ARRAY[NULL, 'alice'] WHERE id = $1", bad)
    good = await app.fetchval("SELECT notify.send('t', recipient => 'alice')")

    async def is_delivered() -> bool:
        return (await find_statuses_as(service, good)) == {"alice": "pending"}

    await until(is_delivered)
    assert await connection.fetchval("SELECT problem FROM notify.outbox WHERE id = $1", bad)
    owner = urlsplit(service.settings.database_url).username or "postgres"
    assert (await follow(service, str(bad), app=owner))["counts"]["cancelled"] == 2


async def test_find_statuses_of_someone_elses_role_is_404(service: Service, app: asyncpg.Connection) -> None:
    notification = await app.fetchval("SELECT notify.send('t', recipient => 'alice')")
    with pytest.raises(AssertionError, match="not-found"):
        await find_statuses(service, str(notification))
