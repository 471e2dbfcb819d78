"""`notify serve --workers N`: several processes on one listening socket.

The parent opens the socket and starts the workers, each a process of its own with its own connections to the database;
it starts a dead one again after a pause, passes SIGTERM on, and leaves when all have left.

    starting ──▶ serving ──▶ (died) ──▶ pause ──▶ starting
                    └──▶ SIGTERM ──▶ draining ──▶ gone
"""

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Sequence

import structlog

log = structlog.get_logger()

RESTART_SECONDS = 1.0
"""Pause before a worker that died is started again, so that one that can't live doesn't spin."""

LEAVE_SECONDS = 10.0
"""How long the workers may take to leave before they are killed: their own drain is shorter."""


async def supervise(listener: socket.socket, count: int, command: Sequence[str]) -> int:
    """Keep `count` workers running until SIGTERM or SIGINT; return the exit code.

    Each is `command` with the number of the inherited listening socket appended.
    """
    leaving = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, leaving.set)
    async with asyncio.TaskGroup() as tasks:
        for number in range(count):
            tasks.create_task(keep_running(listener, command, leaving), name=f"worker {number}")
    return 0


async def keep_running(listener: socket.socket, command: Sequence[str], leaving: asyncio.Event) -> None:
    """Run one worker, again and again, until it is time to leave."""
    while not leaving.is_set():
        process = await asyncio.create_subprocess_exec(
            *command, str(listener.fileno()), pass_fds=[listener.fileno()], start_new_session=True
        )
        ended = asyncio.create_task(process.wait())
        asked = asyncio.create_task(leaving.wait())
        try:
            await asyncio.wait({ended, asked}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                process.terminate()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LEAVE_SECONDS):
                        await asyncio.shield(ended)
        finally:
            asked.cancel()
            if process.returncode is None:
                process.kill()
            await ended
        if not leaving.is_set():
            log.warning("worker.died", pid=process.pid, code=process.returncode)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RESTART_SECONDS):
                    await leaving.wait()


def adopt_listener(number: int) -> socket.socket:
    """Return the listening socket that the parent opened, in the worker."""
    return socket.socket(fileno=number)


def worker_command() -> Sequence[str]:
    """Return how a worker of this installation is started."""
    return [sys.executable, "-m", "notify.cli", "serve", "--inherit"]
