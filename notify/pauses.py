"""How long to wait before something that failed is tried again."""

import random
from collections.abc import Iterator

REPEAT_SECONDS = 0.25
"""First pause before a lane that may repeat tries again after an interruption; doubles up to REPEAT_LIMIT_SECONDS."""

REPEAT_LIMIT_SECONDS = 2.0
"""A database that came back is noticed within this."""


def iter_pauses() -> Iterator[float]:
    """Yield the pauses between repetitions: longer and longer, up to a limit, jittered."""
    pause = REPEAT_SECONDS
    while True:
        yield pause * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
        pause = min(pause * 2, REPEAT_LIMIT_SECONDS)
