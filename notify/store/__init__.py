"""The only package that knows the tables, a module by subject.

`Store` holds the lanes; everything above talks to it in notifications, pages and standings, never in rows.
"""

from notify.store.store import Store

__all__ = ["Store"]
