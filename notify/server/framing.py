"""WebSocket frames as most are: whole messages, written in one go, and small ones read without a parser. Pure.

RFC 6455, section 5.2. Whatever is not plain (fragments, control frames, long or broken ones) is left to the `websockets`
library, which knows all of it; what is here only has to know for certain that it need not.
"""

import struct
from collections.abc import Iterable

try:
    from websockets.speedups import apply_mask
except ImportError:  # where websockets was not compiled
    from websockets.utils import apply_mask

TEXT, BINARY = 0x81, 0x82
"""The first byte of a whole message: the last fragment, and its opcode."""

LAST_FRAGMENT = 0x80
MASKED = 0x80
SIZE = 0x7F
"""Bits of the second byte: whether there is a mask, which a client's frame must have, and a small payload's size."""

SMALL, MEDIUM = 126, 1 << 16
"""Bytes of a payload from which its length takes two more bytes, and eight."""

HEAD = 6
"""Bytes of a small masked frame before its payload."""


def write_frames(messages: Iterable[str | bytes]) -> bytes:
    """Return whole messages as a server's frames: text as text frames, bytes as binary ones."""
    return b"".join(map(write_frame, messages))


def write_frame(message: str | bytes) -> bytes:
    """Return one message as an unmasked frame."""
    kind, payload = (TEXT, message.encode()) if isinstance(message, str) else (BINARY, message)
    size = len(payload)
    if size < SMALL:
        return bytes((kind, size)) + payload
    if size < MEDIUM:
        return struct.pack("!BBH", kind, SMALL, size) + payload
    return struct.pack("!BBQ", kind, SMALL + 1, size) + payload


def read_frames(data: bytes) -> tuple[list[str | bytes] | None, bool]:
    """Read what a client sent, from the beginning of a frame.

    Returns the messages, if all of it is plain: small, whole, masked. And whether it ends where a frame of a whole message
    ends, so that what comes next begins with a frame again.
    """
    if (
        len(data) >= HEAD and data[0] == TEXT and len(data) - HEAD == data[1] - MASKED < SMALL
    ):  # an ack alone, as most are
        try:
            return [apply_mask(data[HEAD:], data[2:HEAD]).decode()], True
        except UnicodeDecodeError:
            return None, True
    messages: list[str | bytes] = []
    plain = True
    place, total = 0, len(data)
    while place < total:
        if total - place < HEAD:
            return None, False
        kind, size = data[place], data[place + 1] & SIZE
        start = place + HEAD
        if size >= SMALL:
            width = 2 if size == SMALL else 8
            size = int.from_bytes(data[place + 2 : place + 2 + width], "big")
            start += width
            plain = False
        if not (kind & LAST_FRAGMENT and data[place + 1] & MASKED and start + size <= total):
            return None, False
        place = start + size
        if plain and kind in {TEXT, BINARY}:
            payload = apply_mask(data[start:place], data[start - 4 : start])
            try:
                messages.append(payload.decode() if kind == TEXT else payload)
            except UnicodeDecodeError:
                plain = False
        else:
            plain = False
    return (messages if plain else None), True
