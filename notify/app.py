"""Puts it all together: the only module that imports everything.

    POST → store.send ──(rows, then NOTIFY)──▶ bridge ─▶ hub.wake(users) ─▶ session pump ─▶ socket
                                                                              ▲                 │
                                                  store.fetch(user, after) ───┘   store.ack ◀── ack

Keeps invariant 5 where its parts meet: whatever the bridge may have missed is caught up with after every LISTEN, and
swept for regularly all the same.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import structlog
from litestar import Litestar, asgi
from litestar.config.cors import CORSConfig
from litestar.di import Provide

from notify import __version__
from notify.api.admin import HANDLERS as ADMIN_HANDLERS
from notify.api.answers import Answering, Fields, handle_exception
from notify.api.assets import client_asset
from notify.api.docs import docs, openapi_config, openapi_json
from notify.api.event_sending import EventSending
from notify.api.following import cancel_notification, get_notification, list_recipients
from notify.api.health import livez, metrics, readyz
from notify.api.inbox import acknowledge, list_devices, list_inbox, mark_read, remove_device
from notify.api.options import complete_options
from notify.api.plain import PATH_SEND
from notify.api.producers import PATH_BATCH, Sending
from notify.api.push import get_push_key, remove_push_subscription, subscribe_to_push
from notify.api.readiness import Readiness
from notify.api.services import Services
from notify.api.stream import PATH_STREAM, Streaming
from notify.api.topics import list_subscribers, subscribe, unsubscribe
from notify.auth import Authenticator
from notify.bridge import Bridge
from notify.caller import Caller
from notify.carried import split_wakes
from notify.console.rendering import build_templates
from notify.console.routes import console_router
from notify.demo.routes import demo_router
from notify.errors import Close, NotifyError
from notify.frames import MomentaryFrames
from notify.gateway import Gateway, refuse
from notify.hub import Hub
from notify.ids import mint_id
from notify.janitor import Janitor
from notify.metrics import LET_GO
from notify.migrate import require_current
from notify.momentary import Assembler
from notify.orders import Orders
from notify.origins import OriginPolicy
from notify.outbound import Outbound
from notify.pusher import Pusher
from notify.roster import Roster
from notify.rounds import go_round
from notify.settings import Settings
from notify.store import Store
from notify.vitals import Vitals
from notify.wakes import Wakes
from notify.webpush import Signer

log = structlog.get_logger()

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PATH_SOCKET = "/v1/ws"

CHANNEL_WAKE = "notify_wake"
CHANNEL_NOW = "notify_now"
CHANNEL_ACK = "notify_ack"
CHANNEL_ORDER = "notify_order"
CHANNEL_FULL = "notify_full"
"""What nodes tell each other: heads that moved, what is not stored, acks by REST, admins' orders, what full mailboxes let go."""

TICK_SECONDS = 1.0
"""How often sessions are looked at for pings, expiry and stuck peers."""

RESTART_SECONDS = 0.5
"""Pause before work that a fault ended begins again."""

SWEEP_SECONDS = 30.0
"""How often heads are compared even though no wake-up was missed that we know of."""

HEADS_PAGE = 500
"""Users whose heads are asked for in one statement."""

GOODBYES_PER_SECOND = 400
"""How fast a drain sends sessions away, if its time allows: what the other nodes can take in."""

RECONNECT_SECONDS = (0.25, 3.0)
"""Over which clients of a draining node are told to spread their return."""

LEAN_PATHS = frozenset({PATH_SEND, PATH_BATCH})
"""What apps send most takes the short way, past the framework's layers; a browser's request needs its CORS."""

EXPOSED_HEADERS = ["Location", "Idempotent-Replayed", "Retry-After", "RateLimit", "RateLimit-Policy", "X-Request-Id"]


