"""Web Push to those who are away: one node at a time looks at who was woken and tells their browsers.

    wake-up ─▶ waiting ──(a grace)──▶ ripe ──(subscribed?)──▶ ready ─▶ claim ─▶ push ─▶ settled, delayed or gone
                  ▲                                             ▲                 │
               the walk              what is due again ─────────┴── pushed: next ─┘

Keeps the promise that a send never waits for this: nothing is written for it, and while nobody is subscribed a wake-up
costs a comparison. What a crash, a full memory or a lost wake-up leaves behind is found by the walk through all
subscriptions whose mailbox is ahead of what was pushed. A subscription is claimed before its push, so that two nodes never
push the same; a node that dies in between leaves the outcome unknown, and the push is repeated.
"""

import asyncio
import random
import time
from collections.abc import Collection
from contextlib import suppress
from itertools import islice
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID

import msgspec
import structlog

from notify import metrics
from notify.errors import NotifyError
from notify.frames import JsonCodec, frame_entry
from notify.hub import Hub
from notify.model import Entry
from notify.outbound import ForbiddenAddress, Outbound, Unreachable
from notify.store import Store
from notify.store.push import Claim
from notify.webpush import MAX_PLAINTEXT, Signer, encrypt, name_topic

log = structlog.get_logger()

GRACE_SECONDS = 2.0
"""How long a notification waits before it is pushed: time for a page that is just loading to connect and to be known of."""

LOOK_SECONDS = 1.0
"""Between two looks at the lease, the walk and what is due again."""

LEASE_SECONDS = 5.0
"""How long a pusher that is not heard of stays it."""

WALK_SECONDS = 30.0
"""Between the beginnings of two walks: what a session that ended did not fetch is pushed after so long at the latest, if a
page holds all subscriptions."""

WALK_PAGE = 500
"""Subscriptions of a step of the walk: a few milliseconds."""

MAX_TOUCHED = 100_000
"""Users remembered at most; beyond it the walk finds them."""

PAGE = 500
"""Users looked at in one statement."""

MAX_PUSHES = 32
"""Pushes under way at a time: half of what outbound.py connects, so that webhooks keep the other half."""

MAX_USER_PUSHES = 4
"""Of those to one user: endpoints that don't answer take the time of their own user, and little of anybody else's."""

MAX_BEHIND = 100
"""Of what waits for a user, the latest entries that are pushed; what is older waits in the inbox alone."""

CLAIM_SECONDS = 30.0
"""How long a claim holds: well over the 5 s a request may take and the writing down of how it ended."""

BACKOFF_SECONDS = (2.0, 3_600.0)
"""First and longest pause after a failure, doubled in between, before jitter."""

MAX_ATTEMPTS = 36
"""Failures in a row after which a subscription is given up: a day. Its browser subscribes again when it is next used."""

MAX_TTL = 2_419_200
"""Seconds that push services keep a message for at most: four weeks, as long as a notification lives."""

LEAVE_SECONDS = 2.0
"""How long a node that stops waits for the pushes under way, so that they need not be repeated."""

REQUEST_TIMEOUT, TOO_MANY = 408, 429
GONE: Final = frozenset({404, 410})
"""The subscription is no more (RFC 8030, section 7.3)."""


class Pointer(msgspec.Struct, tag_field="op", tag="notification", frozen=True):
    """A notification that is too big to be pushed: which one it is. The page fetches the rest."""

    seq: int
    id: UUID
    type: str


