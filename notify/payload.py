"""Checks `data` once, at the door, and carries it from one codec to the other.

The promise kept here: what was accepted can be read back by every client, in JSON and in MessagePack, so nothing
behind the door ever meets a payload it can't encode. Refused are integers beyond 64 bits, numbers beyond doubles
(`1e400`), NaN, NUL characters, lone surrogates, broken UTF-8 and more than 64 levels; everything else is handed on as
it came, repeated keys and long fractions included.

JSON is looked at as text and never decoded: decoding would lose the value behind a repeated key, recurse, and cost
more. It relies on valid JSON having backslashes and quotes only in and around strings, so that plain replacing and
splitting tells the inside of strings from the rest. Two steps: `is_plain` rules out trouble in about two microseconds
for a typical payload, and may be wrong in one direction only; what it doubts, `refuse_text` takes apart, exactly.
"""

import base64
import math
import re
from array import array
from itertools import accumulate

import msgspec

from notify.errors import TooLarge

MAX_LEVELS = 64  # arrays and objects inside each other; the parsers of some clients give up from 100 on
LEAST_INTEGER = -(2**63)  # of int64
GREATEST_INTEGER = 2**64 - 1  # of uint64; between them lies what MessagePack holds
MAX_DIGITS = 20  # of such an integer; Python's own conversion would refuse more than 4,300

TOO_DEEP = f"has more than {MAX_LEVELS} levels of arrays and objects; flatten it"
TOO_WIDE = "holds a number beyond 64-bit integers or doubles; send it as a string"
NOT_A_NUMBER = "holds NaN or an infinity, which JSON can't express; send null or a string"
HAS_NUL = "holds a NUL character (U+0000), which not every client can read; leave it out"
LONE_SURROGATE = "holds half of a surrogate pair, which is no character; send the whole one"
NOT_UTF8 = "holds text that is not valid UTF-8"
KEY_NOT_TEXT = "has a key that is not a string, which JSON can't express"
FOREIGN_TYPE = "holds a MessagePack extension or timestamp, which JSON can't express; send it as a string"

# What every byte counts as, as far as `is_plain` cares: a digit, an exponent, an opening bracket, or nothing.
OUTLINE = bytes(
    0x30 if c in b"0123456789" else 0x65 if c in b"eE" else 0x5B if c in b"[{" else 0x20 for c in range(256)
)
LONG_RUN = b"0" * 19  # up to 18 digits fit any integer type, and as a part of a number don't take it past a double
LONG_EXPONENT = b"0e000"  # neither does an exponent of one or two digits after fewer than 19

STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # one level up or down, as signed bytes
NOT_BRACKETS = bytes(c for c in range(256) if c not in b"[]{}")
SEPARATORS = bytes.maketrans(b"[]{}:,", b"      ")
SHORTEST_WIDE = len(b"1e309")

PAIR = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
HALF = re.compile(rb"\\u[dD][89a-fA-F]")


def check_json(raw: bytes | memoryview, *, max_bytes: int) -> str | None:
    """Return None when the JSON text `raw` is fit to be stored, else what is wrong with it, to follow the field's name.

    `raw` must be syntactically valid, as a msgspec.Raw that was decoded along with its surroundings is; msgspec lets
    broken UTF-8, NUL escapes and any number pass there. Raises TooLarge above `max_bytes`. The answer never holds any
    of the payload.
    """
    if len(raw) > max_bytes:
        raise TooLarge(f"data has {len(raw):,} bytes; at most {max_bytes:,} are taken")
    text = bytes(raw)
    return None if is_plain(text) else refuse_text(text)


def is_plain(text: bytes) -> bool:
    """Tell whether the text can't break any rule, even if every byte of its strings counted as JSON.

    False says nothing yet: a hash in a string may look like `0e462`.
    """
    outline = text.translate(OUTLINE, b"+")
    return (
        text.isascii()
        and (b"\\" not in text or b"\\u" not in text)  # one byte is looked for in half the time, and most have none
        and outline.count(b"[") <= MAX_LEVELS
        and LONG_RUN not in outline
        and LONG_EXPONENT not in outline
    )


