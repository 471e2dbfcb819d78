"""What the integration tests share: the service in the test's own event loop."""

from collections.abc import AsyncIterator

import pytest

from tests.service import Service


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    """Serve on the test's own database, with every setting at its default."""
    async with Service(database_url) as service:
        yield service
