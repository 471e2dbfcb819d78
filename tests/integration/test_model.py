"""The whole service against a small model of what it promises.

Hypothesis plays producers, devices and admins; after every step the model says what each device must get, and the real
service, on a real PostgreSQL through real sockets, must agree. What the model knows is the contract's section 5 in a
hundred lines: numbered entries, cursors, and the first ending that stays.
"""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest
import websockets
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from pydantic import SecretStr

from notify.app import Application
from notify.auth import mint
from notify.server import Server, build_server, open_listener
from notify.settings import Settings
from notify.store.mailboxes import PAGE_ENTRIES

SECRET = "a secret for the tests of the model, long enough"
USERS = ("ann", "b/b")
DEVICES = ("phone", "desk")
KEYS = (None, None, "k", "l")
PATIENCE = 10.0  # seconds; a frame that takes longer will never come


@dataclass
class Entry:
    """An entry as the model sees it."""

    kind: str
    notification: str | None = None
    target: int | None = None
    seqs: tuple[int, ...] | None = None
    key: str | None = None
    ended: str | None = None
    acked: bool = False
    read: bool = False


@dataclass
class Mailbox:
    """A user's log and the cursors of the devices."""

    entries: list[Entry] = field(default_factory=list)
    cursors: dict[str, int] = field(default_factory=dict)
    read_to: int = 0

    @property
    def reached(self) -> int:
        return max(self.cursors.values(), default=0)

    def append(self, entry: Entry) -> None:
        self.entries.append(entry)
        # Of a longer one a session reads several pages, and its cursor may move between them: the model knows of one.
        assert len(self.entries) < PAGE_ENTRIES, "so long a run needs a model that knows of pages"

    def end(self, seq: int, reason: str) -> None:
        entry = self.entries[seq - 1]
        entry.ended = reason
        self.append(Entry("retract", entry.notification, target=seq))

    def pending(self, seq: int) -> bool:
        entry = self.entries[seq - 1]
        return entry.kind == "notification" and entry.ended is None and not entry.acked and seq > self.reached

    def unread(self) -> int:
        return sum(e.kind == "notification" and e.ended is None and not e.read for e in self.entries)

    def live(self, seq: int) -> bool:
        entry = self.entries[seq - 1]
        return entry.kind != "notification" or entry.ended is None


class Service:
    """The real service, in a thread with a loop of its own; it can be stopped and started again."""

    def __init__(self, database_url: str) -> None:
        self.settings = Settings(database_url=database_url, jwt_secret=[SecretStr(SECRET)], drain_seconds=0.2)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.server: Server | None = None
        self.serving: Future[None] | None = None
        self.port = 0
        self.app: Application | None = None
        self.client = httpx.AsyncClient()  # one for all: making one takes longer than most answers

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, 30), self.loop).result(35)

    def start(self) -> None:
        app = self.app = Application(self.settings)
        listener = open_listener("127.0.0.1", 0)
        self.port = listener.getsockname()[1]
        self.server = build_server(app, drain=app.drain, settings=self.settings)
        self.serving = asyncio.run_coroutine_threadsafe(self.server.serve(sockets=[listener]), self.loop)
        self.run(self.wait_ready())

    async def wait_ready(self) -> None:
        while True:
            try:
                if (await self.client.get(f"http://127.0.0.1:{self.port}/readyz")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.01)  # nothing to wait for but the socket itself

    def stop(self) -> None:
        assert self.server is not None
        assert self.serving is not None
        self.server.should_exit = True
        self.serving.result(20)

    def close(self) -> None:
        self.run(self.client.aclose())
        self.stop()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.loop.close()


@pytest.fixture
def service(database_url: str) -> Any:
    service = Service(database_url)
    service.start()
    yield service
    service.close()


