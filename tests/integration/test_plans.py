"""What sessions and admins wait for looks up what it needs by whole keys, whatever was there when its plan was made.

Plans are made once a connection. Nothing tells PostgreSQL less than a table that was vacuumed while it was empty: going through
all of it for each look-up seems to cost nothing then, and so the plan says, until long after there are millions.
"""

import re
from collections.abc import Iterator

import asyncpg
import pytest

from notify.sql import query
from notify.store.database import SERVER_SETTINGS

KEYS = {
    "mailbox_pkey": {"user_id"},
    "cursor_pkey": {"user_id", "device"},
    "entry_pkey": {"user_id", "seq"},
    "entry_notification": {"notification_id"},
    "notification_pkey": {"id"},
    "notification_age": {"created_at"},
    "notification_unswept": {"expires_at"},
    "ending_pkey": {"user_id", "seq"},
    "reading_pkey": {"user_id", "to_seq"},
    "outbox_pkey": {"id"},
    "deadline_pkey": {"id"},
    "webhook_call_pkey": {"id"},
    "pg_database_datname_index": {"datname"},
}
"""What an index has to be asked for at the least; no other is asked."""

ALL_OF_A_USER = {"list_recent": "entry_pkey"}
"""Who reads a user's entries from the last one on until there are enough."""

OFTEN = ("look", "fetch_pages", "move_cursors", "list_inbox", "list_touched")
SELDOM = ("count_pending", "count_replayable", "list_pending", "list_recent", "find_notification", "find_undelivered")

SCAN = re.compile(
    r"Index (?:Only )?Scan (?:Backward )?using (\w+) on|Bitmap Index Scan on (\w+)|(Seq Scan on (?!salt)\w+)"
)


@pytest.fixture(params=["new", "vacuumed"])
async def node(request: pytest.FixtureRequest, connection: asyncpg.Connection, database_url: str) -> asyncpg.Connection:
    """Return a connection as the service has them, to a database in which nothing was ever stored."""
    if request.param == "vacuumed":
        await connection.execute("VACUUM (ANALYZE)")
    node = await asyncpg.connect(database_url, server_settings=SERVER_SETTINGS, statement_cache_size=0)
    request.node.addfinalizer(node.terminate)
    return node


def read_scans(plan: list[str]) -> Iterator[tuple[str, set[str]]]:
    """Yield each index that a plan asks, and which of its columns it asks for."""
    for place, line in enumerate(plan):
        if found := SCAN.search(line):
            condition = plan[place + 1] if place + 1 < len(plan) else ""
            asked = condition.partition("Index Cond:")[2]
            yield found[1] or found[2] or found[3], set(re.findall(r"\((\w+) (?:=|<|>)", asked))


@pytest.mark.parametrize("name", [*OFTEN, *SELDOM])
async def test_a_plan_made_while_there_was_nothing_asks_for_whole_keys(node: asyncpg.Connection, name: str) -> None:
    plan = await explain(node, name)
    scans = list(read_scans(plan))
    assert scans, plan
    wrong = [index for index, asked in scans if not KEYS.get(index, {"nothing"}) <= asked]
    assert set(wrong) <= {ALL_OF_A_USER.get(name)}, "\n".join(plan)


async def test_the_latest_of_a_mailbox_are_read_without_the_others(
    node: asyncpg.Connection, connection: asyncpg.Connection
) -> None:
    await connection.execute(
        "INSERT INTO notify.entry (user_id, seq, kind, notification_id, at) "
        "SELECT 'user-' || n % 100, n, 1, gen_random_uuid(), now() FROM generate_series(1, 40000) AS n"
    )
    await connection.execute("VACUUM (ANALYZE) notify.entry")
    plan = await explain(node, "list_recent")
    assert any("Index Scan Backward using entry_pkey" in line for line in plan), "\n".join(plan)


async def explain(node: asyncpg.Connection, name: str) -> list[str]:
    """Return the plan of a statement as it is made now, for whatever arguments."""
    statement = query(name)
    arguments = ", ".join(["NULL"] * len(set(re.findall(r"\$\d+", statement))))
    await node.execute(f"PREPARE statement AS {statement}")
    return [row[0] for row in await node.fetch(f"EXPLAIN (COSTS OFF) EXECUTE statement ({arguments})")]
