"""Binary: the same frames in MessagePack, and bytes stay bytes for those who can read them."""

import base64
from typing import Any

import httpx
import msgspec
import pytest

from tests.integration.support import follow, list_inbox
from tests.service import SEND, Service, bearer

MSGPACK = "notify.v1.msgpack"
BLOB = bytes(range(256))
DATA = {"blob": BLOB, "list": [1, -1, 2**64 - 1, -(2**63), 0.5, None, True, "é😀"], "empty": b""}
AS_JSON = {
    "blob": {"$bytes": base64.b64encode(BLOB).decode()},
    "list": [1, -1, 2**64 - 1, -(2**63), 0.5, None, True, "é😀"],
    "empty": {"$bytes": ""},
}


async def post(service: Service, body: Any, *, path: str = "/v1/notifications", **headers: str) -> httpx.Response:
    """POST as MessagePack; bytes go as they are."""
    content = body if isinstance(body, bytes) else msgspec.msgpack.encode(body)
    sent = bearer("shop", scope=SEND) | {"Content-Type": "application/msgpack", **headers}
    return await service.client.post(path, content=content, headers=sent)


async def test_bytes_stay_bytes_in_msgpack_and_are_base64_in_json(service: Service) -> None:
    async with (
        service.connect("alice", device="binary", subprotocols=[MSGPACK]) as binary,
        service.connect("alice", device="text", subprotocols=["notify.v1"]) as text,
    ):
        await binary.take_backlog()
        await text.take_backlog()
        answer = await post(service, {"to": "alice", "type": "t", "data": DATA})
        assert answer.status_code == 201
        one, other = await binary.take(), await text.take()
    assert (binary.connection.subprotocol, text.connection.subprotocol) == (MSGPACK, "notify.v1")
    assert one["data"] == DATA
    assert other["data"] == AS_JSON
    assert {**one, "data": None} == {**other, "data": None}
    assert (await list_inbox(service, "alice"))["items"][0]["data"] == AS_JSON
    assert (await follow(service, answer.json()["id"]))["data"] == AS_JSON


async def test_json_reads_the_same_in_msgpack(service: Service) -> None:
    data: dict[str, Any] = {"a": [1, 2.5, None, True, "é😀"], "$bytes": "AAEC", "deep": [[[{}]]]}
    await service.send("alice", data)
    async with service.connect("alice", subprotocols=[MSGPACK]) as alice:
        [frame] = await alice.take_backlog()
    assert frame["data"] == data  # what came as JSON holds no bytes, whatever it looks like


async def test_a_batch_may_be_msgpack(service: Service) -> None:
    body = {"notifications": [{"to": ["alice"], "type": "t", "data": bytes([n])} for n in range(3)]}
    answer = await post(service, body, path="/v1/notifications/batch")
    assert len(answer.json()["ids"]) == 3
    async with service.connect("alice", subprotocols=[MSGPACK]) as alice:
        assert [frame["data"] for frame in await alice.take_backlog()] == [b"\0", b"\1", b"\2"]


async def test_without_data_it_is_null_in_both(service: Service) -> None:
    await post(service, {"to": "alice", "type": "t"})
    for protocol in (MSGPACK, "notify.v1"):
        async with service.connect("alice", device=protocol, subprotocols=[protocol]) as alice:
            assert [frame["data"] for frame in await alice.take_backlog()] == [None]


async def test_every_frame_of_a_client_works_in_msgpack(service: Service) -> None:
    await service.send_many("alice", 3)
    async with service.connect("alice", subprotocols=[MSGPACK]) as alice:
        await alice.take_backlog()
        await alice.say({"op": "read", "seqs": [1]})
        assert await alice.take() == {"op": "read", "seq": 4, "seqs": [1], "unread": 2}
        await alice.ack(4)
        await service.wait_for_acks()
        await alice.say({"op": "nonsense"})
        assert (await alice.take())["op"] == "error"
    async with service.connect("alice", subprotocols=[MSGPACK]) as alice:
        assert (alice.welcome["after"], alice.welcome["unread"]) == (4, 2)


@pytest.mark.parametrize("protocol", [MSGPACK, "notify.v1"])
async def test_what_is_never_stored_carries_bytes_too(service: Service, protocol: str) -> None:
    async with service.connect("alice", subprotocols=[protocol]) as alice:
        await alice.take_backlog()
        answer = await post(service, {"to": "alice", "type": "t", "ttl": 0, "data": DATA})
        assert answer.status_code == 202
        assert (await alice.take())["data"] == (DATA if protocol == MSGPACK else AS_JSON)


@pytest.mark.parametrize(
    "data",
    [
        msgspec.msgpack.Ext(5, b"x"),
        {1: 2},
        float("nan"),
        float("inf"),
        "a\0b",
        msgspec.Raw(b"\xa3\xed\xa0\x80"),  # a lone surrogate
        msgspec.Raw(b"\x91" * 65 + b"\xc0"),
    ],
    ids=["extension", "key", "nan", "infinity", "nul", "surrogate", "levels"],
)
async def test_what_json_can_not_express_is_refused(service: Service, data: object) -> None:
    answer = await post(service, {"to": "alice", "type": "t", "data": data})
    assert answer.status_code == 400
    assert answer.json()["errors"]


async def test_the_same_key_with_the_same_msgpack_is_the_same_request(service: Service) -> None:
    body = {"to": "alice", "type": "t", "data": BLOB}
    answers = [await post(service, body, **{"Idempotency-Key": "k"}) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert answers[1].headers["Idempotent-Replayed"] == "true"
