"""Sessions over real sockets: every promise of the contract's section 5."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import jwt
import msgspec
import pytest
import structlog
import websockets

from notify.errors import Close
from notify.session import LEEWAY_SECONDS
from tests.service import SECRET, Service, Socket, bearer, mint_token, until


@asynccontextmanager
async def serving(database_url: str, **settings: Any) -> AsyncIterator[Service]:
    async with Service(database_url, **settings) as service:
        yield service


def data_of(frames: list[dict[str, Any]]) -> list[Any]:
    return [frame["data"] for frame in frames if frame["op"] == "notification"]


async def read_cursor(connection: asyncpg.Connection, user: str, device: str = "default") -> int:
    found: int = await connection.fetchval(
        "SELECT seq FROM notify.cursor WHERE user_id = $1 AND device = $2", user, device
    )
    return found


async def stands_at(connection: asyncpg.Connection, user: str, seq: int, device: str = "default") -> bool:
    return await read_cursor(connection, user, device) == seq


def sign(**claims: Any) -> str:
    return jwt.encode({"sub": "ann", "exp": int(time.time()) + 60, **claims}, SECRET, "HS256")


# Credentials


async def test_the_first_frame_says_where_the_mailbox_stands(service: Service) -> None:
    await service.send_many("ann", 3)
    async with service.connect("ann", device="phone") as socket:
        welcome = dict(socket.welcome)
        assert welcome.pop("session")
        assert welcome.pop("epoch")
        assert 3590 < welcome.pop("expires_in") <= 3600
        assert welcome == {
            "op": "welcome", "user": "ann", "device": "phone", "after": 0, "head": 3, "recovered": True, "unread": 3,
            "ping_interval": 25,
        }  # fmt: skip


async def test_a_token_may_come_as_a_subprotocol_and_is_never_echoed(service: Service) -> None:
    token = mint_token("ann")
    async with service.dial(subprotocols=["notify.v1", f"bearer.{token}"]) as socket:
        assert socket.connection.subprotocol == "notify.v1"
        assert token not in str(socket.connection.response)
        assert (await socket.take())["user"] == "ann"


async def test_a_token_may_come_in_the_first_frame(service: Service) -> None:
    async with service.dial() as socket:
        await socket.say({"op": "auth", "token": mint_token("ann")})
        assert (await socket.take())["user"] == "ann"
        assert socket.connection.subprotocol is None


async def test_the_header_counts_before_the_subprotocol(service: Service) -> None:
    async with service.connect("ann", subprotocols=["notify.v1", f"bearer.{mint_token('bob')}"]) as socket:
        assert socket.welcome["user"] == "ann"


async def test_a_token_in_the_query_is_not_looked_at(service: Service) -> None:
    async with service.dial(token_=1, access_token=mint_token("ann")) as socket:
        await socket.say({"op": "ping"})
        assert (await socket.take_close())[0] == 4401


BAD_TOKENS = [
    "",
    "nonsense",
    "a.b.c",
    sign(exp=int(time.time()) - 60),
    sign(sub=""),
    sign(sub="a\0b"),
    sign(sub=5),
    sign(exp=None),
    jwt.encode({"sub": "ann", "exp": 2**33}, "", algorithm="none"),
    jwt.encode({"sub": "ann", "exp": 2**33}, "another secret, as long as it has to be", "HS256"),
    sign(long="x" * 9_216)[:4_097],
]


async def test_bad_credentials_close_with_4401_after_the_handshake(service: Service) -> None:
    for token in BAD_TOKENS:
        async with service.dial(headers={"Authorization": f"Bearer {token}"}) as socket:
            assert (await socket.take_close())[:2] == (4401, "unauthenticated"), token
        async with service.dial(subprotocols=["notify.v1", f"bearer.{token or 'x'}"]) as socket:
            assert (await socket.take_close())[:2] == (4401, "unauthenticated"), token
        async with service.dial() as socket:
            await socket.say({"op": "auth", "token": token})
            assert (await socket.take_close())[:2] == (4401, "unauthenticated"), token


async def test_any_other_first_frame_without_credentials_closes_with_4401(service: Service) -> None:
    frames: list[object] = [
        {"op": "ping"}, {"op": "ack", "seq": 1}, {"op": "unknown"}, {"op": "auth"}, [], "nonsense", "[" * 10_000, b"\xc0",
    ]  # fmt: skip
    for frame in frames:
        async with service.dial() as socket:
            await socket.say(frame)
            assert (await socket.take_close())[:2] == (4401, "unauthenticated"), frame


async def test_who_says_nothing_is_closed_with_4401(database_url: str) -> None:
    async with serving(database_url, auth_timeout=0.1) as service, service.dial() as socket:
        assert (await socket.take_close())[:2] == (4401, "unauthenticated")


async def test_a_token_for_sending_alone_may_not_receive(service: Service) -> None:
    token = mint_token("ann", scope="notifications:send")
    async with service.dial("ann", token=token) as socket:
        assert (await socket.take_close())[:2] == (4403, "forbidden")
    both = mint_token("ann", scope="notifications:send notifications:receive")
    async with service.connect("ann", token=both):
        pass


async def test_a_foreign_origin_closes_with_4403(service: Service) -> None:
    async with service.dial("ann", origin="https://evil.example") as socket:
        assert (await socket.take_close())[:2] == (4403, "forbidden")
    async with service.connect("ann", origin=f"http://127.0.0.1:{service.port}"):
        pass


async def test_a_listed_origin_is_let_in(database_url: str) -> None:
    async with (
        serving(database_url, allowed_origins=["https://app.example"]) as service,
        service.connect("ann", origin="https://app.example"),
    ):
        pass


async def test_a_query_that_cannot_be_meant_closes_with_4400(service: Service) -> None:
    queries: list[dict[str, Any]] = [
        {"device": ""}, {"device": "a\nb"}, {"device": "a" * 256}, {"after": "-1"}, {"after": "x"}, {"after": "9" * 30},
        {"ack": "maybe"},
    ]  # fmt: skip
    for query in queries:
        async with service.dial("ann", **query) as socket:
            assert (await socket.take_close())[:2] == (4400, "bad_frame"), query


async def test_a_process_with_too_many_sockets_not_authenticated_refuses_before_the_handshake(
    database_url: str,
) -> None:
    async with serving(database_url, max_pending_auth=2) as service, service.dial() as one, service.dial():
        await until(lambda: service.app._running is not None and service.app._running.gateway._waiting == 2)
        with pytest.raises(websockets.InvalidStatus) as caught:
            async with service.dial():
                pass
        assert caught.value.response.status_code == 503
        assert caught.value.response.headers["Retry-After"]
        await one.say({"op": "auth", "token": mint_token("ann")})
        assert (await one.take())["op"] == "welcome"
        async with service.connect("bob"):
            pass  # whoever is in takes no place


# Delivery


async def test_what_is_sent_arrives_live_as_it_was_sent(service: Service) -> None:
    async with service.connect("ann") as socket:
        assert await socket.take() == {"op": "caught_up", "seq": 0}
        answer = await service.post({"to": "ann", "type": "order.shipped", "data": {"order": 7}})
        assert await socket.take() == {
            "op": "notification", "seq": 1, "id": answer.json()["id"], "type": "order.shipped", "data": {"order": 7},
            "source": "shop", "created_at": answer.json()["created_at"],
        }  # fmt: skip


async def test_a_backlog_comes_first_in_order_and_then_it_is_live(service: Service) -> None:
    await service.send_many("ann", 350)
    async with service.connect("ann") as socket:
        assert socket.welcome["head"] == 350
        frames = await socket.take_backlog()
        assert [frame["seq"] for frame in frames] == list(range(1, 351))
        assert data_of(frames) == list(range(350))
        await service.send("ann", "live")
        assert (await socket.take())["data"] == "live"


async def test_nobody_gets_anybody_elses(service: Service) -> None:
    async with service.connect("ann") as ann, service.connect("bob") as bob:
        await ann.take_backlog()
        await bob.take_backlog()
        await service.send("bob", "for bob")
        await service.send(["ann", "bob"], "for both")
        assert data_of([await ann.take()]) == ["for both"]
        assert data_of(await bob.take_notifications(2)) == ["for bob", "for both"]
        await ann.settle()


async def test_what_is_acknowledged_does_not_come_again_and_the_rest_does(service: Service) -> None:
    await service.send_many("ann", 5)
    async with service.connect("ann") as socket:
        await socket.take_backlog()
        await socket.ack(3)
    await service.wait_for_acks()
    async with service.connect("ann") as socket:
        assert socket.welcome["after"] == 3
        assert data_of(await socket.take_backlog()) == [3, 4]


async def test_an_ack_beyond_what_was_sent_is_ignored(service: Service, connection: asyncpg.Connection) -> None:
    async with service.connect("ann") as socket:
        await socket.take_backlog()
        await socket.ack(5)
        await service.send_many("ann", 2)
        await socket.take_notifications(2)
        await socket.ack(3)
        await service.wait_for_acks()
        assert await read_cursor(connection, "ann") == 0
        await socket.ack(1)
        await socket.ack(0)
        await until(lambda: stands_at(connection, "ann", 1))
        await service.send_many("ann", 9)
        await socket.take_notifications(9)
        await socket.ack(2**63 - 1)
        await service.wait_for_acks()
        assert await read_cursor(connection, "ann") == 1


async def test_a_device_may_resume_from_where_it_says(service: Service) -> None:
    await service.send_many("ann", 5)
    async with service.connect("ann") as socket:
        epoch = socket.welcome["epoch"]
        await socket.take_backlog()
        await socket.ack(4)
    await service.wait_for_acks()
    async with service.connect("ann", after=1, epoch=epoch) as socket:  # back
        assert (socket.welcome["after"], socket.welcome["recovered"]) == (1, True)
        assert data_of(await socket.take_backlog()) == [1, 2, 3, 4]
    async with service.connect("ann", after=5) as socket:  # ahead of its cursor; without an epoch it is believed
        assert (socket.welcome["after"], socket.welcome["recovered"]) == (5, True)
        assert await socket.take_backlog() == []


async def test_a_place_that_cannot_be_honoured_starts_at_the_cursor_and_says_so(service: Service) -> None:
    await service.send_many("ann", 5)
    async with service.connect("ann") as socket:
        await socket.take_backlog()
        await socket.ack(3)
    await service.wait_for_acks()
    for query in ({"after": 6}, {"after": 2, "epoch": "another"}, {"after": 2**63 - 1}, {"after": 2, "epoch": ""}):
        async with service.connect("ann", **query) as socket:
            assert (socket.welcome["after"], socket.welcome["recovered"]) == (3, False), query
            assert data_of(await socket.take_backlog()) == [3, 4]


async def test_resuming_ahead_acknowledges_nothing_by_itself(service: Service, connection: asyncpg.Connection) -> None:
    """What lies between the cursor and `after` is neither acknowledged nor over, whatever comes behind it."""
    await service.send_many("ann", 5)
    async with service.connect("ann", after=5) as socket:
        await socket.take_backlog()
        await service.send("ann", "over", ttl=60)
        await connection.execute("UPDATE notify.notification SET expires_at = now() WHERE data = '\"over\"'")
    async with service.connect("ann", after=5) as socket:
        await socket.take_backlog()
        await service.wait_for_acks()
        assert await read_cursor(connection, "ann") == 0
        await socket.ack(2)
        await until(lambda: stands_at(connection, "ann", 2))
        await socket.ack(5)
        await until(lambda: stands_at(connection, "ann", 6))


async def test_entries_that_went_for_good_are_named(database_url: str) -> None:
    async with serving(database_url, max_pending=10) as service:
        await service.send_many("ann", 4)
        for first in (4, 14):
            await service.send_many("ann", 10, first=first)
        async with service.connect("ann") as socket:
            frames = await socket.take_backlog()
        assert frames[0] == {"op": "truncated", "from": 1, "to": 14}
        assert data_of(frames) == list(range(14, 24))


async def test_what_expired_is_skipped(service: Service, connection: asyncpg.Connection) -> None:
    await service.send_many("ann", 3)
    await connection.execute("UPDATE notify.notification SET expires_at = now() WHERE data = '1'")
    async with service.connect("ann") as socket:
        frames = await socket.take_backlog()
        assert [frame["seq"] for frame in frames] == [1, 3]


# The window


async def test_the_window_stalls_at_its_limit_and_goes_on_with_acks(database_url: str) -> None:
    async with serving(database_url, max_unacked=5) as service:
        await service.send_many("ann", 12)
        async with service.connect("ann") as socket:
            assert data_of(await socket.take_notifications(5)) == [0, 1, 2, 3, 4]
            await socket.settle()  # nothing more comes
            await socket.say({"op": "ack", "seq": 2})
            assert data_of(await socket.take_notifications(2)) == [5, 6]
            await socket.settle()
            await socket.say({"op": "ack", "seq": 7})
            assert data_of(await socket.take_backlog()) == [7, 8, 9, 10, 11]


async def test_the_window_is_bounded_in_bytes_too(database_url: str) -> None:
    async with serving(database_url, max_unacked_bytes=64 * 1024) as service:
        for place in range(4):
            await service.send("ann", f"{place}" + "x" * 30_000)
        async with service.connect("ann") as socket:
            assert [data[0] for data in data_of(await socket.take_notifications(3))] == ["0", "1", "2"]
            await socket.settle()
            await socket.say({"op": "ack", "seq": 1})
            assert [data[0] for data in data_of(await socket.take_backlog())] == ["3"]


async def test_what_is_over_takes_no_place_in_the_window(database_url: str, connection: asyncpg.Connection) -> None:
    async with serving(database_url, max_unacked=3) as service:
        await service.send_many("ann", 40)
        await connection.execute(
            "UPDATE notify.notification SET expires_at = now() WHERE data NOT IN ('0', '20', '39')"
        )
        async with service.connect("ann") as socket:
            frames = await socket.take_backlog()
            assert [frame["seq"] for frame in frames] == [1, 21, 40]
            await socket.ack(1)
            await until(lambda: stands_at(connection, "ann", 20))  # over everything up to the next that waits


async def test_the_cursor_moves_by_itself_over_what_is_over(service: Service, connection: asyncpg.Connection) -> None:
    await service.send_many("ann", 5)
    await connection.execute("UPDATE notify.notification SET expires_at = now()")
    async with service.connect("ann") as socket:
        assert await socket.take_backlog() == []
        await until(lambda: stands_at(connection, "ann", 5))


async def test_the_cursor_does_not_move_over_what_waits_for_its_ack(
    service: Service, connection: asyncpg.Connection
) -> None:
    await service.send_many("ann", 5)
    await connection.execute("UPDATE notify.notification SET expires_at = now() WHERE data <> '2'")
    async with service.connect("ann") as socket:
        assert data_of(await socket.take_backlog()) == [2]
        await socket.settle()
        await service.wait_for_acks()
        assert await read_cursor(connection, "ann") in {0, 2}
        await socket.ack(3)
        await until(lambda: stands_at(connection, "ann", 5))


async def test_with_ack_auto_sent_counts_as_acknowledged(database_url: str, connection: asyncpg.Connection) -> None:
    async with serving(database_url, max_unacked=5) as service:
        await service.send_many("ann", 20)
        async with service.connect("ann", ack="auto") as socket:
            assert data_of(await socket.take_backlog()) == list(range(20))  # no window
            await until(lambda: stands_at(connection, "ann", 20))
        async with service.connect("ann") as socket:
            assert await socket.take_backlog() == []


# Devices


async def test_each_device_gets_everything_and_acknowledges_for_itself(service: Service) -> None:
    async with service.connect("ann", device="phone") as phone, service.connect("ann", device="desk") as desk:
        await phone.take_backlog()
        await desk.take_backlog()
        await service.send_many("ann", 3)
        assert data_of(await phone.take_notifications(3)) == data_of(await desk.take_notifications(3)) == [0, 1, 2]
        await phone.ack(3)
    await service.wait_for_acks()
    async with service.connect("ann", device="phone") as phone, service.connect("ann", device="desk") as desk:
        assert await phone.take_backlog() == []
        assert data_of(await desk.take_backlog()) == [0, 1, 2]
    async with service.connect("ann", device="new") as new:
        assert new.welcome["after"] == 3


async def test_several_sockets_of_a_device_each_get_everything(service: Service) -> None:
    async with service.connect("ann") as one, service.connect("ann") as other:
        await one.take_backlog()
        await other.take_backlog()
        await service.send_many("ann", 3)
        assert data_of(await one.take_notifications(3)) == data_of(await other.take_notifications(3)) == [0, 1, 2]


async def test_one_session_too_many_sends_the_oldest_away(database_url: str) -> None:
    async with (
        serving(database_url, max_sessions=2) as service,
        service.connect("ann") as oldest,
        service.connect("ann") as older,
        service.connect("bob") as bob,
        service.connect("ann") as newest,
    ):
        code, reason, frames = await oldest.take_close()
        assert (code, reason) == (4409, "too_many_sessions")
        assert frames[-1] == {"op": "disconnect", "code": 4409, "reason": "too_many_sessions", "reconnect": False}
        for socket in (older, newest, bob):
            await socket.take_backlog()
            await socket.settle()


# Frames


async def test_a_ping_is_answered(service: Service) -> None:
    async with service.connect("ann") as socket:
        await socket.take_backlog()
        await socket.say({"op": "ping", "unknown": "field"})
        assert await socket.take() == {"op": "pong"}


async def test_silence_is_broken_by_pings(database_url: str) -> None:
    async with serving(database_url, ping_interval=0.5) as service, service.connect("ann") as socket:
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
        session._writing_since = time.monotonic() + 3600  # type: ignore[attr-defined]  # as if a write went on and on
        assert (await socket.take_close())[:2] == (4501, "token_expired")


# When things go wrong


async def test_a_peer_that_does_not_read_is_cut_off_and_delays_nobody(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("notify.session.STUCK_SECONDS", 1.0)
    async with serving(database_url, max_unacked_bytes=64 * 1024 * 1024, max_unacked=10_000) as service:
        for _ in range(20):
            await service.send_many("ann", 15, ttl=600)
        await asyncio.gather(*(service.send("ann", "x" * 60_000) for _ in range(200)))
        reader, writer = await shake_hands(service, "ann")
        async with service.connect("bob") as bob:
            await bob.take_backlog()
            await until(lambda: len(service.app.hub.of("ann")) == 1)
            started = time.monotonic()
            for place in range(5):
                await service.send("bob", place)
                assert (await bob.take())["data"] == place
            assert time.monotonic() - started < 2
            await until(lambda: not service.app.hub.of("ann"))
        writer.transport.abort()
        del reader


async def test_a_notification_that_cannot_be_encoded_is_skipped(
    service: Service, connection: asyncpg.Connection
) -> None:
    await service.send_many("ann", 3)
    await connection.execute(r"UPDATE notify.notification SET data = '\xc1'::bytea, codec = 1 WHERE data = '1'")
    async with service.connect("ann") as socket:
        assert data_of(await socket.take_backlog()) == [0, 2]
        await socket.ack(3)
        await until(lambda: stands_at(connection, "ann", 3))


async def test_a_session_survives_the_loss_of_every_database_connection(
    service: Service, connection: asyncpg.Connection
) -> None:
    async with service.connect("ann") as socket:
        await socket.take_backlog()
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await until(lambda: is_accepted(service))
        assert data_of(await socket.take_notifications(1)) == ["after all"]


async def is_accepted(service: Service) -> bool:
    return (await service.post({"to": "ann", "type": "t", "data": "after all"})).status_code == 201


async def test_another_database_under_the_service_sends_everybody_away_to_resume(
    service: Service, connection: asyncpg.Connection
) -> None:
    async with service.connect("ann") as socket:
        await socket.take_backlog()
        await connection.execute("UPDATE notify.salt SET value = 'restored'")
        assert (await service.client.get("/readyz")).status_code == 200  # looking must not swallow the change
        async with service.dial("bob"):
            pass
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'notify bridge'"
        )
        code, _reason, frames = await socket.take_close()
        assert code == 1013
        assert frames[-1]["reconnect"] is True
    async with service.connect("ann", after=0, epoch=socket.welcome["epoch"]) as again:
        assert again.welcome["recovered"] is False
        assert again.welcome["epoch"] != socket.welcome["epoch"]


async def test_leaving_says_goodbye_once_and_writes_nothing_after_it(
    service: Service, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    async with service.connect("ann") as socket:
        await socket.take_backlog()
        [session] = service.app.hub.of("ann")
        for _ in range(20):
            await socket.say({"op": "ping"})  # some of it is read only after the goodbye
        await service.send_many("ann", 50)
        await service.stop()
        session.wake(1_000)  # one that comes too late
        code, reason, frames = await socket.take_close()
        assert (code, reason) == (4503, "draining")
        assert [frame["op"] for frame in frames].count("disconnect") == 1
        assert frames[-1]["op"] == "disconnect"
        assert frames[-1]["reconnect"] is True
        assert 250 <= frames[-1]["retry_after_ms"] <= 3_000
    assert "Traceback" not in capfd.readouterr().err + caplog.text


async def test_a_wake_up_after_the_goodbye_writes_nothing(service: Service) -> None:
    """The peer has not answered the close yet: its connection is there, but nothing may follow what was said last."""
    reader, writer = await shake_hands(service, "ann")
    await until(lambda: len(service.app.hub.of("ann")) == 1)
    [session] = service.app.hub.of("ann")
    await reader.readuntil(b'"op":"caught_up"')
    session.leave(Close.DRAINING)
    await until(lambda: not service.app.hub.of("ann"))
    with structlog.testing.capture_logs() as logs:
        session.wake(1_000)
        for _ in range(10):
            await asyncio.sleep(0)
    assert [log["event"] for log in logs if log["log_level"] in {"warning", "error"}] == []
    async with asyncio.timeout(5):  # the close is bounded, answered or not
        assert (await reader.read()).count(b'"op":"disconnect"') == 1
    writer.close()


async def test_acks_on_their_way_are_written_down_before_the_end(
    service: Service, database_url: str, connection: asyncpg.Connection
) -> None:
    await service.send_many("ann", 5)
    foreign = await asyncpg.connect(database_url)
    try:
        async with service.connect("ann") as socket:
            await socket.take_backlog()
            async with foreign.transaction():
                await foreign.execute(
                    "LOCK TABLE notify.ack IN EXCLUSIVE MODE"
                )  # nothing is written down for the moment
                await socket.ack(3)
                await socket.ack(5)
                stopping = asyncio.create_task(service.stop())
                assert (await socket.take_close())[0] == 4503
                await until(lambda: not len(service.app.hub))
                assert not stopping.done()
            await stopping
    finally:
        await foreign.close()
    assert await read_cursor(connection, "ann") == 5


async def test_who_authenticates_while_the_node_is_leaving_is_sent_on_to_another(service: Service) -> None:
    async with service.dial() as late, service.connect("ann") as ann:
        draining = asyncio.create_task(service.app.drain())
        assert (await ann.take_close())[0] == 4503
        await late.say({"op": "auth", "token": mint_token("bob")})
        assert (await late.take_close(seconds=3))[0] == 4503
        async with asyncio.timeout(3):
            await draining
    with pytest.raises(websockets.InvalidStatus):
        async with service.dial("cid"):
            pass


async def shake_hands(service: Service, user: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a WebSocket by hand and never read from it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port, limit=1024)
    lines = [
        "GET /v1/ws HTTP/1.1", "Host: 127.0.0.1", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", f"Authorization: {bearer(user)['Authorization']}",
    ]  # fmt: skip
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    await writer.drain()
    return reader, writer


async def test_a_socket_is_a_socket(service: Service) -> None:
    """The helper itself: reading frames one by one with a bound."""
    async with service.connect("ann") as socket:
        assert isinstance(socket, Socket)
        await socket.take_backlog()
        with pytest.raises(TimeoutError):
            await socket.take(seconds=0.05)
