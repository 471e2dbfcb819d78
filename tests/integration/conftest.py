"""What the integration tests share: the service in the test's own event loop, its store, and an admin of it."""

from collections.abc import AsyncIterator

import pytest

from notify.store import Store
from tests.admin import Admin
from tests.mailing import connected
from tests.service import Service


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    """Serve on the test's own database, with every setting at its default."""
    async with Service(database_url) as service:
        yield service


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """Connect to the test's own database, as a node does."""
    async with connected(database_url) as store:
        yield store


@pytest.fixture
def admin(service: Service) -> Admin:
    return Admin(service)
