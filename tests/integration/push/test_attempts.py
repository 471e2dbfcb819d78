"""A push that fails is made again, by whichever node is there, and never twice; it holds up nobody else's."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest

from notify import pusher
from notify.sql import query
from notify.store.push import Push
from tests.receiver import Receiver, Reply
from tests.service import Service, until
from tests.subscriber import Browser, is_settled, lead_to, list_endpoints, settled, subscribe, take


async def test_a_subscription_that_is_gone_is_removed(
    service: Service, push_service: Receiver, connection: asyncpg.Connection
) -> None:
    for status in (404, 410):
        await subscribe(service, Browser(push_service))
        push_service.replies = [Reply(status)]
        await service.send("alice")
        await push_service.take()
        await until(lambda: has_none(connection))


async def has_none(connection: asyncpg.Connection) -> bool:
    return not await list_endpoints(connection)


async def test_a_push_that_fails_is_made_again_and_only_that(
    service: Service, push_service: Receiver, connection: asyncpg.Connection
) -> None:
    browser = Browser(push_service)
    await subscribe(service, browser)
    push_service.replies = [Reply(429, {"Retry-After": "0"}), Reply(500), Reply(503)]
    await service.send_many("alice", 2)
    assert [(await take(push_service, browser))["data"] for _ in range(5)] == [0, 0, 0, 0, 1]
    await settled(connection, 2)
    assert push_service.requests.empty()


async def test_a_push_service_says_how_long_to_wait(
    service: Service, push_service: Receiver, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pusher, "BACKOFF_SECONDS", (0.02, 3_600.0))
    await subscribe(service, Browser(push_service))
    push_service.reply = Reply(429, {"Retry-After": "120"})
    await service.send("alice")
    await push_service.take()

    async def is_delayed() -> bool:
        waits = "SELECT attempts = 1 AND next_at > now() + interval '110 seconds' FROM notify.push_subscription"
        return bool(await connection.fetchval(waits))

    await until(is_delayed)


async def test_a_subscription_that_fails_for_a_day_is_given_up(
    service: Service, push_service: Receiver, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pusher, "MAX_ATTEMPTS", 2)
    push_service.reply = Reply(500)
    await subscribe(service, Browser(push_service))
    await service.send("alice")
    await until(lambda: has_none(connection))
    assert push_service.requests.qsize() == 2


async def test_a_push_that_is_refused_holds_up_no_other(service: Service, push_service: Receiver) -> None:
    browser = Browser(push_service)
    await subscribe(service, browser)
    push_service.replies = [Reply(403)]
    await service.send_many("alice", 2)
    assert [(await take(push_service, browser))["data"] for _ in range(2)] == [0, 1]


async def test_a_node_that_dies_in_a_push_leaves_it_to_another(
    database_url: str, push_service: Receiver, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pusher, "CLAIM_SECONDS", 0.5)
    monkeypatch.setattr(pusher, "LEASE_SECONDS", 0.2)
    monkeypatch.setattr(pusher, "LEAVE_SECONDS", 0.0)
    browser = Browser(push_service)
    push_service.replies = [Reply(None)]
    async with lead_to(push_service, Service(database_url)) as dying:
        await subscribe(dying, browser)
        await dying.send("alice", 1)
        await push_service.take()
    async with lead_to(push_service, Service(database_url)):
        assert (await take(push_service, browser))["data"] == 1
        await settled(connection, 1)


async def test_a_node_that_stops_leaves_nothing_claimed(
    database_url: str, push_service: Receiver, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has claimed it pushes, even if the answer to the claim comes when it is already leaving."""
    claim, claimed = Push.claim, asyncio.Event()

    async def claim_slowly(push: Push, users: Sequence[str], **bounds: Any) -> Any:
        found = await claim(push, users, **bounds)
        if found[0]:
            claimed.set()
            await asyncio.sleep(0.5)  # the answer is on its way
        return found

    monkeypatch.setattr(Push, "claim", claim_slowly)
    browser = Browser(push_service)
    async with lead_to(push_service, Service(database_url)) as service:
        await subscribe(service, browser)
        await service.send("alice")
        async with asyncio.timeout(5):
            await claimed.wait()
    assert await is_settled(connection, 1)
    assert (await take(push_service, browser))["seq"] == 1


async def test_browsers_that_do_not_answer_hold_up_their_own_user(
    database_url: str, push_service: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pusher, "LEAVE_SECONDS", 0.0)
    push_service.replies = [Reply(None)] * pusher.MAX_USER_PUSHES
    async with lead_to(push_service, Service(database_url)) as service:
        for number in range(pusher.MAX_USER_PUSHES + 2):
            await subscribe(service, Browser(push_service, str(number)), "alice")
        await subscribe(service, Browser(push_service, "bob"), "bob")
        await service.send("alice")
        for _ in range(pusher.MAX_USER_PUSHES):
            assert (await push_service.take()).target != "/send/bob"
        await service.send("bob")
        assert (await push_service.take()).target == "/send/bob"


async def test_two_nodes_push_everything_once(
    database_url: str, push_service: Receiver, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even when both believe that it is theirs to do, as after a pause that was longer than the lease."""

    async def believe(*_: object, **__: object) -> bool:
        return True

    monkeypatch.setattr("notify.store.push.Push.lease", believe)
    monkeypatch.setattr(pusher, "WALK_SECONDS", 0.02)
    browsers = [Browser(push_service, name) for name in ("1", "2", "3")]
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(lead_to(push_service, Service(database_url))) for _ in range(2)]
        for browser in browsers:
            await subscribe(nodes[0], browser)
        await nodes[0].send_many("alice", 10)
        await settled(connection, 10)
    assert push_service.requests.qsize() == 30


async def test_what_one_node_is_claiming_another_passes_over(
    service: Service, push_service: Receiver, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pusher, "GRACE_SECONDS", 3_600.0)
    await subscribe(service, Browser(push_service))
    await service.send("alice")
    async with connection.transaction():
        [claimed] = await connection.fetch(query("claim_pushes"), ["alice"], 10, 10, 100, 60.0)
        assert claimed["seq"] == 1
        async with asyncio.timeout(1):
            assert await service.store.push.claim(["alice"], limit=10, each=10, behind=100, seconds=60.0) == ([], [])
    assert await service.store.push.claim(["alice"], limit=10, each=10, behind=100, seconds=60.0) == ([], [])
