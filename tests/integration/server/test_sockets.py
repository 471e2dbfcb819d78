"""Sockets that don't read, and frames that are wrong: dropped or closed in time, with the code that says why."""

import asyncio
import struct
from contextlib import suppress

import pytest

from notify.server.websocket import REST_SECONDS
from notify.settings import KIB, MIB
from tests.edge import (
    BINARY,
    CLOSE,
    HANDSHAKE,
    PATIENCE,
    PING,
    PONG,
    TEXT,
    Edge,
    Peer,
    frame,
    read_status,
    served,
    until,
)

# ---------------------------------------------------------------- sockets that don't read


@served
async def test_a_close_drops_a_peer_that_does_not_read(edge: Edge) -> None:
    ended = asyncio.Event()

    async def fill_and_close(peer: Peer) -> None:
        await peer.accept()
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                while True:
                    await peer.send({"type": "websocket.send", "bytes": b"x" * 65_536})
        assert peer.transport.write_buffer_size() > 0
        try:
            await peer.send({"type": "websocket.close", "code": 4508})
        except OSError:
            ended.set()

    edge.handle = fill_and_close
    async with edge.connect(receive_buffer=4_096) as raw:
        await raw.shake_hands()
        async with asyncio.timeout(PATIENCE):
            await ended.wait()
        await until(lambda: edge.connections == 0)


@served
async def test_an_abort_ends_a_send_that_waits_for_a_peer_that_does_not_read(edge: Edge) -> None:
    peers: asyncio.Queue[Peer] = asyncio.Queue()
    ended = asyncio.Event()

    async def fill(peer: Peer) -> None:
        await peer.accept()
        peers.put_nowait(peer)
        try:
            while True:
                await peer.send({"type": "websocket.send", "bytes": b"x" * 65_536})
        finally:
            ended.set()

    edge.handle = fill
    async with edge.connect(receive_buffer=4_096) as raw:
        await raw.shake_hands()
        peer = await peers.get()
        await until(lambda: peer.transport.write_buffer_size() > 64 * KIB)
        peer.transport.abort()
        async with asyncio.timeout(PATIENCE):
            await ended.wait()


@served
async def test_pings_of_a_peer_that_does_not_read_the_pongs_take_no_memory(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("notify.server.websocket.REST_SECONDS", 0.0)  # or it would take a minute
    peers: asyncio.Queue[Peer] = asyncio.Queue()

    async def listen(peer: Peer) -> None:
        await peer.accept()
        await peer.receive()
        peers.put_nowait(peer)
        await peer.receive()

    edge.handle = listen
    pings = frame(PING, b"p" * 125) * 1_000
    async with edge.connect(receive_buffer=4_096) as raw:
        await raw.shake_hands()
        for _ in range(100):  # 12.7 MB of pongs, more than the kernel takes
            await raw.send(pings)
        await raw.send(frame(TEXT, b"all sent"))
        async with asyncio.timeout(PATIENCE):
            peer = await peers.get()
        assert peer.transport.write_buffer_size() < MIB
        peer.transport.abort()


@served
async def test_a_peer_that_answers_a_close_but_reads_nothing_is_dropped(edge: Edge) -> None:
    full = asyncio.Event()

    async def fill(peer: Peer) -> None:
        await peer.accept()
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                while True:
                    await peer.send({"type": "websocket.send", "bytes": b"x" * 65_536})
        full.set()
        await peer.receive()

    edge.handle = fill
    async with edge.connect(receive_buffer=4_096) as raw:
        await raw.shake_hands()
        async with asyncio.timeout(PATIENCE):
            await full.wait()
        await raw.send(frame(CLOSE, b"\x03\xe8"))
        await until(lambda: edge.connections == 0)


# ---------------------------------------------------------------- frames that are wrong


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(TEXT, b"a" * MIB), 1009),
        (frame(TEXT, b"a" * 10_000, final=False) + frame(0, b"a" * 10_000), 1009),
        (frame(TEXT, b"\xff\xfe") + frame(TEXT, b"more"), 1007),
        (frame(TEXT, b"\xed\xa0\x80"), 1007),
        (frame(3, b""), 1002),
    ],
    ids=["one MiB", "in two parts", "no UTF-8", "a lone surrogate", "unknown opcode"],
)
@served
async def test_a_frame_that_is_wrong_closes_with_its_code_and_the_peer_hears_it(
    edge: Edge, sent: bytes, code: int
) -> None:
    async with edge.connect() as raw:
        await raw.shake_hands()
        await raw.send(sent)
        received = await raw.read_all()
    assert not raw.reset
    assert received[0] == 0x80 | CLOSE
    assert struct.unpack("!H", received[2:4])[0] == code


