"""What admins order, carried out on this node: sessions closed, tokens denied.

Keeps invariant 5 for orders: a NOTIFY only says that there are some; they are rows, read again after every LISTEN and in
the sweep, and carried out once. An order closes what was open when it was given, so that whoever came back since stays.
"""

import asyncio
import time
from collections.abc import Sequence
from uuid import UUID

import structlog

from notify.auth import Authenticator
from notify.errors import Close, NotifyError
from notify.hub import Hub, Listener
from notify.store import Store
from notify.store.sessions import Order

log = structlog.get_logger()

SPACING_SECONDS = 0.1
"""Between two readings: a thousand orders in a row cost ten readings a second, not a thousand."""

RETRY_SECONDS = 0.5
"""Before a reading that failed is repeated."""

ERASED_SLACK_SECONDS = 1.0
"""A session that opened this shortly before its user was erased may still have seen the old mailbox: it closes as well."""


class Orders:
    """Carries out the orders to this node."""

    def __init__(self, hub: Hub, store: Store, authenticator: Authenticator) -> None:
        self._hub = hub
        self._store = store
        self._authenticator = authenticator
        self._called = asyncio.Event()
        self._seen: set[UUID] = set()
        self._reading = asyncio.Lock()  # so that who reads last is who writes last

    def call(self, _payload: str = "") -> None:
        """Learn that there are orders."""
        self._called.set()

    async def run(self) -> None:
        """Carry out orders whenever there are some, until cancelled."""
        while True:
            await self._called.wait()
            self._called.clear()
            try:
                await self.obey()
            except NotifyError as error:
                log.warning("orders.interrupted", reason=str(error))
                self._called.set()
                await asyncio.sleep(RETRY_SECONDS)
            await asyncio.sleep(SPACING_SECONDS)

    async def obey(self) -> None:
        """Read the deny list and the orders, and carry out what is new. Raises NotifyError."""
        async with self._reading:
            if self._authenticator.denials.replace(await self._store.denials.all()):
                self.close_denied()
            orders = await self._store.sessions.orders()
            fresh = [order for order in orders if order.id not in self._seen]
            self._seen = {order.id for order in orders}
            self._carry_out(fresh)

    def close_denied(self) -> None:
        """Close every session whose token is on the deny list."""
        denials = self._authenticator.denials
        if len(denials):
            for session in self._hub:
                if denials.denies(session.identity):
                    session.leave(Close.UNAUTHENTICATED)

    def _carry_out(self, orders: Sequence[Order]) -> None:
        """Close what was open when each order was given, by this process's own clock: nobody else's is compared with it."""
        if not orders:
            return
        now = time.monotonic()
        by_id = {session.id: session for session in self._hub}
        for order in orders:
            found: Sequence[Listener] = ()
            if order.user is not None:
                found = self._hub.of(order.user)
            elif order.session is not None and order.session in by_id:
                found = (by_id[order.session],)
            close = Close(order.code)
            # The answer was on its way for a moment, which makes an order look that much younger: better than older.
            given = now - order.age + (ERASED_SLACK_SECONDS if close is Close.RESTART else 0.0)
            closed = 0
            for session in found:
                if session.opened_at <= given:
                    session.leave(close)
                    closed += 1
            if closed:
                log.info("order.obeyed", code=int(close), sessions=closed)