def refuse_text(text: bytes) -> str | None:
    """Apply every rule to valid JSON text in time linear in its length: 2 ms for 64 KiB of the worst."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return NOT_UTF8
    # Without the escaped backslashes, each one left begins an escape, and each quote left after them ends a string.
    escapes = text.replace(rb"\\", b"")
    if rb"\u0000" in escapes:
        return HAS_NUL
    if HALF.search(escapes) and HALF.search(PAIR.sub(b"", escapes)):
        return LONE_SURROGATE
    bare = b"".join(escapes.replace(rb"\"", b"").split(b'"')[::2])
    if is_deep(bare):
        return TOO_DEEP
    if any(is_wide(number) for number in bare.translate(SEPARATORS).split() if len(number) >= SHORTEST_WIDE):
        return TOO_WIDE
    return None


def is_deep(bare: bytes) -> bool:
    """Tell whether JSON without its strings has more than MAX_LEVELS levels."""
    return max(accumulate(array("b", bare.translate(STEPS, NOT_BRACKETS))), default=0) > MAX_LEVELS


def is_wide(number: bytes) -> bool:
    """Tell whether a JSON number (or `false`, the one literal as long) is beyond 64-bit integers or doubles."""
    digits = number.removeprefix(b"-")
    if digits.isdigit():
        return len(digits) > MAX_DIGITS or not LEAST_INTEGER <= int(number) <= GREATEST_INTEGER
    return number != b"false" and math.isinf(float(number))


def check_value(value: object) -> str | None:
    """Apply the same rules to a value decoded from MessagePack: None when it is fit, else what is wrong with it.

    Bytes are allowed; extension types, timestamps and keys that aren't strings are not. Its size is the caller's to
    check, on the encoded form. Doesn't recurse.
    """
    level: list[object] = [value]
    depth = 0
    while level:
        below: list[object] = []
        for item in level:
            if not isinstance(item, (list, dict)):
                fault = refuse_scalar(item)
            elif depth == MAX_LEVELS:
                fault = TOO_DEEP
            elif isinstance(item, list):
                fault = None
                below.extend(item)
            else:
                fault = next(filter(None, map(refuse_key, item)), None)
                below.extend(item.values())
            if fault is not None:
                return fault
        level = below
        depth += 1
    return None


def refuse_key(key: object) -> str | None:
    """Apply the rules to the key of a map."""
    return refuse_string(key) if isinstance(key, str) else KEY_NOT_TEXT


def refuse_scalar(item: object) -> str | None:
    """Apply the rules to what is neither a map nor an array."""
    if isinstance(item, str):
        return refuse_string(item)
    if isinstance(item, int):  # bool as well
        return None if LEAST_INTEGER <= item <= GREATEST_INTEGER else TOO_WIDE
    if isinstance(item, float):
        return None if math.isfinite(item) else NOT_A_NUMBER
    return None if item is None or isinstance(item, bytes) else FOREIGN_TYPE


def refuse_string(text: str) -> str | None:
    """Apply the rules to a decoded string."""
    if "\0" in text:
        return HAS_NUL
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        return LONE_SURROGATE
    return None


def transcode_to_json(value: object) -> bytes:
    """Return the JSON text of a MessagePack value that passed `check_value`; bytes become `{"$bytes": "<base64>"}`.

    The text may be longer than the MessagePack was: base64 adds a third.
    """
    return msgspec.json.encode(wrap_bytes(value))


def wrap_bytes(value: object) -> object:
    """Replace bytes by the object they are in JSON. Recurses, over a value that is known to have at most 64 levels."""
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, list):
        return [wrap_bytes(item) for item in value]
    if isinstance(value, dict):
        return {key: wrap_bytes(item) for key, item in value.items()}
    return value


def transcode_to_msgpack(raw_json: bytes) -> bytes:
    """Return the MessagePack of JSON text that passed `check_json`.

    `{"$bytes": ...}` stays the map it is: only what came in as bytes is bytes. Of a repeated key the last value counts,
    as in most parsers.
    """
    return msgspec.msgpack.encode(msgspec.json.decode(raw_json))
