"""A directory to follow guides in, in a network where their ports are free."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.browser.conftest import browser, chromium, context
from tests.guides.network import own_network

__all__ = ["browser", "checkout", "chromium", "context", "find_program", "network", "offline"]

ROOT = Path(__file__).parents[2]

CHECKOUT = ["notify", "sql", "openapi", "docs", "deploy", "pyproject.toml", "README.md", "LICENSE", "compose.yaml"]
"""What of this repository a reader of the guides needs; the tests are not among it."""


@pytest.fixture(scope="package", autouse=True)
def network() -> Iterator[None]:
    """Give these tests a network of their own, where 8000, 3000 and 443 are nobody else's."""
    try:
        with own_network():
            yield
    except PermissionError:
        pytest.skip("the guides are not followed: a network of their own takes root (network_namespaces(7))")


@pytest.fixture
def find_program() -> Callable[[str], str]:
    """Find a program, or skip."""

    def find(name: str) -> str:
        found = shutil.which(name)
        if found is None:
            pytest.skip(f"not checked with {name}: it is not installed here")
        return found

    return find


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Copy this repository, as somebody who just got it has it."""
    for name in CHECKOUT:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path / name)
    return tmp_path


@pytest.fixture
def offline() -> dict[str, str]:
    """Let pip find in this environment what the guides have it install: there is no index in this network."""
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    # pip reads NO_BUILD_ISOLATION the wrong way round: 0 turns it on.
    return {"PYTHONPATH": packages, "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_DEPS": "0"}
