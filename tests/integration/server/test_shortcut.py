"""The way past ASGI: nobody can tell from outside who took it, and nothing is left of it."""

import asyncio
import gc
import weakref

import pytest

from notify.api.answers import Answering, Fields
from notify.server.http import HttpProtocol
from notify.settings import KIB
from tests.edge import LIMITS, Edge, Peer, answer, read_status, served, until

SHORT = b"POST /short HTTP/1.1\r\nHost: x\r\n"
OK = b"x-short: yes\r\n"


class Taker:
    """Takes what it is offered, and answers when told to."""

    def __init__(self, edge: Edge) -> None:
        self.offers: list[tuple[dict[bytes, bytes], bytes]] = []
        self.answers: list[Answering] = []
        edge.take = self.take

    def take(self, headers: Fields, body: bytes, answer: Answering) -> bool:
        self.offers.append((dict(headers), body))
        self.answers.append(answer)
        return True

    async def answer(self, number: int = 0) -> None:
        """Answer an offer, once there is one."""
        await until(lambda: len(self.answers) > number)
        self.answers[number](200, OK, b"taken")


async def find_connection(edge: Edge) -> HttpProtocol:
    """Return the one connection, once there is one."""
    await until(lambda: bool(edge.server.server_state.connections))
    [connection] = edge.server.server_state.connections
    assert isinstance(connection, HttpProtocol)
    return connection


def post(body: bytes, *lines: bytes) -> bytes:
    return SHORT + b"".join(line + b"\r\n" for line in lines) + b"Content-Length: %d\r\n\r\n" % len(body) + body


@served
async def test_what_is_taken_is_answered_and_the_connection_stays(edge: Edge) -> None:
    taker = Taker(edge)
    async with edge.connect() as raw:
        for number in range(3):
            await raw.send(post(b"abc", b"X-One: Two"))
            await taker.answer(number)
            answer = await raw.read(b"taken")
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"\r\nx-short: yes\r\ncontent-length: 5\r\n\r\n" in answer
    assert [body for _headers, body in taker.offers] == [b"abc"] * 3
    assert taker.offers[0][0][b"x-one"] == b"Two"


