"""A WebSocket handshake is answered, refused or dropped, whoever sends it and whenever."""

import pytest

from tests.edge import HANDSHAKE, REQUEST, TEXT, Edge, Peer, frame, read_status, served, until


@served
async def test_a_handshake_is_answered_as_the_rfc_has_it(edge: Edge) -> None:
    async def choose(peer: Peer) -> None:
        await peer.receive()
        assert peer.scope["subprotocols"] == ["a", "b", "c"]
        await peer.send({"type": "websocket.accept", "subprotocol": "b", "headers": [(b"x-more", b"1")]})

    edge.handle = choose
    async with edge.connect() as raw:
        await raw.send(HANDSHAKE + b"Sec-WebSocket-Protocol: a, b\r\nSec-WebSocket-Protocol: c\r\n\r\n")
        head = (await raw.read(b"\r\n\r\n")).decode().splitlines()
    assert head[0] == "HTTP/1.1 101 Switching Protocols"
    lines = [line.partition(": ")[::2] for line in head[1:-1]]
    assert len(dict(lines)) == len(lines)
    assert dict(lines).items() >= {
        ("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Protocol", "b"), ("x-more", "1"),
        ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),  # the key and the answer of RFC 6455, section 1.3
    }  # fmt: skip
    assert "date" in dict(lines)


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        (b"GET", b"POST", 405),
        (b"HTTP/1.1", b"HTTP/1.0", 505),
        (b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: 8", 400),
        (b"Sec-WebSocket-Version: 13\r\n", b"", 400),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"c2hvcnQ=", 400),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"\xe9\xe9", 400),
        (b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b"", 400),
        (b"Upgrade: websocket", b"Upgrade: websocket\r\nUpgrade: websocket", 426),
    ],
)
@served
async def test_a_handshake_that_is_wrong_is_told_so_and_nobody_hears_of_it(
    edge: Edge, old: bytes, new: bytes, status: int
) -> None:
    heard: list[Peer] = []

    async def hear(peer: Peer) -> None:
        heard.append(peer)

    edge.handle = hear
    async with edge.connect() as raw:
        await raw.send(HANDSHAKE.replace(old, new, 1) + b"\r\n" + frame(TEXT, b"early"))
        assert read_status(await raw.read_all()) == status
    assert not heard


@served
async def test_a_header_that_would_break_the_answer_ends_the_handshake(edge: Edge) -> None:
    failed: list[Exception] = []

    async def accept_wrongly(peer: Peer) -> None:
        await peer.receive()
        try:
            await peer.send({"type": "websocket.accept", "headers": [(b"x", b"1\r\ny: 2")]})
        except ValueError as error:
            failed.append(error)
            await peer.send({"type": "websocket.close"})

    edge.handle = accept_wrongly
    async with edge.connect() as raw:
        await raw.send(HANDSHAKE + b"\r\n")
        assert read_status(await raw.read_all()) == 403
    assert failed


@served
async def test_an_application_that_refuses_before_the_handshake_is_over_is_heard(edge: Edge) -> None:
    async def refuse(peer: Peer) -> None:
        await peer.receive()
        await peer.send({"type": "websocket.http.response.start", "status": 503, "headers": [(b"retry-after", b"2")]})
        await peer.send({"type": "websocket.http.response.body", "body": b"later"})

    edge.handle = refuse
    async with edge.connect() as raw:
        await raw.send(HANDSHAKE + b"\r\n")
        response = await raw.read_all()
    assert read_status(response) == 503
    assert response.endswith(b"\r\n\r\nlater")


@served
async def test_an_application_that_has_begun_to_refuse_can_not_accept_any_more(edge: Edge) -> None:
    async def waver(peer: Peer) -> None:
        await peer.receive()
        await peer.send({"type": "websocket.http.response.start", "status": 503, "headers": []})
        with pytest.raises(RuntimeError, match="accept"):
            await peer.send({"type": "websocket.accept"})
        await peer.send({"type": "websocket.http.response.body", "body": b""})

    edge.handle = waver
    async with edge.connect() as raw:
        await raw.send(HANDSHAKE + b"\r\n")
        assert read_status(await raw.read_all()) == 503


@pytest.mark.parametrize("more", [b"", REQUEST + b"\r\n"], ids=["behind one", "behind two"])
@served
async def test_a_handshake_does_not_overtake_an_answer_and_who_answers_hears_of_the_end(
    edge: Edge, more: bytes
) -> None:
    heard: list[str] = []

    async def listen(peer: Peer) -> None:
        await peer.receive()
        heard.append((await peer.receive())["type"])

    edge.handle = listen
    async with edge.connect() as raw:
        await raw.send(REQUEST + b"\r\n" + more)
        await until(lambda: bool(edge.server.server_state.tasks))
        await raw.send(HANDSHAKE + b"\r\n")
        assert await raw.read_all() == b""
        await until(lambda: not edge.server.server_state.tasks)
    assert heard == ["http.disconnect"]