# The service draws its jitter in a thread of its own; hypothesis takes that for a strategy's, when it falls into a draw.
@pytest.mark.timeout(180)  # hundreds of calls, sockets and restarts, one after the other
@pytest.mark.filterwarnings("ignore:Do not use the `random` module:hypothesis.errors.HypothesisDeprecationWarning")
def test_the_service_agrees_with_the_model(service: Service) -> None:  # noqa: C901 - the model is one thing
    """Order, at least once, never after an ack, honest statuses and counts, whatever happens in whatever order."""

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.boxes = {user: Mailbox() for user in USERS}
            self.sent: dict[str, tuple[str, ...]] = {}
            service.run(self.erase())

        async def erase(self) -> None:
            connection = await asyncpg.connect(service.settings.database_url)
            await connection.execute(
                "TRUNCATE notify.mailbox, notify.notification, notify.entry, notify.ending, notify.cursor, notify.ack, "
                "notify.reading, notify.collapse_slot, notify.outbox CASCADE"
            )
            await connection.close()

        async def request(
            self, method: str, path: str, subject: str, scope: str = "", **options: Any
        ) -> httpx.Response:
            token = mint(SECRET, subject=subject, scope=scope)
            url = f"http://127.0.0.1:{service.port}{path}"
            return await service.client.request(method, url, headers={"Authorization": f"Bearer {token}"}, **options)

        @rule(to=st.sets(st.sampled_from(USERS), min_size=1), key=st.sampled_from(KEYS))
        def send(self, to: set[str], key: str | None) -> None:
            users = sorted(to)
            body: dict[str, Any] = {"to": users, "type": "t", "data": {"n": len(self.sent)}}
            if key:
                body["collapse_key"] = key
            answer = service.run(self.request("POST", "/v1/notifications", "shop", "notifications:send", json=body))
            assert answer.status_code == 201, answer.text
            notification = answer.json()["id"]
            self.sent[notification] = tuple(users)
            for user in users:
                box = self.boxes[user]
                if key:
                    for seq in range(len(box.entries), 0, -1):
                        if box.entries[seq - 1].key == key:
                            if box.pending(seq):
                                box.end(seq, "collapsed")
                            break
                box.append(Entry("notification", notification, key=key))

        @precondition(lambda self: self.sent)
        @rule(data=st.data())
        def cancel(self, data: st.DataObject) -> None:
            notification = data.draw(st.sampled_from(sorted(self.sent)))
            path = f"/v1/notifications/{notification}"
            answer = service.run(self.request("DELETE", path, "shop", "notifications:send"))
            assert answer.status_code == 204, answer.text
            for user in self.sent[notification]:
                box = self.boxes[user]
                for seq, entry in enumerate(list(box.entries), 1):
                    if entry.kind == "notification" and entry.notification == notification and box.pending(seq):
                        box.end(seq, "cancelled")

        @precondition(lambda self: self.sent)
        @rule(data=st.data())
        def expire(self, data: st.DataObject) -> None:
            notification = data.draw(st.sampled_from(sorted(self.sent)))
            service.run(self.let_expire(notification))
            for user in self.sent[notification]:
                for entry in self.boxes[user].entries:
                    if entry.kind == "notification" and entry.notification == notification and entry.ended is None:
                        entry.ended = "delivered" if entry.acked else "expired"

        async def let_expire(self, notification: str) -> None:
            connection = await asyncpg.connect(service.settings.database_url)
            await connection.execute(
                "UPDATE notify.notification SET expires_at = clock_timestamp() WHERE id = $1 AND expires_at > now()",
                notification,
            )
            await connection.close()

        @rule(user=st.sampled_from(USERS), seq=st.integers(1, 12))
        def read_up_to(self, user: str, seq: int) -> None:
            self.mark(user, {"up_to": seq}, range(1, seq + 1), up_to=seq)

        @rule(user=st.sampled_from(USERS), seqs=st.lists(st.integers(1, 12), min_size=1, max_size=3))
        def read_some(self, user: str, seqs: list[int]) -> None:
            self.mark(user, {"seqs": seqs}, seqs, up_to=None)

        def mark(self, user: str, body: dict[str, Any], wanted: Any, *, up_to: int | None) -> None:
            box = self.boxes[user]
            answer = service.run(self.request("POST", "/v1/inbox/read", user, json=body))
            newly = [
                seq
                for seq in sorted(set(wanted))
                if seq <= len(box.entries)
                and box.entries[seq - 1].kind == "notification"
                and box.entries[seq - 1].ended is None
                and not box.entries[seq - 1].read
            ]
            for seq in newly:
                box.entries[seq - 1].read = True
            if newly:
                seqs = None if up_to is not None else tuple(newly)
                box.append(Entry("read", target=up_to and min(up_to, len(box.entries)), seqs=seqs))
            assert answer.json() == {"unread": box.unread()}

        @rule(user=st.sampled_from(USERS), device=st.sampled_from(DEVICES), acks=st.integers(0, 12))
        def connect(self, user: str, device: str, acks: int) -> None:
            """Come, be told everything that is not acknowledged, acknowledge some of it, and go."""
            box = self.boxes[user]
            cursor = box.cursors.setdefault(device, box.reached)
            welcome, frames = service.run(self.receive(user, device, acks))
            head = len(box.entries)
            assert (welcome["after"], welcome["head"], welcome["recovered"]) == (cursor, head, True)
            assert welcome["unread"] == box.unread()
            expected = [seq for seq in range(cursor + 1, head + 1) if box.live(seq)]
            assert [frame["seq"] for frame in frames] == expected
            for frame in frames:
                entry = box.entries[frame["seq"] - 1]
                assert frame["op"] == entry.kind
                assert entry.kind == "read" or frame["id"] == entry.notification
                if entry.kind == "retract":
                    assert frame["of"] == entry.target
                if entry.kind == "read":
                    assert (frame.get("up_to"), frame.get("seqs")) == (entry.target, entry.seqs and list(entry.seqs))
            outstanding = expected[min(acks, len(expected)) :]
            settled = outstanding[0] - 1 if outstanding else head
            if outstanding == expected and expected:  # nothing was said, so what is over before them waits as well
                settled = cursor
            for seq in range(cursor + 1, settled + 1):
                entry = box.entries[seq - 1]
                if entry.ended is None:
                    entry.acked = True
            box.cursors[device] = max(cursor, settled)

        async def receive(self, user: str, device: str, acks: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
            token = mint(SECRET, subject=user)
            url = f"ws://127.0.0.1:{service.port}/v1/ws?device={device}"
            async with websockets.connect(url, additional_headers={"Authorization": f"Bearer {token}"}) as socket:

                async def take() -> dict[str, Any]:
                    return msgspec.json.decode(await asyncio.wait_for(socket.recv(), PATIENCE), type=dict[str, Any])

                welcome = await take()
                frames = []
                while (frame := await take())["op"] != "caught_up":
                    frames.append(frame)
                if acks and frames:
                    await socket.send(
                        msgspec.json.encode({"op": "ack", "seq": frames[min(acks, len(frames)) - 1]["seq"]}).decode()
                    )
                await socket.send('{"op":"ping"}')
                while (await take())["op"] != "pong":
                    pass
            await self.wait_for_acks()
            return welcome, frames

        async def wait_for_acks(self) -> None:
            """Acks are written in their own time: wait until none is on its way."""
            assert service.app is not None
            app = service.app
            while len(app._need_running().services.store.mailboxes.acking):
                await asyncio.sleep(0.005)

        @rule()
        def restart(self) -> None:
            service.stop()
            service.start()

        @invariant()
        def statuses_are_the_models(self) -> None:
            for notification, users in list(self.sent.items())[-3:]:
                path = f"/v1/notifications/{notification}/recipients"
                answer = service.run(self.request("GET", path, "shop", "notifications:send")).json()
                found = {item["user"]: item["status"] for item in answer["items"]}
                assert found == {user: self.status(user, notification) for user in users}

        def status(self, user: str, notification: str) -> str:
            entry = next(
                e for e in self.boxes[user].entries if e.notification == notification and e.kind == "notification"
            )
            if entry.acked:
                return "read" if entry.read else "delivered"
            return entry.ended or "pending"

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=6,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
