"""The pure parts of the gateway: what a handshake's query and headers say."""

from collections.abc import MutableMapping
from typing import Any

import pytest

from notify.errors import Close, SessionClosed
from notify.gateway import find_token, parse_query, read_headers, read_query, refuse
from notify.session import Resume

Answer = tuple[str, Resume | None, bool]


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        (b"", ("default", None, False)),
        (b"device=phone", ("phone", None, False)),
        (b"device=a%2Fb%20c", ("a/b c", None, False)),
        (b"device=one&device=two", ("two", None, False)),
        (b"after=0", ("default", Resume(0), False)),
        (b"after=41&epoch=abc", ("default", Resume(41, "abc"), False)),
        (b"after=9223372036854775807", ("default", Resume(2**63 - 1), False)),
        (b"epoch=abc", ("default", None, False)),
        (b"ack=auto", ("default", None, True)),
        (b"ack=", ("default", None, False)),
        (b"later=this&than=that", ("default", None, False)),
    ],
)
def test_a_query_says_device_place_and_acks(query: bytes, answer: Answer) -> None:
    assert read_query(parse_query(query)) == answer


@pytest.mark.parametrize(
    "query",
    [
        b"device=",
        b"device=" + b"a" * 256,
        b"device=a%00b",
        b"device=a%0Ab",
        b"device=%C2%85",
        b"device=%ED%A0%80",  # half of a surrogate pair
        b"device=%FF",
        b"after=",
        b"after=-1",
        b"after=+1",
        b"after=1.0",
        b"after=1e3",
        b"after=0x10",
        b"after=%D9%A1",  # a digit, but none of ours
        b"after=%C2%B2",
        b"after=9223372036854775808",
        b"after=" + b"9" * 5_000,
        b"after=1_0",
        b"after=%201",
        b"after=1&epoch=" + b"e" * 65,
        b"ack=manual",
        b"ack=AUTO",
        b"&".join(b"a=%d" % place for place in range(33)),
        "device=ü".encode(),
    ],
)
def test_a_query_that_cannot_be_meant_closes_with_4400(query: bytes) -> None:
    with pytest.raises(SessionClosed) as caught:
        read_query(parse_query(query))
    assert caught.value.close is Close.BAD_FRAME


@pytest.mark.parametrize(
    ("headers", "offered", "token"),
    [
        ({}, [], None),
        ({}, ["notify.v1"], None),
        ({"authorization": "Bearer abc"}, [], "abc"),
        ({"authorization": "bearer   abc  "}, [], "abc"),
        ({"authorization": "Bearer abc"}, ["bearer.def"], "abc"),  # the header comes first
        ({}, ["notify.v1", "bearer.def"], "def"),
        ({}, ["bearer.def", "bearer.ghi"], "def"),
        ({}, ["bearer."], ""),
        ({"authorization": ""}, ["bearer.def"], ""),
        ({"authorization": "Basic abc"}, ["bearer.def"], ""),  # credentials that are none: refused, not passed over
    ],
)
def test_credentials_are_found_in_the_contracts_order(
    headers: dict[str, str], offered: list[str], token: str | None
) -> None:
    assert find_token(headers, offered) == token


def test_headers_are_read_by_lower_case_name() -> None:
    assert read_headers({"headers": [(b"Origin", b"https://a"), (b"X-A", b"\xfc")]}) == {
        "origin": "https://a",
        "x-a": "ü",
    }


async def test_a_process_that_is_full_answers_503_before_the_handshake() -> None:
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await refuse({"extensions": {"websocket.http.response": {}}}, send)
    assert sent[0]["status"] == 503
    assert (b"retry-after", b"2") in sent[0]["headers"]
    await refuse({}, send)
    assert sent[-1] == {"type": "websocket.close"}
