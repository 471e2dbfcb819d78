"""A frame means the same in both subprotocols, and a client's mistake is told apart from what is no frame at all."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from notify.errors import Close, SessionClosed
from notify.frames import (
    CODECS,
    MAX_SEQS,
    Ack,
    Auth,
    Authenticated,
    CaughtUp,
    Disconnect,
    ErrorFrame,
    FrameError,
    JsonCodec,
    MomentaryFrames,
    MsgpackCodec,
    NotificationFrame,
    Ping,
    Pong,
    Read,
    ReadMark,
    Retract,
    ServerFrame,
    Truncated,
    Welcome,
    WireCodec,
    frame_entry,
    write_time,
)
from notify.model import Codec, Entry, Kind
from notify.momentary import Momentary, wrap

ID = UUID("0190a0a0-0000-7000-8000-000000000001")
MOMENT = datetime(2026, 3, 1, 12, 0, 0, 5, tzinfo=UTC)

json_codec = JsonCodec()
msgpack_codec = MsgpackCodec()

SERVER_FRAMES: list[tuple[ServerFrame, dict[str, Any]]] = [
    (
        Welcome(
            session=str(ID),
            user="alice",
            device="default",
            epoch="e",
            after=41,
            head=57,
            recovered=True,
            unread=3,
            ping_interval=25,
            expires_in=3600,
        ),
        {
            "op": "welcome",
            "session": str(ID),
            "user": "alice",
            "device": "default",
            "epoch": "e",
            "after": 41,
            "head": 57,
            "recovered": True,
            "unread": 3,
            "ping_interval": 25,
            "expires_in": 3600,
        },
    ),
    (CaughtUp(seq=57), {"op": "caught_up", "seq": 57}),
    (Truncated(from_=1, to=41), {"op": "truncated", "from": 1, "to": 41}),
    (Retract(seq=58, of=42, id=ID), {"op": "retract", "seq": 58, "of": 42, "id": str(ID)}),
    (ReadMark(seq=59, up_to=57, unread=0), {"op": "read", "seq": 59, "up_to": 57, "unread": 0}),
    (ReadMark(seq=60, seqs=[1, 2], unread=2), {"op": "read", "seq": 60, "seqs": [1, 2], "unread": 2}),
    (Authenticated(expires_in=3600), {"op": "authenticated", "expires_in": 3600}),
    (Ping(), {"op": "ping"}),
    (Pong(), {"op": "pong"}),
    (ErrorFrame(code="bad_frame", detail="d"), {"op": "error", "code": "bad_frame", "detail": "d"}),
    (
        Disconnect(code=4503, reason="draining", reconnect=True, retry_after_ms=2750),
        {"op": "disconnect", "code": 4503, "reason": "draining", "reconnect": True, "retry_after_ms": 2750},
    ),
    (
        Disconnect(code=4403, reason="forbidden", reconnect=False),
        {"op": "disconnect", "code": 4403, "reason": "forbidden", "reconnect": False},
    ),
]


@pytest.mark.parametrize(
    ("frame", "wire"), SERVER_FRAMES, ids=lambda value: getattr(value, "get", lambda _: None)("op")
)
def test_a_frame_is_what_the_contract_says_in_both_codecs(frame: ServerFrame, wire: dict[str, Any]) -> None:
    text = json_codec.encode(frame)
    binary = msgpack_codec.encode(frame)
    assert isinstance(text, str)
    assert isinstance(binary, bytes)
    assert msgspec.json.decode(text) == wire
    assert msgspec.msgpack.decode(binary) == wire


def encode(codec: WireCodec, value: object) -> str | bytes:
    return msgspec.json.encode(value).decode() if isinstance(codec, JsonCodec) else msgspec.msgpack.encode(value)


each_codec = pytest.mark.parametrize("codec", [json_codec, msgpack_codec], ids=["json", "msgpack"])


@each_codec
@pytest.mark.parametrize(
    ("wire", "frame"),
    [
        ({"op": "ack", "seq": 0}, Ack(seq=0)),
        ({"op": "ack", "seq": 2**63 - 1}, Ack(seq=2**63 - 1)),
        ({"op": "read", "up_to": 5}, Read(up_to=5)),
        ({"op": "read", "seqs": [3, 1]}, Read(seqs=[3, 1])),
        ({"op": "auth", "token": "t"}, Auth(token="t")),
        ({"op": "ping"}, Ping()),
        ({"op": "ping", "later": {"than": ["this", 1]}}, Ping()),  # a newer client's field
        ({"seq": 1, "op": "ack"}, Ack(seq=1)),
    ],
)
def test_a_clients_frame_is_read_and_fields_nobody_knows_are_ignored(
    codec: WireCodec, wire: object, frame: object
) -> None:
    assert codec.decode(encode(codec, wire)) == frame


@each_codec
@pytest.mark.parametrize(
    "wire",
    [
        {"op": "shout"},
        {"op": "welcome"},  # only the service says that
        {"op": "ack"},
        {"op": "ack", "seq": -1},
        {"op": "ack", "seq": 2**63},
        {"op": "ack", "seq": "5"},
        {"op": "ack", "seq": 1.5},
        {"op": "ack", "seq": None},
        {"op": "ack", "seq": True},
        {"op": "read", "seqs": []},
        {"op": "read", "seqs": list(range(MAX_SEQS + 1))},
        {"op": "read", "up_to": None},
        {"op": "auth"},
        {"op": "auth", "token": 5},
        {"op": ""},
    ],
)
def test_an_object_with_an_op_that_is_not_understood_gets_an_answer(codec: WireCodec, wire: object) -> None:
    with pytest.raises(FrameError):
        codec.decode(encode(codec, wire))


@each_codec
@pytest.mark.parametrize("wire", [None, 1, "ping", [], ["op", "ping"], {}, {"seq": 1}, {"op": 5}, {"op": None}])
def test_what_is_no_object_with_an_op_closes(codec: WireCodec, wire: object) -> None:
    with pytest.raises(SessionClosed) as caught:
        codec.decode(encode(codec, wire))
    assert caught.value.close is Close.BAD_FRAME


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "nonsense",
        '{"op":"ping"} {',
        '{"op":"ack","seq":1e400}',
        '{"op":"ping","x":' + "[" * 10_000,
        "\x00",
        "{'op':1}",
    ],
)
def test_text_that_is_no_json_closes(text: str) -> None:
    with pytest.raises(SessionClosed) as caught:
        json_codec.decode(text)
    assert caught.value.close is Close.BAD_FRAME


seqs = st.integers(0, 2**63 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]))
client_frames = (
    st.builds(Ack, seqs)
    | st.builds(Read, up_to=seqs)
    | st.builds(Read, seqs=st.lists(seqs, min_size=1, max_size=5))
    | st.builds(Auth, texts)
    | st.just(Ping())
)
server_frames = (
    st.builds(
        Welcome, texts, texts, texts, texts, seqs, seqs, st.booleans(), seqs, st.floats(0, 1e9), st.integers(0, 2**53)
    )
    | st.builds(CaughtUp, seqs)
    | st.builds(Truncated, from_=seqs, to=seqs)
    | st.builds(Retract, seqs, seqs, st.uuids())
    | st.builds(ReadMark, seqs, seqs, unread=seqs)
    | st.builds(ReadMark, seqs, seqs=st.lists(seqs, min_size=1, max_size=5), unread=seqs)
    | st.builds(Disconnect, st.integers(1000, 4999), texts, st.booleans(), seqs)
    | st.builds(ErrorFrame, texts, texts)
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@each_codec
@settings(max_examples=50)
@given(client_frames)
def test_a_clients_frame_comes_back_as_it_was(codec: WireCodec, frame: object) -> None:
    assert codec.decode(encode(codec, frame)) == frame


@settings(max_examples=50)
@given(server_frames)
def test_a_servers_frame_says_the_same_in_both_codecs(frame: ServerFrame) -> None:
    assert msgspec.json.decode(json_codec.encode(frame)) == msgspec.msgpack.decode(msgpack_codec.encode(frame))


def judge(codec: WireCodec, wire: object) -> object:
    """Return a frame, or the kind of refusal."""
    try:
        return codec.decode(encode(codec, wire))
    except (FrameError, SessionClosed) as refusal:
        return type(refusal)


@given(
    st.fixed_dictionaries(
        {"op": st.sampled_from(["ack", "read", "auth", "ping", "welcome"]) | values},
        optional={"seq": values, "up_to": values, "seqs": values | st.lists(values), "token": values, "x": values},
    )
    | values
)
def test_whatever_a_client_says_both_codecs_judge_the_same(wire: object) -> None:
    assert judge(json_codec, wire) == judge(msgpack_codec, wire)


@given(
    st.text(max_size=50).map(lambda text: f'{{"op":"ack","seq":{text}}}')
    | st.text(st.sampled_from('{}[]:,"\\u01ef.-op '))
)
def test_no_text_that_looks_like_a_frame_breaks_the_json_codec(text: str) -> None:
    with suppress(FrameError, SessionClosed):
        json_codec.decode(text)


@settings(max_examples=50)
@given(values)
def test_any_data_says_the_same_in_both_codecs(value: object) -> None:
    for stored in (
        entry(data=msgspec.json.encode(value)),
        entry(data=msgspec.msgpack.encode(value), codec=Codec.MSGPACK),
    ):
        text = json_codec.encode(frame_entry(stored, json_codec))
        binary = msgpack_codec.encode(frame_entry(stored, msgpack_codec))
        assert msgspec.json.decode(text) == msgspec.msgpack.decode(binary)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_msgpack_codec(raw: bytes) -> None:
    with suppress(FrameError, SessionClosed):
        msgpack_codec.decode(raw)


@given(st.text(max_size=200))
def test_no_text_breaks_the_json_codec(text: str) -> None:
    with suppress(FrameError, SessionClosed):
        json_codec.decode(text)


def test_a_refusal_repeats_nothing_of_a_token() -> None:
    for wire in ({"op": "auth", "token": ["geheim"]}, {"op": "auth", "token": {"geheim": 1}}):
        with pytest.raises(FrameError) as caught:
            json_codec.decode(encode(json_codec, wire))
        assert "geheim" not in str(caught.value)


def test_each_subprotocol_takes_its_own_kind_of_frame() -> None:
    with pytest.raises(SessionClosed) as caught:
        json_codec.decode(b'{"op":"ping"}')
    assert caught.value.close is Close.BAD_FRAME
    with pytest.raises(SessionClosed) as caught:
        msgpack_codec.decode('{"op":"ping"}')
    assert caught.value.close is Close.BAD_FRAME


def test_the_subprotocols_are_those_of_the_contract() -> None:
    assert list(CODECS) == ["notify.v1", "notify.v1.msgpack"]
    assert all(codec.subprotocol == name for name, codec in CODECS.items())


def test_a_time_is_the_same_text_in_every_zone() -> None:
    elsewhere = MOMENT.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert write_time(elsewhere) == write_time(MOMENT) == "2026-03-01T12:00:00.000005Z"


def entry(**fields: Any) -> Entry:
    values: dict[str, Any] = {
        "seq": 7, "kind": Kind.NOTIFICATION, "live": True, "notification_id": ID, "type": "order.shipped",
        "producer": "shop", "created_at": MOMENT, "data": b'{"order": 1.10}',
    }  # fmt: skip
    return Entry(**{**values, **fields})


def test_a_notification_is_handed_on_as_it_came() -> None:
    text = json_codec.encode(frame_entry(entry(), json_codec))
    assert '"data":{"order": 1.10}' in text  # byte for byte, trailing zero and space included
    assert msgspec.json.decode(text) == {
        "op": "notification", "seq": 7, "id": str(ID), "type": "order.shipped", "data": {"order": 1.1},
        "source": "shop", "created_at": "2026-03-01T12:00:00.000005Z",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["json", "msgpack"])
def test_a_notification_says_the_same_in_both_codecs(kind: str) -> None:
    value = {"a": [1, 2.5, None, True, "ü"], "b": {}}
    if kind == "json":
        stored = entry(data=msgspec.json.encode(value))
    else:
        stored = entry(data=msgspec.msgpack.encode(value), codec=Codec.MSGPACK)
    from_json = msgspec.json.decode(json_codec.encode(frame_entry(stored, json_codec)))
    from_msgpack = msgspec.msgpack.decode(msgpack_codec.encode(frame_entry(stored, msgpack_codec)))
    assert from_json == from_msgpack
    assert from_json["data"] == value


def test_bytes_stay_bytes_for_msgpack_and_are_base64_in_json() -> None:
    stored = entry(data=msgspec.msgpack.encode({"raw": b"\x00\xff"}), codec=Codec.MSGPACK)
    assert msgspec.msgpack.decode(msgpack_codec.encode(frame_entry(stored, msgpack_codec)))["data"] == {
        "raw": b"\x00\xff"
    }
    assert msgspec.json.decode(json_codec.encode(frame_entry(stored, json_codec)))["data"] == {
        "raw": {"$bytes": "AP8="}
    }


def test_retracts_and_read_marks_are_framed_with_what_they_are_about() -> None:
    retract = Entry(8, Kind.RETRACT, live=True, notification_id=ID, target=7)
    assert frame_entry(retract, json_codec) == Retract(seq=8, of=7, id=ID)
    up_to = Entry(9, Kind.READ, live=True, target=7, unread=0)
    assert frame_entry(up_to, json_codec) == ReadMark(seq=9, up_to=7, unread=0)
    some = Entry(10, Kind.READ, live=True, seqs=[1, 3], unread=2)
    assert frame_entry(some, json_codec) == ReadMark(seq=10, seqs=[1, 3], unread=2)


@pytest.mark.parametrize("data", [b"\xc1", b"", b"\x81"])
def test_data_that_no_codec_can_read_is_an_error_the_session_knows(data: bytes) -> None:
    with pytest.raises((msgspec.MsgspecError, ValueError, RecursionError)):
        json_codec.encode(frame_entry(entry(data=data, codec=Codec.MSGPACK), json_codec))
    with pytest.raises((msgspec.MsgspecError, ValueError, RecursionError)):
        msgpack_codec.encode(frame_entry(entry(data=b"{broken"), msgpack_codec))


def test_a_message_that_is_not_stored_has_no_seq_and_is_encoded_once_a_codec() -> None:
    message = Momentary(ID, "t", "shop", MOMENT, Codec.JSON, wrap(b'{"n":1}', Codec.JSON), ["alice"])
    frames = MomentaryFrames(message)
    text = frames.encode(json_codec)
    assert msgspec.json.decode(text) == {
        "op": "notification", "id": str(ID), "type": "t", "data": {"n": 1}, "source": "shop",
        "created_at": "2026-03-01T12:00:00.000005Z",
    }  # fmt: skip
    assert frames.encode(json_codec) is text
    assert msgspec.msgpack.decode(bytes(frames.encode(msgpack_codec)))["data"] == {"n": 1}  # type: ignore[arg-type]  # bytes it is


def test_unset_fields_are_left_out() -> None:
    frame = NotificationFrame(seq=UNSET, id=ID, type="t", data=Raw(b"1"), source="s", created_at="c")
    assert "seq" not in json_codec.encode(frame)
    assert "null" not in json_codec.encode(ReadMark(seq=1))
