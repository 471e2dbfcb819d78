"""What connections may take of this process, in number, bytes and time."""

import asyncio
import contextlib
import resource
from dataclasses import dataclass
from typing import Any

import uvicorn

from notify.server.shortcut import Shortcut
from notify.settings import KIB, MIB, Settings

FILE_SHARE = 0.8
"""Of the process's file limit, what connections may use: the rest is for the database, logs and the unforeseen."""

MAX_FILES = MIB
"""Open files asked for where the system sets no limit, or one that is meant as none."""


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What a connection may take, in seconds and bytes, and how long leaving may."""

    max_connections: int
    header_bytes: int = 16 * KIB  # a request line and its headers: twice a browser's largest, with the longest token
    header_seconds: float = 10.0  # from the connection, or the first byte of a further request, to the headers' end
    body_seconds: float = 60.0  # from there to the end of the body
    close_seconds: float = 2.0  # for a goodbye to go through, before the connection is dropped
    drain_seconds: float = 6.0  # for the drain
    request_seconds: float = 5.0  # for requests in flight, beside the drain
    leave_seconds: float = 9.5  # for all of it


class Config(uvicorn.Config):
    """uvicorn's configuration, which its protocols get to see, with our limits."""

    def __init__(self, limits: ServerLimits, app: Any, shortcut: Shortcut | None = None, **options: Any) -> None:
        super().__init__(app, **options)
        self.limits = limits
        self.shortcut = shortcut
        self.refused: set[asyncio.Protocol] = set()


def read_limits(settings: Settings) -> ServerLimits:
    """Return the limits that follow from the settings and from this process's file limit."""
    files = raise_file_limit()
    return ServerLimits(
        max_connections=settings.max_connections or int(files * FILE_SHARE),
        drain_seconds=settings.drain_seconds + 1.0,  # what is spread over this time still has to arrive
    )


def raise_file_limit() -> int:
    """Raise the limit of open files as far as it goes, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ceiling = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft < ceiling:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (ceiling, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
