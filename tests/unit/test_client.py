"""The Python client against peers that do on purpose what a service does only on a bad day. Real sockets throughout."""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from notify.client import (
    AsyncClient,
    BadData,
    CaughtUp,
    Client,
    Disconnected,
    Lost,
    Notification,
    Received,
    Refused,
    Unreachable,
    Welcome,
    listen,
)
from notify.client.address import base_url, socket_url
from notify.client.calls import Call, encode_body, read_retry_after
from notify.client.frames import decode_frame
from notify.client.listening import LONGEST_CEILING, Dropped, choose_pause
from notify.frames import NotificationFrame

ID = "01a20b7d-0b6e-7830-8233-7fe7b371fc8f"
SENT = {"id": ID, "recipients": 1, "created_at": "2030-01-01T00:00:00Z"}
PATIENCE = 5.0  # seconds for whatever should happen at once


# ------------------------------------------------------------------------------------------------ sending


class Answering:
    """A service that gives prepared answers; an answer that is None cuts the connection after the whole request."""

    def __init__(self, *answers: tuple[int, dict[str, str], object] | None) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.url = ""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[1:-2]
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head)}
        self.requests.append((headers, await reader.readexactly(int(headers["content-length"]))))
        answer = self.answers.pop(0)
        if answer is not None:
            status, extra, content = answer
            body = json.dumps(content).encode()
            lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", "connection: close"]
            lines += [f"{name}: {value}" for name, value in extra.items()]
            writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        writer.close()
        await writer.wait_closed()

    @property
    def keys(self) -> list[str | None]:
        return [headers.get("idempotency-key") for headers, _ in self.requests]


@asynccontextmanager
async def answering(*answers: tuple[int, dict[str, str], object] | None) -> AsyncIterator[Answering]:
    peer = Answering(*answers)
    server = await asyncio.start_server(peer, "127.0.0.1", 0)
    async with server:
        peer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield peer


def problem(status: int, slug: str, **members: object) -> tuple[int, dict[str, str], object]:
    return status, {"content-type": "application/problem+json"}, {"type": slug, "detail": "no", **members}


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


# ---------------------------------------------------------------------------------------------- receiving


Script = Callable[[ServerConnection], Awaitable[None]]


