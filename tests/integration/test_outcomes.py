"""What is answered when the connection to the database breaks: the truth, whichever it is."""

import asyncio
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from notify.errors import NotifyError, Unavailable
from notify.ids import mint_id
from notify.store import Store
from tests.mailing import (
    connected,
    exists,
    find_waiting,
    is_waiting_for_advisory_lock,
    pausing_entries,
    post,
    read_all,
    stop_at_entries,
    swallowing_proxy,
)
from tests.service import PATIENCE, until

ways = pytest.mark.parametrize("recipients", [("ann",), ("ann", "bob")], ids=["alone", "as one of many"])


@ways
async def test_a_send_whose_connection_is_cut_before_the_commit_was_not_stored(
    store: Store, connection: asyncpg.Connection, recipients: tuple[str, ...]
) -> None:
    await stop_at_entries(connection)
    item = post(*recipients)
    async with pausing_entries(connection):
        sending = asyncio.create_task(store.sends.send(item))
        pid = await find_waiting(connection)
        await connection.execute("SELECT pg_terminate_backend($1)", pid)
        with pytest.raises(Unavailable, match="nothing was accepted"):
            async with asyncio.timeout(PATIENCE):
                await sending
    assert await store.notifications.find(item.notifications[0].id) is None
    assert await read_all(store, "ann") == []
    await store.sends.send(post("ann"))  # and life goes on
    assert await read_all(store, "ann") == [1]


@ways
async def test_a_send_whose_answer_is_lost_after_the_commit_was_stored_and_says_so(
    database_url: str, connection: asyncpg.Connection, recipients: tuple[str, ...]
) -> None:
    async with swallowing_proxy(database_url) as proxy, connected(proxy.url) as store:
        await store.sends.send(post(*(f"{user}'s friend" for user in recipients)))  # the statement is prepared now
        proxy.swallow = True
        item = post(*recipients)
        sending = asyncio.create_task(store.sends.send(item))
        await until(lambda: exists(connection, item.notifications[0].id))
        proxy.cut()
        async with asyncio.timeout(PATIENCE):
            moment = await sending
    stored = await connection.fetchrow(
        "SELECT id, created_at FROM notify.notification WHERE type = 't' ORDER BY id DESC LIMIT 1"
    )
    assert stored is not None
    assert tuple(stored) == (item.notifications[0].id, moment)
    assert await connection.fetchval("SELECT count(*) FROM notify.entry WHERE user_id = 'ann'") == 1


async def test_a_batch_given_up_can_never_be_stored_later(store: Store, connection: asyncpg.Connection) -> None:
    """A statement that was on its way when its sender was told 503 finds that it came too late."""
    batch, first = mint_id(), mint_id()
    assert await store.database.value("settle", batch, first) is None
    arguments: list[Any] = [
        batch, [first], ["shop"], ["t"], [b"1"], [0], [1], [60], [None], [None], [None], [None], [1], ["ann"], 100,
        [], [], [], [],
    ]  # fmt: skip
    with pytest.raises(NotifyError, match="NT001"):
        await store.database.value("deposit", *arguments)
    assert await connection.fetchval("SELECT count(*) FROM notify.entry") == 0
    await store.database.value("deposit", mint_id(), *arguments[1:])
    assert await read_all(store, "ann") == [1]
    alone: list[Any] = [batch, mint_id(), "shop", "t", b"1", 0, 60, None, "ann", 100]
    with pytest.raises(NotifyError, match="NT001"):
        await store.database.value("deposit_alone", *alone)
    assert await read_all(store, "ann") == [1]
    await store.database.value("deposit_alone", mint_id(), *alone[1:])
    assert await read_all(store, "ann") == [1, 2]


@ways
async def test_settling_waits_for_a_statement_that_still_runs(
    store: Store, connection: asyncpg.Connection, recipients: tuple[str, ...]
) -> None:
    """The truth about a batch is not known while it runs: an answer before its end could be wrong."""
    await stop_at_entries(connection)
    batches: list[UUID] = []
    value = store.database.value

    async def remembering(name: str, *arguments: Any) -> Any:
        if name in {"deposit", "deposit_alone"}:
            batches.append(arguments[0])
        return await value(name, *arguments)

    store.database.value = remembering  # type: ignore[method-assign]  # only listens
    item = post(*recipients)
    async with pausing_entries(connection):
        sending = asyncio.create_task(store.sends.send(item))
        await find_waiting(connection)
        settling = asyncio.create_task(value("settle", batches[0], item.notifications[0].id))
        await until(lambda: is_waiting_for_advisory_lock(connection))
        assert not settling.done()
    assert await settling == await sending
