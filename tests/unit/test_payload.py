"""The check of `data`: whatever passes can be read back by every client, and what can't is refused with a sentence."""

import json
import math
import uuid
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from notify import payload
from notify.errors import TooLarge
from notify.payload import check_json, check_value, is_plain, refuse_text, transcode_to_json, transcode_to_msgpack

LIMIT = 65_536


class Envelope(msgspec.Struct):
    """How `data` arrives: inside a body that msgspec has taken apart."""

    data: msgspec.Raw


def check(text: str | bytes) -> str | None:
    """Check `text` the way a handler would: after msgspec has accepted the body around it."""
    raw = text.encode() if isinstance(text, str) else text
    envelope = msgspec.json.decode(b'{"data":' + raw + b"}", type=Envelope)
    return check_json(memoryview(envelope.data), max_bytes=LIMIT)


def nest(levels: int, core: str = "") -> str:
    return "[" * levels + core + "]" * levels


@pytest.mark.parametrize(
    "text",
    [
        "null", "true", "false", "0", "-0", "1.5", '""', "[]", "{}", " [ 1 , 2 ] ",
        "18446744073709551615", "-9223372036854775808", "1.7976931348623157e308", "-1e308",
        "1E+30", "1e-400", "0e99999",
        "0.1234567890123456789012345678901234567890", "123456789012345678901234567890.5", "100000000000000000000.0",
        "1e0000000000000000000000000001", "0." + "0" * 400 + "1e+500", "1" * 400 + "e-200",
        '"1e400"', '"111111111111111111111111111111"', '["1e400", "x\\"1e400"]', '{"1e400":"NaN 1e999,1e999"}',
        '"\\\\u0000"', '"\\\\\\\\u0000"', '"\\\\ud800"',
        '"\\ud83d\\ude00"', '"\\uD83D\\uDE00\\uFFFF"', '"\\u0001\\u00e4"',
        '"ä€😀"', '"[[[[{{{{\\"[[["', '"' + "[" * 1000 + '"', '"' + '\\"' * 200 + "{" * 200 + '"',
        "[" + ",".join(["{}"] * 1000) + "]", nest(64), nest(63, "{}"), nest(64, "1"), '{"a":' * 64 + "1" + "}" * 64,
        '{"a":1,"a":2}', '{"":0}', '"' + "\\\\" * 999 + '"', '"\x7f"',
    ],
)  # fmt: skip
def test_what_every_client_can_read_is_taken(text: str) -> None:
    assert check(text) is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("1e400", payload.TOO_WIDE), ("-1e400", payload.TOO_WIDE), ('{"a":[0,{"b":1E+309}]}', payload.TOO_WIDE),
        ("1.7976931348623159e308", payload.TOO_WIDE), ("0.1e310", payload.TOO_WIDE), ("1e0400", payload.TOO_WIDE),
        ("1" * 400 + ".5", payload.TOO_WIDE), ("1" * 330 + "e-5", payload.TOO_WIDE),
        ("1e" + "9" * 5000, payload.TOO_WIDE),
        ("18446744073709551616", payload.TOO_WIDE), ("-9223372036854775809", payload.TOO_WIDE),
        ("1" * 30, payload.TOO_WIDE), ("-" + "1" * 30, payload.TOO_WIDE), ("1" * 5000, payload.TOO_WIDE),
        ('["false",false,' + "9" * 20 + "]", payload.TOO_WIDE), ("[\n" + "9" * 20 + "\t]", payload.TOO_WIDE),
        ('{"a":' + "1" * 30 + ',"a":1}', payload.TOO_WIDE),
        ('"\\u0000"', payload.HAS_NUL), ('{"a\\u0000b":1}', payload.HAS_NUL), ('"\\\\\\u0000"', payload.HAS_NUL),
        ('"\\"\\u0000"', payload.HAS_NUL), ('{"a":"\\u0000","a":1}', payload.HAS_NUL),
        (b'"\xff"', payload.NOT_UTF8), (b'"\xed\xa0\x80"', payload.NOT_UTF8), (b'{"\xc3":1}', payload.NOT_UTF8),
        (b'"\xc0\x80"', payload.NOT_UTF8),
        (nest(65), payload.TOO_DEEP), (nest(64, "{}"), payload.TOO_DEEP), (nest(900), payload.TOO_DEEP),
        ('{"a":' * 65 + "1" + "}" * 65, payload.TOO_DEEP), ("[" + nest(64) + "," + nest(64) + "]", payload.TOO_DEEP),
        ('["]]]]]]]]]]\\"]",' + nest(64) + "]", payload.TOO_DEEP),
    ],
)  # fmt: skip
def test_what_some_client_could_not_read_is_refused(text: str | bytes, fault: str) -> None:
    assert check(text) == fault


@pytest.mark.parametrize(
    "text", ['"\\ud800"', '"\\udc00"', '"\\ud800\\u0041"', '"\\udc00\\ud800"', '"\\uD83D\\uD83D\\uDE00"']
)
def test_half_a_surrogate_pair_is_refused_whether_or_not_msgspec_does(text: str) -> None:
    assert check_json(text.encode(), max_bytes=LIMIT) == payload.LONE_SURROGATE
    with pytest.raises(msgspec.DecodeError):
        check(text)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "01", '"\x00"', "[1,]", ""])
def test_what_is_no_json_never_gets_here(text: str) -> None:
    with pytest.raises(msgspec.DecodeError):
        check(text)


def test_json_nested_ten_thousand_deep_raises_before_it_gets_here() -> None:
    with pytest.raises(RecursionError):  # the handler's to turn into a 400
        check(nest(10_000))


