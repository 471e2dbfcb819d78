"""What a check found, and how one is made within its time."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

import asyncpg

from notify.errors import NotifyError

ANSWER_SECONDS = 5.0
"""How long anything may take to answer."""


class Verdict(StrEnum):
    """How a check came out."""

    GOOD = "good"
    NOTE = "note"
    """Nothing is wrong, but it should be known."""
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found; `remedy` is how to mend it."""

    check: str
    verdict: Verdict
    text: str
    remedy: str = ""


def good(check: str, text: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(check, Verdict.GOOD, text)


def wrong(check: str, text: str, remedy: str) -> Finding:
    """Return a finding that it isn't."""
    return Finding(check, Verdict.WRONG, text, remedy)


async def guard(check: str, examine_it: Callable[[], Awaitable[Finding]]) -> Finding:
    """Make a check, within its time; one that breaks is a finding too."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS * 3):
            return await examine_it()
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, NotifyError) as error:
        return wrong(
            check, f"the check could not be made: {error or type(error).__name__}", "mend what this says first"
        )
