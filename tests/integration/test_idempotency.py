"""The Idempotency-Key: the same request twice is sent once, also across nodes, in flight, after its day and after a change."""

import asyncio

import asyncpg
from httpx import Response

from tests.integration.support import BATCH, count, open_nodes, subscribe
from tests.service import Service, bearer

BODY = {"to": "alice", "type": "t", "data": 1}


async def test_the_same_key_and_body_give_the_first_answer_again(
    service: Service, connection: asyncpg.Connection
) -> None:
    body = {"to": ["ann", "bob"], "type": "t"}
    first = await service.post(body, Idempotency_Key="k1")
    again = await service.post(body, Idempotency_Key="k1")
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert again.headers["location"] == first.headers["location"]
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert await count(connection, "notification") == 1


async def test_the_same_key_with_another_body_is_refused(service: Service) -> None:
    await service.post({"to": "ann", "type": "t"}, Idempotency_Key="k1")
    answer = await service.post({"to": "ann", "type": "u"}, Idempotency_Key="k1")
    assert (answer.status_code, answer.json()["type"]) == (422, "idempotency-key-reused")


async def test_keys_belong_to_the_app_that_sent_them(service: Service, connection: asyncpg.Connection) -> None:
    body = {"to": "ann", "type": "t"}
    one = await service.post(body, Idempotency_Key="k1")
    other = await service.post(body, app="other", Idempotency_Key="k1")
    assert (one.status_code, other.status_code) == (201, 201)
    assert one.json()["id"] != other.json()["id"]
    assert await count(connection, "notification") == 2


async def test_one_of_many_equal_requests_at_once_is_carried_out(
    service: Service, connection: asyncpg.Connection
) -> None:
    body = {"to": "ann", "type": "t"}
    answers = await asyncio.gather(*(service.post(body, Idempotency_Key="k1") for _ in range(20)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 201}) == 1
    assert await count(connection, "notification") == 1


async def test_a_key_works_for_a_batch_and_errors_are_not_kept(
    service: Service, connection: asyncpg.Connection
) -> None:
    bad = await service.post({"notifications": [{"to": "ann"}]}, path=BATCH, Idempotency_Key="k1")
    assert bad.status_code == 400
    body = {"notifications": [{"to": "ann", "type": "t"}, {"to": "bob", "type": "t"}]}
    first = await service.post(body, path=BATCH, Idempotency_Key="k1")
    again = await service.post(body, path=BATCH, Idempotency_Key="k1")
    assert first.status_code == 201
    assert first.json() == again.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert await count(connection, "notification") == 2


async def test_a_taken_key_fails_its_own_request_and_none_of_those_beside_it(
    service: Service, connection: asyncpg.Connection
) -> None:
    await service.post({"to": "ann", "type": "t"}, Idempotency_Key="k1")
    requests = [service.post({"to": f"user{place}", "type": "t"}) for place in range(30)]
    requests.insert(15, service.post({"to": "ann", "type": "another"}, Idempotency_Key="k1"))
    answers = await asyncio.gather(*requests)
    assert [answer.status_code for answer in answers].count(201) == 30
    assert answers[15].status_code == 422
    assert await count(connection, "notification") == 31


async def test_a_key_that_is_no_key_is_refused(service: Service) -> None:
    for key in ("", "k" * 256):
        answer = await service.post({"to": "ann", "type": "t"}, Idempotency_Key=key)
        assert answer.status_code == 400, key
        assert answer.json()["errors"][0]["pointer"] == "/Idempotency-Key"


async def test_racing_on_two_nodes_stores_one(database_url: str, connection: asyncpg.Connection) -> None:
    async with open_nodes(database_url) as nodes:
        for turn in range(15):
            key = f"key {turn}"
            answers = await asyncio.gather(*(node.post(BODY, Idempotency_Key=key) for node in (*nodes, *nodes)))
            assert {answer.status_code for answer in answers} <= {201, 409}
            stored = [answer for answer in answers if answer.status_code == 201]
            assert len({answer.json()["id"] for answer in stored}) == 1
            assert sum("Idempotent-Replayed" not in answer.headers for answer in stored) == 1
    assert await connection.fetchval("SELECT count(*) FROM notify.notification") == 15
    assert await connection.fetchval("SELECT head FROM notify.mailbox WHERE user_id = 'alice'") == 15


async def test_in_flight_is_409_and_a_crash_leaves_nothing_in_flight(service: Service, database_url: str) -> None:
    other = await asyncpg.connect(database_url)
    transaction = other.transaction()
    await transaction.start()
    await other.execute("SELECT pg_advisory_xact_lock(hashtextextended('shop' || E'\\n' || 'k', 1))")
    answer = await service.post(BODY, Idempotency_Key="k")
    assert (answer.status_code, answer.json()["type"].rpartition("/")[2] != "") == (409, True)
    assert (await service.post(BODY, Idempotency_Key="another")).status_code == 201
    other.terminate()  # as a node that crashes in the middle

    async def repeat() -> Response:
        async with asyncio.timeout(5):
            while (answer := await service.post(BODY, Idempotency_Key="k")).status_code == 409:
                await asyncio.sleep(0.01)  # PostgreSQL notices in its own time
            return answer

    answer = await repeat()
    assert answer.status_code == 201
    assert "Idempotent-Replayed" not in answer.headers


async def test_a_key_may_be_used_again_after_its_day(service: Service, connection: asyncpg.Connection) -> None:
    first = await service.post(BODY, Idempotency_Key="k")
    await connection.execute("UPDATE notify.idempotency SET created_at = created_at - interval '24 hours 1 second'")
    second = await service.post({**BODY, "data": 2}, Idempotency_Key="k")
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json()["id"] != second.json()["id"]


async def test_the_first_answer_comes_again_although_the_same_request_would_be_refused_now(database_url: str) -> None:
    async with Service(database_url, max_recipients=2) as service:
        await subscribe(service, "news", "alice", "bob")
        body = {"topic": "news", "type": "t"}
        first = await service.post(body, Idempotency_Key="k")
        await subscribe(service, "news", "carol")
        again = await service.post(body, Idempotency_Key="k")
        assert (first.json(), again.headers["Idempotent-Replayed"]) == (again.json(), "true")
        assert first.headers["Location"] == again.headers["Location"]
        assert (await service.post(body)).status_code == 413


async def test_a_key_of_a_batch_gives_the_same_ids_again(service: Service) -> None:
    body = {"notifications": [BODY, {**BODY, "to": ["bob", "carol"]}]}
    answers = [await service.post(body, path="/v1/notifications/batch", Idempotency_Key="k") for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert [answer.headers.get("Idempotent-Replayed") for answer in answers] == [None, "true"]
    one = await service.client.get("/v1/inbox", headers=bearer("bob"))
    assert len(one.json()["items"]) == 1