def test_a_payload_over_the_limit_is_too_large_and_one_at_it_is_not() -> None:
    assert check_json(b'"' + b"a" * 8 + b'"', max_bytes=10) is None
    with pytest.raises(TooLarge, match="11 bytes; at most 10"):
        check_json(b'"' + b"a" * 9 + b'"', max_bytes=10)


def test_no_answer_holds_any_of_the_payload() -> None:
    for text in ('{"pin":' + "4711" * 10 + "}", '"4711\\u0000"', nest(65, "4711")):
        assert "4711" not in (check(text) or "4711")


def test_an_ordinary_payload_takes_the_short_way() -> None:
    order = {"order": 7, "price": 9.99, "at": "2025-01-01T10:00:00Z", "items": [{"sku": f"A{i}"} for i in range(20)]}
    assert is_plain(json.dumps(order).encode())


# Text that is mostly digits, brackets, quotes and escapes: what the rules could trip over.
hostile = st.text(alphabet='0123456789eE+-.[]{}"\\,: uUdD89aAbBcC\n\x00ä😀\ud800', max_size=40)
numbers = st.from_regex(r"\A-?(0|[1-9][0-9]{0,400})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,5})?\Z").map(
    lambda text: msgspec.Raw(text.encode())
)
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | hostile | numbers,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(hostile, inner, max_size=5),
    max_leaves=20,
)


def write(document: object) -> str:
    """Write JSON as any producer might, numbers verbatim."""
    if isinstance(document, msgspec.Raw):
        return bytes(document).decode()
    if isinstance(document, list):
        return "[" + ", ".join(map(write, document)) + "]"
    if isinstance(document, dict):
        return "{" + ",".join(f"{json.dumps(key)}: {write(value)}" for key, value in document.items()) + "}"
    return json.dumps(document)


def is_fit(document: object, level: int = 0) -> bool:
    """Say what the contract says, slowly and by recursion, from what Python's own parser reads."""
    if isinstance(document, list | dict):
        keys, values = (document.keys(), document.values()) if isinstance(document, dict) else ((), document)
        return level < 64 and all(map(is_fit, keys)) and all(is_fit(value, level + 1) for value in values)
    if isinstance(document, str):
        return "\0" not in document and not any("\ud800" <= character <= "\udfff" for character in document)
    if isinstance(document, int):
        return -(2**63) <= document < 2**64
    return not isinstance(document, float) or math.isfinite(document)


@given(documents, st.integers(0, 62))
@example("1e400", 0)
@example(["\\", "\\u0000"], 0)
def test_the_check_agrees_with_a_parser_about_any_document(document: object, levels: int) -> None:
    text = nest(levels, write(document))
    try:
        msgspec.json.decode(text.encode(), type=msgspec.Raw)
    except msgspec.DecodeError:
        return  # half a surrogate pair: never gets here
    raw = text.encode()
    verdict = check_json(raw, max_bytes=len(raw))
    assert (verdict is None) == is_fit(json.loads(text))
    assert verdict == refuse_text(raw), "the short way may not take what the long way refuses"
    if verdict is None:
        decoded = msgspec.json.decode(raw)
        assert repr(decoded) == repr(json.loads(text))
        assert check_value(decoded) is None
        assert repr(msgspec.msgpack.decode(transcode_to_msgpack(raw))) == repr(decoded)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


@given(values)
def test_a_messagepack_value_that_passes_becomes_json_that_passes(value: object) -> None:
    received = msgspec.msgpack.decode(msgspec.msgpack.encode(value))
    verdict = check_value(received)
    assert (verdict is None) == is_fit(received)
    if verdict is None:
        text = transcode_to_json(received)
        assert refuse_text(text) is None
        json.loads(text)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (datetime.now(UTC), payload.FOREIGN_TYPE),
        ({"a": [msgspec.msgpack.Ext(5, b"x")]}, payload.FOREIGN_TYPE),
        ({1: 2}, payload.KEY_NOT_TEXT),
        ({"a": {b"k": 1}}, payload.KEY_NOT_TEXT),
        ([math.nan], payload.NOT_A_NUMBER),
        ([-math.inf], payload.NOT_A_NUMBER),
        ({"a\0": 1}, payload.HAS_NUL),
        (["a", ["\0"]], payload.HAS_NUL),
        (json.loads(nest(65)), payload.TOO_DEEP),
        (json.loads(nest(900)), payload.TOO_DEEP),
    ],
)
def test_a_messagepack_value_json_can_not_express_is_refused(value: object, fault: str) -> None:
    assert check_value(msgspec.msgpack.decode(msgspec.msgpack.encode(value), strict=False)) == fault


@pytest.mark.parametrize(
    "value", [json.loads(nest(64)), json.loads(nest(64, "1")), b"\x00\xff", {"a": [b"", None, True, 2**64 - 1]}]
)
def test_a_messagepack_value_within_the_rules_is_taken(value: object) -> None:
    assert check_value(value) is None


@pytest.mark.parametrize(
    ("value", "fault"),
    [("\ud800", payload.LONE_SURROGATE), (2**64, payload.TOO_WIDE), (uuid.uuid4(), payload.FOREIGN_TYPE)],
)
def test_a_value_messagepack_itself_could_not_bring_is_refused_as_well(value: object, fault: str) -> None:
    assert check_value(value) == fault


def test_bytes_read_as_base64_in_json_and_come_back_as_the_map_they_became() -> None:
    text = transcode_to_json({"photo": [b"\x00\xff", "plain"]})
    assert json.loads(text) == {"photo": [{"$bytes": "AP8="}, "plain"]}
    assert msgspec.msgpack.decode(transcode_to_msgpack(text)) == {"photo": [{"$bytes": "AP8="}, "plain"]}
