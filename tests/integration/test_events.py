"""CloudEvents 1.0 in: one, several, or in headers; each sent once, and refused attribute by attribute."""

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from msgspec import UNSET

from notify.api.events import make_key
from notify.client import AsyncClient, BadData, Client, Notification, Received, listen
from notify.model import is_identifier
from tests.cloudevents import EVENT, EVENTS, TRACE, event, post
from tests.integration.support import follow, open_nodes
from tests.service import SEND, Service, bearer, holding, mint_token, until


def refused(answer: httpx.Response) -> set[str]:
    """Return the pointers of what a 400 names."""
    assert answer.status_code == 400, answer.text
    return {error["pointer"] for error in answer.json()["errors"]}


async def test_an_event_is_a_notification_to_its_subject_and_keeps_its_source(service: Service) -> None:
    async with service.connect("alice") as alice:
        answer = await post(service, event(ttl=60, time="2026-01-08T09:30:00Z"), f"{EVENT}; charset=utf-8")
        assert (answer.status_code, answer.json()["recipients"]) == (201, 1)
        assert answer.headers["Location"] == f"/v1/notifications/{answer.json()['id']}"
        [frame] = await alice.take_notifications(1)
    assert (frame["id"], frame["type"], frame["data"], frame["source"], frame["seq"]) == (
        answer.json()["id"], "order.shipped", {"order": 7}, "/shops/7", 1,
    )  # fmt: skip
    [item] = (await service.client.get("/v1/inbox", headers=bearer("alice"))).json()["items"]
    assert item["source"] == (await follow(service, frame["id"]))["source"] == "/shops/7"


async def test_the_same_event_again_is_answered_as_before_and_another_is_refused(service: Service) -> None:
    first = await post(service, event())
    rewritten = json.dumps(event(traceparent=TRACE), indent=2, sort_keys=True).encode()
    again = await post(service, rewritten, Idempotency_Key="not looked at")
    assert (again.status_code, again.json(), again.headers["Idempotent-Replayed"]) == (201, first.json(), "true")
    for other in (event(data={"order": 8}), event(subject="bob"), event(type="order.lost")):
        assert (await post(service, other)).status_code == 422
    for new in (event("2"), event(source="/shops/8")):
        answer = await post(service, new)
        assert answer.json()["id"] != first.json()["id"]
    assert (await service.client.get("/v1/inbox", headers=bearer("alice"))).json()["unread"] == 3


async def test_the_same_event_twice_at_a_time_is_stored_once(service: Service, database_url: str) -> None:
    async with holding(database_url, "alice"):
        posts = [asyncio.create_task(post(service, event())) for _ in range(2)]
        await until(lambda: len(service.store.sends.single) == 2)  # neither knows of the other
    answers = await asyncio.gather(*posts)
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()
    assert sum("Idempotent-Replayed" in answer.headers for answer in answers) == 1
    # Nor can a header ever be the key of an event.
    assert not is_identifier(make_key("/shops/7", "1"))


async def test_a_batch_stores_what_is_new_in_it_once_and_answers_for_all(service: Service) -> None:
    first = (await post(service, event("2"))).json()["id"]
    batch = [event("1"), event("2"), event("3", subject="bob"), event("1")]
    for path in ("/v1/notifications", "/v1/notifications/batch"):
        answer = await post(service, batch, EVENTS, path=path)
        assert answer.status_code == 201, answer.text
        ids = answer.json()["ids"]
        assert (ids[1], ids[0], len(set(ids))) == (first, ids[3], 3)
        assert ("Idempotent-Replayed" in answer.headers) == (path == "/v1/notifications/batch")
    inboxes = [(await service.client.get("/v1/inbox", headers=bearer(user))).json() for user in ("alice", "bob")]
    assert [inbox["unread"] for inbox in inboxes] == [2, 1]


async def test_a_batch_is_all_or_nothing(service: Service) -> None:
    answer = await post(service, [event("1"), event("2", subject="")], EVENTS)
    assert refused(answer) == {"/1/subject"}
    await post(service, event("3"))
    answer = await post(service, [event("1"), event("3", data=0)], EVENTS)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/1/id")
    answer = await post(service, [event("4"), event("4", data=0)], EVENTS)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/1/id")
    assert (await service.client.get("/v1/inbox", headers=bearer("alice"))).json()["unread"] == 1


