"""What the tests of group commit put in the database's place: a statement that is held, locked or refused at will."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Hashable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from notify.batch import Blocked, Poisoned

PATIENCE = 5.0  # seconds; whatever takes longer hangs


@dataclass
class Statement:
    """Stands for the database: notes every batch, and holds each until it is let go (or lets it go at once)."""

    held: bool = False
    batches: list[list[str]] = field(default_factory=list)
    bad: set[str] = field(default_factory=set)
    locked: set[str] = field(default_factory=set)
    running: int = 0
    most: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    began: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, items: Sequence[str]) -> Sequence[str]:
        self.batches.append(list(items))
        self.running += 1
        self.most = max(self.most, self.running)
        self.began.set()
        try:
            if self.held:
                await self.gate.wait()
            if self.locked.intersection(owner(item) for item in items):
                raise Blocked("locked")
            if self.bad.intersection(items):
                raise Poisoned("bad")
            return [item.upper() for item in items]
        finally:
            self.running -= 1

    async def probe(self, keys: Collection[Hashable]) -> Collection[Hashable]:
        return self.locked.intersection(str(key) for key in keys)


def owner(item: str) -> str:
    """Whose mailbox an item needs: `ann.1` is Ann's."""
    return item.partition(".")[0]


def keys(item: str) -> Collection[Hashable]:
    return (owner(item),)


@asynccontextmanager
async def bounded() -> AsyncIterator[None]:
    async with asyncio.timeout(PATIENCE):
        yield


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop turn until something is so."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0)
