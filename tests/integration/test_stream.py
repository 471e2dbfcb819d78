"""Server-sent events: the same frames, resumed by `Last-Event-ID`, acknowledged by a request to whatever node."""

import asyncpg

from tests.integration.support import acknowledge, find_status, list_inbox, open_nodes, open_stream
from tests.service import SEND, Service, bearer, until


async def test_events_are_the_frames_with_their_place(service: Service) -> None:
    notification = await service.send("alice", {"text": "line\nline"})
    async with open_stream(service, "alice", device="web") as stream:
        (_, no_place, welcome), (name, place, frame), (caught_up, _, _) = await stream.take_until("caught_up")
        assert (welcome["op"], welcome["user"], welcome["device"], no_place) == ("welcome", "alice", "web", None)
        assert (name, frame["id"], frame["data"]) == ("notification", notification, {"text": "line\nline"})
        assert place == f"{welcome['epoch']}:1"
        assert caught_up == "caught_up"
        await service.send("alice", "live")
        assert (await stream.take())[2]["data"] == "live"


async def test_a_producers_line_ends_do_not_end_an_event(service: Service) -> None:
    content = b'{"to": "alice", "type": "t", "data": {\r\n "a":\n\n 1,\r "b": "\\n"}}'
    headers = bearer("shop", scope=SEND) | {"Content-Type": "application/json"}
    assert (await service.client.post("/v1/notifications", content=content, headers=headers)).status_code == 201
    async with open_stream(service, "alice") as stream:
        events = await stream.take_until("caught_up")
    assert events[1][2]["data"] == {"a": 1, "b": "\n"}


async def test_last_event_id_resumes_after_it(service: Service) -> None:
    await service.send_many("alice", 3)
    async with open_stream(service, "alice") as stream:
        events = await stream.take_until("caught_up")
    async with open_stream(service, "alice", last_event_id=events[2][1]) as stream:
        resumed = await stream.take_until("caught_up")
    assert (resumed[0][2]["after"], resumed[0][2]["recovered"]) == (2, True)
    assert [frame["data"] for _, _, frame in resumed[1:-1]] == [2]


async def test_a_place_of_another_epoch_starts_from_the_cursor_and_says_so(service: Service) -> None:
    await service.send_many("alice", 2)
    async with open_stream(service, "alice", last_event_id="another:1") as stream:
        events = await stream.take_until("caught_up")
    assert (events[0][2]["recovered"], len(events)) == (False, 4)


async def test_an_id_that_was_never_given_out_is_400(service: Service) -> None:
    for last in ("1", ":1", "e:", "e:x", "e:-1", "e:" + "9" * 20):
        answer = await service.client.get("/v1/stream", headers=bearer("alice") | {"Last-Event-ID": last})
        assert answer.status_code == 400, last


async def test_without_credentials_or_with_a_bad_query_it_is_a_problem_and_no_stream(service: Service) -> None:
    answers = [
        await service.client.get("/v1/stream"),
        await service.client.get("/v1/stream", headers=bearer("shop", scope=SEND)),
        await service.client.get("/v1/stream?after=x", headers=bearer("alice")),
        await service.client.post("/v1/stream", headers=bearer("alice")),
    ]
    assert [answer.status_code for answer in answers] == [401, 403, 400, 405]
    assert {answer.headers["content-type"] for answer in answers} == {"application/problem+json"}


async def test_an_ack_by_request_counts_and_never_moves_back_or_beyond_the_head(
    service: Service, connection: asyncpg.Connection
) -> None:
    sent = [await service.send("alice", n) for n in range(3)]
    async with open_stream(service, "alice") as stream:
        await stream.take_until("caught_up")
        for seq, cursor in ((2, 2), (1, 2), (99, 2), (3, 3)):
            await acknowledge(service, "alice", seq)
            assert await connection.fetchval("SELECT seq FROM notify.cursor") == cursor
    assert [await find_status(service, one) for one in sent] == ["delivered"] * 3
    async with open_stream(service, "alice") as stream:
        assert len(await stream.take_until("caught_up")) == 2
    assert (await list_inbox(service, "alice"))["unread"] == 3


async def test_an_ack_that_arrives_at_another_node_opens_the_window(database_url: str) -> None:
    async with (
        open_nodes(database_url, max_unacked=2) as (one, other),
        open_stream(one, "alice", device="web") as stream,
    ):
        await stream.take_until("caught_up")
        await other.send_many("alice", 6)
        for seq in (2, 4, 6):
            assert [(await stream.take())[2]["seq"] for _ in range(2)] == [seq - 1, seq]
            await acknowledge(other, "alice", seq, device="web")
        async with open_stream(other, "alice", device="web") as again:
            assert (await again.take())[2]["after"] == 6


async def test_an_ack_is_for_the_named_device_of_the_caller_alone(
    service: Service, connection: asyncpg.Connection
) -> None:
    await service.send(["alice", "bob"])
    for user, device in (("alice", "one"), ("alice", "two"), ("bob", "one")):
        async with open_stream(service, user, device=device) as stream:
            await stream.take_until("caught_up")
    await acknowledge(service, "alice", 1, device="one")
    rows = await connection.fetch("SELECT user_id, device FROM notify.cursor WHERE seq = 1")
    assert [tuple(row) for row in rows] == [("alice", "one")]


async def test_an_ack_that_is_none_is_400(service: Service) -> None:
    bodies: list[object] = [
        {},
        {"seq": -1},
        {"seq": "1"},
        {"seq": 1, "device": ""},
        {"seq": 1, "epoch": 7},
        {"seq": 1, "more": 1},
        [],
    ]
    for body in bodies:
        answer = await service.client.post("/v1/inbox/ack", json=body, headers=bearer("alice"))
        assert answer.status_code == 400, body


async def test_with_ack_auto_sent_counts_as_acknowledged(service: Service, connection: asyncpg.Connection) -> None:
    await service.send_many("alice", 3)
    async with open_stream(service, "alice", ack="auto") as stream:
        await stream.take_until("caught_up")

        async def is_acknowledged() -> bool:
            return bool(await connection.fetchval("SELECT seq = 3 FROM notify.cursor"))

        await until(is_acknowledged)


async def test_what_is_never_stored_has_no_place(service: Service) -> None:
    async with open_stream(service, "alice") as stream:
        await stream.take_until("caught_up")
        assert (await service.post({"to": "alice", "type": "t", "data": 1, "ttl": 0})).status_code == 202
        name, place, frame = await stream.take()
    assert (name, place, frame["data"], "seq" in frame) == ("notification", None, 1, False)
