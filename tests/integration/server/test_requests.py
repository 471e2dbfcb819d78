"""Requests that don't arrive, are too much or are none: they cost a bounded time and disturb nobody."""

import asyncio
from contextlib import suppress
from dataclasses import replace

import pytest

from notify.server.http import MAX_QUEUED
from notify.settings import KIB
from tests.edge import (
    HANDSHAKE,
    LIMITS,
    PATIENCE,
    POST,
    REQUEST,
    TEXT,
    Edge,
    Peer,
    answer,
    echo,
    frame,
    read_problem,
    read_status,
    served,
    until,
)


def answer_late(edge: Edge) -> asyncio.Event:
    """Have every request answered with `late`, once the event is set that is returned."""
    release = asyncio.Event()

    async def wait(peer: Peer) -> None:
        await release.wait()
        await answer(peer, b"late")

    edge.handle = wait
    return release


# ---------------------------------------------------------------- answers and the time between two


@served
async def test_an_answer_leaves_in_one_piece_and_the_connection_stays(edge: Edge) -> None:
    async with edge.connect() as raw:
        for _ in range(2):
            await raw.send(REQUEST + b"\r\n")
            head = await raw.read(b"\r\n\r\n0")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"content-length: 1\r\n" in head


@served
async def test_a_connection_closes_once_it_was_idle_for_long_enough_since_its_last_answer(edge: Edge) -> None:
    edge.server.config.timeout_keep_alive = 1
    now = asyncio.get_running_loop().time
    answered: list[float] = []

    async def keep_time(peer: Peer) -> None:
        answered.append(now())  # not when it was read, which may be any time after the server's clock started
        await echo(peer)

    edge.handle = keep_time
    async with edge.connect() as raw:
        started = now()
        while now() < started + 1.5:  # so the clock of the first answer runs out while there are others
            await raw.send(REQUEST + b"\r\n")
            await raw.read(b"\r\n\r\n0")
        assert await raw.read_all() == b""
        assert now() - answered[-1] >= 0.99


@served
async def test_of_requests_in_one_packet_so_many_may_wait_and_with_more_the_connection_ends(edge: Edge) -> None:
    may_answer = asyncio.Event()

    async def wait(peer: Peer) -> None:
        await may_answer.wait()
        await echo(peer)

    edge.handle = wait
    one = REQUEST + b"\r\n"
    async with edge.connect() as raw:
        await raw.send(one * (MAX_QUEUED + 2))
        assert await raw.read_all() == b""
    may_answer.set()
    async with edge.connect() as raw:
        await raw.send(one * (MAX_QUEUED + 1))
        for _ in range(MAX_QUEUED + 1):
            await raw.read(b"\r\n\r\n0")


@served
async def test_who_answers_hears_that_its_client_is_gone_though_requests_wait_behind_it(edge: Edge) -> None:
    heard: list[str] = []

    async def listen(peer: Peer) -> None:
        await peer.receive()
        heard.append((await peer.receive())["type"])
        await answer(peer, b"to nobody")  # nor is that a fault, which this test's edge would have logged

    edge.handle = listen
    async with edge.connect() as raw:
        await raw.send((REQUEST + b"\r\n") * 2)
        await until(lambda: bool(edge.server.server_state.tasks))
        for connection in edge.server.server_state.connections:
            connection.transport.abort()
        await until(lambda: not edge.server.server_state.tasks)
    assert heard == ["http.disconnect"]


@served
async def test_a_socket_opened_on_a_connection_that_was_used_before_outlives_the_time_between_two_requests(
    edge: Edge,
) -> None:
    edge.server.config.timeout_keep_alive = 1
    async with edge.connect() as raw:
        await raw.send(REQUEST + b"\r\n")
        await raw.read(b"\r\n\r\n0")
        await raw.shake_hands()
        await asyncio.sleep(1.2)  # as long as it takes for nothing to happen
        await raw.send(frame(TEXT, b"there"))
        assert await raw.read(b"there")


@pytest.mark.parametrize("line", [(b"a", b"b\r\nc: d"), (b"a b", b"c"), (b"a", b"b\0")])
@served
async def test_a_header_that_would_break_the_answer_is_never_sent(edge: Edge, line: tuple[bytes, bytes]) -> None:
    refused = asyncio.Event()

    async def break_out(peer: Peer) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": [line, (b"content-length", b"0")]}
        with pytest.raises(RuntimeError, match="Invalid HTTP header"):
            await peer.send(start)
        refused.set()
        peer.transport.abort()
        while (await peer.receive())["type"] != "http.disconnect":
            pass

    edge.handle = break_out
    async with edge.connect() as raw:
        await raw.send(REQUEST + b"\r\n")
        with suppress(ConnectionError):
            assert await raw.read_all() == b""
    assert refused.is_set()


