"""Web Push reaches the browsers of those who are away, and nobody else."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import httpx
import jwt
import pytest

from notify import pusher
from notify.outbound import Outbound
from notify.sql import query
from notify.store.push import Push
from notify.webpush import decode_base64url, load_point
from tests.admin import Admin, is_listed
from tests.integration.support import from_now, let_expire
from tests.receiver import Received, Receiver, Reply
from tests.service import Service, bearer, until
from tests.subscriber import Browser, lead_to, list_endpoints

PATH = "/v1/push/subscriptions"


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for nobody for long."""
    monkeypatch.setattr(pusher, "GRACE_SECONDS", 0.05)
    monkeypatch.setattr(pusher, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(pusher, "BACKOFF_SECONDS", (0.02, 0.1))


@pytest.fixture
async def push_service() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture
async def service(database_url: str, push_service: Receiver) -> AsyncIterator[Service]:
    async with lead_to(push_service, Service(database_url, max_devices=3)) as service:
        yield service


async def put(service: Service, subscription: object, user: str = "alice") -> httpx.Response:
    return await service.client.put(PATH, json=subscription, headers=bearer(user))


async def subscribe(service: Service, browser: Browser, user: str = "alice") -> None:
    answer = await put(service, browser.describe(), user)
    assert answer.status_code == 204, answer.text


async def is_settled(connection: asyncpg.Connection, seq: int) -> bool:
    """Whether every subscription is done with up to a seq, and nothing is claimed or waiting."""
    unsettled = "SELECT count(*) FROM notify.push_subscription WHERE pushed_to < $1 OR next_at IS NOT NULL"
    return not await connection.fetchval(unsettled, seq)


async def settled(connection: asyncpg.Connection, seq: int) -> None:
    await until(lambda: is_settled(connection, seq))


async def take(push_service: Receiver, browser: Browser) -> Any:
    return browser.read((await push_service.take()).body)


async def test_a_user_who_is_away_is_told_and_only_the_browser_can_read_it(
    service: Service, push_service: Receiver
) -> None:
    answer = await service.client.get("/v1/push/key", headers=bearer("alice"))
    key = answer.json()["key"]
    browser = Browser(push_service)
    await subscribe(service, browser)
    notification = await service.send("alice", {"order": 7}, ttl=600, collapse_key="order")
    request = await push_service.take()
    frame = browser.read(request.body)
    assert frame == {
        "op": "notification",
        "seq": 1,
        "id": notification,
        "type": "t",
        "data": {"order": 7},
        "source": "shop",
        "created_at": frame["created_at"],
    }
    assert request.headers["content-encoding"] == "aes128gcm"
    assert 590 <= int(request.headers["ttl"]) <= 600
    assert request.headers["urgency"] in {"normal", "high"}
    assert len(request.headers["topic"]) == 32
    check_signature(request, key, push_service.url)


def check_signature(request: Received, key: str, audience: str) -> None:
    """Check who sent it, as a push service does (RFC 8292)."""
    scheme, _, rest = request.headers["authorization"].partition(" ")
    assert scheme == "vapid"
    fields = dict(part.split("=", 1) for part in rest.split(", "))
    assert fields["k"] == key
    claims = jwt.decode(fields["t"], load_point(decode_base64url(key)), algorithms=["ES256"], audience=audience)
    assert claims["exp"]


async def test_each_notification_is_pushed_once_in_order_to_every_browser(
    service: Service, push_service: Receiver, connection: asyncpg.Connection
) -> None:
    browsers = {f"/send/{name}": Browser(push_service, name) for name in ("1", "2")}
    await service.send("alice", "before anybody subscribed")
    for browser in browsers.values():
        await subscribe(service, browser)
    await service.send_many("alice", 5)
    await settled(connection, 6)
    got: dict[str, list[int]] = {path: [] for path in browsers}
    while not push_service.requests.empty():
        request = await push_service.take()
        got[request.target].append(browsers[request.target].read(request.body)["data"])
    assert got == {path: [0, 1, 2, 3, 4] for path in browsers}


async def test_a_notification_too_big_for_a_push_is_named_in_it(service: Service, push_service: Receiver) -> None:
    browser = Browser(push_service)
    await subscribe(service, browser)
    notification = await service.send("alice", "x" * 5_000)
    request = await push_service.take()
    assert len(request.body) <= 4_096
    assert browser.read(request.body) == {"op": "notification", "seq": 1, "id": notification, "type": "t"}


async def test_a_session_on_any_node_is_enough(
    database_url: str, push_service: Receiver, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pusher, "WALK_SECONDS", 0.1)
    browser = Browser(push_service)
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(lead_to(push_service, Service(database_url))) for _ in range(2)]
        await subscribe(nodes[0], browser)
        for node in nodes:
            async with node.connect("alice") as socket:
                await is_listed(Admin(nodes[0]), 1, user="alice")
                seqs = [await send_and_take(node, socket) for _ in range(2)]
                await looked_at(nodes[0], push_service)
                await socket.ack(seqs[-1])
                await node.wait_for_acks()  # else it may be gone before its ack is down
            await settled(connection, seqs[-1])
        # What a session leaves behind without having acknowledged it is pushed once it is gone.
        async with nodes[1].connect("alice") as socket:
            await is_listed(Admin(nodes[0]), 1, user="alice")
            await send_and_take(nodes[1], socket)
        assert (await take(push_service, browser))["seq"] == 5
        await settled(connection, 5)
    assert push_service.requests.empty()


