"""uvicorn as we need it: sockets, timeouts, limits, and a drain that says goodbye first.

Keeps invariant 6 at the edge: a connection that stops half-way, sends endless headers, does not read, or is one too many
costs a bounded time and a bounded amount of memory, and holds up neither the drain nor anybody else.

What is extended is uvicorn's own: its HTTP protocol (httptools), its WebSocket protocol ("websockets-sansio") and its
server. Shutting down, it would close every socket with 1012 before the application hears of it, so ours drains first.
"""

import asyncio
import contextlib
import resource
import socket
from asyncio import TimerHandle
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from notify.api.answers import describe
from notify.errors import ConfigurationError, HeadersTooLarge, Problem, Unavailable
from notify.settings import Settings

log = structlog.get_logger()

BACKLOG = 4_096
"""Connections that may wait to be accepted: a reconnect storm arrives all at once."""

USER_TIMEOUT = 20_000
"""Milliseconds that sent bytes may go unacknowledged by a peer's kernel before it counts as gone (TCP_USER_TIMEOUT)."""

HEADER_SECONDS = 10.0
"""From the first moment of a connection, or the first byte of a further request, to the end of its headers."""

BODY_SECONDS = 60.0
"""From the end of the headers to the end of the body."""

KEEP_ALIVE_SECONDS = 75
"""Idle time between two requests: more than the 60 s after which common proxies give up on their side."""

MAX_HEADER_BYTES = 16 * 1024
"""Of a request line and its headers together: twice a browser's largest, with the longest token in it."""

MAX_LINE_BYTES = 8_000
"""Of one header line of a handshake: the `websockets` library reads lines up to 8,192 bytes, endings included."""

CLOSE_SECONDS = 2.0
"""How long a closing handshake may take before the connection is dropped."""

SHUTDOWN_SECONDS = 3.0
"""What is left for requests in flight after the drain, which itself is bounded by the settings."""

FILE_SHARE = 0.8
"""Of the process's file limit, what connections may use: the rest is for the database, logs and the unforeseen."""

_MEBIBYTE = 1024 * 1024


class Transport:
    """What an application may do to its connection beyond ASGI, as `scope["extensions"]["notify.transport"]`."""

    __slots__ = ("_transport",)

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def abort(self) -> None:
        """Drop the connection at once, unsent bytes and all."""
        self._transport.abort()


def extend(scope: Any, transport: asyncio.Transport) -> None:
    """Put our extension beside the server's own (https://asgi.readthedocs.io/en/latest/extensions.html)."""
    scope.setdefault("extensions", {})["notify.transport"] = Transport(transport)


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with timers, a limit on headers and one on connections."""

    header_seconds = HEADER_SECONDS
    body_seconds = BODY_SECONDS
    max_connections = 1_000_000

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._deadline: TimerHandle | None = None
        self._header_bytes = 0
        self._header_tail = b""  # the end of the headers may come in two packets
        self._in_headers = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's does
        """Start the clock; turn away one connection too many."""
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self._refuse(Unavailable("this process has all the connections it can take", retry_after=2))
            return
        self._arm(self.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what belongs to headers; the parser itself would take them without end."""
        if self.transport.is_closing():
            return
        if self._in_headers:
            if self._deadline is None:
                self._arm(self.header_seconds)
            # What follows the headers in the same packet is not theirs; an upgrade must fit line by line.
            seam = self._header_tail + data
            end = seam.find(b"\r\n\r\n")
            self._header_bytes += len(data) if end < 0 else end
            self._header_tail = seam[-3:]
            if self._header_bytes > MAX_HEADER_BYTES:
                self._refuse(HeadersTooLarge(f"the headers have more than {MAX_HEADER_BYTES} bytes"))
                return
        with contextlib.suppress(UnicodeDecodeError):  # a path that isn't ASCII: answered below
            super().data_received(data)
            return
        self.send_400_response("Invalid HTTP request received.")

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._in_headers = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Go on to the body, whose time is limited too."""
        self._in_headers = False
        self._header_bytes = 0
        self._header_tail = b""
        super().on_headers_complete()
        if not self.parser.should_upgrade():
            extend(self.scope, self.transport)
            self._arm(self.body_seconds)

    def on_message_complete(self) -> None:
        """Stop the clock: what remains is our own work."""
        self._in_headers = True
        self._disarm()
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        """Hand over to the WebSocket protocol, unless a line is longer than that one reads."""
        self._disarm()
        if any(len(name) + len(value) > MAX_LINE_BYTES for name, value in self.headers) or len(self.url) > MAX_LINE_BYTES:
            self._refuse(HeadersTooLarge(f"a line of the handshake has more than {MAX_LINE_BYTES} bytes"))
            return
        if not self.url.isascii():
            self.send_400_response("Invalid HTTP request received.")
            return
        super().handle_websocket_upgrade()

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._deadline = self.loop.call_later(seconds, self._expire)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expire(self) -> None:
        log.debug("connection.too_slow")
        self.transport.abort()

    def _refuse(self, problem: Problem) -> None:
        """Answer and close, without the application."""
        self._disarm()
        self.transport.write(write_response(problem))
        self.transport.close()
        self.loop.call_later(CLOSE_SECONDS, self.transport.abort)


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, whose close can't be held up by a peer that doesn't read."""

    def handle_connect(self, event: Any) -> None:
        """Offer the transport to the application."""
        super().handle_connect(event)
        if hasattr(self, "scope"):
            extend(self.scope, self.transport)

    async def send(self, message: Any) -> None:
        """Send; a close gets a deadline after which the connection is dropped."""
        await super().send(message)
        if message["type"] == "websocket.close" and self.close_timer is not None:
            self.close_timer.cancel()
            self.close_timer = self.loop.call_later(CLOSE_SECONDS, self.transport.abort)

    def handle_parser_exception(self) -> None:
        """Close on what can't be parsed (1002, 1007, 1009), with the same deadline."""
        super().handle_parser_exception()
        self.loop.call_later(CLOSE_SECONDS, self.transport.abort)


