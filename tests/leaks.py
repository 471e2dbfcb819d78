"""Nothing secret is ever logged: a pytest plugin that reads what the services of every test write, and fails it for a leak.

Services in the test's own process log without the redaction that a real one has, and at every level; those in processes of
their own log as in production, and the test writes their lines on (`pass_on` in tests/service.py). What pytest captured of a
test is searched for tokens, for the secret they are signed with, and for CANARY, which is part of every notification whose
data does not matter to its test, and of broken tokens and bodies. A test that takes its output for itself (`capsys`) answers
for it itself.
"""

import logging
import re
from collections.abc import Generator
from typing import Any

import pytest

SECRET = "a secret for the tests that is long enough"
"""What the tests' tokens are signed with."""

CANARY = "geheim"
"""Part of what may never be logged."""

# A JSON Web Token, whole or cut off, begins with base64url of `{"`.
_SECRETS = re.compile(rf"\beyJ[A-Za-z0-9_-]{{8,}}(?:\.[A-Za-z0-9_-]*)?|{re.escape(SECRET)}|{CANARY}")
logging.getLogger("httpx").setLevel(logging.WARNING)  # the tests' own client: whom it calls is no service's log

_CONTEXT = 200
"""Characters around a leak that are shown: enough to know the line."""


def find_leak(text: str) -> str | None:
    """Return a piece of a text with a secret in it, None when there is none."""
    if (found := _SECRETS.search(text)) is None:
        return None
    return text[max(0, found.start() - _CONTEXT) : found.end() + _CONTEXT]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:  # noqa: ARG001 - pytest calls it by name
    """Fail a step of a test that logged a secret; one that failed already has something else to say."""
    report: pytest.TestReport = yield
    if report.passed:
        for name, text in report.sections:
            if name.startswith("Captured") and name.endswith(report.when or "") and (leak := find_leak(text)):
                report.outcome = "failed"
                report.longrepr = f"a token or a payload was logged ({name}):\n…{leak}…"
    return report
