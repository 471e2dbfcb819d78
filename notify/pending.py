"""An item that waits in a lane for its result.

Keeps the promise that it is answered once, and counted once, whether or not its caller still waits.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Hashable, Iterable
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class Pending(Generic[ItemT, ResultT]):
    """An item, what a lane has to know of it, and the future of its result. `answered` is told once, when it has one."""

    __slots__ = ("_answered", "done", "item", "keys", "since", "weight")

    def __init__(
        self,
        item: ItemT,
        weight: int,
        keys: Collection[Hashable],
        done: asyncio.Future[ResultT],
        answered: Callable[[ItemT], None],
    ) -> None:
        self.item = item
        self.weight = weight
        self.keys = keys
        self.done = done
        self.since = time.monotonic()
        self._answered: Callable[[ItemT], None] | None = answered

    def succeed(self, result: ResultT) -> None:
        """Answer with a result."""
        self._count()
        if not self.done.done():  # its caller may have left
            self.done.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Answer with an error."""
        self._count()
        if not self.done.done():
            self.done.set_exception(error)
            self.done.exception()  # seen: a caller that left must not make asyncio complain

    def _count(self) -> None:
        """Tell the lane, once."""
        answered, self._answered = self._answered, None
        if answered is not None:
            answered(self.item)


def fail(part: Iterable[Pending[ItemT, ResultT]], error: BaseException) -> None:
    """Answer everyone in a part with an error."""
    for pending in part:
        pending.fail(error)


def halve(part: list[Pending[ItemT, ResultT]]) -> list[list[Pending[ItemT, ResultT]]]:
    """Divide a batch of at least two."""
    middle = len(part) // 2
    return [part[:middle], part[middle:]]


def no_keys(_item: object) -> Collection[Hashable]:
    """For lanes whose items exclude nobody."""
    return ()


def one(_item: object) -> int:
    """For lanes whose items weigh the same."""
    return 1


def ignore(_item: object) -> None:
    """For lanes whose answers nobody else hears of."""
