"""Sending over HTTP: answered after the commit, all or nothing, within its limits, by those who may."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest

from notify.api.plain import REFUSAL_SECONDS
from tests.integration.support import BATCH, count
from tests.service import SEND, Service, bearer, holding, until

PATH = "/v1/notifications"


@asynccontextmanager
async def serving(database_url: str, **settings: Any) -> AsyncIterator[Service]:
    async with Service(database_url, **settings) as service:
        yield service


async def test_an_accepted_notification_is_committed_and_can_be_followed(
    service: Service, connection: asyncpg.Connection
) -> None:
    answer = await service.post({"to": ["ann", "bob", "ann"], "type": "order.shipped", "data": {"order": 7}})
    assert answer.status_code == 201
    sent = answer.json()
    assert set(sent) == {"id", "recipients", "created_at"}
    assert sent["recipients"] == 2  # the same one twice counts once
    assert sent["created_at"].endswith("Z")
    assert answer.headers["location"] == f"{PATH}/{sent['id']}"
    assert await count(connection, "entry") == 2  # seen by somebody else: it was committed before the answer
    found = (await service.client.get(answer.headers["location"], headers=bearer("shop", scope=SEND))).json()
    assert (found["id"], found["type"], found["data"], found["recipients"]) == (
        sent["id"],
        "order.shipped",
        {"order": 7},
        2,
    )
    assert found["created_at"] == sent["created_at"]
    assert found["counts"] == {
        "scheduled": 0, "pending": 2, "delivered": 0, "read": 0, "expired": 0, "cancelled": 0, "collapsed": 0,
    }  # fmt: skip


async def test_no_answer_comes_before_the_commit(service: Service, database_url: str) -> None:
    await service.send("ann")
    async with holding(database_url, "ann"):
        sending = asyncio.create_task(service.post({"to": "ann", "type": "t"}))
        await until(lambda: len(service.store.sends.single) == 1)
        await service.send("bob")  # whoever is not blocked has long been answered
        assert not sending.done()
    assert (await sending).status_code == 201


async def test_data_may_be_anything_and_comes_back_as_it_was(service: Service) -> None:
    values: list[Any] = [
        None,
        True,
        0,
        -1.5e300,
        2**63,
        -(2**63),
        "",
        "ü\U0001f388\u2028",
        [],
        {},
        {"a": [{"b": [None]}]},
        "x" * 60_000,
    ]
    for data in values:
        answer = await service.post({"to": "ann", "type": "t", "data": data})
        assert answer.status_code == 201, (data, answer.text)
        found = await service.client.get(answer.headers["location"], headers=bearer("shop", scope=SEND))
        assert found.json()["data"] == data
    text = b'{"to":"ann","type":"t","data":{"x": 1.10, "x": 2e2}}'
    headers = bearer("shop", scope=SEND) | {"Content-Type": "application/json"}
    answer = await service.client.post(PATH, content=text, headers=headers)
    found = await service.client.get(answer.headers["location"], headers=headers)
    assert b'"data":{"x": 1.10, "x": 2e2}' in found.content


async def test_a_batch_is_stored_as_a_whole_and_answered_in_order(service: Service) -> None:
    body = [{"to": f"user{place}", "type": "t", "data": place} for place in range(1000)]
    answer = await service.post({"notifications": body}, path=BATCH)
    assert answer.status_code == 201
    ids = answer.json()["ids"]
    assert len(set(ids)) == 1000
    for place in (0, 499, 999):
        found = await service.client.get(f"{PATH}/{ids[place]}", headers=bearer("shop", scope=SEND))
        assert found.json()["data"] == place


async def test_a_batch_with_one_bad_notification_stores_nothing(
    service: Service, connection: asyncpg.Connection
) -> None:
    body = [{"to": "ann", "type": "t"}, {"to": "ann", "type": "t", "data": "\0"}, {"to": "", "type": ""}]
    answer = await service.post({"notifications": body}, path=BATCH)
    assert answer.status_code == 400
    pointers = {error["pointer"] for error in answer.json()["errors"]}
    assert pointers >= {"/notifications/2/to", "/notifications/2/type"}
    body = [{"to": "ann", "type": "t"}, {"to": "ann", "type": "t", "data": "\0"}]
    answer = await service.post({"notifications": body}, path=BATCH)
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/notifications/1/data"]
    assert await count(connection, "notification") == 0


async def test_a_notification_to_ten_thousand_reaches_each_of_them(
    service: Service, connection: asyncpg.Connection
) -> None:
    async with service.connect("user9999") as socket:
        await socket.take_backlog()
        answer = await service.post({"to": [f"user{place}" for place in range(10_000)], "type": "t"})
        assert answer.json()["recipients"] == 10_000
        assert (await socket.take())["seq"] == 1
    assert await count(connection, "notification") == 1  # the payload stands once
    assert await count(connection, "entry") == 10_000


async def test_somebody_elses_notification_is_not_to_be_seen(service: Service) -> None:
    found = await service.send("ann")
    for app in ("other", "ann"):
        answer = await service.client.get(f"{PATH}/{found}", headers=bearer(app, scope=SEND))
        assert (answer.status_code, answer.json()["type"]) == (404, "not-found")
    for wrong in ("x", found.upper(), "0" * 36, "00000000-0000-0000-0000-000000000000", found + "%00"):
        assert (await service.client.get(f"{PATH}/{wrong}", headers=bearer("shop", scope=SEND))).status_code == 404


async def test_only_a_token_for_sending_may_send(service: Service) -> None:
    body = {"to": "ann", "type": "t"}
    answer = await service.client.post(PATH, json=body)
    assert (answer.status_code, answer.json()["type"]) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.headers["content-type"] == "application/problem+json"
    for headers in ({"Authorization": "Bearer nonsense"}, {"Authorization": "Basic YTpi"}, {"Authorization": ""}):
        assert (await service.client.post(PATH, json=body, headers=headers)).status_code == 401
    for scope in ("", "notifications:receive", "queues:write", "notifications:sender"):
        answer = await service.client.post(PATH, json=body, headers=bearer("shop", scope=scope))
        assert (answer.status_code, answer.json()["type"]) == (403, "forbidden")


async def test_a_method_that_is_none_here_says_which_are(service: Service) -> None:
    for path in (PATH, BATCH):
        answer = await service.client.get(path, headers=bearer("shop", scope=SEND))
        assert answer.status_code in {404, 405}
    answer = await service.client.put(PATH, headers=bearer("shop", scope=SEND))
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


# For now or never


async def test_what_is_for_now_or_never_reaches_whoever_is_there_and_is_not_stored(
    service: Service, connection: asyncpg.Connection
) -> None:
    async with service.connect("ann") as ann, service.connect("dan") as dan:
        await ann.take_backlog()
        await dan.take_backlog()
        answer = await service.post({"to": ["ann", "bob"], "type": "typing", "data": {"by": "cid"}, "ttl": 0})
        assert answer.status_code == 202
        assert "location" not in answer.headers
        frame = await ann.take()
        assert "seq" not in frame
        assert (frame["op"], frame["id"], frame["data"]) == ("notification", answer.json()["id"], {"by": "cid"})
        await dan.settle()  # it was not for him
    async with service.connect("bob") as bob:
        assert await bob.take_backlog() == []
    assert await count(connection, "notification") == 0


async def test_what_is_for_now_or_never_takes_no_key_time_or_collapse_key(service: Service) -> None:
    body: dict[str, object] = {"to": "ann", "type": "t", "ttl": 0}
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    for extra in ({"collapse_key": "k"}, {"deliver_at": later}):
        assert (await service.post(body | extra)).status_code == 400
    assert (await service.post(body, Idempotency_Key="k")).status_code == 400
    mixed = {"notifications": [body, {"to": "ann", "type": "t"}]}
    assert (await service.post(mixed, path=BATCH)).status_code == 400


# Limits


async def test_what_is_over_a_limit_is_413_and_just_under_it_is_taken(database_url: str) -> None:
    limits = {"max_data_bytes": 100, "max_body_bytes": 2_000, "max_recipients": 5, "max_batch": 3}
    async with serving(database_url, **limits) as service:
        many = [f"u{place}" for place in range(6)]
        cases: list[tuple[str, object, int]] = [
            (PATH, {"to": "a", "type": "t", "data": "x" * 98}, 201),
            (PATH, {"to": "a", "type": "t", "data": "x" * 99}, 413),
            (PATH, {"to": many[:5], "type": "t"}, 201),
            (PATH, {"to": many, "type": "t"}, 413),
            (PATH, {"to": "a", "type": "t", "data": "x" * 2_000}, 413),
            (BATCH, {"notifications": [{"to": "a", "type": "t"}] * 3}, 201),
            (BATCH, {"notifications": [{"to": "a", "type": "t"}] * 4}, 413),
            (BATCH, {"notifications": [{"to": many[:3], "type": "t"}] * 2}, 413),
        ]
        for path, body, status in cases:
            answer = await service.post(body, path=path)
            assert answer.status_code == status, (body, answer.text)
            assert status == 201 or answer.json()["type"] == "too-large"


async def test_a_body_without_a_length_is_cut_off_at_the_limit(database_url: str) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 1_000

    async with serving(database_url, max_body_bytes=10_000) as service:
        headers = bearer("shop", scope=SEND) | {"Content-Type": "application/json"}
        try:
            answer = await service.client.post(PATH, content=parts(), headers=headers)
            assert answer.status_code == 413
        except httpx.WriteError:
            pass  # it was hung up on before it had said everything: a refusal as well
        assert (await service.post({"to": "ann", "type": "t"})).status_code == 201


async def test_a_producer_over_its_rate_is_told_when_to_come_back(database_url: str) -> None:
    async with serving(database_url, send_rate=5.0) as service:
        answers = [await service.post({"to": f"user{place}", "type": "t"}) for place in range(12)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused
        assert int(refused[0].headers["retry-after"]) >= 1
        assert refused[0].json()["type"] == "rate-limited"
        assert min(answer.elapsed.total_seconds() for answer in refused) >= REFUSAL_SECONDS
        assert (await service.post({"to": "ann", "type": "t"}, app="another")).status_code == 201


async def test_a_producer_with_too_much_waiting_is_refused_and_another_is_not(
    service: Service, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("notify.store.sends.FAIR_QUEUE", 2)
    await service.send("ann")
    async with holding(database_url, "ann"):
        waiting = [asyncio.create_task(service.post({"to": "ann", "type": "t"})) for _ in range(3)]
        await until(lambda: len(service.store.sends.single) == 3)
        answer = await service.post({"to": "bob", "type": "t"})
        assert (answer.status_code, answer.json()["type"]) == (429, "rate-limited")
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["ratelimit-policy"] == '"waiting";q=2;qu="concurrent-requests"'
        assert answer.headers["ratelimit"] == '"waiting";r=0;t=1'
        assert (await service.post({"to": "bob", "type": "t"}, app="another")).status_code == 201
    assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {201}


async def test_a_full_lane_refuses_with_503_before_anything_is_accepted(
    service: Service, database_url: str, connection: asyncpg.Connection
) -> None:
    await service.send("ann")
    service.store.sends.single._capacity = 3
    async with holding(database_url, "ann"):
        waiting = [asyncio.create_task(service.post({"to": "ann", "type": "t"})) for _ in range(3)]
        await until(lambda: len(service.store.sends.single) == 3)
        answer = await service.post({"to": "bob", "type": "t"})
        assert (answer.status_code, answer.json()["type"]) == (503, "unavailable")
        assert int(answer.headers["retry-after"]) >= 1
    assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {201}
    assert await count(connection, "notification") == 4


async def test_a_client_that_hangs_up_does_not_take_the_others_in_its_batch_along(
    service: Service, database_url: str, connection: asyncpg.Connection
) -> None:
    await service.send("ann")
    async with holding(database_url, "ann"):
        leaving = asyncio.create_task(service.post({"to": "ann", "type": "t"}))
        staying = asyncio.create_task(service.post({"to": "ann", "type": "t"}))
        await until(lambda: len(service.store.sends.single) == 2)
        leaving.cancel()
        await asyncio.wait({leaving})
    assert (await staying).status_code == 201
    await until(lambda: has(connection, 3))  # and what it had sent was on its way


async def has(connection: asyncpg.Connection, notifications: int) -> bool:
    return await count(connection, "notification") == notifications


# MessagePack


async def test_a_body_may_be_msgpack_and_bytes_stay_bytes(service: Service) -> None:
    body = msgspec.msgpack.encode({"to": "ann", "type": "t", "data": {"raw": b"\x00\xff", "n": 1.5}})
    headers = bearer("shop", scope=SEND) | {"Content-Type": "application/msgpack"}
    async with (
        service.connect("ann", device="m", subprotocols=["notify.v1.msgpack"]) as binary,
        service.connect("ann", device="j") as text,
    ):
        answer = await service.client.post(PATH, content=body, headers=headers)
        assert answer.status_code == 201
        assert (await binary.take_notifications(1))[0]["data"] == {"raw": b"\x00\xff", "n": 1.5}
        assert (await text.take_notifications(1))[0]["data"] == {"raw": {"$bytes": "AP8="}, "n": 1.5}
    found = await service.client.get(answer.headers["location"], headers=bearer("shop", scope=SEND))
    assert found.json()["data"] == {"raw": {"$bytes": "AP8="}, "n": 1.5}


# Browsers


async def test_a_page_of_an_allowed_origin_may_send_and_another_may_not(database_url: str) -> None:
    async with serving(database_url, allowed_origins=["https://app.example"]) as service:
        ask = {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,idempotency-key",
        }
        answer = await service.client.options(PATH, headers={"Origin": "https://app.example", **ask})
        assert answer.status_code in {200, 204}, answer.text
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert "access-control-allow-credentials" not in answer.headers
        answer = await service.client.options(PATH, headers={"Origin": "https://evil.example", **ask})
        assert "access-control-allow-origin" not in answer.headers
        answer = await service.post({"to": "ann", "type": "t"}, Origin="https://app.example")
        assert answer.headers["access-control-allow-origin"] == "https://app.example"


@pytest.mark.parametrize("user", ["a/b", "..", ".", "a b", "ü🎈", "alice/replay", "%2F", "a" * 255, "\u2028"])
async def test_any_legal_id_can_be_sent_to(service: Service, user: str) -> None:
    async with service.connect(user, device=user) as socket:
        assert (socket.welcome["user"], socket.welcome["device"]) == (user, user)
        await socket.take_backlog()
        await service.send(user, user)
        assert (await socket.take())["data"] == user
