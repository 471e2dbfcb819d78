"""uvicorn as we need it: sockets, timeouts, limits, and a drain that says goodbye first.

Keeps invariant 6 at the edge: a connection that stops half-way, sends endless headers, does not read, or is one too
many costs a bounded time and a bounded amount of memory, and holds up neither the drain nor anybody else.

What is extended is uvicorn's own: its HTTP protocol (httptools), its WebSocket protocol ("websockets-sansio") and its
server. An application finds what it may do beyond ASGI in `scope["extensions"]["notify.transport"]`, a Transport.
"""

from notify.server.limits import ServerLimits, raise_file_limit
from notify.server.listener import open_listener
from notify.server.process import Server, build_server
from notify.server.shortcut import Shortcut
from notify.server.transport import Transport

__all__ = [
    "Server",
    "ServerLimits",
    "Shortcut",
    "Transport",
    "build_server",
    "open_listener",
    "raise_file_limit",
]
