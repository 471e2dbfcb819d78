"""What a client says on an open socket, and what it is answered."""

import json
import time
from typing import Any

import jwt
import msgspec
import pytest

from notify.session import LEEWAY_SECONDS, MARK_FRAMES
from tests.service import SECRET, Service, mint_token


def sign(**claims: Any) -> str:
    """Make a token of the tests' key with any claims, those that `mint` refuses included."""
    return jwt.encode({"sub": "ann", "exp": int(time.time()) + 60, **claims}, SECRET, "HS256")


async def test_a_ping_is_answered(service: Service) -> None:
    async with service.connect("ann") as socket:
        await socket.take_backlog()
        await socket.say({"op": "ping", "unknown": "field"})
        assert await socket.take() == {"op": "pong"}


async def test_silence_is_broken_by_pings(database_url: str) -> None:
    async with Service(database_url, ping_interval=0.5) as service, service.connect("ann") as socket:
        assert socket.welcome["ping_interval"] == 0.5
        await socket.take_backlog()
        assert await socket.take() == {"op": "ping"}
        assert await socket.take() == {"op": "ping"}


async def test_a_wrong_frame_is_answered_and_the_session_goes_on(service: Service) -> None:
    frames: list[object] = [
        {"op": "shout"}, {"op": "ack"}, {"op": "ack", "seq": -1}, {"op": "ack", "seq": "1"}, {"op": "read"},
        {"op": "read", "up_to": 1, "seqs": [1]}, {"op": "auth", "token": 5}, {"op": "welcome"},
        '{"op":"ack","seq":123456789012345678901234567890}',
    ]  # fmt: skip
    async with service.connect("ann") as socket:
        await socket.take_backlog()
        for frame in frames:
            await socket.say(frame)
            answer = await socket.take()
            assert (answer["op"], answer["code"]) == ("error", "bad_frame"), frame
            await socket.settle()


async def test_what_is_no_frame_closes_with_4400_and_nobody_else_notices(service: Service) -> None:
    frames = [
        "", "nonsense", "[]", "5", "null", '{"seq":1}', '{"op":5}', '{"op":"ack","seq":1e400}', '{"op":"ping","x":NaN}',
        '{"op":"ping","x":"\\ud800"}', "[" * 10_000, '{"op":"ping","x":' + "[" * 10_000, b'{"op":"ping"}',
    ]  # fmt: skip
    async with service.connect("bob") as bob:
        await bob.take_backlog()
        for frame in frames:
            async with service.connect("ann") as socket:
                await socket.take_backlog()
                await socket.say(frame)
                code, reason, last = await socket.take_close()
                assert (code, reason) == (4400, "bad_frame"), frame
                assert last[-1] == {"op": "disconnect", "code": 4400, "reason": "bad_frame", "reconnect": False}
        await bob.settle()


async def test_a_frame_over_the_limit_closes_with_1009(service: Service) -> None:
    async with service.connect("ann") as socket, service.connect("bob") as bob:
        await socket.take_backlog()
        await bob.take_backlog()
        await socket.say(json.dumps({"op": "ping", "x": "y" * 16_384}))
        assert (await socket.take_close())[0] == 1009
        await bob.settle()


async def test_invalid_utf8_closes_with_1007(service: Service) -> None:
    async with service.connect("ann") as socket:
        await socket.take_backlog()
        await socket.connection.send(b"\xff\xfe", text=True)
        assert (await socket.take_close())[0] == 1007


async def test_frames_are_the_same_in_msgpack(service: Service) -> None:
    async with service.connect("ann", subprotocols=["notify.v1.msgpack"]) as socket:
        assert socket.connection.subprotocol == "notify.v1.msgpack"
        await socket.take_backlog()
        await service.send("ann", {"n": [1, 2.5, None]})
        frame = await socket.take()
        assert (frame["op"], frame["seq"], frame["data"]) == ("notification", 1, {"n": [1, 2.5, None]})
        await socket.ack(1)
        await socket.say({"op": "shout"})
        assert (await socket.take())["op"] == "error"
        await socket.say("text")
        assert (await socket.take_close())[:2] == (4400, "bad_frame")


