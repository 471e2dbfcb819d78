"""Whether a request is plainly fit is told in one look: never otherwise than the full check would have it."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from notify.api.requests import LONGEST_PATIENCE, NULL, SHORTEST_PATIENCE, Checker, SendRequest
from notify.errors import FieldError, InvalidRequest, TooLarge
from notify.ids import mint_id
from notify.model import ID_LENGTH, Codec, Notification
from notify.settings import Settings

LIMITS = Settings(max_data_bytes=100, max_recipients=2)
UNMINTED = mint_id()

DUE = datetime.now(UTC) + timedelta(days=1)
ORDINARY: Mapping[str, Any] = {"to": "alice", "data": Raw(b"7")}  # in MessagePack that is 55
ODD: Mapping[str, Sequence[Any]] = {
    "to": [
        UNSET, "ünï", "", "a\n", "\ud800", "u" * ID_LENGTH, "u" * (ID_LENGTH + 1),
        [], ["bob"], ["bob", "bob"], ["alice", "bob", "carol"], ["bob", ""],
    ],
    "topic": ["empty", "news"],
    "ttl": [0, 1],
    "collapse_key": ["score"],
    "deliver_at": [
        DUE,
        DUE - timedelta(days=400),
        DUE + timedelta(days=400),
        DUE.astimezone(timezone(timedelta(hours=5))),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),  # in UTC there is no such time
    ],
    "undelivered_after": [SHORTEST_PATIENCE, LONGEST_PATIENCE],
}  # fmt: skip
ODD_DATA = {
    Codec.JSON: [
        b' {"order": [7, 1e30]} ', '"ü"'.encode(), b'"\\u00fc"', b'"\\\\u0000"', b'"1e400"', b'"' + b"a" * 98 + b'"',
        b'"\\u0000"', b'"\\ud800"', b'"\xff"', b"1e400", b"1" * 30, b"[" * 65 + b"]" * 65, b'"' + b"a" * 99 + b'"',
    ],
    Codec.MSGPACK: [
        b"\x93abc", b"\xc4\x01\xff", b"\xd9\x62" + b"a" * 98,
        b"\xa1\0", b"\xa1\xff", b"\x91" * 65 + b"\xc0", b"\xd9\x63" + b"a" * 99,
    ],
}  # fmt: skip


@st.composite
def build_body(draw: st.DrawFn) -> tuple[Codec, Sequence[SendRequest]]:
    """Make the requests of a body as the decoder lets them through: each field within its own type.

    Most of each is ordinary, and plainly fit: a safeguard only shows where nothing else is in the way.
    """
    codec = draw(st.sampled_from(Codec))
    odd = {**ODD, "data": [NULL, *map(Raw, ODD_DATA[codec])]}
    names = st.sets(st.sampled_from(sorted(odd)), max_size=2)
    fields = names.flatmap(
        lambda names: st.fixed_dictionaries({name: st.sampled_from(odd[name]) for name in sorted(names)})
    )
    bodies = st.lists(fields, min_size=1, max_size=LIMITS.max_recipients + 1)
    return codec, [SendRequest("order.shipped", **{**ORDINARY, **given}) for given in draw(bodies)]


async def find_subscribers(topic: str, *, limit: int) -> Sequence[str]:
    return {"news": ("alice", "bob"), "empty": ()}[topic][:limit]


async def judge(
    codec: Codec, requests: Sequence[SendRequest], *, quickly: bool
) -> Sequence[Notification | tuple[str, Sequence[FieldError]]]:
    """Return what becomes of each request, up to the first that is refused."""
    checker = Checker(LIMITS, "shop", codec, find_subscribers)
    found: list[Notification | tuple[str, Sequence[FieldError]]] = []
    try:
        for request in requests:
            plain = checker.pass_plain(request, "context") if quickly else None
            notification = plain or await checker.check(request, context="context")
            checker.finish()
            found.append(msgspec.structs.replace(notification, id=UNMINTED))
    except (TooLarge, InvalidRequest) as refusal:
        found.append((refusal.detail, refusal.errors))
    return found


@settings(max_examples=250)
@given(build_body())
@example((Codec.JSON, [SendRequest("order.shipped", "alice", data=Raw(b'"' + b"a" * 99 + b'"'))]))  # one byte too many
async def test_what_is_plainly_fit_is_what_the_full_check_makes_of_it(
    body: tuple[Codec, Sequence[SendRequest]],
) -> None:
    assert await judge(*body, quickly=True) == await judge(*body, quickly=False)


def test_the_ordinary_request_is_plainly_fit() -> None:
    request = SendRequest("order.shipped", **ORDINARY)
    assert Checker(LIMITS, "shop", Codec.JSON, find_subscribers).pass_plain(request)