async def test_batches_that_race_on_two_nodes_store_each_event_once(database_url: str) -> None:
    async with open_nodes(database_url) as nodes:
        batches = [[event(str(n)) for n in order] for order in ((1, 2, 3), (3, 2, 1), (2, 4), (4, 1))]
        answers: list[httpx.Response] = []
        while len(answers) < len(batches):  # 409 is an invitation to come again
            answer = await asyncio.gather(*(post(nodes[n % 2], batch, EVENTS) for n, batch in enumerate(batches)))
            assert {each.status_code for each in answer} <= {201, 409}
            answers = [each for each in answer if each.status_code == 201]
        found: dict[str, set[str]] = {}
        for batch, each in zip(batches, answer, strict=True):
            for one, identifier in zip(batch, each.json()["ids"], strict=True):
                found.setdefault(one["id"], set()).add(identifier)
        assert all(len(ids) == 1 for ids in found.values())
        assert (await nodes[0].client.get("/v1/inbox", headers=bearer("alice"))).json()["unread"] == 4


async def test_an_event_may_be_in_the_headers(service: Service) -> None:
    async with service.connect("alice") as alice:
        attributes = {
            "ce_specversion": "1.0", "ce_id": "1", "ce_source": "/shops/7", "ce_type": "t", "ce_subject": "ali%63e",
            "ce_ttl": "60",
        }  # fmt: skip
        for media, body, data in (
            ("application/json", b'{"n": [1]}', {"n": [1]}),
            ("text/plain; charset=utf-8", "für".encode(), "für"),
            ("image/png", b"\x89PNG", {"$bytes": "iVBORw=="}),
        ):
            answer = await post(service, body, media, **{**attributes, "ce_id": media})
            assert answer.status_code == 201, answer.text
            [frame] = await alice.take_notifications(1)
            assert (frame["data"], frame["source"]) == (data, "/shops/7")
    wrong = {**attributes, "ce_subject": "%00", "ce_ttl": "soon"}
    assert refused(await post(service, b"{}", "application/json", **wrong)) == {"/ce-subject", "/ce-ttl"}
    assert refused(await post(service, b"{", "application/json", **attributes)) == {""}
    other = await post(service, b"[]", "application/json", **{**attributes, "ce_id": "application/json"})
    assert (other.status_code, other.json()["errors"][0]["pointer"]) == (422, "/ce-id")
    # The same event as a whole in a body: the first answer, since it is the same event.
    same = event("application/json", type="t", data={"n": [1]})
    assert (await post(service, same)).headers["Idempotent-Replayed"] == "true"


async def test_bytes_stay_bytes(service: Service) -> None:
    body = event(data_base64="iVBORw==", datacontenttype="image/png")
    del body["data"]
    async with (
        service.connect("alice") as alice,
        service.connect("alice", device="m", subprotocols=["notify.v1.msgpack"]) as m,
    ):
        assert (await post(service, body)).status_code == 201
        assert (await alice.take_notifications(1))[0]["data"] == {"$bytes": "iVBORw=="}
        assert (await m.take_notifications(1))[0]["data"] == b"\x89PNG"


async def test_for_now_or_never_an_event_is_not_remembered(service: Service) -> None:
    async with service.connect("alice") as alice:
        await alice.take_backlog()
        for _ in range(2):
            assert (await post(service, event(ttl=0, traceparent=TRACE))).status_code == 202
            frame = await alice.take()
            assert ("seq" in frame, frame["source"], frame["traceparent"]) == (False, "/shops/7", TRACE)
        assert (await post(service, [event("1", ttl=0), event("1", ttl=0)], EVENTS)).status_code == 202
        assert refused(await post(service, [event("1", ttl=0), event("2")], EVENTS)) == {""}
        for attributes in ({"collapsekey": "k"}, {"undeliveredafter": "60"}, {"deliverat": "2000-01-01T00:00:00Z"}):
            assert refused(await post(service, event(ttl=0, **attributes))) == {f"/{name}" for name in attributes}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"specversion": "0.3"}, "/specversion"),
    ({"specversion": None}, "/specversion"),
    ({"id": ""}, "/id"),
    ({"id": 7}, "/id"),
    ({"id": "a\u0000"}, "/id"),
    ({"source": ""}, "/source"),
    ({"source": "not a reference"}, "/source"),
    ({"source": "http://[half"}, "/source"),
    ({"source": "/100%"}, "/source"),
    ({"source": "/v1/ws"}, "/source"),
    ({"type": ""}, "/type"),
    ({"type": "x" * 129}, "/type"),
    ({"subject": None}, "/subject"),
    ({"subject": "x" * 256}, "/subject"),
    ({"subject": ["alice"]}, "/subject"),
    ({"time": "yesterday"}, "/time"),
    ({"time": "2026-01-08T09:30:00"}, "/time"),
    ({"datacontenttype": "json"}, "/datacontenttype"),
    ({"dataschema": "/relative"}, "/dataschema"),
    ({"data_base64": "?"}, "/data_base64"),
    ({"ttl": -1}, "/ttl"),
    ({"ttl": "soon"}, "/ttl"),
    ({"collapsekey": "x" * 65}, "/collapsekey"),
    ({"deliverat": "2199-01-01T00:00:00Z"}, "/deliverat"),
    ({"undeliveredafter": 1}, "/undeliveredafter"),
    ({"Upper": "x"}, "/Upper"),
    ({"under_score": "x"}, "/under_score"),
    ({"more": {"nested": 1}}, "/more"),
    ({"more": 1.5}, "/more"),
    ({"more": 2**31}, "/more"),
    ({"more": "line\nend"}, "/more"),
]


