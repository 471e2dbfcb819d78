"""A push service, and a service that finds its way there and waits for nobody for long."""

from collections.abc import AsyncIterator

import pytest

from notify import pusher
from tests.receiver import Receiver
from tests.service import Service
from tests.subscriber import lead_to


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for nobody for long."""
    monkeypatch.setattr(pusher, "GRACE_SECONDS", 0.05)
    monkeypatch.setattr(pusher, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(pusher, "BACKOFF_SECONDS", (0.02, 0.1))


@pytest.fixture
async def push_service() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture
async def service(database_url: str, push_service: Receiver) -> AsyncIterator[Service]:
    async with lead_to(push_service, Service(database_url, max_devices=3)) as service:
        yield service
