"""Plans are made anew when tables have grown.

A plan is made once a connection, and what was there then decides: while a table is empty, going through all of it costs nothing.
PostgreSQL plans again when statistics change, which is minutes later, at a table that meanwhile has millions of rows; and on a
busy node plans that were made in its first second are the ones that everybody waits for.

Keeps invariant 8 while a database grows: a plan is never older than the last doubling of a table and two seconds.
"""

from notify.store.database import Database

SMALL_PAGES = 16
"""Up to this size (128 KiB, a thousand entries) no plan is a bad one: all of a table is read in less than a millisecond."""


class Plans:
    """Watches the sizes of the tables for one node."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._doublings: dict[int, int] = {}

    async def renew(self) -> bool:
        """Have every connection make its plans anew if a table has doubled since the last time. Returns whether one has.

        A table that shrank counts from where it is now: it may grow again under plans that were made in between.
        Raises Blocked, Interrupted or Refused.
        """
        before = self._doublings
        rows = await self._database.rows("measure_tables")
        self._doublings = {row["id"]: max(row["pages"], SMALL_PAGES).bit_length() for row in rows}
        grown = any(now > before.get(id_, SMALL_PAGES.bit_length()) for id_, now in self._doublings.items())
        if grown:
            self._database.drop_plans()
        return grown
