"""What the rest of the service sees of the database."""

import asyncio
from collections.abc import Callable
from typing import Self

from notify.activity import Activity
from notify.settings import Settings
from notify.store.activity import ActivityLog
from notify.store.audit import Audit
from notify.store.backlog import Backlog
from notify.store.broadcasts import Broadcasts
from notify.store.database import Database
from notify.store.denials import Denials
from notify.store.inbox import Inbox
from notify.store.mailboxes import Mailboxes
from notify.store.notifications import Notifications
from notify.store.outbox import Outbox
from notify.store.plans import Plans
from notify.store.push import Push
from notify.store.queues import Queues
from notify.store.retention import Retention
from notify.store.sends import Sends
from notify.store.sessions import Sessions
from notify.store.topics import Topics
from notify.store.webhooks import Webhooks


class Store:
    """The subjects of the store, over one pool."""

    def __init__(self, database: Database, settings: Settings, on_new_epoch: Callable[[], None]) -> None:
        self.database = database
        self.sends = Sends(database, max_pending=settings.max_pending)
        self.backlog = Backlog(database)
        self.mailboxes = Mailboxes(
            database,
            max_devices=settings.max_devices,
            on_ack=self.backlog.acknowledge,
            on_new_epoch=on_new_epoch,
        )
        self.notifications = Notifications(database)
        self.broadcasts = Broadcasts(database)
        self.topics = Topics(database)
        self.inbox = Inbox(database)
        self.plans = Plans(database)
        self.retention = Retention(database, seconds=settings.retention)
        self.outbox = Outbox(database, max_pending=settings.max_pending)
        self.queues = Queues(database, self.mailboxes, max_pending=settings.max_pending)
        self.sessions = Sessions(database, max_sessions=settings.max_sessions)
        self.denials = Denials(database)
        self.push = Push(database, max_subscriptions=settings.max_devices)
        self.audit = Audit(database)
        self.webhooks = Webhooks(database)
        self.activity = Activity()
        self.activity_log = ActivityLog(database)

    @classmethod
    async def connect(cls, settings: Settings, on_new_epoch: Callable[[], None] = lambda: None) -> Self:
        """Open the pool and learn the epoch; `on_new_epoch` hears of later ones.

        Raises ConfigurationError or batch.Interrupted.
        """
        database = await Database.connect(settings.database_url, connections=settings.database_connections)
        store = cls(database, settings, on_new_epoch)
        try:
            await store.mailboxes.read_epoch()
        except BaseException:
            await store.database.close()
            raise
        return store

    async def close(self) -> None:
        """Finish what was accepted, write down the acks, close the pool."""
        await asyncio.gather(self.sends.close(), self.mailboxes.close(), self.broadcasts.lane.close())
        await self.database.close()
