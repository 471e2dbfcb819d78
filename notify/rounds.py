"""Once round all sessions: who is due for a ping, whose token has ended, who does not read.

Keeps invariant 8: thousands are looked at a few at a time, so that nobody waits until all have been. One that is broken does not
stop the clock of the others.
"""

import asyncio
import time

import structlog

from notify.hub import Hub

log = structlog.get_logger()

AT_ONCE = 100
"""Sessions looked at before everybody else has a turn: some 0.2 ms."""


async def go_round(hub: Hub) -> None:
    """Look at each session that is open now."""
    for place, session in enumerate(hub, start=1):
        try:
            session.inspect(time.monotonic())
        except Exception:
            log.exception("session.uninspectable")
        if place % AT_ONCE == 0:
            await asyncio.sleep(0)
