"""One user's huge queue lets the others have their turn."""

import asyncio

from notify.pages import FREE_PAGES, Pace


def is_at_once(pace: Pace) -> bool:
    """Tell whether the next page may be fetched without a turn of the loop."""
    waiting = pace.wait()
    try:
        waiting.send(None)
    except StopIteration:
        return True
    waiting.close()
    return False


async def test_a_few_pages_follow_at_once_and_each_further_one_waits() -> None:
    pace = Pace()
    assert [is_at_once(pace) for _ in range(FREE_PAGES + 3)] == [True] * FREE_PAGES + [False] * 3


async def test_who_has_caught_up_waits_for_nothing_again() -> None:
    pace = Pace()
    for _ in range(FREE_PAGES + 1):
        async with asyncio.timeout(5):
            await pace.wait()
    assert not is_at_once(pace)
    pace.end()
    assert is_at_once(pace)
