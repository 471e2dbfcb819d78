"""A way past ASGI for the one request that comes most: no task, no events to and fro, a call and a callback.

Keeps the promise that nobody can tell from outside: what an application does not take comes to it in the ordinary way.

    headers ──▶ held ──▶ whole ──▶ offered ──▶ taken ──▶ answered by whoever took it
                 │                    │
                 │                    └─ not taken ─▶ the ordinary way
                 └─ more than is read ahead ──────────────▲
"""

from collections.abc import Callable
from typing import NamedTuple

from notify.api.answers import Answering, Fields


class Shortcut(NamedTuple):
    """Where POSTs are offered to an application whole, and to whom.

    `take` gets the headers, the body, and how to answer. Returns False, having done nothing, for what it wants to get in the
    ordinary way.
    """

    path: bytes
    take: Callable[[Fields, bytes, Answering], bool]
