"""The search for secrets in logs finds them; see tests/leaks.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.leaks import find_leak
from tests.service import CANARY, SECRET, mint_token

ROOT = Path(__file__).parents[2]

LEAKING = """
import structlog

def test_a() -> None:
    structlog.get_logger().debug("session.opened", detail="{leak}")

def test_b() -> None:
    structlog.get_logger().info("session.opened", user="alice")
"""


@pytest.mark.parametrize(
    "leak",
    [mint_token("alice"), mint_token("alice")[:40], SECRET, f"a{CANARY}-1"],
    ids=["token", "part of a token", "secret", "payload"],  # a token minted anew names no test
)
def test_a_secret_is_found_wherever_it_stands(leak: str) -> None:
    assert leak in (find_leak(f"[info] session.refused reason='not {leak}'\n") or "")


def test_what_is_no_secret_is_left_alone() -> None:
    assert find_leak("[info] key.refreshed kid=eyebrow user=bearer.of.news path=/v1/inbox") is None


def test_a_test_that_passes_but_logs_a_payload_fails(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(LEAKING.format(leak=CANARY), "utf-8")
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.leaks", "--rootdir", tmp_path, tmp_path],
        cwd=ROOT, env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}, capture_output=True, text=True, timeout=30,
        check=False,
    )  # fmt: skip
    assert "1 failed, 1 passed" in ended.stdout
    assert "a token or a payload was logged (Captured stdout call)" in ended.stdout
