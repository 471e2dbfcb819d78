"""A refused body names every bad field, and no body is too strange to be refused clearly."""

import json
from collections.abc import MutableMapping, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notify.api.body import MAX_ERRORS, BodyReader, ClientGone, escape, media_codec, read_body
from notify.api.requests import BatchRequest, SendRequest, build_checks
from notify.errors import InvalidRequest, TooLarge, UnsupportedMedia
from notify.model import Codec

checks = build_checks(max_data_bytes=65_536)
single = BodyReader(SendRequest, checks)
batch = BodyReader(BatchRequest, checks)


def refusal_of(reader: BodyReader[Any], body: bytes, codec: Codec) -> InvalidRequest | None:
    """Return why a body is refused, None when it is taken."""
    try:
        reader.decode(body, codec)
    except InvalidRequest as refusal:
        return refusal
    return None


def pointers(reader: BodyReader[Any], body: object) -> list[str]:
    """Return where the refusal of a body points to; the same in both encodings."""
    found = []
    for codec in Codec:
        encoded = msgspec.json.encode(body) if codec is Codec.JSON else msgspec.msgpack.encode(body)
        with pytest.raises(InvalidRequest) as caught:
            reader.decode(encoded, codec)
        found.append([error.pointer for error in caught.value.errors])
    assert found[0] == found[1]
    return found[0]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, ["/type", "/to"]),
        ({"type": "", "to": []}, ["/type", "/to"]),
        ({"type": "", "to": "a", "topic": "news"}, ["/type", "/topic"]),
        ({"type": "", "to": "a", "ttl": 0, "collapse_key": "k"}, ["/type", "/collapse_key"]),
        (
            {"type": "", "to": "a", "ttl": 0, "deliver_at": "2999-01-01T00:00:00Z"},
            ["/type", "/deliver_at", "/deliver_at"],
        ),
        ({"type": "", "to": "a", "data": {"x": "\0"}}, ["/type", "/data"]),
        ({"type": "line\n", "topic": "end\n", "collapse_key": "\n"}, ["/type", "/topic", "/collapse_key"]),
        ({"to": "a", "type": ""}, ["/type"]),
        ({"to": "a", "type": "t" * 129}, ["/type"]),
        ({"to": "a", "type": "a\nb"}, ["/type"]),
        ({"to": 5, "type": "t"}, ["/to"]),
        ({"to": ["a", 5, "b", None], "type": 7}, ["/type", "/to/1", "/to/3"]),
        ({"to": ["a", "b\n", ""], "type": 7}, ["/type", "/to/1", "/to/2"]),
        ({"to": "a", "type": "t", "ttl": -1}, ["/ttl"]),
        ({"to": "a", "type": "t", "ttl": 2_419_201}, ["/ttl"]),
        ({"to": "a", "type": "t", "ttl": "1"}, ["/ttl"]),
        ({"to": "a", "type": "t", "ttl": True}, ["/ttl"]),
        ({"to": "a", "type": "t", "ttl": None}, ["/ttl"]),
        ({"to": "a", "type": "t", "deliver_at": "tomorrow"}, ["/deliver_at"]),
        ({"to": "a", "type": "t", "deliver_at": "2026-01-01T00:00:00"}, ["/deliver_at"]),  # without an offset
        ({"to": "a", "type": "t", "collapse_key": ""}, ["/collapse_key"]),
        ({"to": "a", "type": "t", "collapse_key": "k" * 65}, ["/collapse_key"]),
        ({"to": "a", "type": "t", "urgent": True}, ["/urgent"]),
        ({"to": "a", "type": "t", "a/b~c": True}, ["/a~1b~0c"]),
        ({"type": 1, "ttl": -1, "collapse_key": 2, "x": 3}, ["/type", "/to", "/ttl", "/collapse_key", "/x"]),
        ([], [""]),
        ("text", [""]),
        (None, [""]),
    ],
)
def test_every_bad_field_is_named(body: object, expected: list[str]) -> None:
    assert sorted(pointers(single, body)) == sorted(expected)


def test_every_bad_field_of_a_batch_is_named_with_its_place() -> None:
    body = {"notifications": [{"to": "a", "type": "t"}, {"to": [1], "type": ""}, {"type": "t", "x": 1}, 5]}
    expected = [f"/notifications/{place}" for place in ("1/type", "1/to/0", "2/x", "2/to", "3")]
    assert sorted(pointers(batch, body)) == sorted(expected)
    assert pointers(batch, {"notifications": []}) == ["/notifications"]
    assert pointers(batch, {}) == ["/notifications"]