@served
async def test_a_request_is_offered_once_it_is_whole_however_it_comes(edge: Edge) -> None:
    taker = Taker(edge)
    async with edge.connect() as raw:
        for byte in post(b"abc"):
            assert not taker.offers
            await raw.send(bytes([byte]))
        await taker.answer()
        await raw.read(b"taken")
        await raw.send(SHORT + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n")
        await taker.answer(1)
        await raw.read(b"taken")
    assert [body for _headers, body in taker.offers] == [b"abc", b"abc"]


@served
async def test_what_is_not_taken_reaches_the_application_untouched(edge: Edge) -> None:
    offers: list[bytes] = []

    def decline(_headers: Fields, body: bytes, _answer: Answering) -> bool:
        offers.append(body)
        return False

    edge.take = decline
    async with edge.connect() as raw:
        await raw.send(post(b"abcd"))
        await raw.read(b"\r\n\r\n4")
        await raw.send(post(b""))
        await raw.read(b"\r\n\r\n0")
    assert offers == [b"abcd", b""]


@served
async def test_what_is_no_plain_post_to_the_path_is_never_offered(edge: Edge) -> None:
    taker = Taker(edge)
    others = [
        post(b"ab").replace(b"POST", b"PUT"),
        post(b"ab").replace(b"/short", b"/short?x=1"),
        post(b"ab").replace(b"/short", b"/other"),
    ]
    async with edge.connect() as raw:
        for request in others:
            await raw.send(request)
            await raw.read(b"\r\n\r\n2")
        await raw.send(post(b"", b"Expect: 100-continue").replace(b"Length: 0", b"Length: 2"))
        assert read_status(await raw.read(b"\r\n\r\n")) == 100
        await raw.send(b"ab")
        await raw.read(b"\r\n\r\n2")
    assert not taker.offers


@served
async def test_what_is_more_than_is_read_ahead_reaches_the_application(edge: Edge) -> None:
    taker = Taker(edge)
    size = 200 * KIB
    async with edge.connect() as raw:
        await raw.send(SHORT + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % size + bytes(size) + b"\r\n0\r\n\r\n")
        await raw.read(b"\r\n\r\n%d" % size)
    assert not taker.offers


@served
async def test_what_says_that_it_is_more_than_is_read_ahead_can_be_refused_by_its_head(edge: Edge) -> None:
    async def refuse(peer: Peer) -> None:
        await answer(peer, b"no")

    edge.handle = refuse
    async with edge.connect() as raw:
        await raw.send(SHORT + b"Content-Length: %d\r\n\r\n" % (64 * KIB + 1))
        await raw.read(b"no")


@served
async def test_answers_leave_in_the_order_of_the_requests(edge: Edge) -> None:
    taker = Taker(edge)
    async with edge.connect() as raw:
        await raw.send(post(b"one") + post(b"four"))
        await taker.answer()
        await raw.read(b"taken")
        await raw.read(b"\r\n\r\n4")  # the second one went the ordinary way: it had to wait
    assert len(taker.offers) == 1


@served
async def test_an_answer_to_somebody_who_is_gone_does_nothing(edge: Edge) -> None:
    taker = Taker(edge)
    async with edge.connect() as raw:
        await raw.send(post(b"abc"))
        await until(lambda: bool(taker.answers))
    await until(lambda: edge.connections == 0)
    await taker.answer()


@served
async def test_a_body_that_does_not_come_is_not_waited_for(edge: Edge) -> None:
    taker = Taker(edge)
    async with edge.connect() as raw:
        await raw.send(post(b"abc")[:-1])
        started = asyncio.get_running_loop().time()
        assert await raw.read_all() == b""
        assert asyncio.get_running_loop().time() - started >= LIMITS.body_seconds * 0.9
    assert not taker.offers


def test_a_request_that_was_taken_is_answered_before_the_server_leaves(edge: Edge) -> None:
    async def leave() -> None:
        taker = Taker(edge)
        await edge.start()
        async with edge.connect() as raw:
            await raw.send(post(b"abc"))
            await until(lambda: bool(taker.answers))
            stopping = asyncio.create_task(edge.stop())
            connection = await find_connection(edge)
            await until(lambda: not connection.cycle.keep_alive)  # it has taken notice
            await taker.answer()
            answer = await raw.read_all()
            assert b"connection: close\r\n" in answer
            assert answer.endswith(b"taken")
            await stopping

    with asyncio.Runner(loop_factory=edge.loop_factory) as runner:
        runner.run(leave())


@served
async def test_an_application_that_fails_at_an_offer_ends_the_connection_and_is_reported(
    edge: Edge, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_headers: Fields, _body: bytes, _answer: Answering) -> bool:
        raise LookupError("not found")

    edge.take = fail
    async with edge.connect() as raw:
        await raw.send(post(b"abc") + post(b"abc"))
        assert await raw.read_all() == b""
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["not found"]
    caplog.clear()


@served
async def test_a_connection_that_idles_keeps_no_body(edge: Edge) -> None:
    taker = Taker(edge)
    async with edge.connect() as raw:
        await raw.send(post(bytes(KIB)))
        await taker.answer()
        await raw.read(b"taken")
        assert not (await find_connection(edge)).cycle.body


@pytest.mark.parametrize("sent", [post(b"abc")[:-1], post(b"abc"), post(b"abc") * 2], ids=["held", "taken", "queued"])
@served
async def test_of_a_lost_connection_nothing_is_left_to_the_collector(edge: Edge, sent: bytes) -> None:
    taker = Taker(edge)
    async with edge.connect() as raw:
        await raw.send(sent)
        left = weakref.ref(await find_connection(edge))
        await until(lambda: (connection := left()) is not None and bool(connection.cycle))
        gc.disable()
        try:
            (await find_connection(edge)).transport.abort()
            await until(lambda: edge.connections == 0)
            while taker.answers:
                taker.answers.pop()(200, OK, b"taken")  # to nobody
            await asyncio.sleep(0)
            assert left() is None
        finally:
            gc.enable()
