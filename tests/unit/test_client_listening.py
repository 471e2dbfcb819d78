"""How the Python client listens: it comes back by itself unless told to stop, and hands out nothing twice."""

import asyncio
import json
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from notify.client import CaughtUp, Disconnected, Lost, Notification, Received, Welcome, listen
from notify.client.frames import decode_frame
from notify.client.listening import LONGEST_CEILING, Dropped, choose_pause
from notify.frames import NotificationFrame
from tests.unit.peers import Peer, close, cut, entry, peer, say, welcome

PATIENCE = 5.0  # seconds for whatever should happen at once


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