def test_an_answer_does_not_grow_with_the_number_of_mistakes() -> None:
    assert len(pointers(single, {"to": [5] * 50_000, "type": "t"})) <= MAX_ERRORS
    assert len(pointers(batch, {"notifications": [{}] * 50_000})) <= MAX_ERRORS


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b'{"to":"a","type":"t"} x',
        b'{"to":"a","type":"t","data":NaN}',
        b'{"to":"a","type":"t","data":Infinity}',
        b'{"to":"a","type":"\xff"}',
        b'{"to":"a","type":"\\ud800"}',
        b'{"to":"\\ud800","type":5}',
        b'{"to":"a","type":"t","data":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b"[" * 100_000,
        b"\x00",
        b"\xef\xbb\xbf{}",
    ],
)
def test_what_is_no_json_is_refused_and_nothing_else_happens(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        single.decode(body, Codec.JSON)


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", b"\x81", b"\x91" * 10_000, b"\x81\xa1a" * 10_000, b"\xdf\xff\xff\xff\xff", b"\xc7"]
)
def test_what_is_no_msgpack_is_refused_and_nothing_else_happens(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        single.decode(body, Codec.MSGPACK)


@given(st.binary(max_size=300), st.sampled_from(Codec))
def test_no_bytes_break_the_reader(body: bytes, codec: Codec) -> None:
    refused = refusal_of(batch, body, codec)
    assert refused is None or refused.errors


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            ("to", "topic", "type", "data", "ttl", "collapse_key", "deliver_at", "other"), JSON_VALUES
        ),
    )
)
def test_whatever_the_fields_hold_a_refusal_points_at_fields(body: dict[str, object]) -> None:
    refused = refusal_of(single, json.dumps(body).encode(), Codec.JSON)
    names = {"/" + escape(name) for name in [*body, "type", "to"]}
    assert all(error.pointer.startswith(tuple(names)) for error in (refused.errors if refused else ()))


def test_data_is_handed_on_as_it_came() -> None:
    request = single.decode(b'{"to":"a","type":"t","data":{"x": 1.10, "x": 2}}', Codec.JSON)
    assert bytes(request.data) == b'{"x": 1.10, "x": 2}'


class Receiver:
    """The parts of a body, as a server hands them over."""

    def __init__(self, messages: Sequence[MutableMapping[str, Any]]) -> None:
        self.left = list(messages)

    async def __call__(self) -> MutableMapping[str, Any]:
        return self.left.pop(0)


def parts(*bodies: bytes) -> Receiver:
    return Receiver(
        [
            {"type": "http.request", "body": body, "more_body": place < len(bodies) - 1}
            for place, body in enumerate(bodies)
        ]
    )


async def test_a_body_is_put_together_from_its_parts() -> None:
    assert await read_body({}, parts(b"ab", b"", b"cd"), max_bytes=4) == b"abcd"
    assert await read_body({}, parts(b""), max_bytes=4) == b""


async def test_a_body_over_the_limit_is_refused_without_being_read() -> None:
    receiver = parts(b"never read")
    with pytest.raises(TooLarge):
        await read_body({"content-length": "11"}, receiver, max_bytes=10)
    assert receiver.left


async def test_a_body_that_grows_over_the_limit_is_refused_as_soon_as_it_does() -> None:
    receiver = parts(b"123456", b"789012", b"never read")
    with pytest.raises(TooLarge):
        await read_body({}, receiver, max_bytes=10)
    assert len(receiver.left) == 1


async def test_a_body_that_ends_half_way_is_nobodys() -> None:
    with pytest.raises(ClientGone):
        await read_body(
            {},
            Receiver([{"type": "http.request", "body": b"a", "more_body": True}, {"type": "http.disconnect"}]),
            max_bytes=10,
        )


async def test_an_encoded_body_is_refused() -> None:
    with pytest.raises(UnsupportedMedia):
        await read_body({"content-encoding": "gzip"}, parts(b""), max_bytes=10)


@pytest.mark.parametrize(
    ("media", "codec"),
    [
        ("application/json", Codec.JSON),
        ("Application/JSON; charset=utf-8", Codec.JSON),
        ("application/msgpack", Codec.MSGPACK),
    ],
)
def test_a_known_media_type_is_read(media: str, codec: Codec) -> None:
    assert media_codec({"content-type": media}) is codec


@pytest.mark.parametrize("media", ["", "text/plain", "application/x-www-form-urlencoded", "json", "application/json2"])
def test_another_media_type_is_refused(media: str) -> None:
    with pytest.raises(UnsupportedMedia):
        media_codec({"content-type": media})
