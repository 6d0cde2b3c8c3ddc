"""How each client waits, and what it yields, under names of which one is made from the other."""

import time
from collections.abc import AsyncGenerator, Generator
from typing import TypeVar

T = TypeVar("T")

Stream = Generator[T, None, None]
AsyncStream = AsyncGenerator[T, None]
sleep = time.sleep


async def sleep_async(seconds: float) -> None:
    """Let other coroutines run for so long."""
    # It takes longer to load than all of this, and who uses threads has no use for it.
    import asyncio  # noqa: PLC0415

    await asyncio.sleep(seconds)