@served
async def test_who_goes_on_sending_after_a_wrong_frame_hears_that_the_peer_is_gone(edge: Edge) -> None:
    ended = asyncio.Event()

    async def go_on(peer: Peer) -> None:
        await peer.accept()
        try:
            while True:
                await peer.send({"type": "websocket.send", "text": "still there?"})
                await asyncio.sleep(0)
        except OSError:
            ended.set()

    edge.handle = go_on
    async with edge.connect() as raw:
        await raw.shake_hands()
        await raw.send(frame(TEXT, b"\xff"))
        await raw.read_all()
        async with asyncio.timeout(PATIENCE):
            await ended.wait()


@served
async def test_a_message_in_a_thousand_parts_arrives_whole(edge: Edge) -> None:
    async with edge.connect() as raw:
        await raw.shake_hands()
        await raw.send(frame(TEXT, b"ab", final=False) + frame(0, b"cd", final=False) * 1_000 + frame(0, b"ef"))
        await raw.read(b"ab" + b"cd" * 1_000 + b"ef")


@pytest.mark.parametrize("flood", [frame(PING, b""), frame(PONG, b"")], ids=["pings", "pongs"])
@served
async def test_frames_that_are_no_message_are_read_no_faster_than_is_fair(edge: Edge, flood: bytes) -> None:
    async with edge.connect() as raw:
        await raw.shake_hands()
        begun = asyncio.get_running_loop().time()
        await raw.send(flood * 1_400 + frame(TEXT, b"after all"))
        await raw.read(b"after all")
        assert asyncio.get_running_loop().time() - begun > 5 * REST_SECONDS  # at least six, however it is cut


@served
async def test_many_messages_in_one_packet_are_all_heard_in_order(edge: Edge) -> None:
    async with edge.connect() as raw:
        await raw.shake_hands()
        texts = [b"%04d" % number for number in range(2_000)]
        await raw.send(b"".join(frame(TEXT, text) + frame(PONG, b"") for text in texts))
        received = await raw.read(texts[-1])
    assert received == b"".join(b"\x81\x04" + text for text in texts)


@pytest.mark.parametrize("early", [b"\xff\xff\xff\xff", frame(CLOSE, b"\x03\xe8")], ids=["garbage", "close"])
@served
async def test_frames_before_the_handshake_is_over_end_it_quietly(edge: Edge, early: bytes) -> None:
    come = asyncio.Event()

    async def accept_late(peer: Peer) -> None:
        async with asyncio.timeout(PATIENCE):
            await come.wait()
        await peer.accept()
        await peer.send({"type": "websocket.send", "text": "never"})

    edge.handle = accept_late
    async with edge.connect() as raw:
        await raw.send(HANDSHAKE + b"\r\n")
        await raw.send(early)
        assert await raw.read_all() == b""
        come.set()


@served
async def test_a_frame_in_the_packet_of_the_handshake_is_not_lost(edge: Edge) -> None:
    async with edge.connect() as raw:
        await raw.send(HANDSHAKE + b"\r\n" + frame(TEXT, b"early"))
        assert read_status(await raw.read(b"early")) == 101


@served
async def test_a_message_and_a_close_in_one_packet_are_both_heard(edge: Edge) -> None:
    async with edge.connect() as raw:
        await raw.shake_hands()
        await raw.send(frame(BINARY, b"hi") + frame(CLOSE, b"\x03\xe8"))
        assert (await raw.read_all()).endswith(b"\x88\x02\x03\xe8")
