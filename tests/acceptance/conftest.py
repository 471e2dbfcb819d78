"""A directory for each test of the commands."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.command import working_directory


@pytest.fixture
def directory() -> Iterator[Path]:
    with working_directory() as made:
        yield made