async def test_a_refusal_names_every_bad_attribute(service: Service) -> None:
    for attributes, pointer in WRONG:
        assert refused(await post(service, event(**attributes))) == {pointer}, attributes
    everything = event(specversion="2", source="", subject="", ttl=-1, More=1, data=[[]], data_base64="AA==")
    found = refused(await post(service, everything))
    assert found == {"/specversion", "/source", "/subject", "/ttl", "/More", "/data_base64"}
    assert refused(await post(service, b'{"specversion": "1.0"}')) == {"/id", "/source", "/type", "/subject"}
    assert refused(await post(service, json.dumps(event()).replace("7}", "1e400}").encode())) == {"/data"}
    assert refused(await post(service, [event(), 1], EVENTS)) == {"/1"}
    for broken in (b"", b"{", b"[]", b"[" * 100_000, b'{"id": "\xff"}'):
        assert (await post(service, broken)).status_code == 400
    for broken in (b"{}", b"[]"):
        assert (await post(service, broken, EVENTS)).status_code == 400
    assert (await service.client.get("/v1/inbox", headers=bearer("alice"))).json()["items"] == []


async def test_limits_and_media_types_are_those_of_any_body(database_url: str) -> None:
    async with Service(database_url, max_data_bytes=100, max_batch=2) as service:
        assert (await post(service, event(data="x" * 200))).status_code == 413
        assert (await post(service, event(data=None, data_base64="AAAA" * 50))).status_code == 413
        assert (await post(service, event(more="x" * 5_000))).status_code == 413
        assert (await post(service, [event(str(n)) for n in range(3)], EVENTS)).status_code == 413
        assert (await post(service, event(), "application/cloudevents+avro")).status_code == 415
        assert (await post(service, event(), EVENT, path="/v1/notifications/batch")).status_code == 415


async def test_the_python_client_sends_events_and_hears_of_their_trace(service: Service) -> None:
    token = mint_token("shop", scope=SEND)
    now = datetime.now(UTC)
    async with AsyncClient(service.url, token) as client, aclosing(listen(service.url, mint_token("alice"))) as frames:
        sent = await client.send_event(event("1", time=now, traceparent=TRACE))
        with Client(service.url, token) as blocking:
            again = await asyncio.to_thread(blocking.send_event, event("1", time=now))
        await client.send_event({"source": "/a", "type": "t", "subject": "alice", "data": b"\x89PNG"})
        for wrong in (event(data=math.nan), event(time=datetime(2026, 1, 1)), event(data=object())):  # noqa: DTZ001
            with pytest.raises(BadData):
                await client.send_event(wrong)
        found = [each async for each in take_notifications(frames, 2)]
    assert sent == again
    assert [(f.source, f.data, f.traceparent) for f in found] == [
        ("/shops/7", {"order": 7}, TRACE),
        ("/a", {"$bytes": "iVBORw=="}, UNSET),
    ]


async def take_notifications(frames: AsyncIterator[Received], count: int) -> AsyncIterator[Notification]:
    """Yield the next so many notifications."""
    while count:
        frame = await anext(frames)
        if isinstance(frame, Notification):
            count -= 1
            yield frame


async def test_a_trace_travels_from_the_request_to_the_frame(service: Service) -> None:
    async with service.connect("alice") as alice:
        plain = {"to": "alice", "type": "t"}
        await service.post(plain, traceparent=TRACE)
        await service.post({"notifications": [plain, plain]}, path="/v1/notifications/batch", traceparent=TRACE)
        await post(service, event("1"), traceparent=TRACE)
        own = TRACE.replace("b7ad", "aaaa")
        await post(service, event("2", traceparent=own), traceparent=TRACE)
        for none in (TRACE.upper(), "00-0-0-0", TRACE.replace("00-", "ff-", 1), f"{TRACE}-more"):
            await service.post(plain, traceparent=none)
        await service.post(plain)
        frames = await alice.take_notifications(10)
    assert [frame.get("traceparent") for frame in frames] == [TRACE] * 4 + [own] + [None] * 5
    assert all("traceparent" not in frame for frame in frames[5:])