@served
async def test_headers_may_be_any_iterable_of_pairs(edge: Edge) -> None:
    async def send_lists(peer: Peer) -> None:
        headers = iter([[b"content-length", b"2"], [b"x-one", b"two"]])
        await peer.send({"type": "http.response.start", "status": 200, "headers": headers})
        await peer.send({"type": "http.response.body", "body": b"ok"})

    edge.handle = send_lists
    async with edge.connect() as raw:
        await raw.send(REQUEST + b"\r\n")
        assert b"x-one: two\r\n" in await raw.read(b"\r\n\r\nok")


@served
async def test_an_application_that_fails_between_head_and_body_is_a_fault(
    edge: Edge, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(peer: Peer) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]}
        await peer.send(start)
        raise ValueError

    edge.handle = fail
    async with edge.connect() as raw:
        await raw.send(REQUEST + b"\r\n")
        assert read_status(await raw.read_all()) == 500
    caplog.clear()


# ---------------------------------------------------------------- requests that don't arrive


@pytest.mark.parametrize("beginning", [b"", b"GET / HTTP/1.1\r\nHost", HANDSHAKE, b"\r\n"])
@served
async def test_headers_that_stop_half_way_are_cut_off(edge: Edge, beginning: bytes) -> None:
    async with edge.connect() as raw:
        await raw.send(beginning)
        assert await raw.read_all() == b""
    assert edge.connections == 0


@served
async def test_headers_of_a_further_request_have_their_time_too(edge: Edge) -> None:
    async with edge.connect() as raw:
        await raw.send(REQUEST + b"\r\n")
        await raw.read(b"\r\n\r\n0")
        await raw.send(b"GET / HT")
        assert await raw.read_all() == b""


@served
async def test_a_body_that_stops_half_way_is_cut_off(edge: Edge) -> None:
    async with edge.connect() as raw:
        await raw.send(POST + b"Content-Length: 10\r\n\r\nabc")
        assert await raw.read_all() == b""


@served
async def test_a_request_that_takes_long_to_answer_is_not_cut_off(edge: Edge) -> None:
    release = answer_late(edge)
    async with edge.connect() as raw:
        await raw.send(REQUEST + b"\r\n")
        asyncio.get_running_loop().call_later(LIMITS.header_seconds + LIMITS.body_seconds + 0.1, release.set)
        assert (await raw.read(b"late")).startswith(b"HTTP/1.1 200 ")


# ---------------------------------------------------------------- requests that are too much


@pytest.mark.parametrize(
    "request_",
    [
        REQUEST + b"X: " + b"a" * 20 * KIB,
        REQUEST + b"X: aaaaa\r\n" * 2_000,
        HANDSHAKE + b"X: " + b"a" * 100 * KIB,
        b"\r\n\r\n" + REQUEST + b"X: " + b"a" * 20 * KIB,
    ],
)
@served
async def test_headers_over_the_limit_get_431_and_the_end(edge: Edge, request_: bytes) -> None:
    async with edge.connect() as raw:
        await raw.send(request_ + b"\r\n\r\n")
        response = await raw.read_all()
    assert not raw.reset
    assert read_status(response) == 431
    assert read_problem(response)["type"] == "headers-too-large"


@served
async def test_headers_that_come_byte_by_byte_are_counted_all_the_same(edge: Edge) -> None:
    async with edge.connect() as raw:
        await raw.send(REQUEST + b"X: ")
        for _ in range(17):
            await raw.send(b"a" * KIB)
        assert read_status(await raw.read_all()) == 431


@served
async def test_what_follows_the_headers_is_not_counted_however_it_is_cut(edge: Edge) -> None:
    async def tell(peer: Peer) -> None:
        size = 0
        while (message := await peer.receive())["more_body"]:
            size += len(message["body"])
        await answer(peer, b"<%d>" % (size + len(message["body"])))

    edge.handle = tell
    head, body = POST + b"Content-Length: %d\r\n\r\n" % (40 * KIB), b"a" * 40 * KIB
    async with edge.connect() as raw:
        for place in (0, 1, len(head) - 1, len(head), len(head) + 20 * KIB):
            # The second one begins in the packet that ends the first.
            await raw.send(head + body + (head + body)[:place])
            await raw.read(b"<%d>" % len(body))
            await raw.send((head + body)[place:])
            await raw.read(b"<%d>" % len(body))


