"""What an attacker tries on a running service, and gets nothing of.

Forged tokens at every door, other people's things, pages of other sites, and requests that cost the service far more than
their sender. The parts are tested one by one elsewhere (tests/unit/test_auth.py, test_claims.py, test_keys.py and
test_keyring.py, tests/integration/server); here they stand behind the doors that the world sees.
"""

import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import httpx
import jwt
import websockets
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from notify.console.session import COOKIE
from tests.integration.support import acknowledge, list_inbox, open_stream
from tests.service import CANARY, PATIENCE, SEND, Service, bearer
from tests.tokens import sign_raw

ISSUER = "https://id.example"
AUDIENCE = "notify"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
NOW = int(time.time())
CLAIMS: dict[str, Any] = {
    "sub": "root", "scope": "notifications:receive notifications:send queues:write", "iss": ISSUER, "aud": AUDIENCE,
    "exp": NOW + 3600,
}  # fmt: skip


def sign(key: rsa.RSAPrivateKey = KEY, headers: Mapping[str, Any] | None = None, **claims: Any) -> str:
    return jwt.encode(CLAIMS | claims, key, "RS256", dict(headers or {}))


def confuse(header: bytes, secret: bytes) -> str:
    return sign_raw(header, json.dumps(CLAIMS).encode(), secret)


FORGED = {
    "HS256 with the public key": confuse(b'{"alg":"HS256"}', PEM),
    "HS256 with the public key, without its last line end": confuse(b'{"alg":"HS256"}', PEM.strip()),
    "HMAC under the name of RS256": confuse(b'{"alg":"RS256"}', PEM),
    "HS256 with nothing": confuse(b'{"alg":"HS256","kid":"/dev/null"}', b""),
    "none": jwt.encode(CLAIMS, "", "none"),
    "a signature cut off": sign().rpartition(".")[0] + ".",
    "a signature of somebody else": sign(OTHER_KEY),
    "a key that the token brings along": sign(
        OTHER_KEY, {"jwk": json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(OTHER_KEY.public_key()))}
    ),
    "a key at an address that the token names": sign(OTHER_KEY, {"jku": "https://evil.example/jwks", "kid": "../../x"}),
    "claims exchanged": ".".join((sign().split(".")[0], sign(sub="mallory").split(".")[1], sign().split(".")[2])),
    "expired": sign(exp=NOW - 60),
    "not yet valid": sign(nbf=NOW + 3600),
    "another audience": sign(aud="shop"),
    "another issuer": sign(iss="https://id.example.evil"),
    "huge": sign(x="x" * 4_096),
}


async def try_doors(service: Service, token: str) -> dict[str, object]:
    """Present a token wherever one is taken; return what each door says."""
    said: dict[str, object] = {}
    authorization = {"Authorization": f"Bearer {token}"}
    for method, path in (
        ("GET", "/v1/inbox"), ("GET", "/v1/stream"), ("POST", "/v1/notifications"), ("GET", "/v1/admin/overview"),
    ):  # fmt: skip
        answer = await service.client.request(method, path, headers=authorization)
        said[path] = answer.status_code
        assert token not in answer.text
    said["console"] = (await service.client.get("/admin", headers={"Cookie": f"{COOKIE}={token}"})).status_code
    async with service.dial(headers=authorization) as socket:
        said["header"] = (await socket.take_close())[0]
    async with service.dial(subprotocols=["notify.v1", f"bearer.{token}"]) as socket:
        said["subprotocol"] = (await socket.take_close())[0]
    async with service.dial() as socket:
        await socket.say({"op": "auth", "token": token})
        said["first frame"] = (await socket.take_close())[0]
    async with service.dial(headers={"Authorization": f"Bearer {sign()}"}) as socket:
        await socket.take_backlog()
        await socket.say({"op": "auth", "token": token})
        said["later frame"] = (await socket.take_close())[0]
    return said


async def test_a_forged_token_opens_no_door(database_url: str) -> None:
    keys: dict[str, Any] = {
        "jwt_secret": [],
        "jwt_public_key": PEM.decode(),
        "jwt_issuer": ISSUER,
        "jwt_audience": AUDIENCE,
    }
    shut = {
        "/v1/inbox": 401, "/v1/stream": 401, "/v1/notifications": 401, "/v1/admin/overview": 401, "console": 303,
        "header": 4401, "subprotocol": 4401, "first frame": 4401, "later frame": 4401,
    }  # fmt: skip
    async with Service(database_url, **keys) as service:
        good = {"Authorization": f"Bearer {sign()}"}
        assert (await service.client.get("/v1/admin/overview", headers=good)).status_code == 200
        for name, token in FORGED.items():
            assert await try_doors(service, token) == shut, name


