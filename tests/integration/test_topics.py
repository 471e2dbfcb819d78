"""Topics: whoever is subscribed at that moment, in order with what is sent directly, within the limits of a request."""

from typing import Any

import asyncpg

from tests.integration.support import encode, find_statuses, from_now, subscribe
from tests.service import SEND, Service, bearer


async def list_page(service: Service, topic: str, **query: Any) -> tuple[list[str], str | None]:
    path = f"/v1/topics/{encode(topic)}/subscribers"
    answer = await service.client.get(path, params=query, headers=bearer("shop", scope=SEND))
    assert answer.status_code == 200, answer.text
    return [item["user"] for item in answer.json()["items"]], answer.json()["next"]


async def send(service: Service, topic: str, **fields: object) -> dict[str, object]:
    answer = await service.post({"topic": topic, "type": "t", **fields})
    assert answer.status_code == 201, answer.text
    found: dict[str, object] = answer.json()
    return found


async def fill(connection: asyncpg.Connection, topic: str, count: int) -> None:
    """Subscribe very many."""
    await connection.execute(
        "INSERT INTO notify.subscription SELECT $1, 'user ' || n FROM generate_series(1, $2) AS n", topic, count
    )


async def test_whoever_is_subscribed_at_that_moment_gets_it(service: Service) -> None:
    await subscribe(service, "news", "alice", "bob")
    sent = await send(service, "news")
    await subscribe(service, "news", "carol")
    gone = await service.client.delete("/v1/topics/news/subscribers/bob", headers=bearer("shop", scope=SEND))
    assert gone.status_code == 204
    later = await send(service, "news")
    assert set(await find_statuses(service, str(sent["id"]))) == {"alice", "bob"}
    assert set(await find_statuses(service, str(later["id"]))) == {"alice", "carol"}


async def test_a_topic_without_subscribers_is_201_with_nobody(service: Service) -> None:
    assert (await send(service, "nothing"))["recipients"] == 0


async def test_subscribing_twice_is_once_and_so_is_unsubscribing(service: Service) -> None:
    await subscribe(service, "news", "alice", "alice")
    assert (await send(service, "news"))["recipients"] == 1
    for _ in range(2):
        answer = await service.client.delete("/v1/topics/news/subscribers/alice", headers=bearer("shop", scope=SEND))
        assert answer.status_code == 204
    assert (await send(service, "news"))["recipients"] == 0


async def test_subscribers_are_listed_page_by_page_and_any_legal_id_is_one(service: Service) -> None:
    users = sorted(["a/b", "..", "alice", "é ü", "😀", "%2F"])
    await subscribe(service, "a topic/with a slash", *users)
    found: list[str] = []
    cursor: dict[str, Any] = {}
    while True:
        page, following = await list_page(service, "a topic/with a slash", limit=4, **cursor)
        found += page
        if following is None:
            break
        cursor = {"cursor": following}
    assert found == users


async def test_ten_thousand_get_one_and_what_is_sent_directly_keeps_its_place(
    service: Service, connection: asyncpg.Connection
) -> None:
    await fill(connection, "all", 10_000)
    async with service.connect("user 777") as user:
        await user.take_backlog()
        await service.send("user 777", "before")
        sent = await send(service, "all", data="to all")
        await service.send("user 777", "after")
        assert [frame["data"] for frame in await user.take_notifications(3)] == ["before", "to all", "after"]
    assert sent["recipients"] == 10_000
    assert (
        await connection.fetchval("SELECT count(*) FROM notify.entry WHERE notification_id = $1", sent["id"]) == 10_000
    )


async def test_beyond_the_limit_it_is_413_before_any_row_is_written(
    service: Service, connection: asyncpg.Connection
) -> None:
    await fill(connection, "too many", 10_001)
    await fill(connection, "half", 5_001)
    half = {"topic": "half", "type": "t"}
    assert (await service.post({"topic": "too many", "type": "t"})).status_code == 413
    answer = await service.post({"notifications": [half, half]}, path="/v1/notifications/batch")
    assert answer.status_code == 413
    answer = await service.post(
        {"notifications": [half, {"to": ["x"] * 5_000, "type": "t"}]}, path="/v1/notifications/batch"
    )
    assert answer.status_code == 201  # the same one twice counts once
    await connection.execute("DELETE FROM notify.notification")
    assert (await service.post({"topic": "too many", "type": "t", "deliver_at": from_now(60)})).status_code == 413
    assert await connection.fetchval("SELECT count(*) FROM notify.notification") == 0
    assert await connection.fetchval("SELECT count(*) FROM notify.outbox") == 0


async def test_a_scheduled_one_is_for_those_subscribed_when_it_was_sent(service: Service) -> None:
    await subscribe(service, "news", "alice")
    sent = await send(service, "news", deliver_at=from_now(3600))
    await subscribe(service, "news", "bob")
    assert await find_statuses(service, str(sent["id"])) == {"alice": "scheduled"}


async def test_a_topic_and_recipients_together_or_neither_is_an_error(service: Service) -> None:
    bodies: list[dict[str, object]] = [
        {"topic": "t", "to": "a"},
        {},
        {"topic": ""},
        {"topic": "x" * 256},
        {"topic": ["t"]},
    ]
    for body in bodies:
        answer = await service.post({"type": "t", **body})
        assert answer.status_code == 400, body
        assert answer.json()["errors"]
