"""Nodes and sessions across processes, and the orders that close sessions wherever they are."""

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from notify.store.database import Database

LAST_ID = UUID(int=2**128 - 1)
"""After every session there can be."""


class NodeReport(msgspec.Struct, frozen=True):
    """What a node says of itself. Ages and `lag` in seconds; `sum_age`: how long ago it last said what it acknowledged."""

    node: UUID
    host: str
    pid: int
    version: str
    age: float
    sum_age: float
    sessions: int
    users: int
    draining: bool
    listening: bool
    lag: float
    reconnects: int


class OpenedSession(msgspec.Struct, frozen=True):
    """A session that opened at `at`, in unix seconds by the database's clock. `token_id` is its token's `jti`."""

    id: UUID
    user: str
    device: str
    protocol: str
    token_id: str | None
    at: float


class NodeState(msgspec.Struct, frozen=True):
    """A node that is alive. `lag`: seconds that the last heartbeat of its LISTEN link took."""

    id: UUID
    host: str
    pid: int
    version: str
    started_at: datetime
    seen_at: datetime
    sessions: int
    users: int
    draining: bool
    listening: bool
    lag: float
    reconnects: int


class SessionState(msgspec.Struct, frozen=True):
    """An open session on some node."""

    id: UUID
    node: UUID
    user: str
    device: str
    protocol: str
    token_id: str | None
    opened_at: datetime


class Order(msgspec.Struct, frozen=True):
    """Close a session, or those sessions of a user that were open `age` seconds ago."""

    id: UUID
    session: UUID | None
    user: str | None
    code: int
    age: float


class Sessions:
    """The nodes and sessions of the whole cluster."""

    def __init__(self, database: Database, *, max_sessions: int) -> None:
        self._database = database
        self._max_sessions = max_sessions

    async def report(
        self, report: NodeReport, opened: Sequence[OpenedSession], closed: Collection[UUID], watched: Collection[str]
    ) -> bool:
        """Write down that a node is alive and which of its sessions opened and closed. Returns whether it was known.

        A node that was not known has to report all its sessions. `watched` users lose their oldest sessions if they have
        too many in the cluster.
        """
        return bool(
            await self._database.value(
                "report",
                *msgspec.structs.astuple(report),
                [session.id for session in opened],
                [session.user for session in opened],
                [session.device for session in opened],
                [session.protocol for session in opened],
                [session.token_id for session in opened],
                [session.at for session in opened],
                list(closed),
                list(watched),
                self._max_sessions,
            )
        )

    async def leave(self, node: UUID) -> None:
        """Take a node that stops off the list."""
        await self._database.value("leave_node", node)

    async def nodes(self) -> Sequence[NodeState]:
        """Return the nodes that are alive, the oldest first."""
        return [NodeState(*row) for row in await self._database.rows("list_nodes")]

    async def page(self, *, user: str | None = None, before: UUID = LAST_ID, limit: int) -> Sequence[SessionState]:
        """Return up to `limit` open sessions opened before one, the newest first; with a `user` only that one's."""
        return [SessionState(*row) for row in await self._database.rows("list_sessions", before, user, limit)]

    async def count(self) -> tuple[int, int]:
        """Return how many sessions are open in the cluster, and of how many users."""
        row = await self._database.row("count_sessions")
        return (row["sessions"], row["users"]) if row else (0, 0)

    async def close(self, actor: str, session: UUID) -> bool:
        """Order a session closed. Returns whether it is known."""
        return await self._database.value("close_session", actor, session) is not None

    async def disconnect(self, actor: str, user: str) -> int:
        """Order all sessions of a user closed. Returns how many are known of."""
        return int(await self._database.value("disconnect", actor, user))

    async def orders(self) -> Sequence[Order]:
        """Return the orders of the last ten minutes."""
        return [Order(*row) for row in await self._database.rows("list_orders")]
