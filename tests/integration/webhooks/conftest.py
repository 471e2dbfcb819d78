"""A node that may call a receiver on this machine, and the receiver."""

from collections.abc import AsyncIterator

import pytest

from tests.receiver import Receiver
from tests.service import Service


@pytest.fixture
async def node(database_url: str) -> AsyncIterator[Service]:
    """Serve, and let it call receivers on this machine."""
    async with Service(database_url, webhook_allow_private=True) as node:
        yield node


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver(plain=True) as receiver:
        yield receiver
