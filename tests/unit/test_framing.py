"""Frames without a parser: what is plain is read as the `websockets` library reads it, everything else is left to it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, SERVER, Protocol

from notify.server.framing import read_frames, write_frames

PING = Frame(Opcode.PING, b"x")


def client(*frames: Frame) -> bytes:
    return b"".join(frame.serialize(mask=True) for frame in frames)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
def test_messages_are_written_as_whole_unmasked_frames(size: int) -> None:
    text, raw = "ä" * (size // 2) + "a" * (size % 2), bytes(size)
    expected = [Frame(Opcode.TEXT, text.encode()), Frame(Opcode.BINARY, raw)]
    assert write_frames([text, raw]) == b"".join(frame.serialize(mask=False) for frame in expected)


def test_small_messages_are_read_several_at_once() -> None:
    data = client(Frame(Opcode.TEXT, "grün".encode()), Frame(Opcode.BINARY, b"\0\xff"), Frame(Opcode.TEXT, b"a" * 125))
    assert read_frames(data) == (["grün", b"\0\xff", "a" * 125], True)


@pytest.mark.parametrize(
    ("data", "whole"),
    [
        (client(Frame(Opcode.TEXT, b"a"), PING), True),
        (client(Frame(Opcode.CLOSE, b"\x03\xe8")), True),
        (client(Frame(Opcode.TEXT, b"a" * 126)), True),
        (client(Frame(Opcode.TEXT, b"a" * 65_536), Frame(Opcode.TEXT, b"b")), True),
        (client(Frame(Opcode.TEXT, b"\xff")), True),  # not UTF-8: for the library to close on
        (b"\xc1" + client(Frame(Opcode.TEXT, b"a"))[1:], True),  # a reserved bit
        (client(Frame(Opcode.TEXT, b"a", fin=False)), False),
        (client(Frame(Opcode.TEXT, b"a"))[:-1], False),
        (client(Frame(Opcode.TEXT, b"a"), Frame(Opcode.TEXT, b"b"))[:9], False),
        (client(Frame(Opcode.TEXT, b"a" * 126))[:3], False),
        (Frame(Opcode.TEXT, b"abcdef").serialize(mask=False), False),  # a client's frame without a mask
    ],
    ids=[
        "control",
        "close",
        "medium",
        "long",
        "not UTF-8",
        "reserved bit",
        "fragment",
        "one byte short",
        "second one short",
        "head alone",
        "no mask",
    ],
)
def test_whatever_is_not_plain_is_left_to_the_library(data: bytes, whole: bool) -> None:  # noqa: FBT001 - a parameter
    assert read_frames(data) == (None, whole)


frames = st.builds(
    lambda first, payload, mask, cut: (bytes((first,)) + Frame(Opcode.BINARY, payload).serialize(mask=mask)[1:])[:cut],
    st.sampled_from([0x81, 0x82, 0x81, 0x82, 0x01, 0x80, 0x88, 0x89, 0x8A, 0xC1, 0x83, 0x8F]),
    st.text(max_size=20).map(str.encode) | st.binary(max_size=4) | st.just(b"a" * 126),
    st.sampled_from([True, True, True, False]),
    st.none() | st.integers(0, 12),
)


@given(st.lists(frames, max_size=4).map(b"".join) | st.binary(max_size=40))
def test_what_is_read_without_a_parser_is_what_the_library_reads(data: bytes) -> None:
    messages, _ = read_frames(data)
    if messages is None:
        return
    library = Protocol(SERVER, state=OPEN)
    library.receive_data(data)
    assert library.parser_exc is None
    read = [event for event in library.events_received() if isinstance(event, Frame)]
    assert messages == [bytes(frame.data).decode() if frame.opcode is Opcode.TEXT else frame.data for frame in read]
