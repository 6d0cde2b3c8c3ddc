"""Threads for the store's blocking calls, so that long ones never hold up short ones."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

# With the writer and Flask's threads this stays below the connections that the engine may open.
SHORT_THREADS = 6
LONG_THREADS = 2


class Pools:
    """Two thread pools: one for calls of milliseconds, one for storing whole batches."""

    def __init__(self) -> None:
        self._short = ThreadPoolExecutor(SHORT_THREADS, thread_name_prefix="api-short")
        self._long = ThreadPoolExecutor(LONG_THREADS, thread_name_prefix="api-long")

    async def short(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return what a call of milliseconds returns."""
        return await _run(self._short, call, *args, **kwargs)

    async def long(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return what a call of seconds or minutes returns."""
        return await _run(self._long, call, *args, **kwargs)

    def close(self) -> None:
        """Wait for the calls that run, then end the threads."""
        self._short.shutdown()
        self._long.shutdown()


async def _run(pool: ThreadPoolExecutor, call: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    return await asyncio.get_running_loop().run_in_executor(pool, lambda: call(*args, **kwargs))