async def looked_at(service: Service, push_service: Receiver) -> None:
    """Return when all who were woken so far have been looked at, and nothing came of it: somebody woken later got a push."""
    browser = Browser(push_service, "canary")
    await subscribe(service, browser, "canary")
    await service.send("canary")
    request = await push_service.take()
    assert request.target == "/send/canary"
    answer = await service.client.request("DELETE", PATH, json=browser.describe(), headers=bearer("canary"))
    assert answer.status_code == 204
    assert push_service.requests.empty()


async def send_and_take(service: Service, socket: Any) -> int:
    await service.send("alice")
    [frame] = await socket.take_notifications(1)
    seq: int = frame["seq"]
    return seq


async def test_what_a_device_acknowledged_is_not_pushed(
    service: Service, push_service: Receiver, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor what was cancelled, replaced or expired."""
    monkeypatch.setattr(pusher, "WALK_SECONDS", 0.1)
    browser = Browser(push_service)
    await subscribe(service, browser)
    async with service.connect("alice"):  # nothing is pushed before all of it has happened
        await is_listed(Admin(service), 1, user="alice")
        await service.send("alice", 1)
        answer = await service.client.post("/v1/inbox/ack", json={"seq": 1}, headers=bearer("alice"))
        assert answer.status_code == 204
        cancelled = await service.send("alice", 2)
        producer = bearer("shop", scope="notifications:send")
        assert (await service.client.delete(f"/v1/notifications/{cancelled}", headers=producer)).status_code == 204
        await let_expire(connection, await service.send("alice", 3))
        await service.send("alice", 4, collapse_key="k")
        await service.send("alice", 5, collapse_key="k")
    await settled(connection, 7)
    assert (await take(push_service, browser))["data"] == 5
    assert push_service.requests.empty()


async def test_a_subscription_that_is_gone_is_removed(
    service: Service, push_service: Receiver, connection: asyncpg.Connection
) -> None:
    for status in (404, 410):
        await subscribe(service, Browser(push_service))
        push_service.replies = [Reply(status)]
        await service.send("alice")
        await push_service.take()
        await until(lambda: has_none(connection))


async def has_none(connection: asyncpg.Connection) -> bool:
    return not await list_endpoints(connection)


async def test_a_push_that_fails_is_made_again_and_only_that(
    service: Service, push_service: Receiver, connection: asyncpg.Connection
) -> None:
    browser = Browser(push_service)
    await subscribe(service, browser)
    push_service.replies = [Reply(429, {"Retry-After": "0"}), Reply(500), Reply(503)]
    await service.send_many("alice", 2)
    assert [(await take(push_service, browser))["data"] for _ in range(5)] == [0, 0, 0, 0, 1]
    await settled(connection, 2)
    assert push_service.requests.empty()


async def test_a_push_service_says_how_long_to_wait(
    service: Service, push_service: Receiver, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pusher, "BACKOFF_SECONDS", (0.02, 3_600.0))
    await subscribe(service, Browser(push_service))
    push_service.reply = Reply(429, {"Retry-After": "120"})
    await service.send("alice")
    await push_service.take()

    async def is_delayed() -> bool:
        waits = "SELECT attempts = 1 AND next_at > now() + interval '110 seconds' FROM notify.push_subscription"
        return bool(await connection.fetchval(waits))

    await until(is_delayed)


async def test_a_subscription_that_fails_for_a_day_is_given_up(
    service: Service, push_service: Receiver, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pusher, "MAX_ATTEMPTS", 2)
    push_service.reply = Reply(500)
    await subscribe(service, Browser(push_service))
    await service.send("alice")
    await until(lambda: has_none(connection))
    assert push_service.requests.qsize() == 2


async def test_a_push_that_is_refused_holds_up_no_other(service: Service, push_service: Receiver) -> None:
    browser = Browser(push_service)
    await subscribe(service, browser)
    push_service.replies = [Reply(403)]
    await service.send_many("alice", 2)
    assert [(await take(push_service, browser))["data"] for _ in range(2)] == [0, 1]


async def test_a_node_that_dies_in_a_push_leaves_it_to_another(
    database_url: str, push_service: Receiver, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pusher, "CLAIM_SECONDS", 0.5)
    monkeypatch.setattr(pusher, "LEASE_SECONDS", 0.2)
    monkeypatch.setattr(pusher, "LEAVE_SECONDS", 0.0)
    browser = Browser(push_service)
    push_service.replies = [Reply(None)]
    async with lead_to(push_service, Service(database_url)) as dying:
        await subscribe(dying, browser)
        await dying.send("alice", 1)
        await push_service.take()
    async with lead_to(push_service, Service(database_url)):
        assert (await take(push_service, browser))["data"] == 1
        await settled(connection, 1)


async def test_a_node_that_stops_leaves_nothing_claimed(
    database_url: str, push_service: Receiver, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has claimed it pushes, even if the answer to the claim comes when it is already leaving."""
    claim, claimed = Push.claim, asyncio.Event()

    async def claim_slowly(push: Push, users: Sequence[str], **bounds: Any) -> Any:
        found = await claim(push, users, **bounds)
        if found[0]:
            claimed.set()
            await asyncio.sleep(0.5)  # the answer is on its way
        return found

    monkeypatch.setattr(Push, "claim", claim_slowly)
    browser = Browser(push_service)
    async with lead_to(push_service, Service(database_url)) as service:
        await subscribe(service, browser)
        await service.send("alice")
        async with asyncio.timeout(5):
            await claimed.wait()
    assert await is_settled(connection, 1)
    assert (await take(push_service, browser))["seq"] == 1


async def test_browsers_that_do_not_answer_hold_up_their_own_user(
    database_url: str, push_service: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pusher, "LEAVE_SECONDS", 0.0)
    push_service.replies = [Reply(None)] * pusher.MAX_USER_PUSHES
    async with lead_to(push_service, Service(database_url)) as service:
        for number in range(pusher.MAX_USER_PUSHES + 2):
            await subscribe(service, Browser(push_service, str(number)), "alice")
        await subscribe(service, Browser(push_service, "bob"), "bob")
        await service.send("alice")
        for _ in range(pusher.MAX_USER_PUSHES):
            assert (await push_service.take()).target != "/send/bob"
        await service.send("bob")
        assert (await push_service.take()).target == "/send/bob"


async def test_two_nodes_push_everything_once(
    database_url: str, push_service: Receiver, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even when both believe that it is theirs to do, as after a pause that was longer than the lease."""

    async def believe(*_: object, **__: object) -> bool:
        return True

    monkeypatch.setattr("notify.store.push.Push.lease", believe)
    monkeypatch.setattr(pusher, "WALK_SECONDS", 0.02)
    browsers = [Browser(push_service, name) for name in ("1", "2", "3")]
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(lead_to(push_service, Service(database_url))) for _ in range(2)]
        for browser in browsers:
            await subscribe(nodes[0], browser)
        await nodes[0].send_many("alice", 10)
        await settled(connection, 10)
    assert push_service.requests.qsize() == 30


async def test_what_one_node_is_claiming_another_passes_over(
    service: Service, push_service: Receiver, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pusher, "GRACE_SECONDS", 3_600.0)
    await subscribe(service, Browser(push_service))
    await service.send("alice")
    async with connection.transaction():
        [claimed] = await connection.fetch(query("claim_pushes"), ["alice"], 10, 10, 100, 60.0)
        assert claimed["seq"] == 1
        async with asyncio.timeout(1):
            assert await service.store.push.claim(["alice"], limit=10, each=10, behind=100, seconds=60.0) == ([], [])
    assert await service.store.push.claim(["alice"], limit=10, each=10, behind=100, seconds=60.0) == ([], [])


async def test_nothing_is_pushed_that_a_session_acknowledged_before_it_left(
    service: Service, push_service: Receiver, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even while its ack is on the way: its user is not away until that is down."""
    monkeypatch.setattr(pusher, "GRACE_SECONDS", 3_600.0)
    await subscribe(service, Browser(push_service))
    roster = service.app._need_running().services.roster
    sessions = "SELECT count(*) FROM notify.session WHERE user_id = 'alice'"

    async def is_gone() -> bool:
        return not await connection.fetchval(sessions)

    async with service.connect("alice") as socket:
        await socket.take_backlog()
        await roster.report()
        await service.send("alice")
        seq = (await socket.take())["seq"]
        async with connection.transaction():
            await connection.execute("SELECT FROM notify.cursor WHERE user_id = 'alice' FOR UPDATE")
            await socket.ack(seq)
            await socket.settle()
            await socket.close()
            await until(lambda: not len(service.app.hub))
            await roster.report()
            assert await connection.fetchval(sessions) == 1
            assert await service.store.push.claim(["alice"], limit=10, each=10, behind=100, seconds=60.0) == ([], [])
        await until(is_gone)
    assert await service.store.push.claim(["alice"], limit=10, each=10, behind=100, seconds=60.0) == ([], [])


async def test_an_endpoint_inside_is_refused(
    database_url: str, push_service: Receiver, connection: asyncpg.Connection
) -> None:
    browser = Browser(push_service)
    addresses: list[str] = ["10.0.0.1"]
    service = Service(database_url)
    service.app.outbound = Outbound(allow_private=False, resolve=lambda *_: addresses, trust=push_service.trust)
    async with service:
        for endpoint in (
            browser.endpoint,
            "https://127.0.0.1/send/1",
            "https://[::1]/send/1",
            "https://169.254.169.254/latest/meta-data/",
            "http://push.example.net/send/1",
            "https://localhost/send/1",
        ):
            answer = await put(service, browser.describe(endpoint=endpoint))
            assert answer.status_code == 400
            assert answer.json()["errors"][0]["pointer"] == "/endpoint"
        # One that leads inside only later, when it is pushed to, gets no farther.
        addresses[:] = ["8.8.8.8"]
        await subscribe(service, browser)
        addresses[:] = ["127.0.0.1"]
        await service.send("alice")

        async def has_failed() -> bool:
            return bool(await connection.fetchval("SELECT attempts FROM notify.push_subscription"))

        await until(has_failed)
    assert not push_service.connections


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"endpoint": 7}, "/endpoint"),
        ({"keys": {"p256dh": "AAAA", "auth": "BTBZMqHH6r4Tts7J_aSIgg"}}, "/keys/p256dh"),
        ({"keys": {"auth": "BTBZMqHH6r4Tts7J_aSIgg"}}, "/keys/p256dh"),
        ({"expirationTime": 1_000}, "/expirationTime"),
    ],
)
async def test_what_is_no_subscription_is_refused_by_field(
    service: Service, push_service: Receiver, fields: dict[str, object], pointer: str
) -> None:
    answer = await put(service, Browser(push_service).describe(**fields, contentEncodings=["aes128gcm"]))
    assert answer.status_code == 400
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