class Server(uvicorn.Server):
    """Drains before it shuts down: sessions hear a goodbye while their sockets still work."""

    def __init__(self, config: uvicorn.Config, drain: Callable[[], Awaitable[None]], drain_seconds: float) -> None:
        super().__init__(config)
        self._drain = drain
        self._drain_seconds = drain_seconds

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, drain, then let uvicorn close what is left; drop what still isn't gone."""
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._drain_seconds):
                await self._drain()
        for connection in list(self.server_state.connections):
            if isinstance(connection, WebSocketProtocol):
                connection.transport.abort()
        await super().shutdown(sockets=None)

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        """Take SIGINT and SIGTERM for a wish to leave, without raising them again afterwards: leaving is success."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()


def open_listener(host: str, port: int) -> socket.socket:
    """Open the socket to accept on; what it sets is inherited by every connection. Raises ConfigurationError."""
    try:
        family, kind, protocol, _name, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigurationError(f"can't listen on {host}: {error.strerror}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT)
        listener.setblocking(False)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.set_inheritable(True)
    except OSError as error:
        listener.close()
        raise ConfigurationError(f"can't listen on {host} port {port}: {error.strerror}; choose another --port") from None
    return listener


def raise_file_limit() -> int:
    """Raise the limit of open files as far as it goes, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ceiling = _MEBIBYTE if hard == resource.RLIM_INFINITY else hard
    if soft < ceiling:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (ceiling, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def build_server(app: Any, *, drain: Callable[[], Awaitable[None]], settings: Settings) -> Server:
    """Configure a server for an ASGI application. `drain` is awaited before anything is closed."""
    limit = settings.max_connections or int(raise_file_limit() * FILE_SHARE)
    # Not a subclass's business alone: the limit belongs to this server, and several may run in one process.
    http = type("HttpProtocol", (HttpProtocol,), {"max_connections": limit})
    config = uvicorn.Config(
        app,
        http=http,
        ws=WebSocketProtocol,
        ws_max_size=settings.max_frame_bytes,
        ws_ping_interval=None,  # the sessions' own `ping` frames make a dead peer show by TCP_USER_TIMEOUT
        ws_per_message_deflate=False,  # 64 KiB a connection with, 14 without
        loop="uvloop",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(SHUTDOWN_SECONDS),
        backlog=BACKLOG,
    )
    return Server(config, drain, settings.drain_seconds + 1.0)


def write_response(problem: Problem) -> bytes:
    """Return a whole HTTP answer to somebody whose request never reached the application."""
    body = msgspec.json.encode(describe(problem))
    lines = [
        f"HTTP/1.1 {problem.status} {problem.title}",
        "content-type: application/problem+json",
        f"content-length: {len(body)}",
        "connection: close",
        *(f"{name}: {value}" for name, value in problem.headers.items()),
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
