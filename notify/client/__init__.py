"""The Python client: send from a back end, receive as a user.

    async with AsyncClient("https://notify.example", token) as notify:
        sent = await notify.send("alice", "order.shipped", {"order": 7})

    async for frame in listen("https://notify.example", token):
        if isinstance(frame, Notification):
            await handle(frame)  # acknowledged once the loop asks for the next one

The promises kept here: one call of `send` stores at most one notification, however often it had to be tried; and what
`listen` hands out is each entry once, in order, acknowledged only after the loop body is through with it.
"""

from notify.client.errors import BadData, Disconnected, NotifyClientError, Refused, Unreachable
from notify.client.frames import Notification, Received
from notify.client.listening import Lost, TokenSource, listen
from notify.client.sending import AsyncClient, Client, Sent
from notify.frames import CaughtUp, Disconnect, ErrorFrame, ReadMark, Retract, Truncated, Welcome

__all__ = [
    "AsyncClient",
    "BadData",
    "CaughtUp",
    "Client",
    "Disconnect",
    "Disconnected",
    "ErrorFrame",
    "Lost",
    "Notification",
    "NotifyClientError",
    "ReadMark",
    "Received",
    "Refused",
    "Retract",
    "Sent",
    "TokenSource",
    "Truncated",
    "Unreachable",
    "Welcome",
    "listen",
]