async def test_a_text_frame_authenticates_no_msgpack_socket_and_a_binary_one_does(service: Service) -> None:
    async with service.dial(subprotocols=["notify.v1.msgpack"]) as socket:
        await socket.say(msgspec.msgpack.encode({"op": "auth", "token": mint_token("ann")}))
        assert (await socket.take())["op"] == "welcome"


async def test_read_marks_count_for_more_than_other_frames(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a transaction."""
    monkeypatch.setattr("notify.session.MAX_FRAMES_PER_SECOND", 2 * MARK_FRAMES)
    async with service.connect("ann") as socket:
        await socket.take_backlog()
        begun = time.monotonic()
        for _ in range(5):
            await socket.say({"op": "read", "up_to": 1})
        await socket.settle()
        assert time.monotonic() - begun > 0.9  # some in the second that had begun, and no more than three in the next


async def test_a_flood_of_pings_is_answered_in_its_own_time_and_delays_nobody(service: Service) -> None:
    async with service.connect("ann") as flooding, service.connect("bob") as bob:
        await flooding.take_backlog()
        await bob.take_backlog()
        for _ in range(300):
            await flooding.say({"op": "ping"})
        started = time.monotonic()
        await bob.settle()
        await service.send("bob", 1)
        await bob.take_notifications(1)
        assert time.monotonic() - started < 1
        for _ in range(300):
            assert await flooding.take() == {"op": "pong"}


# Tokens on an open socket


async def test_a_fresh_token_is_taken_on_the_open_socket(service: Service) -> None:
    async with service.connect("ann", token=sign(exp=int(time.time()) + 5)) as socket:
        assert socket.welcome["expires_in"] <= 5
        await socket.take_backlog()
        await socket.say({"op": "auth", "token": mint_token("ann", ttl=1_000)})
        answer = await socket.take()
        assert answer["op"] == "authenticated"
        assert 990 < answer["expires_in"] <= 1_000


async def test_a_token_for_somebody_else_closes_with_4403(service: Service) -> None:
    async with service.connect("ann") as socket:
        await socket.take_backlog()
        await socket.say({"op": "auth", "token": mint_token("bob")})
        code, reason, frames = await socket.take_close()
        assert (code, reason) == (4403, "forbidden")
        assert frames[-1]["reconnect"] is False


async def test_a_fresh_token_without_the_scope_closes_with_4403(service: Service) -> None:
    async with service.connect("ann") as socket:
        await socket.take_backlog()
        await socket.say({"op": "auth", "token": mint_token("ann", scope="notifications:send")})
        assert (await socket.take_close())[:2] == (4403, "forbidden")


async def test_a_fresh_token_that_does_not_verify_closes_with_4401(service: Service) -> None:
    async with service.connect("ann") as socket:
        await socket.take_backlog()
        await socket.say({"op": "auth", "token": "nonsense"})
        assert (await socket.take_close())[:2] == (4401, "unauthenticated")


async def test_a_session_ends_with_its_token(service: Service) -> None:
    """A token that expired a moment less than the leeway ago still opens a session, for that moment."""
    token = sign(exp=int(time.time()) - int(LEEWAY_SECONDS) + 3)
    async with service.connect("ann", token=token) as socket:
        assert socket.welcome["expires_in"] == 0
        code, reason, frames = await socket.take_close()
        assert (code, reason) == (4501, "token_expired")
        assert frames[-1] == {"op": "disconnect", "code": 4501, "reason": "token_expired", "reconnect": True}


async def test_a_session_that_is_busy_writing_ends_with_its_token_all_the_same(service: Service) -> None:
    async with service.connect("ann", token=sign(exp=int(time.time()) - int(LEEWAY_SECONDS) + 3)) as socket:
        await socket.take_backlog()
        [session] = service.app.hub.of("ann")
        session._pump._writing_since = time.monotonic() + 3600  # type: ignore[attr-defined]  # as if a write went on and on
        assert (await socket.take_close())[:2] == (4501, "token_expired")
