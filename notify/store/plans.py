"""Plans are made anew when tables have grown.

A plan is made once a connection, and what was there then decides: while a table is empty, going through all of it costs nothing.
PostgreSQL plans again when statistics change, which is minutes later, at a table that meanwhile has millions of rows; and on a
busy node plans that were made in its first second are the ones that everybody waits for.

Keeps invariant 8 while a database grows: within seconds of a table's growing fourfold, from a quarter of a MiB on, no statement
is carried out by a plan of before.
"""

from notify.store.database import Database

GROWTH = 4
"""Times that a table has to grow. A plan for a quarter of it is the right one or takes four times as long; planning costs each
connection some 3 ms, which at every doubling showed in what many wait for at a time."""

SMALL_PAGES = 8
"""What an empty table counts as (64 KiB): until it is four times as large (2,000 entries) no plan is a bad one, for all of it is
read in a millisecond."""


class Plans:
    """Watches the sizes of the tables for one node."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._planned: dict[int, int] | None = None  # the pages of each table when plans were dropped, or fewer since

    async def renew(self) -> bool:
        """Have every connection make its plans anew if a table has grown that much. Returns whether one has.

        The first look only remembers: there are no plans of before. A table that shrank counts from where it is now: it may grow
        again under plans that were made in between. Raises Blocked, Interrupted or Refused.
        """
        rows = await self._database.rows("measure_tables")
        pages: dict[int, int] = {row["id"]: row["pages"] for row in rows}
        planned = pages if self._planned is None else self._planned
        grown = any(now > GROWTH * max(planned.get(id_, 0), SMALL_PAGES) for id_, now in pages.items())
        if grown:
            self._database.drop_plans()
            self._planned = pages
        else:
            self._planned = {id_: min(now, planned.get(id_, 0)) for id_, now in pages.items()}
        return grown
