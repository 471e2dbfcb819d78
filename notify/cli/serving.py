"""Running the server to its end, for `notify dev` and `notify serve` alike.

Keeps the promise that SIGTERM, SIGINT and a closed terminal all mean the same: leave politely, exit code 0.
"""

import asyncio
import gc
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import structlog
import uvloop

from notify.api.plain import PATH_SEND
from notify.app import Application
from notify.errors import NotifyError
from notify.server import Server, Shortcut, build_server
from notify.tracing import tracing

log = structlog.get_logger()

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What people, supervisors and closed terminals end a program with."""

COLLECTOR = (10_000, 20, 50)
"""Thresholds of the three generations (https://docs.python.org/3/library/gc.html#gc.set_threshold); Python's are 700, 10, 10."""

LOOK_SECONDS = 0.02
"""Between two looks at whether the service is ready: a person can't tell it from at once."""


class NotStarted(NotifyError):
    """The service could not be started; the log says why."""


class Leave(KeyboardInterrupt):
    """A signal came while nothing was served yet: stop what was begun. Of a kind that event loops let through."""


@contextmanager
def leaving() -> Iterator[None]:
    """Turn the signals that end a program into Leave, and take Leave for an end like any other.

    While a server runs, its own handlers take SIGINT and SIGTERM; SIGHUP becomes a SIGTERM.
    """

    def leave(_number: int, _frame: FrameType | None) -> None:
        raise Leave

    def pass_on(_number: int, _frame: FrameType | None) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGINT, leave)
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, pass_on)
    try:
        yield
    except Leave:
        return


@contextmanager
def held_back() -> Iterator[None]:
    """Let the signals wait while something is begun that could not be found again if it were begun by half."""
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _frame: came.append(number)) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        raise Leave


def ignore_signals() -> None:
    """From here on nothing interrupts: what is left to do is short and bounded."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def serve_until_told(
    application: Application, listener: socket.socket, *, when_ready: Callable[[], None] | None = None
) -> None:
    """Serve on `listener` until a signal comes. `when_ready` is called once requests are answered.

    Raises NotStarted when the application does not come up.
    """
    with tracing():
        collect_rarely()
        server = build_server(
            application,
            drain=application.drain,
            settings=application.settings,
            shortcut=Shortcut(PATH_SEND.encode(), application.take),
        )
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(server, application, listener, when_ready))


def collect_rarely() -> None:
    """Keep Python's garbage collector from going through every session again and again.

    With its defaults it took half of the CPU of a reconnect storm. What is loaded by now lives as long as the process.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR)


async def run(
    server: Server, application: Application, listener: socket.socket, when_ready: Callable[[], None] | None
) -> None:
    """Serve, and tell when it is ready."""
    async with asyncio.TaskGroup() as tasks:
        announcement = tasks.create_task(announce(server, application.readiness.check, when_ready))
        with suppress(SystemExit):  # how uvicorn says that the application did not start
            await server.serve(sockets=[listener])
        announcement.cancel()
    if not server.started:
        raise NotStarted("the service did not start; the log above says why")


async def announce(
    server: Server, check: Callable[[], Awaitable[dict[str, bool]]], when_ready: Callable[[], None] | None
) -> None:
    """Wait until every check of `/readyz` passes; then call `when_ready`."""
    while not (server.started and all((await check()).values())):  # noqa: ASYNC110 - uvicorn has no event to wait for
        await asyncio.sleep(LOOK_SECONDS)
    log.info("node.ready")
    if when_ready is not None:
        when_ready()
