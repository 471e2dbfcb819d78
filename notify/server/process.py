"""The server of one process, from its start to a drain that says goodbye first.

uvicorn closes every socket with 1012 before the application hears that it is to stop. Ours:

    serving ──SIGTERM──▶ accepts no more ──▶ drains ──▶ requests end ──▶ drops the rest ──▶ stops the application
                                 each step bounded, all of it within `leave_seconds`
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

import structlog
import uvicorn

from notify.server.http import HttpProtocol
from notify.server.limits import Config, ServerLimits, read_limits
from notify.server.listener import BACKLOG
from notify.server.shortcut import Shortcut
from notify.server.websocket import WebSocketProtocol, dismiss
from notify.settings import Settings

log = structlog.get_logger()

KEEP_ALIVE_SECONDS = 75
"""Idle time between two requests: more than the 60 s after which common proxies give up on their side."""

LAST_SECONDS = 1.0
"""Of the time for leaving, what is kept for stopping the application itself."""

TICK_SECONDS = 0.05
"""Between two looks at what has ended meanwhile, and at whether a second Ctrl-C came."""


class Server(uvicorn.Server):
    """Drains before it shuts down: sessions hear a goodbye while their sockets still work."""

    config: Config

    def __init__(self, config: Config, drain: Callable[[], Awaitable[None]]) -> None:
        super().__init__(config)
        self._drain = drain

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application. When it can't, `serve` returns with `started` still false."""
        try:
            await super().startup(sockets)
        except SystemExit:  # the exit code of a command is the command's business
            self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, drain, let requests in flight end, drop what is left, and stop the application."""
        limits = self.config.limits
        now = asyncio.get_running_loop().time
        begun = now()
        last = begun + limits.leave_seconds - LAST_SECONDS
        for listener in (*self.servers, *(sockets or ())):
            listener.close()
        for connection in list(self.server_state.connections):
            if isinstance(connection, HttpProtocol):
                connection.shutdown()  # at once where it is idle, else with the answer
        await self._wait(self._say_goodbye(), min(begun + limits.drain_seconds, last))
        for connection in list(self.server_state.connections):
            if isinstance(connection, WebSocketProtocol):
                dismiss(connection)
        # A drain that took all the time leaves the requests a moment to see the end of their connections.
        await self._wait(self._finish(), min(max(begun + limits.request_seconds, now() + TICK_SECONDS * 10), last))
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # the applications hear of it before they are cancelled
        for task in list(self.server_state.tasks):
            task.cancel()
        await self._wait(self._finish(), now() + TICK_SECONDS * 10)
        if not self.force_exit:
            await self._wait(self.lifespan.shutdown(), max(begun + limits.leave_seconds, now() + LAST_SECONDS / 2))

    async def _say_goodbye(self) -> None:
        await self._drain()

    async def _finish(self) -> None:
        while self.server_state.connections or self.server_state.tasks:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(TICK_SECONDS)

    async def _wait(self, work: Coroutine[Any, Any, None], deadline: float) -> None:
        """Await something until it is done, the time is up or a second Ctrl-C comes; whatever fails, we leave."""
        now = asyncio.get_running_loop().time
        task = asyncio.create_task(work)
        while not task.done() and now() < deadline and not self.force_exit:
            await asyncio.wait({task}, timeout=TICK_SECONDS)
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=TICK_SECONDS)
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            log.error("server.leaving", exc_info=error)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Take SIGINT and SIGTERM for a wish to leave, without raising them again afterwards: leaving is success."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()


def build_server(
    app: Any,
    *,
    drain: Callable[[], Awaitable[None]],
    settings: Settings,
    limits: ServerLimits | None = None,
    shortcut: Shortcut | None = None,
) -> Server:
    """Configure a server for an ASGI application. `drain` is awaited before any socket is closed.

    `limits` are those of the settings unless given; `shortcut` is where the application may be called past ASGI.
    """
    config = Config(
        limits or read_limits(settings),
        app,
        shortcut,
        http=HttpProtocol,
        ws=WebSocketProtocol,
        ws_max_size=settings.max_frame_bytes,
        ws_ping_interval=None,  # the sessions' own `ping` frames make a dead peer show by TCP_USER_TIMEOUT
        ws_per_message_deflate=False,  # 64 KiB a connection with, 14 without
        loop="uvloop",
        lifespan="on",
        log_config=None,
        log_level="warning",  # at info it logs every socket's query string
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        backlog=BACKLOG,
    )
    logging.getLogger("uvicorn.error").addFilter(is_no_cancellation)
    return Server(config, drain)


def is_no_cancellation(record: logging.LogRecord) -> bool:
    """Keep what uvicorn logs, but for applications that were cancelled while leaving: that is no error."""
    return record.exc_info is None or not isinstance(record.exc_info[1], asyncio.CancelledError)
