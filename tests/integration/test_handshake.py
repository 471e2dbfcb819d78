"""How a socket is let in, or closed with the code that says why."""

import time
from typing import Any

import jwt
import pytest
import websockets

from tests.service import SECRET, Service, mint_token, until


def sign(**claims: Any) -> str:
    """Make a token of the tests' key with any claims, those that `mint` refuses included."""
    return jwt.encode({"sub": "ann", "exp": int(time.time()) + 60, **claims}, SECRET, "HS256")


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
    async with Service(database_url, auth_timeout=0.1) as service, service.dial() as socket:
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
        Service(database_url, allowed_origins=["https://app.example"]) as service,
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
    async with Service(database_url, max_pending_auth=2) as service, service.dial() as one, service.dial():
        await until(lambda: service.app._running is not None and service.app._running.gateway._waiting == 2)
        with pytest.raises(websockets.InvalidStatus) as caught:
            async with service.dial():
                pass
        assert caught.value.response.status_code == 503
        assert caught.value.response.headers["Retry-After"]
        async with service.connect("bob"):
            pass  # who brings a token needs no place
        await one.say({"op": "auth", "token": mint_token("ann")})
        assert (await one.take())["op"] == "welcome"
        async with service.dial():
            pass  # whoever is in takes none either