async def test_a_browser_is_subscribed_once_and_for_its_last_user(
    service: Service, push_service: Receiver, connection: asyncpg.Connection
) -> None:
    browser = Browser(push_service)
    await subscribe(service, browser, "bob")
    await service.send("bob", "for bob", deliver_at=from_now(3600))
    for _ in range(2):
        await subscribe(service, browser, "alice")
    assert await list_endpoints(connection, "bob") == []
    await service.send(["alice", "bob"], "for both")
    await push_service.take()
    await settled(connection, 1)
    assert push_service.requests.empty()
    # Only her own browser can she unsubscribe.
    for user, left in (("bob", 1), ("alice", 0), ("alice", 0)):
        answer = await service.client.request("DELETE", PATH, json=browser.describe(), headers=bearer(user))
        assert answer.status_code == 204
        assert len(await list_endpoints(connection)) == left


async def test_unsubscribing_takes_a_parameter_as_well(
    service: Service, push_service: Receiver, connection: asyncpg.Connection
) -> None:
    browser = Browser(push_service)
    await subscribe(service, browser)
    answer = await service.client.delete(PATH, headers=bearer("alice"))
    assert answer.status_code == 400
    answer = await service.client.delete(PATH, params={"endpoint": browser.endpoint}, headers=bearer("alice"))
    assert answer.status_code == 204
    assert await list_endpoints(connection) == []