# Other people's


async def test_nobody_reads_or_changes_what_is_somebody_elses(service: Service) -> None:
    sent = await service.send("bob", f"{CANARY} of bob")
    mallory = bearer("mallory")
    async with service.connect("bob", device="bobs") as bob:
        [frame] = await bob.take_backlog()
        epoch = bob.welcome["epoch"]
        for path in ("/v1/inbox?user=bob", "/v1/inbox?sub=bob&before=99", "/v1/inbox/devices?user=bob"):
            answer = await service.client.get(path, headers=mallory | {"X-User": "bob", "X-Forwarded-User": "bob"})
            assert answer.json()["items"] == [], path
        async with open_stream(service, "mallory", last_event_id=f"{epoch}:0", sub="bob", device="default") as stream:
            assert [name for name, _, _ in await stream.take_until("caught_up")] == ["welcome", "caught_up"]
        async with service.connect("mallory", sub="bob", after=0, epoch=epoch) as socket:
            assert await socket.take_backlog() == []
            await socket.say({"op": "read", "seqs": [frame["seq"]]})
            await socket.ack(frame["seq"])
        await acknowledge(service, "mallory", frame["seq"])
        answer = await service.client.post("/v1/inbox/read", json={"up_to": frame["seq"]}, headers=mallory)
        assert answer.json() == {"unread": 0}
        assert (await service.client.delete("/v1/inbox/devices/bobs", headers=mallory)).status_code == 404
        for app in (bearer("mallory", scope=SEND), bearer("bob", scope=SEND)):
            for method, path in (("GET", sent), ("GET", f"{sent}/recipients"), ("DELETE", sent)):
                answer = await service.client.request(method, f"/v1/notifications/{path}", headers=app)
                assert answer.status_code == 404, path
        for scope in ("notifications:receive", SEND):
            headers = bearer("mallory", scope=scope)
            assert (await service.client.get("/v1/admin/queues/bob", headers=headers)).status_code == 403
            assert (await service.client.delete("/v1/admin/queues/bob", headers=headers)).status_code == 403
        await bob.settle()  # nothing of all that reached bob
    found = await list_inbox(service, "bob")
    assert (found["unread"], found["items"][0]["id"], found["items"][0]["read_at"]) == (1, sent, None)


# Pages of other sites


async def test_a_page_of_another_site_gets_no_answer_that_it_could_read(service: Service) -> None:
    for path, method in (
        ("/v1/admin/denylist/sub/alice", "PUT"), ("/v1/admin/queues/alice/replay", "POST"), ("/v1/notifications", "POST"),
        ("/v1/inbox/read", "POST"), ("/v1/stream", "GET"), ("/v1/admin/users/alice", "DELETE"),
    ):  # fmt: skip
        asked = await service.client.options(
            path, headers={"Origin": "https://evil.example", "Access-Control-Request-Method": method,
                           "Access-Control-Request-Headers": "authorization"},
        )  # fmt: skip
        assert "access-control-allow-origin" not in asked.headers, path
        # What a form can send without asking: no header of its own, and cookies, which are nothing here.
        sent = await service.client.request(
            method, path, content=b"{}",
            headers={"Origin": "https://evil.example", "Content-Type": "text/plain",
                     "Cookie": f"{COOKIE}={bearer('root', scope='queues:write')['Authorization'].removeprefix('Bearer ')}"},
        )  # fmt: skip
        assert sent.status_code == 401, path
        assert "access-control-allow-origin" not in sent.headers, path
    for origin in ("https://evil.example", "null", f"http://127.0.0.1:{service.port}.evil.example", "http://127.0.0.1"):
        async with service.dial("alice", origin=origin) as socket:
            assert (await socket.take_close())[:2] == (4403, "forbidden"), origin


# More than it costs to ask


@asynccontextmanager
async def measuring(seconds: float) -> AsyncIterator[None]:
    """Hold what the block does to this many seconds of the processor, the sender's part included."""
    started = time.process_time()
    yield
    assert time.process_time() - started < seconds


