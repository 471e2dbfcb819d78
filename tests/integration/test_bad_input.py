"""Whatever arrives is refused clearly; the process lives, and nobody else notices."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jwt
import pytest

from tests.service import SECRET, SEND, Service, Socket, bearer

PATH = "/v1/notifications"

DEEP = "[" * 10_000 + "]" * 10_000

BODIES: dict[str, tuple[str | bytes, list[str]]] = {
    "nothing": (b"", [""]),
    "no JSON": (b"nonsense", [""]),
    "half of JSON": (b'{"to":"ann"', [""]),
    "two values": (b'{"to":"ann","type":"t"} {}', [""]),
    "an array": (b"[]", [""]),
    "invalid UTF-8": (b'{"to":"ann","type":"t","data":"\xff"}', ["/data"]),
    "invalid UTF-8 in a name": (b'{"to":"\xff","type":"t"}', [""]),
    "a byte order mark": (b'\xef\xbb\xbf{"to":"ann","type":"t"}', [""]),
    "UTF-16": ('{"to":"ann","type":"t"}'.encode("utf-16"), [""]),
    "an unknown field": ('{"to":"ann","type":"t","urgent":true}', ["/urgent"]),
    "nobody": ('{"type":"t"}', ["/to"]),
    "an empty list": ('{"to":[],"type":"t"}', ["/to"]),
    "no type": ('{"to":"ann"}', ["/type"]),
    "a control character in an id": ('{"to":"a\\u0007b","type":"t"}', ["/to"]),
    "a NUL in an id": ('{"to":"a\\u0000b","type":"t"}', ["/to"]),
    "a C1 control in an id": ('{"to":["ok","a\\u0085b"],"type":"t"}', ["/to/1"]),
    "an id too long": ('{"to":"' + "a" * 256 + '","type":"t"}', ["/to"]),
    "a lone surrogate in an id": ('{"to":"\\ud800","type":"t"}', [""]),
    "a lone surrogate in data": ('{"to":"ann","type":"t","data":"\\ud800"}', [""]),
    "a reversed pair in data": ('{"to":"ann","type":"t","data":"\\udc00\\ud800"}', [""]),
    "a NUL in data": ('{"to":"ann","type":"t","data":{"a":"\\u0000"}}', ["/data"]),
    "a NUL in a key of data": ('{"to":"ann","type":"t","data":{"\\u0000":1}}', ["/data"]),
    "NaN": ('{"to":"ann","type":"t","data":NaN}', [""]),
    "infinity": ('{"to":"ann","type":"t","data":[-Infinity]}', [""]),
    "1e400": ('{"to":"ann","type":"t","data":1e400}', ["/data"]),
    "thirty digits": ('{"to":"ann","type":"t","data":123456789012345678901234567890}', ["/data"]),
    "2**64": ('{"to":"ann","type":"t","data":18446744073709551616}', ["/data"]),
    "five thousand digits": ('{"to":"ann","type":"t","data":' + "9" * 5_000 + "}", ["/data"]),
    "10,000 levels": ('{"to":"ann","type":"t","data":' + DEEP + "}", [""]),
    "65 levels": ('{"to":"ann","type":"t","data":' + "[" * 65 + "]" * 65 + "}", ["/data"]),
    "10,000 levels of body": (DEEP, [""]),
    "a fraction of a second": ('{"to":"ann","type":"t","ttl":1.5}', ["/ttl"]),
    "a ttl of 1e400": ('{"to":"ann","type":"t","ttl":1e400}', ["/ttl"]),
    "a ttl of thirty digits": ('{"to":"ann","type":"t","ttl":123456789012345678901234567890}', ["/ttl"]),
    "a time that is none": ('{"to":"ann","type":"t","deliver_at":"2026-02-30T00:00:00Z"}', ["/deliver_at"]),
    "a time without a zone": ('{"to":"ann","type":"t","deliver_at":"2026-12-01T00:00:00"}', ["/deliver_at"]),
    "a time too far ahead": ('{"to":"ann","type":"t","deliver_at":"9999-12-31T23:59:59Z"}', ["/deliver_at"]),
    "a newline in a type": ('{"to":"ann","type":"a\\nb"}', ["/type"]),
    "everything wrong": ('{"to":["",5],"type":"","ttl":-1,"x":1}', ["/to/0", "/to/1", "/ttl", "/type", "/x"]),
}

JUST_LEGAL = [
    '{"to":"ann","type":"t","data":' + "[" * 64 + "]" * 64 + "}",
    '{"to":"ann","type":"t","data":[18446744073709551615,-9223372036854775808,1.7976931348623157e308,1e-400]}',
    '{"to":"ann","type":"t","data":"\\ud83c\\udf88 \\\\u0000 \\u0001"}',
    ' \n{"type":"t","to":"ann"}\t',
]


@pytest.fixture
async def bystander(service: Service) -> AsyncIterator[Socket]:
    """Somebody who must not notice: still connected, served at once, and nothing was stored for her meanwhile."""
    async with service.connect("bystander") as socket:
        await socket.take_backlog()
        yield socket
        started = time.monotonic()
        await service.send("bystander", "still here")
        frame = await socket.take()
        assert (frame["seq"], frame["data"]) == (1, "still here")
        assert time.monotonic() - started < 2


async def post(service: Service, body: str | bytes, **headers: str) -> httpx.Response:
    content = body.encode() if isinstance(body, str) else body
    sent = {"Content-Type": "application/json", **bearer("shop", scope=SEND), **headers}
    return await service.client.post(PATH, content=content, headers=sent)


@pytest.mark.usefixtures("bystander")
async def test_a_malformed_body_is_400_and_names_each_bad_field(service: Service) -> None:
    for name, (body, pointers) in BODIES.items():
        answer = await post(service, body)
        assert answer.status_code == 400, (name, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert (problem["type"], problem["status"]) == ("invalid-request", 400)
        assert {error["pointer"] for error in problem["errors"]} == set(pointers), (name, problem)
        assert all(error["detail"] for error in problem["errors"])
    for body in JUST_LEGAL:
        answer = await post(service, body)
        assert answer.status_code == 201, (body[:60], answer.text)


@pytest.mark.usefixtures("bystander")
async def test_another_media_type_or_encoding_is_415(service: Service) -> None:
    for headers in (
        {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}, {"Content-Type": ""},
        {"Content-Encoding": "gzip"}, {"Content-Encoding": "br"},
    ):  # fmt: skip
        answer = await post(service, '{"to":"ann","type":"t"}', **headers)
        assert (answer.status_code, answer.json()["type"]) == (415, "unsupported-media-type"), headers


@pytest.mark.usefixtures("bystander")
async def test_malformed_msgpack_is_400(service: Service) -> None:
    bodies = [b"", b"\xc1", b"\x81", b"\x91" * 100_000, b"\xdf\xff\xff\xff\xff", b"\x82\xa2to\xa3ann\xa4type\xa1t\x00",
              b"\x83\xa2to\xa3ann\xa4type\xa1t\xa4data\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",  # NaN
              b"\x83\xa2to\xa3ann\xa4type\xa1t\xa4data\xd6\xff\x00\x00\x00\x00",  # a timestamp
              b"\x83\xa2to\xa3ann\xa4type\xa1t\xa4data\x81\x01\x02",  # a key that is a number
              b"\x83\xa2to\xa3ann\xa4type\xa1t\xa4data\xa1\xff",  # invalid UTF-8
              b"\x83\xa2to\xa3ann\xa4type\xa1t\xa4data" + b"\x91" * 10_000 + b"\x01",
              b"\x83\xa2to\xa3ann\xa4type\xa1t\xa4data" + b"\x91" * 65 + b"\x01"]  # fmt: skip
    for body in bodies:
        answer = await post(service, body, **{"Content-Type": "application/msgpack"})
        assert answer.status_code == 400, (body[:40], answer.text)


@pytest.mark.usefixtures("bystander")
async def test_too_large_is_413_and_the_connection_can_be_used_again(service: Service) -> None:
    answer = await post(service, b'{"to":"ann","type":"t","data":"' + b"x" * 65_536 + b'"}')
    assert (answer.status_code, answer.json()["type"]) == (413, "too-large")
    answer = await post(service, b" " * (9 * 1024 * 1024))
    assert (answer.status_code, answer.json()["type"]) == (413, "too-large")
    answer = await service.post({"to": [f"u{place}" for place in range(10_001)], "type": "t"})
    assert answer.status_code == 413


@pytest.mark.usefixtures("bystander")
async def test_a_bad_token_is_401_and_is_not_repeated(service: Service) -> None:
    payload = {"sub": "shop", "scope": SEND, "exp": int(time.time()) + 60}
    tokens = {
        "none": jwt.encode(payload, "", algorithm="none"),
        "9 KiB": "x" * 9_216,
        "a long claim": jwt.encode({**payload, "x": "y" * 6_000}, SECRET, "HS256"),
        "another key": jwt.encode(payload, "z" * 40, "HS256"),
        "another algorithm": jwt.encode(payload, SECRET * 2, "HS512"),
        "expired": jwt.encode({**payload, "exp": int(time.time()) - 60}, SECRET, "HS256"),
        "a NUL in sub": jwt.encode({**payload, "sub": "a\0"}, SECRET, "HS256"),
        "no sub": jwt.encode({"exp": payload["exp"]}, SECRET, "HS256"),
        "an array": jwt.encode({**payload, "sub": ["shop"]}, SECRET, "HS256"),
        "spaces": "a b c",
        "dots": "..",
    }
    for name, token in tokens.items():
        answer = await service.client.post(
            PATH, json={"to": "ann", "type": "t"}, headers={"Authorization": f"Bearer {token}"}
        )
        assert answer.status_code == 401, name
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert token not in answer.text


@pytest.mark.usefixtures("bystander")
async def test_a_path_that_cannot_be_meant_is_an_error_of_the_client(service: Service) -> None:
    one = "/v1/notifications/"
    for path in (
        f"{one}%00", f"{one}%ff", one + "a" * 5_000, f"{one}a/b/c", "/v1/nothing", "/%2e%2e/etc", "//", "/v1//notifications",
    ):  # fmt: skip
        answer = await service.client.get(path, headers=bearer("shop", scope=SEND))
        assert 400 <= answer.status_code < 500, (path, answer.status_code)


@pytest.mark.usefixtures("bystander")
async def test_query_values_that_cannot_be_meant_are_400(service: Service) -> None:
    for query in (
        "limit=0", "limit=501", "limit=x", "limit=" + "9" * 5_000, "before=-1", "before=1e3", "before=%FF", "unread=maybe",
        "cursor=%00",
    ):  # fmt: skip
        answer = await service.client.get(f"/v1/inbox?{query}", headers=bearer("ann"))
        assert answer.status_code == 400, query
        assert answer.json()["errors"]


@pytest.mark.usefixtures("bystander")
async def test_bad_frames_of_any_kind_end_only_their_own_socket(service: Service) -> None:
    megabyte = "x" * 1024 * 1024
    for frame, code in (
        (json.dumps({"op": "ping", "x": megabyte}), 1009), (megabyte.encode(), 1009), (b"\x00" * 100, 4400), ("[" * 10_000, 4400),
        ('{"op":"ack","seq":1e400}', 4400), ("\0", 4400),
    ):  # fmt: skip
        async with service.connect("ann") as socket:
            await socket.take_backlog()
            await socket.say(frame)
            assert (await socket.take_close())[0] == code, frame[:40]


@pytest.mark.usefixtures("bystander")
async def test_bytes_that_are_no_http_or_no_websocket_are_cut_off(service: Service) -> None:
    upgrade = (
        "GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: {bearer('ann')['Authorization']}\r\n\r\n"
    ).encode()
    for raw in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # somebody speaks TLS
        b"nonsense\r\n\r\n",
        b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",  # no key, no version
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"POST /v1/notifications HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/notifications HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ):
        await cut_off(service, b"", raw)
    for raw in (
        b"\x81\x05hello",  # a frame without a mask
        b"\xf1\x80\x00\x00\x00\x00",  # reserved bits
        b"\x83\x80\x00\x00\x00\x00",  # a kind of frame that is none
        b"\x89\xfe\x00\x7e\x00\x00\x00\x00" + b"x" * 126,  # a ping longer than one may be
    ):
        await cut_off(service, upgrade, raw)


async def cut_off(service: Service, first: bytes, raw: bytes) -> None:
    """Say this, and be hung up on."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    if first:
        writer.write(first)
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    writer.write(raw)
    async with asyncio.timeout(5):
        await read_to_end(reader)
    writer.close()


async def read_to_end(reader: asyncio.StreamReader) -> Any:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


@pytest.mark.usefixtures("bystander")
async def test_headers_that_are_too_long_are_refused_with_431(service: Service) -> None:
    answer = await service.client.get("/livez", headers={"X-Long": "y" * 20_000})
    assert answer.status_code == 431
    async with httpx.AsyncClient() as client:
        headers = {
            "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": "notify.v1, bearer." + "x" * 8_300,
        }  # fmt: skip
        answer = await client.get(f"{service.url}/v1/ws", headers=headers)
        assert answer.status_code == 431
