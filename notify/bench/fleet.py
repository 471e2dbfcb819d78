"""The loader processes, from the command's side: start, order, collect, stop."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Self

from notify.bench.ledger import Tally, merge
from notify.bench.loader import main
from notify.bench.orders import Order, Shape, Target
from notify.errors import NotifyError

STOP_SECONDS = 3.0
"""How long a loader may take to close its connections, before it is ended."""

TICK_SECONDS = 0.2
"""How often whoever watches hears that an order is still being carried out."""


class LoadError(NotifyError):
    """The load could not be made: a loader died, or its order took too long."""


class Fleet:
    """Loader processes that share one target. A context manager: leaving it ends them all."""

    def __init__(self, target: Target, shapes: Sequence[Shape], watch: Callable[[], None] = lambda: None) -> None:
        """Describe a fleet, a process for each shape. `watch` is called a few times a second while an order runs."""
        self._target = target
        self.shapes = shapes
        self._watch = watch
        self._pipes: list[Connection[Any, Any]] = []
        self._processes: list[multiprocessing.process.BaseProcess] = []

    def __enter__(self) -> Self:
        # Spawned: a fork would share our event loop, our locks and our memory.
        context = multiprocessing.get_context("spawn")
        for shape in self.shapes:
            ours, theirs = context.Pipe()
            process = context.Process(target=main, args=(theirs, self._target, shape), name="notify bench", daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in self._pipes:
            pipe.close()
        deadline = time.monotonic() + STOP_SECONDS
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()

    @property
    def pids(self) -> Sequence[int]:
        """The loaders' processes."""
        return [process.pid for process in self._processes if process.pid is not None]

    def share(self, total: int) -> Sequence[int]:
        """Divide a count over the loaders, the first ones getting what is left over."""
        loaders = len(self.shapes)
        return [total // loaders + (place < total % loaders) for place in range(loaders)]

    def order(self, orders: Sequence[Order], *, seconds: float) -> Tally:
        """Give each loader its order, wait for all, return the sum. Raises LoadError, at the latest after `seconds`."""
        for pipe, order in zip(self._pipes, orders, strict=True):
            pipe.send(order)
        answers: dict[int, Tally] = {}
        deadline = time.monotonic() + seconds
        while len(answers) < len(self._pipes):
            if time.monotonic() > deadline:
                raise LoadError(f"a loader did not finish within {seconds:.0f} s")
            waiting = [pipe for place, pipe in enumerate(self._pipes) if place not in answers]
            for ready in wait(waiting, TICK_SECONDS):
                assert isinstance(ready, Connection)
                answers[self._pipes.index(ready)] = read_answer(ready)
            self._watch()
        return merge(list(answers.values()))


def read_answer(pipe: "Connection[Any, Any]") -> Tally:
    """Return a loader's tally. Raises LoadError when it failed or died."""
    try:
        answer = pipe.recv()
    except (EOFError, OSError):
        raise LoadError("a loader process died") from None
    if isinstance(answer, Exception):
        raise LoadError(f"a loader failed: {answer}")
    assert isinstance(answer, Tally)
    return answer
