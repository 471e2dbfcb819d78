"""The socket to accept on."""

import socket

from notify.errors import ConfigurationError

BACKLOG = 4_096
"""Connections that may wait to be accepted: a reconnect storm arrives all at once."""

USER_TIMEOUT = 20_000
"""Milliseconds that sent bytes may go unacknowledged by a peer's kernel before it counts as gone (TCP_USER_TIMEOUT)."""


def open_listener(host: str, port: int) -> socket.socket:
    """Open the socket to accept on; what it sets is inherited by every connection. Raises ConfigurationError."""
    try:
        family, kind, protocol, _name, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigurationError(f"can't listen on {host}: {error.strerror}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT)
        listener.setblocking(False)  # noqa: FBT003 - how the standard library has it
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"can't listen on {host} port {port}: {error.strerror}; choose another --port"
        ) from None
    return listener