async def test_a_user_has_only_so_many(
    service: Service, push_service: Receiver, connection: asyncpg.Connection
) -> None:
    browsers = [Browser(push_service, str(number)) for number in range(5)]
    for browser in browsers:
        await subscribe(service, browser)
    assert await list_endpoints(connection) == [browser.endpoint for browser in browsers[2:]]
    await service.send("alice")
    assert (await Admin(service).get("/queues/alice"))["push_subscriptions"] == 3


async def test_erasing_or_denying_a_user_ends_it(
    service: Service, push_service: Receiver, connection: asyncpg.Connection
) -> None:
    admin = Admin(service)
    await subscribe(service, Browser(push_service))
    await admin.act("PUT", "/denylist/sub/alice", status=204)
    await service.send("alice")
    await looked_at(service, push_service)
    await admin.act("DELETE", "/users/alice")
    assert await list_endpoints(connection) == []


async def test_all_nodes_have_the_same_key(database_url: str) -> None:
    async with Service(database_url) as one, Service(database_url) as other:
        answers: Sequence[httpx.Response] = await asyncio.gather(
            *(node.client.get("/v1/push/key", headers=bearer("alice")) for node in (one, other))
        )
    keys = {answer.json()["key"] for answer in answers}
    assert len(keys) == 1
    assert len(decode_base64url(keys.pop())) == 65
