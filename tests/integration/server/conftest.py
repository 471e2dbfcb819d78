"""A server for each test of the edge."""

import asyncio
import logging
from collections.abc import Iterator

import pytest
import uvloop

from notify.server import ServerLimits
from notify.settings import Settings
from tests.edge import (
    LIMITS,
    Edge,
)


@pytest.fixture
def settings() -> Settings:
    return Settings(_env_file=None)


@pytest.fixture
def limits() -> ServerLimits:
    return LIMITS


@pytest.fixture(params=[uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def edge(
    request: pytest.FixtureRequest, limits: ServerLimits, settings: Settings, caplog: pytest.LogCaptureFixture
) -> Iterator[Edge]:
    """Make a server for each event loop; closing and half-closing is where they differ. Faults may not be logged."""
    caplog.set_level(logging.INFO)
    edge = Edge(limits, settings, request.param)
    with edge.listener:
        yield edge
    assert [
        record.getMessage() for record in caplog.get_records("call") if record.name != "asyncio" or record.exc_info
    ] == []
