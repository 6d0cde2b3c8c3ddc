"""Waiting for a state of the outside world, with a deadline and without guessing how long it takes."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

_POLL_SECONDS = 0.02


async def eventually(look: Callable[[], Awaitable[T | None]], *, deadline_seconds: float = 20.0) -> T:
    """Return the first truthy thing that `look` sees.

    Raises:
        AssertionError: it saw none before the deadline; says what it saw last.
    """
    ends_at = time.monotonic() + deadline_seconds
    while True:
        seen = await look()
        if seen:
            return seen
        if time.monotonic() > ends_at:
            raise AssertionError(f"still {seen!r} after {deadline_seconds:g} s")
        await asyncio.sleep(_POLL_SECONDS)