class Pusher:
    """Pushes, while this node has the lease."""

    def __init__(self, node: UUID, hub: Hub, store: Store, outbound: Outbound, signer: Signer) -> None:
        self._node = node
        self._hub = hub
        self._store = store
        self._outbound = outbound
        self._signer = signer
        self._waiting: dict[str, float] = {}  # users, and when their grace is over; in that order
        self._ripe: dict[
            str, None
        ] = {}  # users of whom it is not known whether they are subscribed, each once, in order
        self._ready: dict[str, None] = {}  # users who are
        self._called = asyncio.Event()
        self._pushes: dict[asyncio.Task[None], str] = {}  # under way, and to whom
        self._place: bytes | None = None
        self._walked_at = float("-inf")
        self._leaving = False
        self.leading = False
        """Whether this node has the lease."""

    def touch(self, user: str) -> None:
        """Learn that a user's head moved."""
        if self.leading and len(self._waiting) < MAX_TOUCHED:
            if not self._waiting:
                self._called.set()  # so that whoever sleeps sees when to wake up
            self._waiting.setdefault(user, time.monotonic() + GRACE_SECONDS)

    async def run(self) -> None:
        """Push until cancelled."""
        self._leaving = False
        leading = asyncio.create_task(self._lead_always(), name="pusher lease")
        claiming = asyncio.create_task(self._push_always(), name="pusher claims")
        try:
            ended, _ = await asyncio.wait({leading, claiming}, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()  # a fault of ours: neither ends by itself
        finally:
            await self._leave(leading, claiming)

    async def _lead_always(self) -> None:
        while True:
            try:
                await self._lead()
            except NotifyError as error:
                log.warning("pusher.interrupted", reason=str(error))
            await asyncio.sleep(LOOK_SECONDS * random.uniform(0.8, 1.0))  # noqa: S311 - jitter, not a secret

    async def _lead(self) -> None:
        """Take or renew the lease, and find what no wake-up tells of. Raises NotifyError."""
        if not await self._store.push.lease(self._node, seconds=LEASE_SECONDS):
            self.leading = False
            for users in (self._waiting, self._ripe, self._ready):
                users.clear()
            return
        if not self.leading:
            self.leading = True
            self._place, self._walked_at = None, float("-inf")  # whatever happened before is for the walk to find
        for user in await self._store.push.due(PAGE):
            self._call(user)
        if len(self._waiting) < MAX_TOUCHED:
            await self._walk()

    async def _walk(self) -> None:
        now = time.monotonic()
        if self._place is None and now - self._walked_at < WALK_SECONDS:
            return
        if self._place is None:
            self._walked_at = now
        step = await self._store.push.walk(self._place, WALK_PAGE)
        self._place = step.place
        for user in step.users:
            self.touch(user)  # with its grace: what it finds may have been sent a moment ago

    def _call(self, user: str) -> None:
        """Have a user who is subscribed looked at now."""
        self._ready[user] = None
        self._called.set()

    async def _push_always(self) -> None:
        while not self._leaving:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._called.wait()
            self._called.clear()
            self._ripen()
            try:
                while self._ripe and not self._leaving:
                    await self._sift()
                while self._ready and len(self._pushes) < MAX_PUSHES and not self._leaving:
                    await self._claim()
            except NotifyError as error:
                log.warning("pusher.interrupted", reason=str(error))
                self._called.set()
                await asyncio.sleep(LOOK_SECONDS)

    def _pause(self) -> float:
        """Return the seconds until the next grace is over."""
        first = next(iter(self._waiting.values()), None)
        return LOOK_SECONDS if first is None else max(0.0, first - time.monotonic())

    def _ripen(self) -> None:
        """Take those whose grace is over, but for those who are connected to this very node."""
        now = time.monotonic()
        while self._waiting:
            user, due = next(iter(self._waiting.items()))
            if due > now:
                return
            del self._waiting[user]
            if not self._hub.of(user):
                self._ripe[user] = None

    async def _sift(self) -> None:
        """Find out who of the next ones is subscribed. Raises NotifyError; nobody is forgotten then."""
        users = list(islice(self._ripe, PAGE))
        self._ready.update(dict.fromkeys(await self._store.push.subscribed(users)))
        for user in users:
            self._ripe.pop(user, None)  # the lease may have gone meanwhile

    async def _claim(self) -> None:
        """Claim what the next users are to be pushed, and start with it. Raises NotifyError; they are kept then."""
        room = MAX_PUSHES - len(self._pushes)
        users = list(islice(self._ready, room))
        for user in users:  # before the look: whoever is called while it lasts is looked at again
            del self._ready[user]
        busy = set(self._pushes.values())
        users = [user for user in users if user not in busy]  # they are called again when their last push ends
        again: Collection[str] = users
        try:
            claims, again = await self._store.push.claim(
                users, limit=room, each=MAX_USER_PUSHES, behind=MAX_BEHIND, seconds=CLAIM_SECONDS
            )
        finally:
            self._ready.update(dict.fromkeys(again))
        for claim in claims:
            task = asyncio.create_task(self._push(claim), name="push")
            self._pushes[task] = claim.user
            task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[None]) -> None:
        user = self._pushes.pop(task)
        self._called.set()
        if user not in self._pushes.values():
            self._call(user)  # there may be more

    async def _push(self, claim: Claim) -> None:
        """Make one push and write down how it ended."""
        try:
            result = await self._send(claim)
            metrics.PUSHES.labels(result).inc()
        except NotifyError as error:
            # The database: the claim runs out, and the push is made again.
            log.warning("push.unsettled", reason=str(error))
        except Exception:
            log.exception("push.broken")  # one bad message must not end the others

    async def _send(self, claim: Claim) -> str:
        """Push, settle, and return how it ended. Raises NotifyError when that can't be written down."""
        retry_after: float | None = None
        host = urlsplit(claim.subscription.endpoint).hostname
        try:
            message = await self._write(claim)
            answer = await self._outbound.post(
                claim.subscription.endpoint, content=message.body, headers=message.headers
            )
        except (ForbiddenAddress, Unreachable) as error:
            result, reason = "unreachable", str(error)
        else:
            result, reason, retry_after = judge(answer.status), f"status {answer.status}", answer.retry_after
        push = self._store.push
        if result == "gone" or (result in {"unreachable", "delayed"} and claim.attempts + 1 >= MAX_ATTEMPTS):
            await push.remove(claim.user, claim.subscription.endpoint)
            log.info("push.removed", host=host, reason=reason)
        elif result in {"unreachable", "delayed"}:
            await push.delay(claim, choose_pause(claim.attempts, retry_after))
            log.info("push.delayed", host=host, reason=reason)
        else:
            await push.settle(claim)
            if result == "refused":
                log.warning("push.refused", host=host, reason=reason)
        return result

    async def _write(self, claim: Claim) -> "Message":
        subscription = claim.subscription
        vapid = await self._signer.get()
        parts = urlsplit(subscription.endpoint)
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Encoding": "aes128gcm",
            "TTL": str(min(max(int(claim.seconds), 0), MAX_TTL)),
            "Urgency": "normal",
            "Authorization": vapid.authorize(f"{parts.scheme}://{parts.netloc}"),
        }
        if claim.collapse_key is not None:
            headers["Topic"] = name_topic(subscription, claim.collapse_key)
        return Message(encrypt(write_payload(claim.entry), subscription), headers)

    async def _leave(self, leading: asyncio.Task[None], claiming: asyncio.Task[None]) -> None:
        """Let what was claimed be pushed, if that takes no more than a moment; then let another node push."""
        self.leading = False
        self._leaving = True
        self._called.set()
        leading.cancel()
        with suppress(NotifyError, TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                await asyncio.wait({claiming})  # a claim under way that nobody waits for would hold until it runs out
                if self._pushes:
                    await asyncio.wait(self._pushes)
                await self._store.push.leave(self._node)
        rest = [leading, claiming, *self._pushes]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)


