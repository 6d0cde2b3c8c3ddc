"""Slow work of the API, such as reading a batch: in a few threads of its own, in fair turns of its callers.

The default threads stay free for what everybody needs at once: metrics, pages, bodies.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import ParamSpec, TypeVar

from starlette.requests import Request

from producer.api.requests import CALLER
from producer.callers import NOBODY
from producer.turns import FairTurns
from shared.hosts import address_key

P = ParamSpec("P")
R = TypeVar("R")

# One holds Python's one lock while it parses, so more of them would only take it from the event loop.
_THREADS = 2


class SlowWork:
    """Runs calls that take long in threads: one at a time for each caller."""

    def __init__(self) -> None:
        """Make the threads, which start when they are needed."""
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="slow")
        self._turns = FairTurns(_THREADS, share=1)

    async def run(self, caller: str, work: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return what work returns. In parts of some 50 ms, so that others have a turn between two."""
        async with self._turns.turn(caller):
            loop = asyncio.get_running_loop()
            running = loop.run_in_executor(self._pool, lambda: work(*args, **kwargs))
            try:
                return await asyncio.shield(running)
            except asyncio.CancelledError:
                # The thread works on: its place is free when it has ended, and nobody closes what it reads.
                await asyncio.wait([running])
                raise

    def close(self) -> None:
        """Wait for the calls that run, then end the threads. Blocks."""
        self._pool.shutdown()


def caller_of(request: Request) -> str:
    """Return whose turn a request takes: the key or subject; without one the address, of IPv6 the network.

    A proxy on this machine tells the address in `X-Forwarded-For`; without keys all clients of another proxy
    are one caller.
    """
    caller = request.scope.get(CALLER, NOBODY)
    if caller is not NOBODY:
        return str(caller.actor)
    try:
        return address_key(str(ip_address(request.client.host if request.client else "")))
    except ValueError:
        return "unknown"
