"""A cluster of its own for each fault: what is broken stays broken for nobody else. Load breaks nothing: it shares one."""

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from tests.chaos.cluster import Cluster
from tests.places import choose_place

FIGURES = pytest.StashKey[list[str]]()


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[[str, float], None]:
    """Note a figure that a test measured; all of them are shown at the end of the run."""
    figures = request.config.stash.setdefault(FIGURES, [])
    name = request.node.name.removeprefix("test_").replace("_", " ")
    return lambda what, value: figures.append(f"{name}: {what} {value:.3g}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show the figures, for the README's table."""
    if figures := config.stash.get(FIGURES, []):
        terminalreporter.section("figures")
        terminalreporter.write_line("\n".join(figures))


@asynccontextmanager
async def open_cluster() -> AsyncIterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="chaos-", dir=choose_place(), ignore_cleanup_errors=True) as directory:
        async with Cluster(Path(directory)) as cluster:
            yield cluster


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with open_cluster() as cluster:
        yield cluster


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_cluster() -> AsyncIterator[Cluster]:
    async with open_cluster() as cluster:
        yield cluster