class Application:
    """One process of the service, as an ASGI application. `dev` also lets pages of the same machine in."""

    def __init__(self, settings: Settings, *, dev: bool = False) -> None:
        self.settings = settings
        self.hub = Hub(max_sessions=settings.max_sessions)
        self.node = mint_id()
        self.outbound = Outbound(allow_private=settings.webhook_allow_private)
        self._wakes = Wakes(self.hub)
        self._assembler = Assembler()
        self._dev = dev
        self._origins = OriginPolicy(settings.allowed_origins, loopback=dev)
        self._running: _Running | None = None
        self.readiness = Readiness(
            {"database": self._check_database, "schema": self._check_schema, "listen": self._check_listen}
        )
        self.web = self._build_web()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Route a connection: sockets to the gateway, everything else to the web framework, by its raw path."""
        if scope["type"] == "websocket":
            if self._running is None:
                await receive()
                await refuse(scope, send)
            elif scope["path"] == PATH_SOCKET:
                await self._running.gateway(scope, receive, send)
            else:
                await receive()
                await send({"type": "websocket.close"})
            return
        if scope["type"] == "http":
            # Paths are routed as they were sent, still encoded: `alice%2Freplay` is one segment, a user's id.
            path = scope["path"] = scope["raw_path"].decode("latin-1")
            if path in LEAN_PATHS and self._running is not None and not is_cross_origin(scope):
                sending = self._running.sending
                await (sending.send if path == PATH_SEND else sending.send_batch)(scope, receive, send)
                return
        await self.web(scope, receive, send)  # type: ignore[arg-type]  # the framework's own, narrower types of the same

    def take(self, headers: Fields, body: bytes, answer: Answering) -> bool:
        """Take a whole `POST /v1/notifications` past ASGI, if it is a plain one; see PlainSending."""
        return self._running is not None and self._running.sending.plain.take(headers, body, answer)

    async def drain(self) -> None:
        """Say goodbye to every session, spread out. Returns when all are gone; the caller bounds it."""
        self.readiness.leaving = True
        if self._running is not None:
            self._running.gateway.draining = True
            self._running.services.roster.draining = True
        sessions = list(self.hub)
        random.shuffle(sessions)
        log.info("node.draining", sessions=len(sessions))
        seconds = min(self.settings.drain_seconds, len(sessions) / GOODBYES_PER_SECOND)
        started = time.monotonic()
        for place, session in enumerate(sessions):
            ahead = place / len(sessions) * seconds - (time.monotonic() - started)
            if ahead > 0:
                await asyncio.sleep(ahead)
            session.leave(Close.DRAINING, retry_after=random.uniform(*RECONNECT_SECONDS))  # noqa: S311 - jitter
        await self.hub.emptied.wait()

    def _build_web(self) -> Litestar:
        @asgi(PATH_SEND, copy_scope=False)
        async def send_one(scope: Scope, receive: Receive, send: Send) -> None:
            await self._sending.send(scope, receive, send)

        @asgi(PATH_BATCH, copy_scope=False)
        async def send_batch(scope: Scope, receive: Receive, send: Send) -> None:
            await self._sending.send_batch(scope, receive, send)

        @asgi(PATH_STREAM, copy_scope=False)
        async def stream(scope: Scope, receive: Receive, send: Send) -> None:
            await self._need_running().streaming.serve(scope, receive, send)

        web = Litestar(
            route_handlers=[
                send_one,
                send_batch,
                get_notification,
                list_recipients,
                cancel_notification,
                subscribe,
                unsubscribe,
                list_subscribers,
                list_inbox,
                mark_read,
                acknowledge,
                list_devices,
                remove_device,
                get_push_key,
                subscribe_to_push,
                remove_push_subscription,
                stream,
                *ADMIN_HANDLERS,
                livez,
                readyz,
                metrics,
                openapi_json,
                docs,
                client_asset,
                console_router(),
                *([demo_router()] if self._dev else []),
            ],
            lifespan=[self._live],
            template_config=build_templates(),
            dependencies={
                "services": Provide(lambda: self._services, sync_to_thread=False),
                "readiness": Provide(lambda: self.readiness, sync_to_thread=False),
            },
            exception_handlers={Exception: handle_exception},
            cors_config=CORSConfig(
                allow_origins=list(self.settings.allowed_origins),
                allow_origin_regex=r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?" if self._dev else None,
                allow_methods=["GET", "POST", "PUT", "DELETE"],
                allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID"],
                expose_headers=EXPOSED_HEADERS,
                allow_credentials=False,
            ),
            openapi_config=openapi_config(),
            logging_config=None,
        )
        return complete_options(web)

    @property
    def _services(self) -> Services:
        return self._need_running().services

    @property
    def _sending(self) -> Sending:
        return self._need_running().sending

    def _need_running(self) -> "_Running":
        if self._running is None:
            raise NotifyError("the application has not been started")
        return self._running

    @asynccontextmanager
    async def _live(self, _app: Litestar) -> AsyncGenerator[None, None]:
        """Start everything, in the order of its dependencies; stop it in reverse."""
        authenticator = Authenticator.from_settings(self.settings)
        store = await Store.connect(self.settings, self._part)
        try:
            await store.database.use(require_current)
            orders = Orders(self.hub, store, authenticator)
            await orders.obey()  # whoever is denied is so from the first request on
            signer = Signer(self.settings, store.push.key)
            pusher = Pusher(self.node, self.hub, store, self.outbound, signer)
            gateway = Gateway(
                settings=self.settings, authenticator=authenticator, origins=self._origins, hub=self.hub, store=store
            )
            bridge = Bridge(
                self.settings.listener_url,
                str(self.node),
                handlers={
                    CHANNEL_WAKE: lambda payload: self._wake(store, pusher, payload),
                    CHANNEL_NOW: self._offer,
                    CHANNEL_ACK: self._confirm,
                    CHANNEL_ORDER: lambda payload: self._order(orders, payload),
                    CHANNEL_FULL: lambda payload: LET_GO.inc(int(payload.partition(" ")[0])),
                },
                catch_up=lambda: self._catch_up(store, orders),
            )
            roster = Roster(self.node, self.hub, store, bridge)
            services = Services(self.settings, authenticator, self.hub, store, roster, orders, self.outbound, signer)
            janitor = Janitor(store)
            caller = Caller(store, self.outbound)
            works: dict[str, Callable[[], Awaitable[None]]] = {
                "janitor": janitor.run,
                "caller": caller.run,
                "bridge": bridge.run,
                "tick": lambda: self._tick(orders),
                "sweep": lambda: self._sweep(store, orders),
                "orders": orders.run,
                "roster": roster.run,
                "pusher": pusher.run,
            }
            tasks = [asyncio.create_task(keep_running(name, work), name=name) for name, work in works.items()]
            streaming = Streaming(services, self._origins)
            self._running = _Running(services, gateway, bridge, EventSending(services), streaming, Vitals(store))
            log.info("node.started", node=str(self.node), version=__version__)
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                self._wakes.clear()
        finally:
            self._running = None
            await self.outbound.close()
            await store.close()
            await authenticator.close()
            log.info("node.stopped", node=str(self.node))

    def _wake(self, store: Store, pusher: Pusher, payload: str) -> None:
        """Take wake-ups, and what they carry."""
        lines = list(split_wakes(payload))
        for user, _rest in lines:
            store.backlog.touch(user)
            pusher.touch(user)
        self._wakes.put(lines)

    def _offer(self, payload: str) -> None:
        """Take a part of the messages that are not stored; offer those that it makes whole."""
        for message in self._assembler.add(payload):
            frames = MomentaryFrames(message)
            for user in message.to:
                self.hub.offer(user, frames)

    def _confirm(self, payload: str) -> None:
        """Take an ack that came by REST: "user TAB device TAB seq"."""
        user, device, seq = payload.split("\t")
        self._wakes.confirm(user, device, int(seq))

    def _order(self, orders: Orders, payload: str) -> None:
        """Take an order. It may close the sessions of an erased mailbox: the next ones must not hear of what was in it."""
        self._wakes.flush()
        orders.call(payload)

    async def _catch_up(self, store: Store, orders: Orders) -> None:
        """Compare everyone's head, in pages, with the database's, unless it is another one: all have parted then."""
        store.backlog.miss()
        await orders.obey()
        epoch = store.mailboxes.epoch
        if await store.mailboxes.read_epoch() != epoch:
            return
        users = self.hub.users()
        for start in range(0, len(users), HEADS_PAGE):
            for user, head in (await store.mailboxes.read_heads(users[start : start + HEADS_PAGE])).items():
                self.hub.wake(user, head)

    def _part(self) -> None:
        """Send everyone away: the database is another one than they were told of."""
        log.warning("epoch.changed", sessions=len(self.hub))
        self._wakes.clear()
        for session in self.hub:
            session.leave(Close.RESTART)

    async def _tick(self, orders: Orders) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            orders.close_denied()  # whoever was let in while the list was being read
            await go_round(self.hub)

    async def _sweep(self, store: Store, orders: Orders) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311 - jitter, not a secret
            with suppress(NotifyError):
                await self._catch_up(store, orders)

    async def _check_database(self) -> bool:
        return self._running is not None and await self._running.vitals.database()

    async def _check_schema(self) -> bool:
        return self._running is not None and await self._running.vitals.schema()

    async def _check_listen(self) -> bool:
        return self._running is not None and self._running.bridge.listening.is_set()


async def keep_running(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Run something that never ends by itself; if a fault of ours ends it all the same, say so and begin again.

    A bridge that is gone without a word would leave every session to the sweep.
    """
    while True:
        try:
            await work()
        except Exception:
            log.exception("work.broken", work=name)
        await asyncio.sleep(RESTART_SECONDS)


def is_cross_origin(scope: Scope) -> bool:
    """Whether a browser's page asks: only those need the headers of CORS."""
    return b"origin" in dict(scope["headers"])


@dataclass(slots=True)
class _Running:
    """What exists between start and stop."""

    services: Services
    gateway: Gateway
    bridge: Bridge
    sending: Sending
    streaming: Streaming
    vitals: Vitals
