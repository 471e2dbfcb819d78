"""What the Python client sends: repeated only where that can't make two of one, and nothing that nobody could read."""

import asyncio
import json
import math
from datetime import UTC, datetime
from uuid import UUID

import msgspec
import pytest

from notify.client import AsyncClient, BadData, Client, Refused, Unreachable
from notify.client.address import base_url, socket_url
from notify.client.calls import Call, encode_body, read_retry_after
from tests.unit.peers import ID, answering, problem

SENT = {"id": ID, "recipients": 1, "created_at": "2030-01-01T00:00:00Z"}


async def test_a_call_whose_answer_was_lost_is_repeated_with_the_same_idempotency_key() -> None:
    async with answering(None, (201, {}, SENT)) as peer, AsyncClient(peer.url, "token") as client:
        sent = await client.send("alice", "x", {"n": 1})
    assert sent.id == UUID(ID)
    assert len(peer.keys) == 2
    assert peer.keys[0]
    assert peer.keys[0] == peer.keys[1]
    assert peer.requests[0][1] == peer.requests[1][1]


async def test_two_calls_have_two_idempotency_keys() -> None:
    async with answering((201, {}, SENT), (201, {}, SENT)) as peer, AsyncClient(peer.url, "token") as client:
        await client.send("alice", "x")
        await client.send("alice", "x")
    assert peer.keys[0] != peer.keys[1]


async def test_what_is_not_stored_has_no_key_and_is_not_repeated_once_it_may_have_arrived() -> None:
    async with answering(None) as peer, AsyncClient(peer.url, "token") as client:
        with pytest.raises(Unreachable) as raised:
            await client.send("alice", "x", ttl=0)
    assert peer.keys == [None]
    assert raised.value.idempotency_key is None


@pytest.mark.parametrize("answer", [problem(503, "unavailable"), problem(409, "idempotency-in-flight"), (502, {}, "")])
async def test_a_refusal_that_passes_is_tried_again(answer: tuple[int, dict[str, str], object]) -> None:
    async with answering(answer, (201, {}, SENT)) as peer, AsyncClient(peer.url, "token") as client:
        await client.send("alice", "x")
    assert peer.keys[0] == peer.keys[1]


async def test_a_refusal_for_good_is_not_tried_again_and_names_every_bad_field() -> None:
    errors = [{"pointer": "/to", "detail": "is empty"}, {"pointer": "/type", "detail": "is missing"}]
    async with answering(problem(400, "invalid-request", errors=errors)) as peer, AsyncClient(peer.url, "t") as client:
        with pytest.raises(Refused) as raised:
            await client.send("", "")
    assert (raised.value.status, raised.value.slug, raised.value.detail) == (400, "invalid-request", "no")
    assert [error.pointer for error in raised.value.errors] == ["/to", "/type"]


async def test_the_sync_client_repeats_by_the_same_rules() -> None:
    async with answering(None, (201, {}, SENT)) as peer:

        def send() -> UUID:
            with Client(peer.url, "token") as client:
                return client.send("alice", "x").id

        assert await asyncio.to_thread(send) == UUID(ID)
    assert peer.keys[0] == peer.keys[1] is not None


async def test_a_batch_is_one_call_with_one_key() -> None:
    async with answering((201, {}, {"ids": [ID, ID]})) as peer, AsyncClient(peer.url, "token") as client:
        ids = await client.send_batch([{"to": "a", "type": "x"}, {"topic": "t", "type": "y", "data": None}])
    assert ids == [UUID(ID), UUID(ID)]
    assert json.loads(peer.requests[0][1]) == {"notifications": [{"to": "a", "type": "x"}, {"topic": "t", "type": "y"}]}
    assert peer.keys[0]


async def test_a_good_answer_of_something_else_is_told_apart() -> None:
    async with answering((200, {}, "<html>")) as peer, AsyncClient(peer.url, "token") as client:
        with pytest.raises(Refused, match="is the URL right"):
            await client.send("alice", "x")


def test_retry_after_is_honoured_but_not_without_limit() -> None:
    call = Call("/", b"", "application/json", "key")
    pause = call.pause(Refused("", status=429, retry_after=7))
    assert 7 <= pause <= 7 * 1.25
    assert call.pause(Refused("", status=429, retry_after=3600)) is False
    assert read_retry_after("7") == 7
    assert read_retry_after("Thu, 01 Jan 1970 00:00:00 GMT") == 0
    assert read_retry_after("soon") is None


def test_bytes_travel_as_messagepack_and_everything_else_as_json() -> None:
    body, media = encode_body({"data": {"a": b"\x00", "b": 1}})
    assert media == "application/msgpack"
    assert msgspec.msgpack.decode(body) == {"data": {"a": b"\x00", "b": 1}}
    assert encode_body({"data": "ä"}) == ('{"data":"ä"}'.encode(), "application/json")


@pytest.mark.parametrize("data", [math.nan, [math.inf], "\ud800", datetime.now(UTC), {1, 2}])
def test_data_that_not_every_client_could_read_never_leaves(data: object) -> None:
    with pytest.raises(BadData):
        encode_body({"data": data})


@pytest.mark.parametrize("url", ["", "notify.example", "ftp://x", "http://", "http://user:pw@x", "http://x:99999"])
def test_what_is_no_url_of_a_service_is_told_at_once_and_never_quoted(url: str) -> None:
    with pytest.raises(BadData) as raised:
        base_url(url)
    assert "pw" not in str(raised.value)


def test_a_service_below_a_path_is_found_there() -> None:
    assert base_url("https://x.example/push/") == "https://x.example/push"
    assert socket_url("https://x.example/push/", {"device": "a b"}) == "wss://x.example/push/v1/ws?device=a+b"


@pytest.mark.parametrize("token", ["", "a b", "a\nb", "ä"])
async def test_what_is_no_token_never_leaves_and_is_never_quoted(token: str) -> None:
    with pytest.raises(BadData) as raised:
        AsyncClient("http://x", token)
    assert token == "" or token not in str(raised.value)