class Message(msgspec.Struct, frozen=True):
    """A push as it goes to the push service."""

    body: bytes
    headers: dict[str, str]


def write_payload(entry: Entry) -> bytes:
    """Return what the browser's service worker gets: the frame that a session would, or which one where that can't be."""
    codec = JsonCodec()
    try:
        payload = codec.encode(frame_entry(entry, codec)).encode()
    except (msgspec.MsgspecError, ValueError, RecursionError):
        metrics.UNREADABLE.inc()
        payload = b""
    if 0 < len(payload) <= MAX_PLAINTEXT:
        return payload
    assert entry.notification_id is not None, "only notifications are pushed"
    return msgspec.json.encode(Pointer(entry.seq, entry.notification_id, entry.type))


def judge(status: int) -> str:
    """Say what a push service's answer means (RFC 8030, section 5)."""
    if 200 <= status < 300:  # noqa: PLR2004 - the range of HTTP's successes
        return "pushed"
    if status in GONE:
        return "gone"
    if status in {REQUEST_TIMEOUT, TOO_MANY} or status >= 500:  # noqa: PLR2004 - the range of HTTP's server errors
        return "delayed"
    return "refused"


def choose_pause(attempts: int, retry_after: float | None) -> float:
    """Return for how long to leave a subscription alone after so many failures, in seconds."""
    first, longest = BACKOFF_SECONDS
    pause = min(first * 2.0 ** min(attempts, 30), longest) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
    return max(pause, min(retry_after or 0.0, longest))
