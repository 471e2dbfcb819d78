"""Whether this process should get traffic. What `/readyz` reports and what the drain turns off."""

from collections.abc import Awaitable, Callable, Mapping


class Readiness:
    """The checks of one process by name; each answers within its own bound."""

    def __init__(self, checks: Mapping[str, Callable[[], Awaitable[bool]]]) -> None:
        self._checks = checks
        self.leaving = False
        """Set by the drain: from then on every check fails, so that no proxy sends anybody here."""

    async def check(self) -> dict[str, bool]:
        """Run every check."""
        return {name: not self.leaving and await check() for name, check in self._checks.items()}