EMPTY = b"{}," * 300_000 + b"{}"
NAMES = b",".join(b'"n%x":0' % number for number in range(60_000))
UNFOLDING: dict[str, tuple[int, str, str, bytes]] = {
    "empty events": (413, "/v1/notifications", "application/cloudevents-batch+json", b"[" + EMPTY + b"]"),
    "empty notifications": (400, "/v1/notifications/batch", "application/json", b'{"notifications":[' + EMPTY + b"]}"),
    "one recipient, many times": (
        400, "/v1/notifications", "application/json", b'{"type":"t","to":[' + b'"\\u0000",' * 100_000 + b'"a"]}',
    ),
    "unknown fields": (400, "/v1/notifications", "application/json", b"{" + NAMES + b"}"),
    "unknown attributes": (413, "/v1/notifications", "application/cloudevents+json", b"{" + NAMES + b"}"),
    "a user's own long request": (413, "/v1/inbox/read", "application/json", b'{"seqs":[' + b"1," * 2_000_000 + b"1]}"),
    "a forest": (400, "/v1/notifications", "application/msgpack", b"\x91" * 1_000_000),
    "a promise": (400, "/v1/notifications", "application/msgpack", b"\xdf\xff\xff\xff\xff"),
}  # fmt: skip


async def test_a_body_that_unfolds_costs_little_and_its_refusal_is_short(service: Service) -> None:
    headers = bearer("shop", scope=f"{SEND} notifications:receive")
    for name, (status, path, media, body) in UNFOLDING.items():
        async with measuring(0.6):
            answer = await service.client.post(path, content=body, headers={**headers, "Content-Type": media})
        assert answer.status_code == status, (name, answer.text[:200])
        assert len(answer.content) < 16_384, name


async def test_nothing_compressed_is_taken_or_agreed_on(service: Service) -> None:
    for encoding in ("gzip", "deflate", "br", "zstd", "gzip, identity"):
        answer = await service.client.post(
            "/v1/inbox/read", content=b"\x1f\x8b" + b"\0" * 50, headers={**bearer("ann"), "Content-Encoding": encoding}
        )
        assert answer.status_code == 415, encoding
    async with websockets.connect(
        f"ws://127.0.0.1:{service.port}/v1/ws", additional_headers=bearer("ann"), compression="deflate", proxy=None
    ) as connection:
        assert connection.protocol.extensions == []


async def test_floods_of_parameters_and_headers_are_answered_at_once(service: Service) -> None:
    many = "&".join(f"p{number}=1" for number in range(1_000))
    async with httpx.AsyncClient(base_url=service.url, timeout=PATIENCE) as client, measuring(1.0):
        assert (await client.get(f"/v1/inbox?{many}", headers=bearer("ann"))).status_code in {200, 400}
        assert (await client.get(f"/v1/stream?{many}", headers=bearer("ann"))).status_code == 400
        assert (await client.get("/livez", headers={f"x-{number}": "y" for number in range(2_000)})).status_code == 431
        assert (await client.get(f"/v1/inbox?{many * 3}", headers=bearer("ann"))).status_code == 431
    flood: dict[str, Any] = {f"p{number}": 1 for number in range(100)}
    async with service.dial("ann", **flood) as socket:
        assert (await socket.take_close())[0] == 4400


async def test_a_token_in_the_wrong_place_is_refused_and_not_logged(service: Service) -> None:
    """That it is not logged is what tests/leaks.py looks for."""
    token = bearer("ann")["Authorization"].removeprefix("Bearer ")
    requests: dict[str, tuple[str, str, dict[str, str], bytes]] = {
        "path": ("GET", f"/v1/{quote(token)}", {}, b""),
        "query": ("GET", f"/v1/inbox?access_token={token}", {}, b""),
        "cookie": ("GET", "/v1/inbox", {"Cookie": f"token={token}"}, b""),
        "header": ("GET", "/v1/inbox", {"Authorization": f"Token {token}"}, b""),
        "body": ("POST", "/v1/inbox/read", bearer("ann"), json.dumps({"token": token}).encode()),
        "type": ("POST", "/v1/notifications", {**bearer("a", scope=SEND), "Content-Type": token}, b"{}"),
    }
    for place, (method, path, headers, content) in requests.items():
        answer = await service.client.request(method, path, headers=headers, content=content)
        assert 400 <= answer.status_code < 500, place
