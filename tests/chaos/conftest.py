"""A cluster of its own for each fault: what is broken stays broken for nobody else."""

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos.cluster import Cluster
from tests.places import choose_place


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="chaos-", dir=choose_place(), ignore_cleanup_errors=True) as directory:
        async with Cluster(Path(directory)) as cluster:
            yield cluster