class Peer:
    """A service whose connections each follow a script; it remembers who asked for what."""

    def __init__(self, *scripts: Script) -> None:
        self.scripts = list(scripts)
        self.paths: list[str] = []
        self.tokens: list[str] = []
        self.sockets: list[ServerConnection] = []
        self.said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        """What clients said, each with the number of the connection (`on`)."""
        self.url = ""

    async def __call__(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        self.sockets.append(socket)
        self.paths.append(socket.request.path)
        self.tokens.append(socket.request.headers["Authorization"])
        reading = asyncio.create_task(self.read(socket, len(self.paths)))
        try:
            await self.scripts.pop(0)(socket)
            await socket.wait_closed()
        finally:
            reading.cancel()

    async def read(self, socket: ServerConnection, number: int) -> None:
        async for message in socket:
            self.said.put_nowait({**json.loads(message), "on": number})


@asynccontextmanager
async def peer(*scripts: Script) -> AsyncIterator[Peer]:
    service = Peer(*scripts)
    async with serve(service, "127.0.0.1", 0, compression=None, subprotocols=["notify.v1"]) as server:  # type: ignore[list-item]  # a NewType of str
        service.url = f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        yield service


def welcome(after: int = 0, *, epoch: str = "e", **changes: object) -> str:
    frame = {
        "op": "welcome", "session": "s", "user": "alice", "device": "default", "epoch": epoch, "after": after,
        "head": after, "recovered": True, "unread": 0, "ping_interval": 25, "expires_in": 3600,
    }  # fmt: skip
    return json.dumps(frame | changes)


def entry(seq: int) -> str:
    times = {"source": "shop", "created_at": "2030-01-01T00:00:00Z"}
    return json.dumps({"op": "notification", "seq": seq, "id": ID, "type": "x", "data": {"n": seq}, **times})


def say(*frames: str, then: Script | None = None) -> Script:
    async def script(socket: ServerConnection) -> None:
        for frame in frames:
            await socket.send(frame)
        if then is not None:
            await then(socket)

    return script


async def cut(socket: ServerConnection) -> None:
    socket.transport.close()


def close(code: int, reason: str = "") -> Script:
    async def script(socket: ServerConnection) -> None:
        await socket.close(code, reason)

    return script


async def collect(service: Peer, count: int, **options: Any) -> tuple[list[Received], list[Lost]]:
    """Listen until `count` frames have come."""
    frames: list[Received] = []
    lost: list[Lost] = []
    token = options.pop("token", "token")
    async with (
        asyncio.timeout(PATIENCE),
        aclosing(listen(service.url, token, on_lost=lost.append, **options)) as received,
    ):
        async for frame in received:
            frames.append(frame)
            if len(frames) == count:
                break
    return frames, lost


def seqs(frames: list[Received]) -> list[object]:
    return [frame.seq for frame in frames if isinstance(frame, Notification)]


async def test_after_a_lost_connection_it_resumes_where_it_was_and_hands_out_nothing_twice() -> None:
    first = say(welcome(), entry(1), entry(2), then=cut)
    second = say(welcome(2), entry(2), entry(3))
    async with peer(first, second) as service:
        frames, lost = await collect(service, 5)
    assert seqs(frames) == [1, 2, 3]
    assert service.paths == ["/v1/ws?device=default", "/v1/ws?device=default&after=2&epoch=e"]
    assert len(lost) == 1


async def test_what_was_dealt_with_just_before_the_connection_was_lost_is_acknowledged_on_the_next() -> None:
    async with (
        peer(say(welcome(), entry(1), then=cut), say(welcome(1))) as service,
        asyncio.timeout(PATIENCE),
        aclosing(listen(service.url, "token")) as received,
    ):
        async for frame in received:
            if isinstance(frame, Welcome) and len(service.paths) == 2:
                break
        asked = asyncio.create_task(anext(received, None))
        while await service.said.get() != {"op": "ack", "seq": 1, "on": 2}:
            pass
        asked.cancel()
        await asyncio.wait({asked})


async def test_an_entry_is_acknowledged_once_the_loop_asks_for_the_next_and_not_before() -> None:
    async with (
        peer(say(welcome(), entry(1), entry(2))) as service,
        asyncio.timeout(PATIENCE),
        aclosing(listen(service.url, "token")) as received,
    ):
        async for frame in received:
            if isinstance(frame, Notification) and frame.seq == 2:
                break
        await (await service.sockets[0].ping())  # by its pong, everything the client had to say is here
        assert not [said for said in drain(service.said) if said["seq"] == 2]
        asked = asyncio.create_task(anext(received, None))
        while await service.said.get() != {"op": "ack", "seq": 2, "on": 1}:
            pass
        asked.cancel()
        await asyncio.wait({asked})


def drain(queue: asyncio.Queue[dict[str, Any]]) -> list[dict[str, Any]]:
    return [queue.get_nowait() for _ in range(queue.qsize())]


async def test_without_ack_nothing_is_said() -> None:
    async def finish(socket: ServerConnection) -> None:
        await (await socket.ping())  # by its pong, everything the client had to say is here
        await socket.send('{"op":"caught_up","seq":1}')

    async with peer(say(welcome(), entry(1), then=finish)) as service:
        frames, _ = await collect(service, 3, ack=False)
        assert isinstance(frames[-1], CaughtUp)
        assert drain(service.said) == []


@pytest.mark.parametrize("code", [4400, 4401, 4403, 4409, 4410, 4499])
async def test_a_code_that_says_stop_is_obeyed(code: int) -> None:
    async with peer(say(welcome(), then=close(code, "because"))) as service:
        with pytest.raises(Disconnected) as raised:
            await collect(service, 2)
    assert raised.value.code == code
    assert len(service.paths) == 1


@pytest.mark.parametrize("code", [1000, 1006, 1012, 1013, 4508, 4777])
async def test_any_other_code_brings_it_back(code: int) -> None:
    ending = cut if code == 1006 else close(code)
    async with peer(say(welcome(), then=ending), say(welcome())) as service:
        frames, lost = await collect(service, 2)
    assert len(frames) == 2
    assert 0 <= lost[0].seconds <= 0.5


async def test_a_draining_service_is_left_alone_for_as_long_as_it_asks() -> None:
    goodbye = json.dumps(
        {"op": "disconnect", "code": 4503, "reason": "draining", "reconnect": True, "retry_after_ms": 70}
    )
    async with peer(say(welcome(), goodbye, then=close(4503, "draining")), say(welcome())) as service:
        _, lost = await collect(service, 3)
    assert lost == [Lost("draining", 0.07)]


async def test_an_expired_token_is_replaced_at_once() -> None:
    tokens = iter(["old", "new"])

    async def fetch() -> str:
        return next(tokens)

    async with peer(say(welcome(), then=close(4501)), say(welcome())) as service:
        _, lost = await collect(service, 2, token=fetch)
    assert service.tokens == ["Bearer old", "Bearer new"]
    assert lost[0].seconds == 0


async def test_an_expired_token_that_can_not_be_replaced_ends_it() -> None:
    async with peer(say(welcome(), then=close(4501))) as service:
        with pytest.raises(Disconnected, match="expired"):
            await collect(service, 2)


async def test_a_fresh_token_is_presented_on_the_open_socket_before_the_old_one_ends() -> None:
    tokens = iter(["old", "new"])
    async with (
        peer(say(welcome(expires_in=1))) as service,
        asyncio.timeout(PATIENCE),
        aclosing(listen(service.url, lambda: next(tokens))) as received,
    ):
        await anext(received)
        asked = asyncio.create_task(anext(received, None))
        assert await service.said.get() == {"op": "auth", "token": "new", "on": 1}
        asked.cancel()
        await asyncio.wait({asked})
    assert len(service.paths) == 1


async def test_a_new_epoch_starts_the_numbering_anew() -> None:
    second = say(welcome(0, epoch="f", recovered=False), entry(1), then=cut)
    async with peer(say(welcome(40), entry(41), then=cut), second, say(welcome(1, epoch="f"))) as service:
        frames, _ = await collect(service, 5)
    assert seqs(frames) == [41, 1]
    assert service.paths[1:] == ["/v1/ws?device=default&after=41&epoch=e", "/v1/ws?device=default&after=1&epoch=f"]


async def test_frames_and_fields_of_a_newer_service_are_passed_over() -> None:
    news = ['{"op":"confetti","colour":"red"}', '{"no":"op"}', entry(1).replace('"x"', '"x","novel":[1]')]
    async with peer(say(welcome(), *news, "}{", entry(2))) as service:
        frames, _ = await collect(service, 3)
    assert seqs(frames) == [1, 2]


async def test_pings_and_pongs_are_nobodys_business() -> None:
    async with peer(say(welcome(), '{"op":"ping"}', '{"op":"pong"}', entry(1))) as service:
        frames, _ = await collect(service, 2)
    assert seqs(frames) == [1]


async def test_a_handshake_refused_for_good_ends_it_and_a_busy_service_is_tried_again() -> None:
    statuses = iter([503, 404])

    def refuse(socket: ServerConnection, _request: Request) -> Response:
        return socket.respond(next(statuses), "no")

    lost: list[Lost] = []
    async with serve(lambda _: asyncio.sleep(0), "127.0.0.1", 0, process_request=refuse) as server:
        url = f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        with pytest.raises(Disconnected) as raised:
            async for _frame in listen(url, "token", on_lost=lost.append):
                pass
    assert raised.value.code == 404
    assert [loss.reason for loss in lost] == ["the service answered 503"]


@given(failures=st.integers(0, 10_000), code=st.sampled_from([1000, 1006, 1011, 1012, 1013, 4508, 4999]))
def test_the_backoff_stays_within_its_ceiling(failures: int, code: int) -> None:
    pause = choose_pause(Dropped("", code=code), failures, fresh_token=True)
    assert 0 <= pause <= min(LONGEST_CEILING, 0.5 * 2.0 ** min(max(failures - 1, 0), 10))


def test_a_service_that_refuses_every_fresh_token_is_not_asked_without_a_pause() -> None:
    pauses = {choose_pause(Dropped("", code=4501), failures, fresh_token=True) for failures in (2, 3, 4)}
    assert 0.0 not in pauses


def test_the_notification_handed_out_has_every_field_that_is_sent() -> None:
    assert set(NotificationFrame.__struct_fields__) <= set(Notification.__struct_fields__)


@pytest.mark.parametrize("message", [b"\xff", "", "[]", "1", '{"op":"ack","seq":1}', "[" * 100_000])
def test_what_is_no_frame_is_passed_over(message: str | bytes) -> None:
    assert decode_frame(message) is None
