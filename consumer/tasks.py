"""The tasks of a worker's deliveries, and how they end when the worker stops."""

import asyncio
from collections.abc import Coroutine
from contextlib import AbstractContextManager

# How long a settlement under way may hold up a worker that has to stop.
_SETTLE_LIMIT_SECONDS = 10.0


class DeliveryTasks:
    """A task for each delivery in hand."""

    def __init__(self) -> None:
        """Begin with nothing in hand."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._settling: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Return how many deliveries are in hand."""
        return len(self._tasks)

    def start(self, handling: Coroutine[None, None, None]) -> None:
        """Let a delivery be handled; what handles it says `end` at last. A callback would cost more."""
        # Kept, because a system call looks for the running loop.
        self._loop = self._loop or asyncio.get_running_loop()
        self._tasks.add(self._loop.create_task(handling))

    def end(self, task: asyncio.Task[None]) -> None:
        """Note that a delivery is handled."""
        self._tasks.discard(task)

    def settling(self, task: asyncio.Task[None]) -> AbstractContextManager[None]:
        """Let the task be left alone when the worker stops: while inside it settles its delivery."""
        return _Settling(self._settling, task)

    async def finish(self, *, grace_seconds: float) -> int:
        """Return when nothing is in hand, and how many were stopped, because their time was over.

        What settles by then is not cancelled, but does not hold us up for ever.
        """
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_seconds)
        unfinished = list(self._tasks)
        for task in unfinished:
            if task not in self._settling:
                task.cancel()
        if unfinished:
            await asyncio.wait(unfinished, timeout=_SETTLE_LIMIT_SECONDS)
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
        return len(unfinished)


class _Settling:
    # A class, and no generator, because every job passes here.
    __slots__ = ("_all", "_task")

    def __init__(self, tasks: set[asyncio.Task[None]], task: asyncio.Task[None]) -> None:
        self._all = tasks
        self._task = task

    def __enter__(self) -> None:
        self._all.add(self._task)

    def __exit__(self, *_: object) -> None:
        self._all.discard(self._task)
