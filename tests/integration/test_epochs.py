"""Another database behind the same address: what was acknowledged in the one counts in no other, and everyone is told.

The salt stands for the failover: it is part of the epoch as the timeline is, and nothing breaks that would be noticed.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from notify.errors import Unavailable
from notify.sql import query
from notify.store import Store
from tests.mailing import post
from tests.service import Service, bearer, read_cursor


async def test_an_ack_of_before_a_failover_moves_no_cursor_after_it(
    service: Service, connection: asyncpg.Connection
) -> None:
    await service.send_many("ann", 3)
    async with service.connect("ann") as before:
        await before.take_until("caught_up")
        await connection.execute(query("renew_salt"))
        await before.say({"op": "ack", "seq": 3})
        code, _, frames = await before.take_close()
        assert (code, frames[-1]["reconnect"]) == (1013, True)
    await service.wait_for_acks()
    assert await read_cursor(connection, "ann") == 0
    async with service.connect("ann", after=3, epoch=before.welcome["epoch"]) as after:
        assert after.welcome["epoch"] != before.welcome["epoch"]
        assert (after.welcome["recovered"], after.welcome["after"]) == (False, 0)
        assert [frame["seq"] for frame in await after.take_notifications(3)] == [1, 2, 3]
        await after.take_until("caught_up")
        await after.ack(3)
        await service.wait_for_acks()
    assert await read_cursor(connection, "ann") == 3


def fail_over_after(
    look: Callable[..., Awaitable[Any]], store: Store, connection: asyncpg.Connection
) -> Callable[..., Awaitable[Any]]:
    """Let another database take over, and be noticed, while an answer of the former is on its way."""

    async def answer(*arguments: Any) -> Any:
        found = await look(*arguments)
        await connection.execute(query("renew_salt"))
        await store.mailboxes.read_epoch()
        return found

    return answer


async def test_what_a_former_database_said_is_never_told_as_the_next_ones(
    store: Store, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await store.mailboxes.open("ann", "default")
    monkeypatch.setattr(store.mailboxes, "_look", fail_over_after(store.mailboxes._look, store, connection))
    assert (await store.mailboxes.open("ann", "default")).epoch == before.epoch


async def test_an_ack_that_came_before_a_failover_was_noticed_is_not_taken_for_a_later_one(
    store: Store, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.sends.send(post("ann"))
    await store.mailboxes.open("ann", "default")
    monkeypatch.setattr(store.database, "row", fail_over_after(store.database.row, store, connection))
    with pytest.raises(Unavailable):
        await store.mailboxes.acknowledge("ann", "default", 1)
    assert await read_cursor(connection, "ann") == 0


async def test_an_ack_by_post_that_names_another_epoch_means_nothing(
    service: Service, connection: asyncpg.Connection
) -> None:
    await service.send_many("ann", 3)
    async with service.connect("ann") as former:
        await former.take_until("caught_up")
    await connection.execute(query("renew_salt"))
    await service.store.mailboxes.read_epoch()
    async with service.connect("ann") as socket:
        await socket.take_until("caught_up")
        for epoch, cursor in ((former.welcome["epoch"], 0), (socket.welcome["epoch"], 2)):
            ack = {"device": "default", "seq": 2, "epoch": epoch}
            answer = await service.client.post("/v1/inbox/ack", json=ack, headers=bearer("ann"))
            assert answer.status_code == 204, answer.text
            assert await read_cursor(connection, "ann") == cursor
