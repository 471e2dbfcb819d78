"""The deny list: tokens that are refused although they are signed."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import msgspec

from notify.errors import InvalidRequest
from notify.store.database import Database

MAX_DENIALS = 100_000
"""Entries of the list: every node holds all of them in memory, about 10 MB of them."""

DenialKind = Literal["sub", "jti"]


class Denial(msgspec.Struct, frozen=True):
    """An entry of the deny list, and who put it there."""

    kind: DenialKind
    value: str
    actor: str
    at: datetime


class Denials:
    """The deny list as it is kept."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> Sequence[tuple[str, str]]:
        """Return kind and value of every entry."""
        return [(row[0], row[1]) for row in await self._database.rows("read_denials")]

    async def page(self, *, after: tuple[str, str], limit: int) -> Sequence[Denial]:
        """Return up to `limit` entries after one (kind, value)."""
        return [Denial(*row) for row in await self._database.rows("list_denials", *after, limit)]

    async def deny(self, actor: str, kind: DenialKind, value: str) -> None:
        """Put one on the list. Twice is once. Raises InvalidRequest when the list is full."""
        if not await self._database.value("deny", actor, kind, value, MAX_DENIALS):
            raise InvalidRequest(
                f"the deny list is full ({MAX_DENIALS} entries); take off those whose tokens have expired"
            )

    async def allow(self, actor: str, kind: DenialKind, value: str) -> None:
        """Take one off the list. Idempotent."""
        await self._database.value("allow", actor, kind, value)