@served
async def test_what_follows_a_last_request_costs_it_nothing(edge: Edge) -> None:
    release = answer_late(edge)
    async with edge.connect() as raw:
        await raw.send(REQUEST + b"Connection: close\r\n\r\n" + b"a" * 20 * KIB)
        await until(lambda: len(edge.server.server_state.tasks) == 1)
        release.set()
        assert (await raw.read(b"late")).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("others", [b"", b"Expect: more\r\n"])
@served
async def test_who_waits_to_be_told_to_go_on_is_told(edge: Edge, others: bytes) -> None:
    async with edge.connect() as raw:
        await raw.send(POST + b"Expect: 100-Continue\r\n" + others + b"Content-Length: 2\r\n\r\n")
        assert read_status(await raw.read(b"\r\n\r\n")) == 100
        await raw.send(b"ab")
        assert read_status(await raw.read(b"\r\n\r\n2")) == 200


@pytest.mark.parametrize("lines", [b"X: " + b"a" * 9_000 + b"\r\n", b"X: a\r\n" * 200], ids=["long", "many"])
@served
async def test_handshake_lines_that_the_websockets_library_would_not_read_get_431(edge: Edge, lines: bytes) -> None:
    async with edge.connect() as raw:
        await raw.send(HANDSHAKE + lines + b"\r\n")
        assert read_status(await raw.read_all()) == 431


@pytest.mark.parametrize("header", [b"Authorization: Bearer ", b"Sec-WebSocket-Protocol: notify.v1, bearer."])
@served
async def test_a_token_of_4096_bytes_passes_beside_a_browsers_largest_headers(edge: Edge, header: bytes) -> None:
    async with edge.connect() as raw:
        await raw.send(HANDSHAKE + header + b"a" * 4_096 + b"\r\nCookie: " + b"c" * 7_900 + b"\r\n\r\n")
        assert read_status(await raw.read(b"\r\n\r\n")) == 101


@served
async def test_a_large_body_in_the_packet_of_its_headers_is_no_header(edge: Edge) -> None:
    async with edge.connect() as raw:
        await raw.send(POST + b"Content-Length: 40000\r\n\r\n" + b"a" * 40_000)
        assert (await raw.read(b"40000")).startswith(b"HTTP/1.1 200 ")


@served
async def test_what_comes_after_a_body_is_no_header(edge: Edge) -> None:
    names: list[bytes] = []

    async def list_headers(peer: Peer) -> None:
        await echo(peer)
        names.extend(name for name, _ in peer.scope["headers"])

    edge.handle = list_headers
    async with edge.connect() as raw:
        await raw.send(POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nAuthorization: Bearer x\r\n\r\n")
        await raw.read(b"\r\n\r\n1")
    assert names == [b"host", b"transfer-encoding"]


@pytest.mark.parametrize("limits", [replace(LIMITS, body_seconds=PATIENCE * 2)])
@served
async def test_what_comes_after_a_body_has_the_limit_of_headers(edge: Edge) -> None:
    async with edge.connect() as raw:
        await raw.send(POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: ")
        with suppress(ConnectionError):
            for _ in range(1024):  # more than what may come in one packet with the body
                await raw.send(b"a" * KIB)
        assert await raw.read_all() == b""


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        "GET /é HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        b"GET http://x HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://x:99999/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        REQUEST + b"Host: y\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        HANDSHAKE.replace(b"/v1", "/é".encode()) + b"\r\n",
        HANDSHAKE + b"Content-Length: 5\r\n\r\nabcde",
        HANDSHAKE + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
@served
async def test_what_is_no_http_gets_400_and_no_line_in_the_log(edge: Edge, request_: bytes) -> None:
    async with edge.connect() as raw:
        await raw.send(request_)
        response = await raw.read_all()
    assert read_status(response) == 400
    assert read_problem(response)["type"] == "invalid-request"


@served
async def test_an_upgrade_to_something_else_is_answered_as_if_it_were_not_there(edge: Edge) -> None:
    async with edge.connect() as raw:
        await raw.send(REQUEST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n")
        response = await raw.read_all()
    assert read_status(response) == 200
    assert b"connection: close" in response


@pytest.mark.parametrize("limits", [replace(LIMITS, max_connections=2)])
@served
async def test_one_connection_too_many_gets_503_at_once_and_a_free_place_is_taken(edge: Edge) -> None:
    async with edge.dial(), edge.connect() as second:
        await second.send(REQUEST + b"\r\n")
        await second.read(b"\r\n\r\n0")
        async with edge.connect() as third:
            await third.send(HANDSHAKE + b"\r\n")
            response = await third.read_all()
        assert read_status(response) == 503
        assert b"Retry-After: " in response
        assert read_problem(response)["type"] == "unavailable"
    await until(lambda: edge.connections == 0)
    async with edge.dial() as connection:
        await connection.send("there")
        assert await connection.recv() == "there"
